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

/// Copies `source` to `key`, with its metadata, and proves that what arrived is what was seen.
pub(crate) async fn copy(
    context: &Context<'_>,
    from: &Arc<dyn Bucket>,
    source: &ObjectRef,
    bucket: &Arc<dyn Bucket>,
    key: &str,
) -> Result<()> {
    // Ceph ignores the condition of a copy, so that we look before and after.
    let before = from.head(&source.key).await?;
    if before.etag != source.etag {
        return Err(moved_on(from, source));
    }
    let mut attempts = Attempts::default();
    loop {
        match copy_once(context, from, source, &before, bucket, key).await {
            Err(error) if attempts.again(&error) => {}
            outcome => return outcome,
        }
    }
}

fn moved_on(from: &Arc<dyn Bucket>, source: &ObjectRef) -> Error {
    let what = format!("cannot copy {}/{}", from.url(), crate::key::printable(&source.key));
    Error::new(ErrorKind::Precondition, what, "it is no longer the object that was listed")
}

async fn copy_once(
    context: &Context<'_>,
    from: &Arc<dyn Bucket>,
    source: &ObjectRef,
    before: &ObjectInfo,
    bucket: &Arc<dyn Bucket>,
    key: &str,
) -> Result<()> {
    if before.size == 0 && key.ends_with('/') {
        // SeaweedFS can't copy the marker of a directory; there is nothing in it but its metadata.
        bucket.put(key, Payload::new(Bytes::new()), &before.metadata).await?;
    } else if before.size <= WHOLE_COPY_BYTES {
        bucket.copy(source, key, None).await?;
    } else {
        copy_parts(context, from, source, before, bucket, key).await?;
    }
    let after = bucket.head(key).await?;
    let same_etag = before.etag == after.etag && !matches!(after.etag, ETag::Opaque(_));
    // Parts of another size give another ETag; then the source must not have changed meanwhile.
    if after.size == before.size && (same_etag || from.head(&source.key).await?.etag == before.etag)
    {
        return Ok(());
    }
    let what = format!("cannot copy to {}/{}", bucket.url(), crate::key::printable(key));
    Err(Error::new(ErrorKind::Corrupt, what, "the copy is not what was copied"))
}

/// Copies an object in parts, with the metadata in `info` and the parts' size.
async fn copy_parts(
    context: &Context<'_>,
    from: &Arc<dyn Bucket>,
    source: &ObjectRef,
    info: &ObjectInfo,
    bucket: &Arc<dyn Bucket>,
    key: &str,
) -> Result<()> {
    let part = part_bytes(info.size);
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
        (Ok(_), Ok(now)) if now.etag != info.etag => Err(moved_on(from, source)),
        (Ok(parts), Ok(_)) => finish(bucket, key, &id, &parts, info.size).await,
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    if finished.is_err() {
        let _ = bucket.abort_upload(key, &id).await;
    }
    context.upload_closed(&id);
    finished
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
        return bucket.copy(&source, key, Some(&info.metadata)).await;
    }
    copy_parts(context, bucket, &source, &info, bucket, key).await
}
