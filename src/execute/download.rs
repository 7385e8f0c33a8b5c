//! Downloads: fetched into a temporary file, verified, and landed in groups.
//!
//! Small objects are held in memory and written by one hop to a blocking thread; large ones arrive as
//! ranges in parallel, hashed as they are written. Nothing gets its name before its bytes are on the
//! disk: a group of files is made durable by one `syncfs`, then renamed.

use super::parts::{PARTS_IN_FLIGHT, ranges};
use super::{Attempts, Context, blocking};
use crate::bucket::{Bucket, Metadata, ObjectInfo};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Event, Outcome};
use crate::fingerprint::{Blake3, ETag, MIB, part_size_candidates};
use crate::hash::{ETagHasher, PartHasher, merge_parts};
use crate::key::Key;
use crate::tree::{Staged, Tree};
use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Objects up to this size are held in memory whole, larger ones fetched in ranges of this size: a
/// power of two, so that BLAKE3 can merge them.
const RANGE_BYTES: u64 = 16 * MIB;
/// Frames are gathered to this many bytes before they are hashed and written.
const GATHER_BYTES: usize = 1 << 20;
/// How often a body that breaks is asked for again without a byte of progress.
const RESUMES: u32 = 5;

/// True where a body that broke for the `broken`th time without progress may be asked for again: a
/// server that hangs once more only.
pub(crate) fn may_resume(error: &Error, broken: u32) -> bool {
    match error.kind() {
        ErrorKind::Hung => broken <= 1,
        _ => error.is_retryable() && broken <= RESUMES,
    }
}

/// One object to fetch.
pub(crate) struct Download {
    pub object_key: String,
    pub entry: Entry,
}

/// A file that is written and verified, but has not got its name yet.
pub(crate) struct Landing {
    staged: Option<Staged>,
    pub entry: Entry,
    unverified: bool,
}

/// How a content can be proven right.
#[derive(Clone, Debug)]
pub(crate) struct Verify {
    blake3: Option<Blake3>,
    etag: ETag,
    part_sizes: Vec<u64>,
}

/// What [`Verify`] hashes with: BLAKE3 where it is recorded, else for the ETag, else nothing.
pub(crate) enum Hasher {
    Blake3(Box<blake3::Hasher>),
    ETag(ETagHasher),
    Nothing,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::ETag(hasher) => hasher.update(bytes),
            Self::Nothing => {}
        }
    }
}

impl Verify {
    pub(crate) fn new(info: &ObjectInfo) -> Self {
        let size = info.size;
        let etag = if info.etag_is_hash { info.etag.clone() } else { ETag::Opaque("".into()) };
        let part_sizes = match etag {
            ETag::Multipart(_, parts) => match info.metadata.part_bytes() {
                Some(part) if size.div_ceil(part).max(1) == u64::from(parts) => vec![part],
                _ => part_size_candidates(size, parts).collect(),
            },
            ETag::Md5(_) | ETag::Opaque(_) => Vec::new(),
        };
        Self { blake3: info.metadata.blake3(), etag, part_sizes }
    }

    /// The part sizes that the ETag may be made of.
    pub(crate) fn part_sizes(&self) -> &[u64] {
        &self.part_sizes
    }

    /// True where the ETag can be computed from the content.
    pub(crate) fn is_etag_computable(&self) -> bool {
        matches!(self.etag, ETag::Md5(_)) || !self.part_sizes.is_empty()
    }

    /// What proves most for least.
    pub(crate) fn hasher(&self) -> Hasher {
        if self.blake3.is_some() {
            return Hasher::Blake3(Box::default());
        }
        if self.is_etag_computable() {
            return Hasher::ETag(ETagHasher::new(&self.part_sizes));
        }
        Hasher::Nothing
    }

    /// True where the content in `frames` is proven, false where it can't be.
    pub(crate) fn check(&self, what: impl FnOnce() -> String, frames: &[Bytes]) -> Result<bool> {
        let mut hasher = self.hasher();
        for frame in frames {
            hasher.update(frame);
        }
        self.conclude(what, hasher)
    }

    /// True where the hashed content is proven. An MD5 must agree; a multipart ETag proves the
    /// content where it agrees with a guessed part size, and where it doesn't, the guess may be what
    /// is wrong.
    pub(crate) fn conclude(&self, what: impl FnOnce() -> String, hasher: Hasher) -> Result<bool> {
        match hasher {
            Hasher::Blake3(hasher) => {
                agree(what, Some(Blake3::from(hasher.finalize())) == self.blake3)
            }
            Hasher::ETag(hasher) => {
                let agrees = hasher.finish().contains(&self.etag);
                match self.etag {
                    ETag::Md5(_) => agree(what, agrees),
                    ETag::Multipart(..) | ETag::Opaque(_) => Ok(agrees),
                }
            }
            Hasher::Nothing => Ok(false),
        }
    }
}

fn agree(what: impl FnOnce() -> String, agrees: bool) -> Result<bool> {
    if agrees {
        return Ok(true);
    }
    Err(Error::new(ErrorKind::Corrupt, what(), "the bytes that arrived do not have its hash"))
}

/// Fetches one object up to the point where it can land.
pub(crate) async fn download(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    tree: &Arc<Tree>,
    download: Download,
) -> Result<Landing, Box<Outcome>> {
    let Download { object_key, entry } = download;
    let fetch = Fetch { context, bucket, tree, object_key: &object_key, entry: &entry };
    let mut attempts = Attempts::default();
    let fetched = loop {
        match fetch.once().await {
            Err(error) if attempts.again(&error) => {}
            outcome => break outcome,
        }
    };
    match fetched {
        Ok((staged, verified)) => Ok(Landing { staged, entry, unverified: !verified }),
        Err(error) => Err(Box::new(failed(entry.key, error))),
    }
}

fn failed(key: Key, error: Error) -> Outcome {
    Outcome { key, deed: Deed::Download, result: Err(error), unverified: false }
}

struct Fetch<'a> {
    context: &'a Context<'a>,
    bucket: &'a Arc<dyn Bucket>,
    tree: &'a Arc<Tree>,
    object_key: &'a str,
    entry: &'a Entry,
}

impl Fetch<'_> {
    /// The file that is ready to land, none for a directory; and whether it is proven.
    async fn once(&self) -> Result<(Option<Staged>, bool)> {
        let entry = self.entry;
        self.context.observer.event(&Event::Started { key: &entry.key, bytes: entry.size });
        if entry.is_directory() {
            let (tree, key) = (Arc::clone(self.tree), entry.key.clone());
            return blocking(move || tree.make_directory(&key)).await.map(|()| (None, true));
        }
        let (staged, verified) =
            if entry.size <= RANGE_BYTES { self.whole().await? } else { self.ranges().await? };
        Ok((Some(staged), verified))
    }

    fn what(&self) -> String {
        format!("cannot fetch {}/{}", self.bucket.url(), crate::key::printable(self.object_key))
    }

    fn etag(&self) -> Result<&ETag> {
        self.entry
            .etag()
            .ok_or_else(|| Error::new(ErrorKind::Usage, self.what(), "it is a file, not an object"))
    }

    fn moved(&self, bytes: u64) {
        self.context.observer.event(&Event::Moved { key: &self.entry.key, bytes });
    }

    async fn whole(&self) -> Result<(Staged, bool)> {
        let _memory = self.context.budget.take(self.entry.size).await;
        let (info, frames) = self.collect().await?;
        self.moved(self.entry.size);
        let (tree, key, what) = (Arc::clone(self.tree), self.entry.key.clone(), self.what());
        blocking(move || {
            let verify = Verify::new(&info);
            let verified = verify.check(|| what, &frames)?;
            Ok((write_whole(&tree, &key, &info.metadata, &frames)?, verified))
        })
        .await
    }

    /// The whole content in memory; a body that breaks is asked for anew.
    async fn collect(&self) -> Result<(ObjectInfo, Vec<Bytes>)> {
        let mut broken = 0;
        loop {
            let mut content = self.bucket.get(self.object_key, None, Some(self.etag()?)).await?;
            self.check_size(&content.info)?;
            let mut frames = Vec::new();
            let mut length = 0;
            let failure = loop {
                match content.body.next().await {
                    Some(Ok(frame)) => {
                        length += frame.len() as u64;
                        frames.push(frame);
                        if length > self.entry.size {
                            return Err(self.wrong_length());
                        }
                    }
                    Some(Err(error)) => break error,
                    None if length == self.entry.size => return Ok((content.info, frames)),
                    None => break self.wrong_length(),
                }
            };
            broken += 1;
            if !may_resume(&failure, broken) {
                return Err(failure);
            }
        }
    }

    fn check_size(&self, info: &ObjectInfo) -> Result<()> {
        if info.size == self.entry.size {
            return Ok(());
        }
        let cause = "it is no longer the object that was listed";
        Err(Error::new(ErrorKind::Precondition, self.what(), cause))
    }

    fn wrong_length(&self) -> Error {
        Error::new(
            ErrorKind::Network,
            self.what(),
            "the body has not the length that was announced",
        )
    }

    async fn ranges(&self) -> Result<(Staged, bool)> {
        let size = self.entry.size;
        let (tree, key) = (Arc::clone(self.tree), self.entry.key.clone());
        let staged = blocking(move || {
            let staged = tree.stage(&key)?;
            staged.reserve(size)?;
            Ok::<_, Error>(Arc::new(staged))
        })
        .await?;
        let info = OnceLock::new();
        let values: Vec<ChainingValue> = stream::iter(ranges(size, RANGE_BYTES))
            .map(|range| self.range(range, &staged, &info))
            .buffered(PARTS_IN_FLIGHT)
            .try_collect()
            .await?;
        let info = info.into_inner().ok_or_else(|| self.wrong_length())?;
        let what = self.what();
        blocking(move || {
            let verified = verify_parts(what, &info, &values, &staged)?;
            staged.set_attributes(info.metadata.mode(), info.metadata.mtime())?;
            let staged = Arc::into_inner(staged).expect("all ranges have ended");
            Ok((staged, verified))
        })
        .await
    }

    /// One range, hashed and written as it arrives, resumed where its body breaks.
    async fn range(
        &self,
        range: Range<u64>,
        staged: &Arc<Staged>,
        info: &OnceLock<ObjectInfo>,
    ) -> Result<ChainingValue> {
        // What is gathered, what is being written, and a frame.
        let _memory = self.context.budget.take(2 * GATHER_BYTES as u64 + MIB).await;
        let mut writer =
            Writer { staged, hasher: PartHasher::new(range.start), position: range.start };
        let mut broken = 0;
        while writer.position < range.end {
            let from = writer.position;
            let rest = Some(from..range.end);
            let content = self.bucket.get(self.object_key, rest, Some(self.etag()?)).await?;
            self.check_size(&content.info)?;
            let _ = info.set(content.info);
            let ended = self.drain(content.body, &mut writer, range.end).await;
            broken = if writer.position > from { 0 } else { broken + 1 };
            match ended {
                Ok(()) if writer.position < range.end && broken > RESUMES => {
                    return Err(self.wrong_length());
                }
                Err(error) if !may_resume(&error, broken) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(writer.hasher.chaining_value())
    }

    async fn drain(
        &self,
        mut body: stream::BoxStream<'static, Result<Bytes>>,
        writer: &mut Writer<'_>,
        end: u64,
    ) -> Result<()> {
        let mut frames = Vec::new();
        let mut gathered = 0;
        loop {
            let frame = body.next().await;
            let ended = !matches!(frame, Some(Ok(_)));
            if let Some(Ok(frame)) = &frame {
                gathered += frame.len();
                frames.push(frame.clone());
                if writer.position + gathered as u64 > end {
                    return Err(self.wrong_length().with_kind(ErrorKind::Protocol));
                }
            }
            if gathered >= GATHER_BYTES || (ended && gathered > 0) {
                writer.write(std::mem::take(&mut frames)).await?;
                self.moved(gathered as u64);
                gathered = 0;
            }
            match frame {
                None => return Ok(()),
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) => {}
            }
        }
    }
}

struct Writer<'a> {
    staged: &'a Arc<Staged>,
    hasher: PartHasher,
    position: u64,
}

impl Writer<'_> {
    async fn write(&mut self, frames: Vec<Bytes>) -> Result<()> {
        let staged = Arc::clone(self.staged);
        let mut hasher = std::mem::replace(&mut self.hasher, PartHasher::new(0));
        let position = self.position;
        let (outcome, hasher) = blocking(move || {
            for frame in &frames {
                hasher.update(frame);
            }
            (
                staged
                    .write_at(&frames, position)
                    .map(|()| frames.iter().map(|f| f.len() as u64).sum::<u64>()),
                hasher,
            )
        })
        .await;
        self.hasher = hasher;
        self.position += outcome?;
        Ok(())
    }
}

/// The standard hash of all ranges; or, where no BLAKE3 is recorded, the ETag by reading back.
fn verify_parts(
    what: String,
    info: &ObjectInfo,
    values: &[ChainingValue],
    staged: &Staged,
) -> Result<bool> {
    let verify = Verify::new(info);
    if let Some(expected) = verify.blake3 {
        return agree(|| what, merge_parts(values) == expected);
    }
    let mut hasher = verify.hasher();
    if let Hasher::ETag(_) = hasher {
        staged.read_back(|bytes| hasher.update(bytes))?;
    }
    verify.conclude(|| what, hasher)
}

fn write_whole(
    tree: &Arc<Tree>,
    key: &Key,
    metadata: &Metadata,
    frames: &[Bytes],
) -> Result<Staged> {
    if metadata.is_symlink() {
        let staged = tree.stage_symlink(key, &frames.concat())?;
        staged.set_attributes(None, metadata.mtime())?;
        return Ok(staged);
    }
    let staged = tree.stage(key)?;
    staged.write_at(frames, 0)?;
    staged.set_attributes(metadata.mode(), metadata.mtime())?;
    Ok(staged)
}

/// Makes a group of files durable and gives them their names. Where the disk fails, none of them is
/// said to be done.
pub(crate) async fn commit(tree: Arc<Tree>, group: Vec<Landing>) -> Vec<Outcome> {
    blocking(move || {
        let synced = tree.sync();
        let land = |landing: Landing| {
            let result = match (&synced, landing.staged) {
                (Err(error), _) => Err(Error::new(
                    ErrorKind::Write,
                    format!("cannot write {}", landing.entry.key),
                    error.cause(),
                )),
                (Ok(()), None) => Ok(()),
                (Ok(()), Some(staged)) => staged.land(),
            };
            Outcome {
                key: landing.entry.key,
                deed: Deed::Download,
                result: result.map(|()| landing.entry.size),
                unverified: landing.unverified,
            }
        };
        group.into_iter().map(land).collect()
    })
    .await
}
