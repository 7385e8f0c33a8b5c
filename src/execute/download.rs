//! Downloads: fetched into a temporary file, verified, and landed in groups.
//!
//! Small objects are held in memory and written by one hop to a blocking thread; larger ones are
//! hashed and written as they arrive, the largest in ranges ([`super::ranges`]). Nothing gets its
//! name before its bytes are on the disk: a group of files is made durable by one `syncfs`, then
//! renamed.

use super::arrival::{Hasher, Writer, fetched, read_back};
use super::budget::Held;
use super::landing::{Fetched, Landing, copy_local, write_whole};
use super::proof::{Finding, Proof, ProofHasher};
use super::ranges::in_ranges;
use super::{Attempts, Context, SMALL_BYTES, blocking, go_on};
use crate::bucket::{Bucket, ObjectInfo};
use crate::catalog::Catalog;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Event, Outcome};
use crate::fingerprint::{ETag, MIB};
use crate::key::Key;
use crate::tree::{Staged, Tree};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::sync::{Arc, OnceLock};

/// Objects larger than this are fetched in ranges of this size: a power of two, so that BLAKE3 can
/// merge them.
pub(super) const RANGE_BYTES: u64 = 16 * MIB;
/// Frames are gathered to this many bytes before they are hashed, and written where they are to
/// stay.
pub(super) const GATHER_BYTES: usize = 1 << 20;
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

/// What is found of bytes that arrived, held against what the object says of itself. Where its own
/// ETag agrees, other hashes that are recorded with it have gone stale. `again` feeds the bytes
/// once more.
pub(super) fn agree(
    what: impl FnOnce() -> String,
    info: &ObjectInfo,
    finding: Finding,
    again: impl FnOnce(&mut ProofHasher) -> Result<()>,
) -> Result<Finding> {
    if finding != Finding::Disproven {
        return Ok(finding);
    }
    let proof = Proof::of_etag(info);
    let mut hasher = proof.hasher();
    again(&mut hasher)?;
    match proof.conclude(hasher).1 {
        Finding::Proven => Ok(Finding::Proven),
        Finding::Disproven | Finding::Unproven => {
            let cause = "the bytes that arrived do not have its hash";
            Err(Error::new(ErrorKind::Corrupt, what(), cause))
        }
    }
}

/// Fetches objects up to the point where they can land: small ones together, so that all of them
/// take one hop to a blocking thread.
pub(crate) async fn download_batch(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    tree: &Arc<Tree>,
    batch: Vec<Download>,
) -> (Vec<Landing>, Vec<Outcome>) {
    let is_small = |d: &Download| !d.entry.is_directory() && d.entry.size <= SMALL_BYTES;
    let (small, mut alone): (Vec<Download>, Vec<Download>) =
        batch.into_iter().partition(|download| is_small(download));
    let (mut landings, mut outcomes) = (Vec::new(), Vec::new());
    let small = without_twins(context, small, &mut alone).await;
    for (download, fetched) in fetch_small(context, bucket, tree, small).await {
        match fetched {
            Ok(fetched) => landings.push(Landing { fetched, entry: download.entry }),
            // Its bytes turned out wrong on the way: it is begun again.
            Err(error) if error.kind() == ErrorKind::Corrupt => alone.push(download),
            Err(error) => outcomes.push(failed(download.entry.key, error)),
        }
    }
    for one in alone {
        match download(context, bucket, tree, one).await {
            Ok(landing) => landings.push(landing),
            Err(outcome) => outcomes.push(*outcome),
        }
    }
    (landings, outcomes)
}

/// Sorts out the objects whose content may already be in a file here.
async fn without_twins(
    context: &Context<'_>,
    batch: Vec<Download>,
    alone: &mut Vec<Download>,
) -> Vec<Download> {
    let Some(catalog) = context.twins.as_ref().filter(|_| !batch.is_empty()) else {
        return batch;
    };
    let etags: Vec<(Option<ETag>, u64)> =
        batch.iter().map(|d| (d.entry.etag().cloned(), d.entry.size)).collect();
    let found = context.ask(Some(catalog), move |catalog| {
        let has_twin = |(etag, size): (Option<ETag>, u64)| {
            let twins = etag.map(|etag| catalog.twins_by_etag(&etag, size));
            twins.unwrap_or(Ok(Vec::new())).map(|twins| !twins.is_empty())
        };
        etags.into_iter().map(has_twin).collect::<Result<Vec<bool>>>()
    });
    let mut found = found.await.into_iter();
    let (twins, rest): (Vec<_>, _) = batch.into_iter().partition(|_| found.next().unwrap_or(false));
    alone.extend(twins);
    rest
}

async fn fetch_small(
    context: &Context<'_>,
    bucket: &Arc<dyn Bucket>,
    tree: &Arc<Tree>,
    batch: Vec<Download>,
) -> Vec<(Download, Result<Fetched>)> {
    let _memory = context.budget.take(batch.iter().map(|d| d.entry.size).sum()).await;
    let arriving = batch.into_iter().map(|download| async move {
        let Download { object_key, entry } = &download;
        let fetch = Fetch { context, bucket, tree, object_key, entry };
        context.observer.event(&Event::Started { key: &entry.key, bytes: entry.size });
        let arrived = fetch.collect().await.map(|(info, frames)| (fetch.what(), info, frames));
        if arrived.is_ok() {
            fetch.moved(entry.size);
        }
        (download, arrived)
    });
    let arrived = futures::future::join_all(arriving).await;
    let tree = Arc::clone(tree);
    blocking(move || {
        let stage = |(download, arrived): (Download, Result<Arrived>)| {
            let staged =
                arrived.and_then(|arrived| stage_small(&tree, &download.entry.key, arrived));
            (download, staged)
        };
        arrived.into_iter().map(stage).collect()
    })
    .await
}

/// What it is called in messages, what the server says of it, its bytes.
type Arrived = (String, ObjectInfo, Vec<Bytes>);

/// Verifies and writes a content that is in memory. Blocks.
fn stage_small(tree: &Arc<Tree>, key: &Key, (what, info, frames): Arrived) -> Result<Fetched> {
    let (blake3, finding) = Proof::of(&info).check(&frames);
    let finding = agree(
        || what,
        &info,
        finding,
        |hasher| {
            for frame in &frames {
                hasher.update(frame);
            }
            Ok(())
        },
    )?;
    let staged = Some(write_whole(tree, key, &info.metadata, &frames)?);
    let (deed, bytes) = (Deed::Download, info.size);
    Ok(Fetched { staged, deed, bytes, blake3: Some(blake3), parts: None, finding })
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
        Ok(fetched) => Ok(Landing { fetched, entry }),
        Err(error) => Err(Box::new(failed(entry.key, error))),
    }
}

fn failed(key: Key, error: Error) -> Outcome {
    Outcome { key, deed: Deed::Download, result: Err(error), unverified: false }
}

pub(super) struct Fetch<'a> {
    pub context: &'a Context<'a>,
    pub bucket: &'a Arc<dyn Bucket>,
    pub tree: &'a Arc<Tree>,
    pub object_key: &'a str,
    pub entry: &'a Entry,
}

impl Fetch<'_> {
    /// What is ready to land.
    async fn once(&self) -> Result<Fetched> {
        let entry = self.entry;
        go_on(&self.context.stop)?;
        self.context.observer.event(&Event::Started { key: &entry.key, bytes: entry.size });
        if entry.is_directory() {
            let (tree, key) = (Arc::clone(self.tree), entry.key.clone());
            blocking(move || tree.make_directory(&key)).await?;
            let (deed, finding) = (Deed::Download, Finding::Proven);
            return Ok(Fetched {
                staged: None,
                deed,
                bytes: 0,
                blake3: None,
                parts: None,
                finding,
            });
        }
        if let Some(copied) = self.copy_twin().await {
            return Ok(copied);
        }
        if entry.size <= SMALL_BYTES {
            self.whole().await
        } else if entry.size <= RANGE_BYTES {
            self.in_sequence().await
        } else {
            in_ranges(self).await
        }
    }

    /// Copies a file of the target directory that has the object's content, if there is one: found
    /// by the ETag that its own object had, or, where a HEAD costs little beside the content, by
    /// the recorded BLAKE3.
    async fn copy_twin(&self) -> Option<Fetched> {
        let catalog = Some(self.context.twins.as_ref().filter(|_| self.entry.size > 0)?);
        let (etag, size) = (self.entry.etag()?.clone(), self.entry.size);
        let sought = etag.clone();
        let by_etag = move |catalog: &Catalog| catalog.twins_by_etag(&sought, size);
        let mut twins = self.context.ask(catalog, by_etag).await;
        if twins.is_empty() && size <= RANGE_BYTES {
            return None;
        }
        let info = self.bucket.head(self.object_key).await.ok().filter(|info| info.etag == etag)?;
        let blake3 = info.metadata.blake3();
        if let (true, Some(blake3)) = (twins.is_empty(), blake3) {
            twins = self.context.ask(catalog, move |catalog| catalog.twins(blake3, size)).await;
        }
        if info.metadata.is_symlink() {
            return None;
        }
        let (tree, key) = (Arc::clone(self.tree), self.entry.key.clone());
        let (stop, _turn) = (self.context.stop.clone(), self.context.hashing().await);
        blocking(move || {
            twins.into_iter().find_map(|twin| {
                // Objects of one ETag and size have one content.
                let expected = info.metadata.blake3().or(twin.blake3)?;
                let copied = copy_local(&tree, &key, &twin, (&info, expected), &stop);
                copied
                    .inspect_err(|error| tracing::debug!(%error, "fetching what was not copied"))
                    .ok()?
            })
        })
        .await
    }

    pub(super) fn what(&self) -> String {
        format!("cannot fetch {}/{}", self.bucket.url(), crate::key::printable(self.object_key))
    }

    pub(super) fn etag(&self) -> Result<&ETag> {
        self.entry
            .etag()
            .ok_or_else(|| Error::new(ErrorKind::Usage, self.what(), "it is a file, not an object"))
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.context.observer.event(&Event::Moved { key: &self.entry.key, bytes });
    }

    async fn whole(&self) -> Result<Fetched> {
        let _memory = self.context.budget.take(self.entry.size).await;
        let (info, frames) = self.collect().await?;
        self.moved(self.entry.size);
        let (tree, key) = (Arc::clone(self.tree), self.entry.key.clone());
        let arrived = (self.what(), info, frames);
        blocking(move || stage_small(&tree, &key, arrived)).await
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
        if info.size == self.entry.size { Ok(()) } else { Err(self.moved_on()) }
    }

    pub(super) fn check_etag(&self, info: &ObjectInfo) -> Result<()> {
        if info.etag == *self.etag()? { self.check_size(info) } else { Err(self.moved_on()) }
    }

    fn moved_on(&self) -> Error {
        let cause = "it is no longer the object that was listed";
        Error::new(ErrorKind::Precondition, self.what(), cause)
    }

    fn wrong_length(&self) -> Error {
        Error::new(
            ErrorKind::Network,
            self.what(),
            "the body has not the length that was announced",
        )
    }

    /// A temporary file with room for the content.
    pub(super) async fn stage(&self) -> Result<Arc<Staged>> {
        let (tree, key, size) = (Arc::clone(self.tree), self.entry.key.clone(), self.entry.size);
        blocking(move || {
            let staged = tree.stage(&key)?;
            staged.reserve(size)?;
            Ok(Arc::new(staged))
        })
        .await
    }

    /// One request, its bytes held against the object's proof as they arrive.
    async fn in_sequence(&self) -> Result<Fetched> {
        let _memory = self.room().await;
        let (staged, info) = (self.stage().await?, OnceLock::new());
        let hasher = |info: &ObjectInfo| Proof::of(info).hasher();
        let writer = Writer { staged: &staged, hasher: None, position: 0, marks: None };
        let hasher = self.range(writer, self.entry.size, &info, hasher).await?;
        let info = info.into_inner().ok_or_else(|| self.wrong_length())?;
        let (what, stop) = (self.what(), self.context.stop.clone());
        blocking(move || {
            let (blake3, finding) = Proof::of(&info).conclude(hasher);
            let again = |hasher: &mut ProofHasher| read_back(&staged, &stop, hasher);
            let finding = agree(|| what, &info, finding, again)?;
            fetched(staged, &info, (blake3, finding), None, info.size)
        })
        .await
    }

    /// What is said of a range may leave out a checksum of the whole.
    pub(super) async fn with_proof(&self, info: ObjectInfo) -> ObjectInfo {
        if !matches!(Proof::of(&info), Proof::Nothing) {
            return info;
        }
        match self.bucket.head(self.object_key).await {
            Ok(whole) if (&whole.etag, whole.size) == (&info.etag, info.size) => whole,
            Ok(_) | Err(_) => info,
        }
    }

    /// Room for what is gathered of one body, for a frame more, and for what these keep alive.
    pub(super) async fn room(&self) -> Held {
        self.context.budget.take(2 * GATHER_BYTES as u64 + MIB).await
    }

    /// One range up to `end`, hashed and written as it arrives, resumed where its body breaks.
    pub(super) async fn range<H: Hasher>(
        &self,
        mut writer: Writer<'_, H>,
        end: u64,
        info: &OnceLock<ObjectInfo>,
        hasher: impl Fn(&ObjectInfo) -> H,
    ) -> Result<H> {
        let mut broken = 0;
        while writer.position < end {
            let from = writer.position;
            // A checksum of the whole comes only with the whole.
            let rest = from..end;
            let rest = (rest != (0..self.entry.size)).then_some(rest);
            let content = self.bucket.get(self.object_key, rest, Some(self.etag()?)).await?;
            self.check_size(&content.info)?;
            let info = info.get_or_init(|| content.info);
            writer.hasher.get_or_insert_with(|| hasher(info));
            let ended = self.drain(content.body, &mut writer, end).await;
            broken = if writer.position > from { 0 } else { broken + 1 };
            match ended {
                Ok(()) if writer.position < end && broken > RESUMES => {
                    return Err(self.wrong_length());
                }
                Err(error) if !may_resume(&error, broken) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        writer.hasher.ok_or_else(|| self.wrong_length())
    }

    async fn drain<H: Hasher>(
        &self,
        mut body: stream::BoxStream<'static, Result<Bytes>>,
        writer: &mut Writer<'_, H>,
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
