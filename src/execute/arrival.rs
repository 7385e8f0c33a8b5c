//! What arrives for one file: hashed and written, and held against what the object says of itself.

use super::download::{RANGE_BYTES, agree};
use super::landing::Fetched;
use super::proof::{Finding, Proof, ProofHasher};
use super::{blocking, go_on};
use crate::bucket::ObjectInfo;
use crate::catalog::{Catalog, FetchedRange, Parts};
use crate::error::Result;
use crate::event::Deed;
use crate::fingerprint::Blake3;
use crate::hash::{PartHasher, group_parts, merge_parts};
use crate::key::Key;
use crate::stop::Stop;
use crate::tree::Staged;
use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What came of a fetch whose bytes are in `staged`.
pub(super) fn fetched(
    staged: Arc<Staged>,
    info: &ObjectInfo,
    (blake3, finding): (Blake3, Finding),
    parts: Option<Parts>,
    bytes: u64,
) -> Result<Fetched> {
    staged.set_attributes(info.metadata.mode(), info.metadata.mtime())?;
    let staged = Arc::into_inner(staged).expect("all ranges have ended");
    let deed = Deed::Download;
    Ok(Fetched { staged: Some(staged), deed, bytes, blake3: Some(blake3), parts, finding })
}

/// What hashes the bytes of a range on their way to the disk.
pub(super) trait Hasher: Send + 'static {
    fn update(&mut self, bytes: &[u8]);

    /// What is remembered of the bytes so far; none where nothing is.
    fn value(&self) -> Option<ChainingValue> {
        None
    }
}

impl Hasher for PartHasher {
    fn update(&mut self, bytes: &[u8]) {
        Self::update(self, bytes);
    }

    fn value(&self) -> Option<ChainingValue> {
        Some(self.chaining_value())
    }
}

impl Hasher for ProofHasher {
    fn update(&mut self, bytes: &[u8]) {
        Self::update(self, bytes);
    }
}

/// Where it is noted how far a range has come.
pub(super) struct Marks {
    pub catalog: Arc<Catalog>,
    pub key: Key,
    pub start: u64,
    pub last: Instant,
}

/// How much time may have been spent on what is not noted yet.
const MARK_EVERY: Duration = Duration::from_millis(250);

impl Marks {
    fn note(&mut self, end: u64, hasher: &impl Hasher) -> Result<()> {
        if self.last.elapsed() < MARK_EVERY {
            return Ok(());
        }
        let Some(hash) = hasher.value() else { return Ok(()) };
        self.last = Instant::now();
        let range = FetchedRange { start: self.start, bytes: end - self.start, hash };
        self.catalog.fetched_range(&self.key, &range)
    }
}

pub(super) struct Writer<'a, H> {
    pub staged: &'a Arc<Staged>,
    /// None before the first answer.
    pub hasher: Option<H>,
    pub position: u64,
    pub marks: Option<Marks>,
}

impl<H: Hasher> Writer<'_, H> {
    pub(super) async fn write(&mut self, frames: Vec<Bytes>) -> Result<()> {
        let staged = Arc::clone(self.staged);
        let mut hasher = self.hasher.take();
        let (position, mut marks) = (self.position, self.marks.take());
        let (outcome, hasher, marks) = blocking(move || {
            let running = hasher.as_mut().expect("the first answer has come");
            for frame in &frames {
                running.update(frame);
            }
            let bytes = frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
            let written = staged.write_at(&frames, position).map(|()| bytes);
            if let (Ok(bytes), Some(marks)) = (&written, &mut marks) {
                // What is not noted is only fetched again.
                let _ = marks.note(position + bytes, running);
            }
            (written, hasher, marks)
        })
        .await;
        (self.hasher, self.marks) = (hasher, marks);
        self.position += outcome?;
        Ok(())
    }
}

/// The standard hash of all ranges, and whether it is the object's: where no BLAKE3 is recorded,
/// what else there is, by reading back.
pub(super) fn verify_parts(
    what: String,
    info: &ObjectInfo,
    values: &[ChainingValue],
    (staged, stop): (&Staged, &Stop),
) -> Result<(Blake3, Finding)> {
    let proof = Proof::of(info);
    let blake3 = merge_parts(values);
    let finding = match proof {
        Proof::Blake3(expected) if blake3 == expected => Finding::Proven,
        Proof::Blake3(_) => Finding::Disproven,
        Proof::Nothing => Finding::Unproven,
        Proof::Md5(_) | Proof::Recorded(_) | Proof::Checksum(_) | Proof::Parts { .. } => {
            let mut hasher = proof.hasher();
            read_back(staged, stop, &mut hasher)?;
            proof.conclude(hasher).1
        }
    };
    let again = |hasher: &mut ProofHasher| read_back(staged, stop, hasher);
    agree(|| what, info, finding, again).map(|finding| (blake3, finding))
}

pub(super) fn read_back(staged: &Staged, stop: &Stop, hasher: &mut ProofHasher) -> Result<()> {
    staged.read_back(|bytes| {
        hasher.update(bytes);
        go_on(stop)
    })
}

/// The hashes of the ranges as those of the object's own parts, where these are larger.
pub(super) fn parts_of(info: &ObjectInfo, values: Vec<ChainingValue>) -> Parts {
    let is_larger = |part: &u64| part.is_power_of_two() && (RANGE_BYTES..info.size).contains(part);
    let part_bytes = info.metadata.part_bytes().filter(is_larger).unwrap_or(RANGE_BYTES);
    let group = usize::try_from(part_bytes / RANGE_BYTES).unwrap_or(1);
    let hashes = if group > 1 { group_parts(&values, group) } else { values };
    Parts { part_bytes, hashes, md5s: Vec::new() }
}
