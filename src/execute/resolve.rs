//! Settles what sizes alone could not: hashes a file, asks for an object's metadata.
//!
//! An MD5 ETag is compared by reading the file. A multipart ETag asks the server first: one HEAD for
//! the recorded BLAKE3 costs less than the MD5 of more than 16 MiB.

use super::upload::hash_file;
use super::{Context, Verify, blocking};
use crate::bucket::{Bucket, ObjectInfo};
use crate::entry::{Entry, EntryKind, Signature};
use crate::error::{ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag};
use crate::hash::{ETagHasher, Source, read_link};
use crate::plan::compare::{Verdict, compare_blake3, compare_etag};
use crate::plan::{Pair, SameBy, Why};
use std::path::PathBuf;
use std::sync::Arc;

/// Where one side's content is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// In a file.
    Local(PathBuf),
    /// In an object.
    Remote { bucket: Arc<dyn Bucket>, object_key: String },
}

/// A pair whose contents must be compared.
pub(crate) struct Question {
    pub pair: Pair,
    pub source: Content,
    pub target: Content,
}

impl Question {
    /// The local side, if one is, and the remote one.
    fn sides(&self) -> Option<(Local, Remote<'_>)> {
        let (entry, path, other, content) = match (&self.source, &self.target) {
            (Content::Local(path), remote) => (&self.pair.source, path, &self.pair.target, remote),
            (remote, Content::Local(path)) => (&self.pair.target, path, &self.pair.source, remote),
            (Content::Remote { .. }, Content::Remote { .. }) => return None,
        };
        let Content::Remote { bucket, object_key } = content else {
            return None;
        };
        let remote = Remote { bucket, object_key, etag: other.etag()?, listed: other };
        Some((Local::of(entry, path.clone()), remote))
    }
}

type Hashes = (Blake3, Vec<ETag>);

/// Answers questions by content, in any order; never with [`Verdict::NeedsHash`].
pub(crate) async fn resolve(
    context: &Context<'_>,
    questions: Vec<Question>,
) -> Vec<(Pair, Result<Verdict>)> {
    let md5s: Vec<Option<Local>> = questions.iter().map(local_md5).collect();
    let turn = context.hashing().await;
    let hashed = blocking(move || {
        let hash = |local: Option<Local>| local.map(|local| local.etags(&[]));
        md5s.into_iter().map(hash).collect::<Vec<Option<Result<Hashes>>>>()
    })
    .await;
    drop(turn);
    let answers = questions.into_iter().zip(hashed).map(|(question, hashes)| async move {
        let answer = answer(context, &question, hashes).await;
        (question.pair, answer)
    });
    futures::future::join_all(answers).await
}

/// The file of a question that its MD5 is likely to answer.
fn local_md5(question: &Question) -> Option<Local> {
    let (local, remote) = question.sides()?;
    matches!(remote.etag, ETag::Md5(_)).then_some(local)
}

async fn answer(
    context: &Context<'_>,
    question: &Question,
    hashes: Option<Result<Hashes>>,
) -> Result<Verdict> {
    if let Some((local, remote)) = question.sides() {
        return match hashes {
            Some(hashes) => by_md5(hashes?, &remote).await,
            None => by_head(context, &local, &remote).await,
        };
    }
    let source = look_at(&question.source, &question.pair.source).await?;
    let target = look_at(&question.target, &question.pair.target).await?;
    Ok(match (source, target) {
        (Some(a), Some(b)) => compare_blake3(a.metadata.blake3(), b.metadata.blake3()),
        _ => Verdict::Different(Why::Content),
    })
}

async fn look_at(content: &Content, listed: &Entry) -> Result<Option<ObjectInfo>> {
    match content {
        Content::Remote { bucket, object_key } => look(bucket, object_key, listed).await,
        Content::Local(_) => Ok(None),
    }
}

struct Remote<'a> {
    bucket: &'a Arc<dyn Bucket>,
    object_key: &'a str,
    etag: &'a ETag,
    listed: &'a Entry,
}

impl Remote<'_> {
    async fn look(&self) -> Result<Option<ObjectInfo>> {
        look(self.bucket, self.object_key, self.listed).await
    }
}

#[derive(Clone)]
struct Local {
    path: PathBuf,
    kind: EntryKind,
    signature: Option<Signature>,
    size: u64,
}

impl Local {
    fn of(entry: &Entry, path: PathBuf) -> Self {
        Self { path, kind: entry.kind, signature: entry.signature(), size: entry.size }
    }

    fn open(&self) -> Result<Source> {
        let signature = self.signature.expect("a local entry has a signature");
        Source::open(&self.path, signature)
    }

    /// BLAKE3 and the ETags for `part_sizes` (with none: the MD5), in one read. Blocks.
    fn etags(&self, part_sizes: &[u64]) -> Result<Hashes> {
        if self.kind == EntryKind::Symlink {
            let text = read_link(&self.path)?;
            let mut hasher = ETagHasher::new(part_sizes);
            hasher.update(&text);
            return Ok((Blake3::of(&text), hasher.finish()));
        }
        self.open()?.etags(part_sizes)
    }

    async fn blake3(&self, context: &Context<'_>) -> Result<Blake3> {
        if self.kind == EntryKind::Symlink {
            return read_link(&self.path).map(|text| Blake3::of(&text));
        }
        hash_file(context, &Arc::new(self.open()?), self.size).await
    }
}

async fn by_md5((blake3, etags): Hashes, remote: &Remote<'_>) -> Result<Verdict> {
    if etags.contains(remote.etag) {
        return Ok(Verdict::Same(SameBy::ETag));
    }
    // With server-side encryption an ETag may look like an MD5 and be none.
    Ok(match remote.look().await? {
        Some(info) if info.metadata.blake3() == Some(blake3) => Verdict::Same(SameBy::Blake3),
        _ => Verdict::Different(Why::Content),
    })
}

async fn by_head(context: &Context<'_>, local: &Local, remote: &Remote<'_>) -> Result<Verdict> {
    let Some(info) = remote.look().await? else {
        return Ok(Verdict::Different(Why::Content));
    };
    if let Some(expected) = info.metadata.blake3() {
        return Ok(compare_blake3(Some(local.blake3(context).await?), Some(expected)));
    }
    let verify = Verify::new(&info);
    if !verify.is_etag_computable() {
        return Ok(Verdict::Different(Why::Unknown));
    }
    let (local, part_sizes) = (local.clone(), verify.part_sizes().to_vec());
    let _turn = context.hashing().await;
    let (_, etags) = blocking(move || local.etags(&part_sizes)).await?;
    Ok(compare_etag(&etags, remote.etag, info.metadata.part_bytes().is_some()))
}

/// HEAD; none where it is no longer the object that was listed.
async fn look(bucket: &Arc<dyn Bucket>, key: &str, listed: &Entry) -> Result<Option<ObjectInfo>> {
    match bucket.head(key).await {
        Ok(info) => Ok(Some(info).filter(|info| Some(&info.etag) == listed.etag())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
