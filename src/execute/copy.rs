//! Copies within one endpoint: the bytes never come here.

use super::parts::{PARTS_IN_FLIGHT, finish, ranges};
use super::{Attempts, Context};
use crate::bucket::{
    Bucket, Metadata, ObjectInfo, ObjectRef, PartOrigin, PartRef, PartTag, Payload,
};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag, MIB, part_bytes};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// Objects above this size are copied in parts. S3 would take 5 GiB in one request, but says nothing
/// while it copies, so that a long copy looks like a hang; and parts go in parallel.
const WHOLE_COPY_BYTES: u64 = 256 * MIB;

/// What a copy became.
pub(crate) struct Copied {
    /// The new object's.
    pub etag: ETag,
    /// The hash that is recorded with the source.
    pub blake3: Option<Blake3>,
}

/// Copies `source` to `key`, and proves that what arrived is what was seen. Its metadata comes along,
/// or is replaced by that `of_file`, whose content the source then must have.
pub(crate) async fn copy(
    context: &Context<'_>,
    from: &Arc<dyn Bucket>,
    source: &ObjectRef,
    (bucket, key): (&Arc<dyn Bucket>, &str),
    of_file: Option<&Metadata>,
) -> Result<Copied> {
    // Ceph ignores the condition of a copy, so that we look before and after.
    let before = from.head(&source.key).await?;
    let recorded = before.metadata.blake3();
    let is_other = of_file.is_some_and(|file| recorded.is_some() && recorded != file.blake3());
    if before.etag != source.etag || is_other {
        return Err(moved_on(from, source));
    }
    let described = of_file.map(|file| described(&before, file));
    let copying = Copying { context, from, source, before, described, bucket, key };
    let mut attempts = Attempts::default();
    loop {
        match copying.once().await {
            Err(error) if attempts.again(&error) => {}
            outcome => return outcome.map(|etag| Copied { etag, blake3: recorded }),
        }
    }
}

/// The object that `before` is, described as this file.
fn described(before: &ObjectInfo, file: &Metadata) -> ObjectInfo {
    let mut metadata = file.clone();
    if let (ETag::Multipart(..), Some(part)) = (&before.etag, before.metadata.part_bytes()) {
        metadata.0.insert("part-size".into(), part.to_string());
    }
    ObjectInfo { metadata, headers: Vec::new(), ..before.clone() }
}

fn moved_on(from: &Arc<dyn Bucket>, source: &ObjectRef) -> Error {
    let what = format!("cannot copy {}/{}", from.url(), crate::key::printable(&source.key));
    Error::new(ErrorKind::Precondition, what, "it is no longer the object that was listed")
}

struct Copying<'a> {
    context: &'a Context<'a>,
    from: &'a Arc<dyn Bucket>,
    source: &'a ObjectRef,
    /// The source, as it was seen.
    before: ObjectInfo,
    /// The headers and metadata that the copy gets; none for those of the source.
    described: Option<ObjectInfo>,
    bucket: &'a Arc<dyn Bucket>,
    key: &'a str,
}

impl Copying<'_> {
    /// Answers the ETag of what arrived.
    async fn once(&self) -> Result<ETag> {
        let Self { from, source, before, bucket, key, .. } = self;
        let info = self.described.as_ref().unwrap_or(before);
        if before.size == 0 && key.ends_with('/') {
            // SeaweedFS can't copy the marker of a directory; there is nothing in it but its metadata.
            bucket.put(key, Payload::new(Bytes::new()), &info.metadata).await?;
        } else if before.size <= WHOLE_COPY_BYTES {
            bucket.copy(source, key, self.described.as_ref()).await?;
        } else {
            copy_parts(self.context, from, source, info, (bucket, key)).await?;
        }
        let after = bucket.head(key).await?;
        let same_etag = before.etag == after.etag && !matches!(after.etag, ETag::Opaque(_));
        // Parts of another size give another ETag; then the source must not have changed meanwhile.
        let same_size = after.size == before.size;
        if same_size && (same_etag || from.head(&source.key).await?.etag == before.etag) {
            return Ok(after.etag);
        }
        let what = format!("cannot copy to {}/{}", bucket.url(), crate::key::printable(key));
        Err(Error::new(ErrorKind::Corrupt, what, "the copy is not what was copied"))
    }
}

/// The part size of a copy: the source's own, so that its ETag stays the same, or the usual one.
fn copied_part_bytes(info: &ObjectInfo) -> u64 {
    let fits = |part: &u64| match info.etag {
        ETag::Multipart(_, parts) => info.size.div_ceil(*part) == u64::from(parts),
        ETag::Md5(_) | ETag::Opaque(_) => false,
    };
    info.metadata.part_bytes().filter(fits).unwrap_or_else(|| part_bytes(info.size))
}

/// Copies an object in parts, with the headers and metadata in `info` and the parts' size.
async fn copy_parts(
    context: &Context<'_>,
    from: &Arc<dyn Bucket>,
    source: &ObjectRef,
    info: &ObjectInfo,
    (bucket, key): (&Arc<dyn Bucket>, &str),
) -> Result<()> {
    let part = copied_part_bytes(info);
    let mut metadata = info.metadata.clone();
    metadata.0.insert("part-size".into(), part.to_string());
    let id = bucket.create_upload(key, &metadata, PartOrigin::Copied(info)).await?;
    context.upload_opened(bucket, key, &id);
    let numbered = (1u32..).zip(ranges(info.size, part));
    let copied: Result<Vec<PartTag>> = stream::iter(numbered)
        .map(|(number, range)| {
            bucket.copy_part(PartRef { key, upload: &id, number }, source, range)
        })
        .buffered(PARTS_IN_FLIGHT)
        .try_collect()
        .await;
    let finished = match (copied, from.head(&source.key).await) {
        (Ok(_), Ok(now)) if now.etag != source.etag => Err(moved_on(from, source)),
        (Ok(parts), Ok(_)) => finish(bucket, key, &id, &parts, info.size).await.map(drop),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    if finished.is_err() {
        let _ = bucket.abort_upload(key, &id).await;
    }
    context.upload_closed(&id);
    finished
}

/// Brings the metadata of the object `key`, which holds the content of a file, up to date with the
/// file's, by a copy onto itself. Answers its ETag then; its other metadata stay.
pub(crate) async fn update_metadata(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    key: &str,
    listed: &ETag,
    of_file: &Metadata,
) -> Result<ETag> {
    let source =
        ObjectRef { bucket: bucket.name().to_owned(), key: key.to_owned(), etag: listed.clone() };
    let before = bucket.head(key).await?;
    if before.etag != source.etag {
        return Err(moved_on(bucket, &source));
    }
    let mut info = before.clone();
    info.metadata.0.extend(of_file.0.clone());
    if info.metadata == before.metadata {
        return Ok(before.etag);
    }
    if before.size <= WHOLE_COPY_BYTES {
        bucket.copy(&source, key, Some(&info)).await?;
    } else {
        copy_parts(context, bucket, &source, &info, (bucket, key)).await?;
    }
    let after = bucket.head(key).await?;
    if after.size == before.size && after.etag == before.etag {
        return Ok(after.etag);
    }
    // What has changed meanwhile, and now bears a hash that is not its own, must not stay.
    let what = format!("cannot update {}/{}", bucket.url(), crate::key::printable(key));
    Err(Error::new(ErrorKind::Corrupt, what, "the object changed while its metadata was written"))
}

/// Gives an object that was sent as a stream the metadata that could not be known at its start.
pub(super) async fn describe(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    key: &str,
    blake3: Blake3,
    size: u64,
) -> Result<()> {
    let mut info = bucket.head(key).await?;
    info.metadata = Metadata::of_file(blake3, None, None);
    let source = ObjectRef {
        bucket: bucket.name().to_owned(),
        key: key.to_owned(),
        etag: info.etag.clone(),
    };
    if size <= WHOLE_COPY_BYTES {
        return bucket.copy(&source, key, Some(&info)).await;
    }
    copy_parts(context, bucket, &source, &info, (bucket, key)).await
}
