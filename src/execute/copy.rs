//! Copies within one endpoint: the bytes never come here.

use super::parts::{PARTS_IN_FLIGHT, finish, ranges};
use super::{Attempts, Context, go_on};
use crate::bucket::{
    Bucket, Metadata, ObjectInfo, ObjectRef, PartOrigin, PartRef, PartTag, Payload,
};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag, MIB, part_bytes};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// Objects above this size are copied in parts. S3 would take 5 GiB in one request, but says
/// nothing while it copies, so that a long copy looks like a hang; and parts go in parallel.
const WHOLE_COPY_BYTES: u64 = 256 * MIB;

/// What a copy became.
pub(crate) struct Copied {
    /// The new object's.
    pub etag: ETag,
    /// The hash that is recorded with it.
    pub blake3: Option<Blake3>,
}

/// Copies `source` to `key`, with its metadata, and proves that what arrived is what was seen.
pub(crate) async fn copy(
    context: &Context<'_>,
    from: &Arc<dyn Bucket>,
    source: &ObjectRef,
    (bucket, key): (&Arc<dyn Bucket>, &str),
) -> Result<Copied> {
    // Ceph ignores the condition of a copy, so that we look before and after.
    let before = from.head(&source.key).await?;
    if before.etag != source.etag {
        return Err(moved_on(from, source));
    }
    let copying = Copying { context, from, source, before, bucket, key };
    let mut attempts = Attempts::default();
    loop {
        match copying.once().await {
            Err(error) if attempts.again(&error) => {}
            outcome => {
                let blake3 = copying.before.metadata.blake3();
                return outcome.map(|after| Copied { etag: after.etag, blake3 });
            }
        }
    }
}

/// Makes the object `key`, of a file with this metadata, out of an object of the same bucket that
/// should have the same content. What arrives bears the metadata of its source until it is proven
/// right: a wrong copy must never pass for the file.
pub(crate) async fn copy_twin(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    twin: &ObjectRef,
    key: &str,
    of_file: &Metadata,
) -> Result<ETag> {
    let before = bucket.head(&twin.key).await?;
    let recorded = before.metadata.blake3();
    let is_proven = match recorded {
        Some(blake3) => Some(blake3) == of_file.blake3(),
        // The catalog's word, for as long as the ETag is one that the content has.
        None => before.etag_is_hash && !matches!(before.etag, ETag::Opaque(_)),
    };
    if before.etag != twin.etag || !is_proven {
        return Err(moved_on(bucket, twin));
    }
    let copying = Copying { context, from: bucket, source: twin, before, bucket, key };
    let after = copying.once().await?;
    let same_etag = after.etag == twin.etag && after.etag_is_hash;
    if after.metadata.blake3() != recorded || (recorded.is_none() && !same_etag) {
        return Err(not_what_was_copied(bucket, key));
    }
    update_metadata(context, bucket, key, &after.etag, of_file).await
}

pub(super) fn moved_on(from: &Arc<dyn Bucket>, source: &ObjectRef) -> Error {
    let what = format!("cannot copy {}/{}", from.url(), crate::key::printable(&source.key));
    Error::new(ErrorKind::Precondition, what, "it is no longer the object that was listed")
}

fn not_what_was_copied(bucket: &Arc<dyn Bucket>, key: &str) -> Error {
    let what = format!("cannot copy to {}/{}", bucket.url(), crate::key::printable(key));
    Error::new(ErrorKind::Corrupt, what, "the copy is not what was copied")
}

struct Copying<'a> {
    context: &'a Context<'a>,
    from: &'a Arc<dyn Bucket>,
    source: &'a ObjectRef,
    /// The source, as it was seen.
    before: ObjectInfo,
    bucket: &'a Arc<dyn Bucket>,
    key: &'a str,
}

impl Copying<'_> {
    /// Answers what arrived.
    async fn once(&self) -> Result<ObjectInfo> {
        let Self { from, source, before, bucket, key, .. } = self;
        let mut told = None;
        if before.size == 0 && key.ends_with('/') {
            // SeaweedFS can't copy the marker of a directory; there is nothing in it but its
            // metadata.
            bucket.put(key, Payload::new(Bytes::new()), &before.metadata).await?;
        } else if before.size <= WHOLE_COPY_BYTES {
            told = bucket.copy(source, key, None).await?;
        } else {
            copy_parts(self.context, from, source, before, (bucket, key)).await?;
        }
        let after = bucket.head(key).await?;
        // Another client's object must not pass for the copy.
        let is_ours = told.is_none_or(|told| told == after.etag) && after.size == before.size;
        let are_hashes = before.etag_is_hash && after.etag_is_hash;
        let proven = match (&before.etag, &after.etag) {
            (ETag::Md5(a), ETag::Md5(b)) if are_hashes => Some(a == b),
            (a, b) if a == b && !matches!(a, ETag::Opaque(_)) => Some(true),
            _ => None,
        };
        let holds = match proven {
            Some(proven) => proven,
            // Parts of another size give another ETag; then the source must not have changed.
            None => from.head(&source.key).await?.etag == before.etag,
        };
        if is_ours && holds {
            return Ok(after);
        }
        Err(not_what_was_copied(bucket, key))
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
) -> Result<ObjectInfo> {
    let part = copied_part_bytes(info);
    let mut metadata = info.metadata.clone();
    metadata.0.insert("part-size".into(), part.to_string());
    let id = bucket.create_upload(key, &metadata, PartOrigin::Copied(info)).await?;
    context.endless_upload(bucket, key, &id).await;
    let numbered = (1u32..).zip(ranges(info.size, part));
    let copied: Result<Vec<PartTag>> = stream::iter(numbered)
        .map(|(number, range)| {
            let part = PartRef { key, upload: &id, number };
            async move {
                go_on(&context.stop)?;
                bucket.copy_part(part, source, range).await
            }
        })
        .buffered(PARTS_IN_FLIGHT)
        .try_collect()
        .await;
    let finished = match (copied, from.head(&source.key).await) {
        (Ok(_), Ok(now)) if now.etag != source.etag => Err(moved_on(from, source)),
        (Ok(parts), Ok(_)) => finish(bucket, key, &id, &parts, (info.size, true)).await,
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    match &finished {
        Ok(_) => context.upload_closed(&id).await,
        Err(_) => context.give_up(bucket, key, &id).await,
    }
    finished
}

/// Brings the metadata of the object `key`, which holds the content of a file, up to date with the
/// file's, by a copy onto itself. Answers its ETag then. What else is recorded with it and its
/// headers stay; what the server gives to a new object (ACL, storage class) is new, as with any
/// copy.
///
/// # Errors
/// `Precondition` where it is no longer the object that was listed; `Corrupt` where the copy was asked
/// for, and what is there then is in doubt.
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
    let own = |name: &String| name != "part-size";
    info.metadata.0.extend(of_file.0.clone().into_iter().filter(|(name, _)| own(name)));
    if info.metadata == before.metadata {
        return Ok(before.etag);
    }
    let copied = copy_onto_itself(context, bucket, &source, &info).await;
    let after = match &copied {
        Ok(_) => bucket.head(key).await,
        Err(error) => Err(Error::new(error.kind(), "", error.cause())),
    };
    let doubtful = |cause: &str| Error::new(ErrorKind::Corrupt, cannot_update(bucket, key), cause);
    let after = after.map_err(|error| doubtful(error.cause()))?;
    // What has changed meanwhile would now bear a hash that is not its own.
    let expected = copied.ok().flatten().unwrap_or(before.etag);
    if after.size == before.size && after.etag == expected {
        return Ok(after.etag);
    }
    Err(doubtful("the object changed while its metadata was written"))
}

fn cannot_update(bucket: &Arc<dyn Bucket>, key: &str) -> String {
    format!("cannot update {}/{}", bucket.url(), crate::key::printable(key))
}

/// Answers the ETag, if it need not be the old one: the parts of a copy have a formula of their own
/// on SeaweedFS.
async fn copy_onto_itself(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    source: &ObjectRef,
    info: &ObjectInfo,
) -> Result<Option<ETag>> {
    if info.size <= WHOLE_COPY_BYTES {
        return bucket.copy(source, &source.key, Some(info)).await.map(|_| None);
    }
    let copied = copy_parts(context, bucket, source, info, (bucket, &source.key)).await?;
    Ok(Some(copied.etag))
}

/// Gives an object that was sent as a stream the metadata that could not be known at its start.
pub(super) async fn describe(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    key: &str,
    blake3: Blake3,
) -> Result<()> {
    let mut info = bucket.head(key).await?;
    info.metadata = Metadata::of_file(blake3, None, None);
    let source = ObjectRef {
        bucket: bucket.name().to_owned(),
        key: key.to_owned(),
        etag: info.etag.clone(),
    };
    copy_onto_itself(context, bucket, &source, &info).await.map(drop)
}
