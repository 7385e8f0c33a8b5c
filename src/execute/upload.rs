//! Uploads: small files in batches, large ones in parts, streams of unknown length.
//!
//! The hash is known before the first byte is sent, so that each object carries it from the start.

use super::parts::{PARTS_IN_FLIGHT, finish, ranges};
use super::{Buffer, Context, blocking};
use crate::bucket::{Bucket, Metadata, PartOrigin, PartRef, PartTag, Payload};
use crate::entry::{Entry, EntryKind, Origin, Signature};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Event, Outcome};
use crate::fingerprint::{Blake3, MAX_OBJECT_BYTES, MAX_PARTS, MULTIPART_THRESHOLD, part_bytes};
use crate::hash::{Source, merge_parts, read_link};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// One file to send.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub path: PathBuf,
    pub object_key: String,
    pub entry: Entry,
}

/// Sends all of `batch`; outcomes in any order.
pub(crate) async fn upload_batch(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    batch: Vec<Upload>,
) -> Vec<Outcome> {
    let (small, large): (Vec<Upload>, Vec<Upload>) =
        batch.into_iter().partition(|upload| upload.entry.size <= MULTIPART_THRESHOLD);
    let mut outcomes = send_small(context, bucket, small).await;
    for upload in large {
        let result = send_large(context, bucket, &upload).await;
        outcomes.push(outcome(upload.entry, result));
    }
    outcomes
}

fn outcome(entry: Entry, result: Result<()>) -> Outcome {
    let result = result.map(|()| entry.size);
    Outcome { key: entry.key, deed: Deed::Upload, result, unverified: false }
}

/// What a blocking thread makes of a small file.
struct Ready {
    payload: Payload,
    metadata: Metadata,
}

async fn send_small(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    batch: Vec<Upload>,
) -> Vec<Outcome> {
    if batch.is_empty() {
        return Vec::new();
    }
    let total = batch.iter().map(|upload| upload.entry.size).sum();
    let _memory = context.budget.take(total).await;
    let ready = blocking(move || {
        let prepare = |upload: Upload| {
            let ready = prepare(&upload);
            (upload, ready)
        };
        batch.into_iter().map(prepare).collect::<Vec<_>>()
    })
    .await;
    let sends = ready.into_iter().map(|(upload, ready)| async move {
        let result = match ready {
            Ok(ready) => put(context, bucket, &upload, ready).await,
            Err(error) => Err(error),
        };
        outcome(upload.entry, result)
    });
    futures::future::join_all(sends).await
}

/// Reads and hashes one small file while its bytes are in the cache.
fn prepare(upload: &Upload) -> Result<Ready> {
    let (signature, mode) = local(&upload.entry)?;
    let content = match upload.entry.kind {
        EntryKind::File => Source::open(&upload.path, signature)?.read_whole()?,
        EntryKind::Symlink => read_link(&upload.path)?,
        EntryKind::Directory { .. } => Vec::new(),
    };
    let metadata = Metadata::of_file(Blake3::of(&content), Some((signature.modified, mode)), None);
    Ok(Ready { payload: Payload::new(content.into()), metadata })
}

fn local(entry: &Entry) -> Result<(Signature, u32)> {
    match &entry.origin {
        Origin::Local { signature, mode } => Ok((*signature, *mode)),
        Origin::Remote { .. } => {
            let what = format!("cannot upload {}", entry.key);
            Err(Error::new(ErrorKind::Usage, what, "it is an object, not a file"))
        }
    }
}

async fn put(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    upload: &Upload,
    ready: Ready,
) -> Result<()> {
    let (key, bytes) = (&upload.entry.key, upload.entry.size);
    context.observer.event(&Event::Started { key, bytes });
    bucket.put(&upload.object_key, ready.payload, &ready.metadata).await?;
    context.observer.event(&Event::Moved { key, bytes });
    Ok(())
}

/// Sends a large file in parts, once it is hashed.
async fn send_large(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    upload: &Upload,
) -> Result<()> {
    let entry = &upload.entry;
    if entry.size > MAX_OBJECT_BYTES {
        let what = format!("cannot upload {}", upload.path.display());
        return Err(Error::new(ErrorKind::Refused, what, "it is larger than 5 TiB, S3's limit"));
    }
    let (signature, mode) = local(entry)?;
    let path = upload.path.clone();
    let source = Arc::new(blocking(move || Source::open(&path, signature)).await?);
    let part = part_bytes(entry.size);
    context.observer.event(&Event::Started { key: &entry.key, bytes: entry.size });
    let blake3 = hash_file(context, &source, entry.size).await?;
    let metadata = Metadata::of_file(blake3, Some((signature.modified, mode)), Some(part));
    let id = bucket.create_upload(&upload.object_key, &metadata, PartOrigin::Sent).await?;
    context.upload_opened(bucket, &upload.object_key, &id);
    let sent = send_parts(context, bucket, upload, &source, &id).await;
    let finished = match sent {
        Ok(parts) => finish(bucket, &upload.object_key, &id, &parts, entry.size).await,
        Err(error) => Err(error),
    };
    if finished.is_err() {
        // The failure that counts is the one above.
        let _ = bucket.abort_upload(&upload.object_key, &id).await;
    }
    context.upload_closed(&id);
    finished
}

/// The BLAKE3 of a file, its parts hashed at once on several threads.
pub(super) async fn hash_file(
    context: &Context<'_>,
    source: &Arc<Source>,
    size: u64,
) -> Result<Blake3> {
    let part = part_bytes(size);
    if size <= part {
        let (source, _turn) = (Arc::clone(source), context.hashing().await);
        return blocking(move || source.blake3()).await;
    }
    let values = stream::iter(ranges(size, part))
        .map(|range| async move {
            let (source, _turn) = (Arc::clone(source), context.hashing().await);
            blocking(move || source.hash_part(range)).await
        })
        .buffered(context.threads)
        .try_collect::<Vec<_>>()
        .await?;
    let source = Arc::clone(source);
    blocking(move || source.check_unchanged()).await?;
    Ok(merge_parts(&values))
}

async fn send_parts(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    upload: &Upload,
    source: &Arc<Source>,
    id: &str,
) -> Result<Vec<PartTag>> {
    let size = upload.entry.size;
    let numbered = (1u32..).zip(ranges(size, part_bytes(size)));
    let parts = stream::iter(numbered)
        .map(|(number, range)| async move {
            let bytes = range.end - range.start;
            let _memory = context.budget.take(bytes).await;
            let payload = read_part(context, source, range).await?;
            let part = PartRef { key: &upload.object_key, upload: id, number };
            let tag = bucket.put_part(part, payload).await?;
            context.observer.event(&Event::Moved { key: &upload.entry.key, bytes });
            Ok(tag)
        })
        .buffered(PARTS_IN_FLIGHT)
        .try_collect()
        .await?;
    let source = Arc::clone(source);
    blocking(move || source.check_unchanged()).await?;
    Ok(parts)
}

async fn read_part(
    context: &Context<'_>,
    source: &Arc<Source>,
    range: std::ops::Range<u64>,
) -> Result<Payload> {
    let (source, buffers) = (Arc::clone(source), Arc::clone(&context.buffers));
    blocking(move || {
        let bytes = usize::try_from(range.end - range.start).expect("a part fits into memory");
        let mut buffer: Buffer = buffers.take(bytes);
        source.read_at(&mut buffer.content, range.start)?;
        Ok(Payload::new(Bytes::from_owner(buffer)))
    })
    .await
}

/// Sends what `input` holds, whose length is not known before its end; answers its bytes.
///
/// Its hash is known only then, too: a stream longer than one buffer gets its metadata by a copy
/// within the server.
pub(crate) async fn upload_stream(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    object_key: &str,
    mut input: impl AsyncRead + Unpin,
) -> Result<u64> {
    let first = read_up_to(&mut input, MULTIPART_THRESHOLD, object_key).await?;
    if first.len() as u64 <= MULTIPART_THRESHOLD {
        let bytes = first.len() as u64;
        let (payload, metadata) = blocking(move || {
            let metadata = Metadata::of_file(Blake3::of(&first), None, None);
            (Payload::new(first.into()), metadata)
        })
        .await;
        bucket.put(object_key, payload, &metadata).await?;
        return Ok(bytes);
    }
    let id = bucket.create_upload(object_key, &Metadata::default(), PartOrigin::Sent).await?;
    context.upload_opened(bucket, object_key, &id);
    let sent = stream_parts(bucket, object_key, &id, first, input).await;
    let finished = match sent {
        Ok((parts, blake3, size)) => {
            finish(bucket, object_key, &id, &parts, size).await.map(|()| (blake3, size))
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        let _ = bucket.abort_upload(object_key, &id).await;
    }
    context.upload_closed(&id);
    let (blake3, size) = finished?;
    super::copy::describe(context, bucket, object_key, blake3, size).await?;
    Ok(size)
}

/// Parts of a stream grow: the size doubles after each 1,000, so that 10,000 hold 5 TiB.
fn stream_part_bytes(number: u64) -> u64 {
    MULTIPART_THRESHOLD << ((number - 1) / 1000).min(8)
}

async fn stream_parts(
    bucket: &Arc<dyn Bucket>,
    key: &str,
    id: &str,
    first: Vec<u8>,
    mut input: impl AsyncRead + Unpin,
) -> Result<(Vec<PartTag>, Blake3, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut tags = Vec::new();
    let mut size = 0;
    let mut pending = first;
    let mut number = 1;
    while !pending.is_empty() {
        if u64::from(number) > MAX_PARTS {
            let what = format!("cannot upload {key}");
            return Err(Error::new(ErrorKind::Refused, what, "the stream is longer than 5 TiB"));
        }
        let wanted = usize::try_from(stream_part_bytes(number.into())).unwrap_or(usize::MAX);
        if pending.len() < wanted {
            let more = read_up_to(&mut input, (wanted - pending.len()) as u64 - 1, key).await?;
            pending.extend_from_slice(&more);
        }
        let rest = pending.split_off(wanted.min(pending.len()));
        size += pending.len() as u64;
        let (payload, back) = blocking(move || {
            hasher.update(&pending);
            (Payload::new(pending.into()), hasher)
        })
        .await;
        hasher = back;
        tags.push(bucket.put_part(PartRef { key, upload: id, number }, payload).await?);
        pending = rest;
        if pending.is_empty() {
            pending = read_up_to(&mut input, 0, key).await?;
        }
        number += 1;
    }
    Ok((tags, hasher.finalize().into(), size))
}

/// Reads until the end or until there is one byte more than `limit`.
async fn read_up_to(
    input: &mut (impl AsyncRead + Unpin),
    limit: u64,
    key: &str,
) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    input.take(limit + 1).read_to_end(&mut content).await.map_err(|e| {
        Error::new(ErrorKind::Unreadable, format!("cannot read the stream for {key}"), e)
    })?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_stream_hold_the_largest_object() {
        let total: u64 = (1..=MAX_PARTS).map(stream_part_bytes).sum();
        assert!(total >= MAX_OBJECT_BYTES);
    }
}
