//! Uploads: small files in batches, large ones in parts.
//!
//! The hash is known before the first byte is sent, so that each object carries it from the start.

use super::budget::Buffer;
use super::copy;
use super::parts::{PARTS_IN_FLIGHT, finish, md5_of, ranges};
use super::{Context, Ended, blocking};
use crate::bucket::{Bucket, Metadata, ObjectRef, PartOrigin, PartRef, PartTag, Payload, Signing};
use crate::catalog::{Catalog, Change, Parts, Record, Stamp};
use crate::entry::{Entry, EntryKind, Origin, Signature};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Event, Outcome};
use crate::fingerprint::{Blake3, ETag, MAX_OBJECT_BYTES, MULTIPART_THRESHOLD, part_bytes};
use crate::hash::{FileHash, Source, merge_parts, read_link, settle};
use crate::key::Key;
use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file to send.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub path: PathBuf,
    pub object_key: String,
    pub entry: Entry,
    /// What it hashes to, where it was read before.
    pub hash: Option<FileHash>,
}

impl Upload {
    /// The key of another object below the same prefix.
    fn sibling(&self, key: &Key) -> String {
        let prefix = self.object_key.strip_suffix(self.entry.key.as_str()).unwrap_or_default();
        format!("{prefix}{}", key.as_str())
    }

    fn ended(self, stored: Result<Stored>) -> Ended {
        let Self { entry, .. } = self;
        let (deed, result, change) = match stored {
            Ok(Stored { deed, record, parts }) => {
                (deed, Ok(entry.size), record.map(|record| Change::Put(Box::new(record), parts)))
            }
            Err(error) => (Deed::Upload, Err(error), None),
        };
        Ended { outcome: Outcome { key: entry.key, deed, result, unverified: false }, change }
    }
}

/// A file that is at the server now.
struct Stored {
    /// Sent, or copied by the server.
    deed: Deed,
    record: Option<Record>,
    parts: Option<Parts>,
}

impl Stored {
    fn new(deed: Deed, entry: &Entry, hash: &FileHash, etag: &ETag) -> Self {
        let record = Record {
            key: entry.key.clone(),
            size: entry.size,
            blake3: Some(hash.blake3),
            source: Stamp::of(entry).filter(|_| hash.settled),
            target: Stamp::of_object(etag),
            drifted: false,
        };
        Self { deed, record: (!entry.is_directory()).then_some(record), parts: None }
    }
}

/// Sends all of `batch`; ends in any order.
pub(crate) async fn upload_batch(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    batch: Vec<Upload>,
) -> Vec<Ended> {
    let (small, large): (Vec<Upload>, Vec<Upload>) =
        batch.into_iter().partition(|upload| upload.entry.size <= MULTIPART_THRESHOLD);
    let mut ended = send_small(context, bucket, small).await;
    for upload in large {
        let stored = send_large(context, bucket, &upload).await;
        ended.push(upload.ended(stored));
    }
    ended
}

/// What a blocking thread makes of a small file.
struct Ready {
    payload: Payload,
    metadata: Metadata,
    hash: FileHash,
    /// Objects that may hold the same.
    twins: Result<Vec<Record>>,
}

async fn send_small(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    batch: Vec<Upload>,
) -> Vec<Ended> {
    if batch.is_empty() {
        return Vec::new();
    }
    let total = batch.iter().map(file_bytes).sum();
    let buffer = context.budget.buffer(total).await;
    let (catalog, signing) = (context.twins.clone(), bucket.signing());
    let ready = blocking(move || prepare_batch(batch, buffer, signing, catalog.as_deref())).await;
    let sends = ready.into_iter().map(|(upload, ready)| async move {
        let stored = match ready {
            Ok(ready) => put(context, bucket, &upload, ready).await,
            Err(error) => Err(error),
        };
        upload.ended(stored)
    });
    futures::future::join_all(sends).await
}

/// How much of a buffer it takes.
fn file_bytes(upload: &Upload) -> usize {
    match upload.entry.kind {
        EntryKind::File => usize::try_from(upload.entry.size).expect("it is no larger than a part"),
        EntryKind::Symlink | EntryKind::Directory { .. } => 0,
    }
}

/// Reads a batch into one buffer: allocators keep much room for contents of many sizes.
fn prepare_batch(
    batch: Vec<Upload>,
    mut buffer: Buffer,
    signing: Signing,
    catalog: Option<&Catalog>,
) -> Vec<(Upload, Result<Ready>)> {
    let mut rest = match buffer.as_mut() {
        Ok(whole) => whole,
        Err(error) => {
            let error = || Error::new(error.kind(), "cannot read a batch of files", error.cause());
            return batch.into_iter().map(|upload| (upload, Err(error()))).collect();
        }
    };
    let mut prepared = Vec::with_capacity(batch.len());
    for upload in batch {
        let content;
        (content, rest) = std::mem::take(&mut rest).split_at_mut(file_bytes(&upload));
        let ready = prepare(&upload, content, signing, catalog);
        prepared.push((upload, ready));
    }
    let (whole, mut offset) = (Bytes::from_owner(buffer), 0);
    for (upload, ready) in &mut prepared {
        let end = offset + file_bytes(upload);
        if let (Ok(ready), EntryKind::File) = (ready, &upload.entry.kind) {
            ready.payload.bytes = whole.slice(offset..end);
        }
        offset = end;
    }
    prepared
}

/// Reads and hashes one file while its bytes are in the cache. The payload of a regular file is still
/// without its bytes, which are in `content` then.
fn prepare(
    upload: &Upload,
    content: &mut [u8],
    signing: Signing,
    catalog: Option<&Catalog>,
) -> Result<Ready> {
    let (signature, mode) = local(&upload.entry)?;
    let (mut blake3, mut digest) = (blake3::Hasher::new(), signing.hasher());
    let mut sink = |piece: &[u8]| {
        blake3.update(piece);
        digest.update(piece);
    };
    let (size, settled, bytes) = match upload.entry.kind {
        EntryKind::File => {
            let source = Source::open(&upload.path, signature)?;
            source.read_into(content, 0, sink)?;
            source.check_unchanged()?;
            (content.len(), source.is_settled(), Bytes::new())
        }
        EntryKind::Symlink => {
            let settled = settle(&signature);
            let text = Bytes::from(read_link(&upload.path)?);
            sink(&text);
            (text.len(), settled, text)
        }
        EntryKind::Directory { .. } => (0, false, Bytes::new()),
    };
    let blake3 = Blake3::from(blake3.finalize());
    let twins = match catalog {
        Some(catalog) if size > 0 => catalog.twins(blake3, size as u64),
        Some(_) | None => Ok(Vec::new()),
    };
    let metadata = Metadata::of_file(blake3, Some((signature.modified, mode)), None);
    let hash = FileHash { blake3, parts: Vec::new(), settled };
    let payload = Payload { sha256: digest.finish(), bytes };
    Ok(Ready { payload, metadata, hash, twins })
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
) -> Result<Stored> {
    let Ready { payload, metadata, hash, twins } = ready;
    let (key, bytes) = (&upload.entry.key, upload.entry.size);
    context.observer.event(&Event::Started { key, bytes });
    let twins = context.looked_up(twins);
    if let Some(etag) = copy_twin(context, bucket, upload, &metadata, twins).await {
        return Ok(Stored::new(Deed::Copy, &upload.entry, &hash, &etag));
    }
    let etag = bucket.put(&upload.object_key, payload, &metadata).await?;
    context.observer.event(&Event::Moved { key, bytes });
    Ok(Stored::new(Deed::Upload, &upload.entry, &hash, &etag))
}

/// Has the server copy an object that holds the same content. None where no such object is left, or
/// the copy fails: the file is sent then.
async fn copy_twin(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    upload: &Upload,
    metadata: &Metadata,
    twins: Vec<Record>,
) -> Option<ETag> {
    for twin in twins.into_iter().filter(|twin| twin.key != upload.entry.key) {
        let Some(Stamp::Object(etag)) = twin.target else { continue };
        let source =
            ObjectRef { bucket: bucket.name().to_owned(), key: upload.sibling(&twin.key), etag };
        let key = upload.object_key.as_str();
        match copy::copy_twin(context, bucket, &source, key, metadata).await {
            Ok(etag) => return Some(etag),
            Err(error) => tracing::debug!(%error, "sending what could not be copied"),
        }
    }
    None
}

/// Sends a large file in parts, once it is hashed.
async fn send_large(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    upload: &Upload,
) -> Result<Stored> {
    let entry = &upload.entry;
    if entry.size > MAX_OBJECT_BYTES {
        let what = format!("cannot upload {}", upload.path.display());
        return Err(Error::new(ErrorKind::Refused, what, "it is larger than 5 TiB, S3's limit"));
    }
    let (signature, mode) = local(entry)?;
    let source = open(&upload.path, signature).await?;
    let part = part_bytes(entry.size);
    context.observer.event(&Event::Started { key: &entry.key, bytes: entry.size });
    let hash = match &upload.hash {
        // A change in the same tick as the comparison would not show.
        Some(hash) if !hash.parts.is_empty() && hash.settled => hash.clone(),
        Some(_) | None => hash_file(context, &source, entry).await?,
    };
    let metadata = Metadata::of_file(hash.blake3, Some((signature.modified, mode)), Some(part));
    let twins = find_twins(context, &hash, entry.size).await;
    if let Some(etag) = copy_twin(context, bucket, upload, &metadata, twins).await {
        return Ok(Stored::new(Deed::Copy, entry, &hash, &etag));
    }
    let id = bucket.create_upload(&upload.object_key, &metadata, PartOrigin::Sent).await?;
    context.upload_opened(bucket, &upload.object_key, &id);
    let sent = send_parts(context, bucket, upload, (&source, &hash), &id).await;
    let finished = match sent {
        Ok(parts) => {
            finish(bucket, &upload.object_key, &id, &parts, (entry.size, PartOrigin::Sent))
                .await
                .map(|info| (info.etag, parts))
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        // The failure that counts is the one above.
        let _ = bucket.abort_upload(&upload.object_key, &id).await;
    }
    context.upload_closed(&id);
    let (etag, parts) = finished?;
    let mut stored = Stored::new(Deed::Upload, entry, &hash, &etag);
    let md5s = parts.iter().filter_map(|part| md5_of(&part.etag)).collect();
    stored.parts = Some(Parts { part_bytes: part, hashes: hash.parts, md5s });
    Ok(stored)
}

pub(super) async fn open(path: &Path, signature: Signature) -> Result<Arc<Source>> {
    let path = path.to_owned();
    blocking(move || Source::open(&path, signature)).await.map(Arc::new)
}

async fn find_twins(context: &Context<'_>, hash: &FileHash, size: u64) -> Vec<Record> {
    let Some(catalog) = context.twins.clone() else {
        return Vec::new();
    };
    let blake3 = hash.blake3;
    let found = blocking(move || catalog.twins(blake3, size)).await;
    context.looked_up(found)
}

/// The hashes of a file, its parts read at once on several threads.
pub(super) async fn hash_file(
    context: &Context<'_>,
    source: &Arc<Source>,
    entry: &Entry,
) -> Result<FileHash> {
    let size = entry.size;
    let (part, settled) = (part_bytes(size), source.is_settled());
    if size <= part {
        let (source, _turn) = (Arc::clone(source), context.hashing().await);
        let blake3 = blocking(move || source.blake3()).await?;
        context.read(size);
        return Ok(FileHash { blake3, parts: Vec::new(), settled });
    }
    let parts = stream::iter(ranges(size, part))
        .map(|range| async move {
            let (source, _turn) = (Arc::clone(source), context.hashing().await);
            let bytes = range.end - range.start;
            let value = blocking(move || source.hash_part(range)).await?;
            context.read(bytes);
            Ok::<_, Error>(value)
        })
        .buffered(context.threads)
        .try_collect::<Vec<_>>()
        .await?;
    let source = Arc::clone(source);
    blocking(move || source.check_unchanged()).await?;
    Ok(FileHash { blake3: merge_parts(&parts), parts, settled })
}

async fn send_parts(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    upload: &Upload,
    (source, hash): (&Arc<Source>, &FileHash),
    id: &str,
) -> Result<Vec<PartTag>> {
    let size = upload.entry.size;
    let numbered = (1u32..).zip(ranges(size, part_bytes(size)));
    let parts = stream::iter(numbered)
        .map(|(number, range)| async move {
            let bytes = range.end - range.start;
            let room = usize::try_from(bytes).expect("a part fits into memory");
            let buffer = context.budget.buffer(room).await;
            // Where a change may not show in the signature, the hash must.
            let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
            let expected = hash.parts.get(index).filter(|_| !hash.settled).copied();
            let how = (expected, bucket.signing());
            let payload = read_part(source, range.start, buffer, how).await?;
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
    source: &Arc<Source>,
    offset: u64,
    mut buffer: Buffer,
    (expected, signing): (Option<ChainingValue>, Signing),
) -> Result<Payload> {
    let source = Arc::clone(source);
    blocking(move || {
        let mut digest = signing.hasher();
        source.read_into(buffer.as_mut()?, offset, |piece| digest.update(piece))?;
        if let Some(expected) = expected {
            source.check_part(buffer.as_ref(), offset, &expected)?;
        }
        Ok(Payload { bytes: Bytes::from_owner(buffer), sha256: digest.finish() })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::budget::Budget;
    use crate::hash::signature_of;
    use std::fs;

    fn upload(root: &Path, name: &str, kind: EntryKind) -> Upload {
        let path = root.join(name);
        let stat = rustix::fs::lstat(&path).unwrap();
        let (signature, mode) = signature_of(&stat);
        let size = if kind == EntryKind::File { signature.size } else { 0 };
        let origin = Origin::Local { signature, mode };
        let entry = Entry { key: Key::new(name), kind, size, origin };
        Upload { path, object_key: name.into(), entry, hash: None }
    }

    /// Each payload is of its own file, whatever lies between them in the batch's buffer.
    #[tokio::test]
    async fn a_batch_keeps_its_contents_apart() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("a"), "first").unwrap();
        fs::write(root.join("changed"), "as it was scanned").unwrap();
        std::os::unix::fs::symlink("to/somewhere", root.join("link")).unwrap();
        fs::create_dir(root.join("directory")).unwrap();
        fs::write(root.join("empty"), "").unwrap();
        fs::write(root.join("z"), "the last one").unwrap();
        let kinds = [
            ("a", EntryKind::File),
            ("changed", EntryKind::File),
            ("link", EntryKind::Symlink),
            ("directory", EntryKind::Directory { empty: true }),
            ("empty", EntryKind::File),
            ("z", EntryKind::File),
        ];
        let batch: Vec<Upload> = kinds.map(|(name, kind)| upload(root, name, kind)).into();
        fs::write(root.join("changed"), "something else that is longer").unwrap();
        let budget = Budget::new(1 << 20);
        let mut dirty = budget.buffer(1000).await;
        dirty.as_mut().unwrap().fill(b'!');
        drop(dirty);
        let buffer = budget.buffer(batch.iter().map(file_bytes).sum()).await;
        assert_eq!(buffer.as_ref()[0], b'!', "it was used before");
        let prepared = prepare_batch(batch, buffer, Signing::Payload, None);
        let expected =
            [Some("first"), None, Some("to/somewhere"), Some(""), Some(""), Some("the last one")];
        for ((upload, ready), expected) in prepared.into_iter().zip(expected) {
            let (Ok(Ready { payload, hash, .. }), Some(expected)) = (ready, expected) else {
                assert!(expected.is_none(), "{}", upload.object_key);
                continue;
            };
            assert_eq!(payload.bytes, expected, "{}", upload.object_key);
            assert_eq!(payload.sha256, Signing::Payload.digest(expected.as_bytes()));
            assert_eq!(hash.blake3, Blake3::of(expected.as_bytes()));
        }
    }
}
