//! Uploads: small files in batches; large ones go in parts ([`super::large`]).
//!
//! The hash is known before the first byte is sent, so that each object carries it from the start.

use super::budget::Buffer;
use super::copy;
use super::large::send_large;
use super::{Context, Ended, blocking};
use crate::bucket::{Bucket, Metadata, ObjectRef, Payload, Signing};
use crate::catalog::{Catalog, Change, Parts, Record, Stamp};
use crate::entry::{Entry, EntryKind, Origin, Signature};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Event, Outcome};
use crate::fingerprint::{Blake3, ETag, MULTIPART_THRESHOLD};
use crate::hash::{FileHash, Source, read_link, settle};
use crate::key::Key;
use bytes::Bytes;
use std::path::PathBuf;
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
            Ok(Stored { deed, bytes, record, parts }) => {
                (deed, Ok(bytes), record.map(|record| Change::Put(Box::new(record), parts)))
            }
            Err(error) => (Deed::Upload, Err(error), None),
        };
        Ended { outcome: Outcome { key: entry.key, deed, result, unverified: false }, change }
    }
}

/// A file that is at the server now.
pub(super) struct Stored {
    /// Sent, or copied by the server.
    deed: Deed,
    /// How many were sent.
    pub(super) bytes: u64,
    pub(super) record: Option<Record>,
    pub(super) parts: Option<Parts>,
}

impl Stored {
    pub(super) fn new(deed: Deed, entry: &Entry, hash: &FileHash, etag: &ETag) -> Self {
        let record = Record {
            key: entry.key.clone(),
            size: entry.size,
            blake3: Some(hash.blake3),
            source: Stamp::of(entry).filter(|_| hash.settled),
            target: Stamp::of_object(etag),
            drifted: false,
        };
        let record = (!entry.is_directory()).then_some(record);
        Self { deed, bytes: entry.size, record, parts: None }
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

/// Reads and hashes one file while its bytes are in the cache. The payload of a regular file is
/// still without its bytes, which are in `content` then.
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
    let payload = Payload { sha256: digest.finish(), md5: None, bytes };
    Ok(Ready { payload, metadata, hash, twins })
}

pub(super) fn local(entry: &Entry) -> Result<(Signature, u32)> {
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
pub(super) async fn copy_twin(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::budget::Budget;
    use crate::hash::signature_of;
    use std::fs;
    use std::path::Path;

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
