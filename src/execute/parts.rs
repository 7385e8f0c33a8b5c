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

/// Completes an upload, and believes it only when the object says so itself: the answer to Complete
/// carries no ETag on Ceph 16, and a 404 may only mean that it was repeated. Some of the parts may
/// be `copied`.
pub(super) async fn finish(
    bucket: &Arc<dyn Bucket>,
    key: &str,
    id: &str,
    parts: &[PartTag],
    (size, copied): (u64, bool),
) -> Result<ObjectInfo> {
    let completed = match bucket.complete_upload(key, id, parts).await {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        completed => completed.is_ok(),
    };
    let info = bucket.head(key).await?;
    if info.size == size && is_made_of(&info, parts, copied, completed) {
        return Ok(info);
    }
    let what = format!("cannot upload {}/{}", bucket.url(), crate::key::printable(key));
    let cause = "the object is not made of the parts that were sent";
    Err(Error::new(ErrorKind::Corrupt, what, cause))
}

/// True where the object's ETag is that of its parts. With some encryptions no ETag is a hash, and
/// SeaweedFS has a formula of its own for copied parts, other servers have none: then the server's
/// word must do, but what a 404 is to excuse must be proven.
fn is_made_of(info: &ObjectInfo, parts: &[PartTag], copied: bool, completed: bool) -> bool {
    let md5s = parts.iter().map(|part| md5_of(&part.etag)).collect::<Option<Vec<Md5Bytes>>>();
    let Some(md5s) = md5s else {
        return completed;
    };
    if info.etag == ETag::of_parts(&md5s) {
        return true;
    }
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let may_differ = match info.etag {
        ETag::Multipart(_, parts) => !info.etag_is_hash || (copied && parts == count),
        ETag::Md5(_) => !info.etag_is_hash,
        ETag::Opaque(_) => true,
    };
    completed && may_differ
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
