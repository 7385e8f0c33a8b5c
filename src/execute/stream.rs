//! Uploads of streams, whose length is not known before their end.

use super::parts::finish;
use super::{Context, blocking, copy};
use crate::bucket::{Bucket, Metadata, PartOrigin, PartRef, PartTag, Payload};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{Blake3, MAX_PARTS, MULTIPART_THRESHOLD};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Sends what `input` holds; answers its bytes.
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
    context.endless_upload(bucket, object_key, &id).await;
    let sent = stream_parts(bucket, object_key, &id, first, input).await;
    let finished = match sent {
        Ok((parts, blake3, size)) => {
            finish(bucket, object_key, &id, &parts, (size, false)).await.map(|_| (blake3, size))
        }
        Err(error) => Err(error),
    };
    match &finished {
        Ok(_) => context.upload_closed(&id).await,
        // The failure that counts is the one above.
        Err(_) => context.give_up(bucket, object_key, &id).await,
    }
    let (blake3, size) = finished?;
    copy::describe(context, bucket, object_key, blake3).await?;
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
    use crate::fingerprint::MAX_OBJECT_BYTES;

    #[test]
    fn the_parts_of_a_stream_hold_the_largest_object() {
        let total: u64 = (1..=MAX_PARTS).map(stream_part_bytes).sum();
        assert!(total >= MAX_OBJECT_BYTES);
    }
}
