//! Settles what sizes alone could not: hashes a file, asks for an object's metadata.
//!
//! What is remembered of one side spares its reading, or the question to the server. An MD5 ETag is
//! compared by reading the file. A multipart ETag asks the server first: one HEAD for the recorded
//! BLAKE3 costs less than the MD5 of more than 16 MiB.

use super::inspect::{inspect, remembered};
use super::large::{hash_file, open};
use super::proof::{Finding, Proof};
use super::{Context, SMALL_BYTES, blocking};
use crate::bucket::{Bucket, Metadata, ObjectInfo};
use crate::catalog::{Record, Stamp};
use crate::entry::{Entry, EntryKind, Origin, Signature};
use crate::error::{ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag, part_bytes};
use crate::hash::{FileHash, Source, read_link, settle};
use crate::plan::compare::{CompareBy, Verdict, compare_blake3, is_same_type};
use crate::plan::{Pair, SameBy, Why};
use std::path::{Path, PathBuf};
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
    pub by: CompareBy,
}

/// What came of a question.
pub(crate) struct Answer {
    /// The pair; where it is the same, with the record of that.
    pub pair: Pair,
    pub verdict: Result<Verdict>,
    /// The hash of the local side, where it was read.
    pub hash: Option<FileHash>,
    /// What is not as it should be, where every byte was read.
    pub disagreements: Vec<String>,
}

/// What was found out about one pair.
struct Found {
    verdict: Verdict,
    hash: Option<FileHash>,
    /// The hash of the content, where it is the same.
    blake3: Option<Blake3>,
    /// The object's metadata, where it was asked for.
    metadata: Option<Metadata>,
    disagreements: Vec<String>,
}

impl Found {
    fn of(verdict: Verdict, hash: Option<FileHash>) -> Self {
        let blake3 = hash.as_ref().map(|hash| hash.blake3);
        Self { verdict, hash, blake3, metadata: None, disagreements: Vec::new() }
    }
}

impl Question {
    /// The local side, if one is, and the remote one.
    fn sides(&self) -> Option<(Local<'_>, Remote<'_>)> {
        let pair = &self.pair;
        let (entry, path, other, content) = match (&self.source, &self.target) {
            (Content::Local(path), remote) => (&pair.source, path, &pair.target, remote),
            (remote, Content::Local(path)) => (&pair.target, path, &pair.source, remote),
            (Content::Remote { .. }, Content::Remote { .. }) => return None,
        };
        let Content::Remote { bucket, object_key } = content else {
            return None;
        };
        Some((
            Local { entry, path },
            Remote { bucket, object_key, etag: other.etag()?, listed: other },
        ))
    }

    /// What is remembered, and may be trusted.
    fn record(&self) -> Option<&Record> {
        self.pair.record.as_deref().filter(|_| self.by == CompareBy::Content)
    }

    /// The remembered hash of one side, where that still looks the same.
    fn known(&self, side: Side) -> Option<Blake3> {
        let record = self.record()?;
        let source_side = match self.source {
            Content::Local(_) => Side::Local,
            Content::Remote { .. } => Side::Remote,
        };
        let knows = match source_side == side {
            true => record.knows_source(&self.pair.source),
            false => record.knows_target(&self.pair.target),
        };
        record.blake3.filter(|_| knows)
    }

    /// How the file is to be read before anything is asked.
    fn first_read(&self) -> Option<FirstRead> {
        let (local, remote) = self.sides()?;
        if local.entry.size == 0 || self.by == CompareBy::Bytes || self.known(Side::Local).is_some()
        {
            return None;
        }
        let proof = match (self.known(Side::Remote), remote.etag) {
            // Large ones are read by parts, on several threads.
            (Some(_), _) if local.entry.size > SMALL_BYTES => return None,
            (Some(blake3), _) => Proof::Blake3(blake3),
            (None, ETag::Md5(md5)) => Proof::Md5(*md5),
            (None, ETag::Multipart(..) | ETag::Opaque(_)) => return None,
        };
        Some(FirstRead { entry: local.entry.clone(), path: local.path.to_owned(), proof })
    }

    /// Writes down what was found out.
    fn conclude(mut self, found: Result<Found>) -> Answer {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let (verdict, disagreements) = (Err(error), Vec::new());
                return Answer { pair: self.pair, verdict, hash: None, disagreements };
            }
        };
        let Found { verdict, hash, blake3, metadata, disagreements } = found;
        if matches!(verdict, Verdict::Same(_)) && self.by != CompareBy::Bytes {
            let settled = hash.as_ref().is_none_or(|hash| hash.settled);
            let record = self.record_of_same(blake3, metadata.as_ref(), settled);
            self.pair.record = Some(Box::new(record));
        }
        Answer { pair: self.pair, verdict: Ok(verdict), hash, disagreements }
    }

    fn record_of_same(
        &self,
        blake3: Option<Blake3>,
        metadata: Option<&Metadata>,
        settled: bool,
    ) -> Record {
        let Pair { source, target, .. } = &self.pair;
        let mut record = Record::of_same(source, target, blake3);
        for stamp in [&mut record.source, &mut record.target] {
            if !settled && matches!(stamp, Some(Stamp::File { .. })) {
                *stamp = None;
            }
        }
        record.drifted = match &source.origin {
            Origin::Remote { .. } => false,
            Origin::Local { signature, mode } => match (metadata, self.pair.record.as_deref()) {
                (Some(metadata), _) => !metadata.is_of(signature.modified, *mode),
                (None, Some(before)) => {
                    before.drifted
                        || !before.knows_target(target)
                        || !before.is_of(signature.modified, *mode)
                }
                (None, None) => true,
            },
        };
        record
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Local,
    Remote,
}

/// A file to read, and what to compare it with.
struct FirstRead {
    entry: Entry,
    path: PathBuf,
    proof: Proof,
}

/// What came of reading a file.
struct Read {
    hash: FileHash,
    /// Is it what was expected?
    finding: Finding,
    /// It is a link, or its content could be the text of one.
    may_be_link: bool,
}

/// Answers questions by content, in any order; never with [`Verdict::NeedsHash`].
pub(crate) async fn resolve(context: &Context<'_>, questions: Vec<Question>) -> Vec<Answer> {
    let reads: Vec<Option<FirstRead>> = questions.iter().map(Question::first_read).collect();
    let bytes = reads.iter().flatten().map(|first| first.entry.size).sum();
    let hashed = if reads.iter().any(Option::is_some) {
        let _turn = context.hashing().await;
        blocking(move || {
            let read = |first: FirstRead| read_for(&first.entry, &first.path, &first.proof);
            reads.into_iter().map(|first| first.map(read)).collect()
        })
        .await
    } else {
        reads.iter().map(|_| None).collect::<Vec<Option<Result<Read>>>>()
    };
    if bytes > 0 {
        context.read(bytes);
    }
    let answers = questions.into_iter().zip(hashed).map(|(question, read)| async move {
        let found = answer(context, &question, read).await;
        question.conclude(found)
    });
    futures::future::join_all(answers).await
}

async fn answer(
    context: &Context<'_>,
    question: &Question,
    read: Option<Result<Read>>,
) -> Result<Found> {
    if question.by == CompareBy::Bytes {
        return by_bytes(context, question).await;
    }
    if question.pair.source.size == 0 {
        let mut found = Found::of(Verdict::Same(SameBy::Empty), None);
        found.blake3 = Some(Blake3::of(b""));
        return Ok(found);
    }
    let Some((local, remote)) = question.sides() else {
        return across(question).await;
    };
    let read = read.transpose()?;
    if let Some(expected) = question.known(Side::Remote) {
        let hash = match read {
            Some(read) => read.hash,
            None => local.hash_by_parts(context).await?,
        };
        let verdict = compare_blake3(Some(hash.blake3), Some(expected));
        let object_mode = question.record().and_then(Record::mode);
        return Ok(Found::of(of_type(verdict, local.entry, object_mode), Some(hash)));
    }
    match read {
        Some(Read { hash, finding: Finding::Proven, may_be_link: false }) => {
            Ok(Found::of(Verdict::Same(SameBy::ETag), Some(hash)))
        }
        // An encrypted object's ETag may look like an MD5 and be none; a link's text may stand in a
        // file.
        read => by_head(context, &local, &remote, question.known(Side::Local), read).await,
    }
}

/// Every byte of both sides.
async fn by_bytes(context: &Context<'_>, question: &Question) -> Result<Found> {
    let Question { pair, source, target, .. } = question;
    let record = pair.record.as_deref();
    let (source, target) = futures::try_join!(
        inspect(context, source, &pair.source, remembered(record, &pair.source)),
        inspect(context, target, &pair.target, remembered(record, &pair.target)),
    )?;
    let mut verdict = compare_blake3(Some(source.blake3), Some(target.blake3));
    if let Some((local, _)) = question.sides() {
        verdict = of_type(verdict, local.entry, source.object_mode.or(target.object_mode));
    }
    let mut found = Found::of(verdict, None);
    found.blake3 = Some(source.blake3);
    found.disagreements = [source.disagreements, target.disagreements].concat();
    Ok(found)
}

/// The same content is not enough where one is a link and the other is not.
fn of_type(verdict: Verdict, local: &Entry, object_mode: Option<u32>) -> Verdict {
    match verdict {
        Verdict::Same(_) if !is_same_type(local, object_mode) => Verdict::Different(Why::Content),
        other => other,
    }
}

/// Two objects.
async fn across(question: &Question) -> Result<Found> {
    let (source, target) = futures::try_join!(
        look_at(&question.source, &question.pair.source),
        look_at(&question.target, &question.pair.target),
    )?;
    let (Some(source), Some(target)) = (source, target) else {
        return Ok(Found::of(Verdict::Different(Why::Content), None));
    };
    let blake3 = source.metadata.blake3();
    let mut found = Found::of(compare_blake3(blake3, target.metadata.blake3()), None);
    found.blake3 = blake3;
    Ok(found)
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

struct Local<'a> {
    entry: &'a Entry,
    path: &'a Path,
}

impl Local<'_> {
    async fn hash_by_parts(&self, context: &Context<'_>) -> Result<FileHash> {
        if self.entry.kind == EntryKind::Symlink {
            return self.read(context, Proof::Nothing).await.map(|read| read.hash);
        }
        let source = open(self.path, signature(self.entry)).await?;
        hash_file(context, &source, self.entry, part_bytes(self.entry.size)).await
    }

    /// Reads the whole file in one thread.
    async fn read(&self, context: &Context<'_>, proof: Proof) -> Result<Read> {
        let (entry, path) = (self.entry.clone(), self.path.to_owned());
        let _turn = context.hashing().await;
        let read = blocking(move || read_for(&entry, &path, &proof)).await;
        context.read(self.entry.size);
        read
    }
}

fn signature(entry: &Entry) -> Signature {
    entry.signature().expect("a local entry has a signature")
}

/// The longest text that a link can have (`PATH_MAX`, its NUL left out).
const MAX_LINK_BYTES: u64 = 4095;

/// Reads a file or link once, for all that is to be compared. Blocks.
fn read_for(entry: &Entry, path: &Path, proof: &Proof) -> Result<Read> {
    let mut hasher = proof.hasher();
    let mut may_be_link = entry.size <= MAX_LINK_BYTES;
    let settled = if entry.kind == EntryKind::Symlink {
        let settled = settle(&signature(entry));
        hasher.update(&read_link(path)?);
        settled
    } else {
        let source = Source::open(path, signature(entry))?;
        source.read_through(|bytes| {
            // A text file ends its last line, a binary one holds a NUL.
            may_be_link &= !bytes.ends_with(b"\n") && !bytes.contains(&0);
            hasher.update(bytes);
        })?;
        source.is_settled()
    };
    let (blake3, finding) = proof.conclude(hasher);
    let hash = FileHash { blake3, parts: Vec::new(), settled };
    Ok(Read { hash, finding, may_be_link })
}

/// Asks the server what it knows of the object. `known` is the file's hash, if it is remembered.
async fn by_head(
    context: &Context<'_>,
    local: &Local<'_>,
    remote: &Remote<'_>,
    known: Option<Blake3>,
    read: Option<Read>,
) -> Result<Found> {
    let of_read = read.as_ref().map(|read| read.finding);
    let hash = read.map(|read| read.hash);
    let known = known.or(hash.as_ref().map(|hash| hash.blake3));
    let Some(info) = look(remote.bucket, remote.object_key, remote.listed).await? else {
        return Ok(Found::of(Verdict::Different(Why::Content), hash));
    };
    let proof = Proof::of(&info);
    let (hash, verdict) = match (&proof, known) {
        // Its own MD5 decides, whatever is recorded with it.
        _ if of_read == Some(Finding::Proven) => (hash, Verdict::Same(SameBy::ETag)),
        _ if of_read.is_some() && info.etag_is_hash => (hash, Verdict::Different(Why::Content)),
        (Proof::Blake3(expected), Some(known)) => {
            (hash, compare_blake3(Some(known), Some(*expected)))
        }
        (Proof::Blake3(expected), None) => {
            let hash = local.hash_by_parts(context).await?;
            let verdict = compare_blake3(Some(hash.blake3), Some(*expected));
            (Some(hash), verdict)
        }
        (Proof::Md5(_) | Proof::Recorded(_) | Proof::Checksum(_) | Proof::Parts { .. }, _) => {
            let read = local.read(context, proof.clone()).await?;
            (Some(read.hash), verdict_of(read.finding, &proof))
        }
        (Proof::Nothing, _) => (hash, Verdict::Different(Why::Unknown)),
    };
    let blake3 = hash.as_ref().map(|hash| hash.blake3).or(known);
    let verdict = of_type(verdict, local.entry, info.metadata.mode());
    let (metadata, disagreements) = (Some(info.metadata), Vec::new());
    Ok(Found { verdict, hash, blake3, metadata, disagreements })
}

fn verdict_of(finding: Finding, proof: &Proof) -> Verdict {
    match (finding, proof) {
        (Finding::Proven, Proof::Checksum(_) | Proof::Recorded(_)) => {
            Verdict::Same(SameBy::Checksum)
        }
        (Finding::Proven, _) => Verdict::Same(SameBy::ETag),
        (Finding::Disproven, _) => Verdict::Different(Why::Content),
        (Finding::Unproven, _) => Verdict::Different(Why::Unknown),
    }
}

/// HEAD; none where it is no longer the object that was listed.
async fn look(bucket: &Arc<dyn Bucket>, key: &str, listed: &Entry) -> Result<Option<ObjectInfo>> {
    match bucket.head(key).await {
        Ok(info) => Ok(Some(info).filter(|info| Some(&info.etag) == listed.etag())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
