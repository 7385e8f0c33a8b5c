//! Reading every byte, to find what has changed without showing: the catalog, the metadata and the
//! bytes are held against each other.

use super::download::GATHER_BYTES;
use super::large::{hash_file, open};
use super::proof::{Finding, Proof};
use super::resolve::Content;
use super::{Context, blocking, may_resume};
use crate::bucket::{Bucket, ObjectInfo};
use crate::catalog::Record;
use crate::entry::{Entry, EntryKind};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag, part_bytes};
use crate::hash::read_link;
use bytes::Bytes;
use futures::StreamExt;
use std::path::Path;
use std::sync::Arc;

/// What reading one side found.
pub(crate) struct Inspection {
    /// What its bytes hash to.
    pub blake3: Blake3,
    /// Whatever does not agree with them.
    pub disagreements: Vec<String>,
    /// The `st_mode` that is recorded with an object.
    pub object_mode: Option<u32>,
}

/// Reads one side. `remembered` is the hash that the catalog has of an entry that looks like this.
pub(crate) async fn inspect(
    context: &Context<'_>,
    place: &Content,
    entry: &Entry,
    remembered: Option<Blake3>,
) -> Result<Inspection> {
    match place {
        Content::Local(path) => {
            let blake3 = hash_local(context, path, entry).await?;
            let looks = "its size, mtime, ctime and inode are as they were";
            let disagreements = unlike(remembered, blake3, "the file has changed", looks);
            let disagreements = disagreements.into_iter().collect();
            Ok(Inspection { blake3, disagreements, object_mode: None })
        }
        Content::Remote { bucket, object_key } => {
            inspect_object(context, bucket, object_key, entry, remembered).await
        }
    }
}

fn unlike(before: Option<Blake3>, now: Blake3, what: &str, looks: &str) -> Option<String> {
    let before = before.filter(|before| *before != now)?;
    Some(format!("{what}, but {looks}: its BLAKE3 was {before}, and is {now}"))
}

async fn hash_local(context: &Context<'_>, path: &Path, entry: &Entry) -> Result<Blake3> {
    if entry.kind == EntryKind::Symlink {
        let path = path.to_owned();
        return blocking(move || read_link(&path)).await.map(|text| Blake3::of(&text));
    }
    let signature = entry.signature().expect("a local entry has a signature");
    let source = open(path, signature).await?;
    hash_file(context, &source, entry, part_bytes(entry.size)).await.map(|hash| hash.blake3)
}

async fn inspect_object(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    key: &str,
    entry: &Entry,
    remembered: Option<Blake3>,
) -> Result<Inspection> {
    let reading = Reading { context, bucket, key, entry };
    let (info, mut hashing) = reading.begin().await?;
    reading.to_end(&mut hashing).await?;
    let (blake3, finding) = hashing.proof.conclude(hashing.hasher);
    let recorded = info.metadata.blake3();
    let mut disagreements = Vec::new();
    let metadata = recorded.filter(|recorded| *recorded != blake3);
    disagreements.extend(metadata.map(|recorded| {
        format!("the object's bytes are not what is recorded with it: BLAKE3 {recorded} is recorded, {blake3} was read")
    }));
    if finding == Finding::Disproven {
        disagreements
            .push(format!("the object's bytes do not have its ETag or checksum ({})", info.etag));
    }
    disagreements.extend(unlike(
        remembered,
        blake3,
        "the object has changed",
        "its ETag is as it was",
    ));
    Ok(Inspection { blake3, disagreements, object_mode: info.metadata.mode() })
}

/// An object that is read from its beginning to its end, once.
struct Reading<'a> {
    context: &'a Context<'a>,
    bucket: &'a Arc<dyn Bucket>,
    key: &'a str,
    entry: &'a Entry,
}

/// What has been hashed of it.
struct Hashing {
    proof: Proof,
    hasher: super::proof::ProofHasher,
    body: Option<futures::stream::BoxStream<'static, Result<Bytes>>>,
    position: u64,
}

impl Reading<'_> {
    fn etag(&self) -> Option<&ETag> {
        self.entry.etag()
    }

    /// Opens the object, and takes beside its BLAKE3 whatever else the server says of it.
    async fn begin(&self) -> Result<(ObjectInfo, Hashing)> {
        let content = self.bucket.get(self.key, None, self.etag()).await?;
        let mut bare = content.info.clone();
        bare.metadata.0.remove("blake3");
        let proof = Proof::of(&bare);
        let hasher = proof.hasher();
        Ok((content.info, Hashing { proof, hasher, body: Some(content.body), position: 0 }))
    }

    async fn to_end(&self, hashing: &mut Hashing) -> Result<()> {
        let size = self.entry.size;
        let mut broken = 0;
        loop {
            let body = hashing.body.take();
            let from = hashing.position;
            let ended = match body {
                Some(body) => self.drain(body, hashing).await,
                None => Ok(()),
            };
            if hashing.position == size {
                return Ok(());
            }
            broken = if hashing.position > from { 0 } else { broken + 1 };
            let what =
                format!("cannot read {}/{}", self.bucket.url(), crate::key::printable(self.key));
            let failure = ended.err().unwrap_or_else(|| {
                Error::new(
                    ErrorKind::Network,
                    what,
                    "the body has not the length that was announced",
                )
            });
            if hashing.position > size || !may_resume(&failure, broken) {
                return Err(failure);
            }
            let rest = Some(hashing.position..size);
            hashing.body = Some(self.bucket.get(self.key, rest, self.etag()).await?.body);
        }
    }

    async fn drain(
        &self,
        mut body: futures::stream::BoxStream<'static, Result<Bytes>>,
        hashing: &mut Hashing,
    ) -> Result<()> {
        let _memory = self.context.budget.take(2 * GATHER_BYTES as u64).await;
        loop {
            let (mut frames, mut gathered, mut end) = (Vec::new(), 0, None);
            while gathered < GATHER_BYTES && end.is_none() {
                match body.next().await {
                    Some(Ok(frame)) => {
                        gathered += frame.len();
                        frames.push(frame);
                    }
                    Some(Err(error)) => end = Some(Err(error)),
                    None => end = Some(Ok(())),
                }
            }
            let mut hasher = std::mem::replace(&mut hashing.hasher, Proof::Nothing.hasher());
            hashing.hasher = blocking(move || {
                for frame in &frames {
                    hasher.update(frame);
                }
                hasher
            })
            .await;
            hashing.position += gathered as u64;
            self.context.read(gathered as u64);
            if let Some(end) = end {
                return end;
            }
        }
    }
}

/// The hash that the catalog has of an entry, if that still looks the same.
pub(crate) fn remembered(record: Option<&Record>, entry: &Entry) -> Option<Blake3> {
    let record =
        record.filter(|record| record.knows_source(entry) || record.knows_target(entry))?;
    record.blake3
}
