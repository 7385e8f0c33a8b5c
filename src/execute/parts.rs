//! What uploads and copies in parts share: their ranges, and the proof that the object is whole.

use crate::bucket::{Bucket, ObjectInfo, PartTag};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{ETag, Md5Bytes};
use std::sync::Arc;

/// Parts of one file at once; the budget of bytes and of requests is tighter as a rule.
pub(super) const PARTS_IN_FLIGHT: usize = 16;

/// The ranges of the parts of `size` bytes.
pub(super) fn ranges(size: u64, part: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..size.div_ceil(part)).map(move |i| i * part..((i + 1) * part).min(size))
}

/// Completes an upload, and believes it only when the object says so itself: the answer to
/// Complete carries no ETag on Ceph 16, and a 404 may only mean that it was repeated.
pub(super) async fn finish(
    bucket: &Arc<dyn Bucket>,
    key: &str,
    id: &str,
    parts: &[PartTag],
    size: u64,
) -> Result<ObjectInfo> {
    let completed = match bucket.complete_upload(key, id, parts).await {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        completed => completed.is_ok(),
    };
    let info = bucket.head(key).await?;
    let md5s = parts.iter().map(|part| md5_of(&part.etag)).collect::<Option<Vec<Md5Bytes>>>();
    let expected = md5s.map(|md5s| ETag::of_parts(&md5s));
    let is_expected = Some(&info.etag) == expected.as_ref();
    // With some encryptions no ETag is a hash; but what a 404 is to excuse must be proven.
    let is_other = matches!(info.etag, ETag::Multipart(..)) && expected.is_some() && !is_expected;
    if info.size != size || is_other || !(completed || is_expected) {
        let what = format!("cannot upload {}/{}", bucket.url(), crate::key::printable(key));
        let cause = "the object is not made of the parts that were sent";
        return Err(Error::new(ErrorKind::Corrupt, what, cause));
    }
    Ok(info)
}

/// The MD5 that a part's entity tag is.
pub(super) fn md5_of(etag: &str) -> Option<Md5Bytes> {
    match ETag::parse(etag) {
        ETag::Md5(md5) => Some(md5),
        ETag::Multipart(..) | ETag::Opaque(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_file_without_overlap() {
        let all: Vec<_> = ranges(10, 4).collect();
        assert_eq!(all, [0..4, 4..8, 8..10]);
        assert_eq!(ranges(8, 4).count(), 2);
    }
}
