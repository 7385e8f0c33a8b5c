//! Large downloads: ranges in parallel. What is here already is not fetched again: the ranges that
//! a run before left in the temporary file, and those of the old file that are the object's, too.

use super::arrival::{Marks, Writer, fetched, parts_of, verify_parts};
use super::download::{Fetch, RANGE_BYTES};
use super::landing::Fetched;
use super::large::may_be_resumed;
use super::parts::{PARTS_IN_FLIGHT, ranges};
use super::proof::Finding;
use super::{blocking, go_on};
use crate::bucket::ObjectInfo;
use crate::catalog::{Catalog, FetchedRange, Parts, Stamp, glance};
use crate::error::Result;
use crate::event::Event;
use crate::fingerprint::Blake3;
use crate::hash::{PartHasher, group_parts, hash_range};
use crate::tree::Staged;
use blake3::hazmat::ChainingValue;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Fetches an object in ranges.
pub(super) async fn in_ranges(fetch: &Fetch<'_>) -> Result<Fetched> {
    let (staged, found, recorder) = take_up(fetch).await?;
    let old = Old::of(fetch).await;
    let info = OnceLock::new();
    let bytes = AtomicU64::new(0);
    let ranged = Ranged { fetch, staged, found, old, recorder, info, bytes };
    let (info, found, values) = match ranged.to_its_end().await {
        Ok(verified) => verified,
        Err(error) => {
            if !may_be_resumed(&error) {
                ranged.give_up().await;
            }
            return Err(error);
        }
    };
    let parts = Some(parts_of(&info, values));
    let (staged, bytes) = (ranged.staged, ranged.bytes.into_inner());
    blocking(move || fetched(staged, &info, found, parts, bytes)).await
}

/// The temporary file, and what a run before left in it, by where the ranges begin. The catalog,
/// where that can be remembered of this one.
type TakenUp = (Arc<Staged>, HashMap<u64, FetchedRange>, Option<Arc<Catalog>>);

async fn take_up(fetch: &Fetch<'_>) -> Result<TakenUp> {
    let (key, etag, size) = (fetch.entry.key.clone(), fetch.etag()?.clone(), fetch.entry.size);
    // Without an ETag two versions can't be told apart.
    let has_etag = Stamp::of_object(&etag).is_some();
    let catalog = fetch.context.unfinished.as_ref().filter(|_| has_etag);
    let sought = key.clone();
    let begun = fetch.context.ask(catalog, move |catalog| catalog.download(&sought)).await;
    if let Some(begun) = begun.filter(|begun| begun.etag == etag && begun.size == size) {
        let tree = Arc::clone(fetch.tree);
        let staged = blocking(move || {
            let staged = tree.stage_again(&key)?;
            staged.keep(true);
            let is_empty = staged.with_file(File::metadata).is_none_or(|m| m.len() == 0);
            let made = if is_empty { staged.reserve(size) } else { staged.resize(size) };
            made.map(|()| staged)
        });
        let found = begun.ranges.into_iter().map(|range| (range.start, range)).collect();
        return Ok((Arc::new(staged.await?), found, catalog.cloned()));
    }
    let staged = fetch.stage().await?;
    let note = move |catalog: &Catalog| catalog.open_download(&key, &etag, size);
    let is_remembered = fetch.context.ask(catalog, note).await;
    staged.keep(is_remembered);
    Ok((staged, HashMap::new(), catalog.filter(|_| is_remembered).cloned()))
}

/// The file that is at the target's place, as far as it holds what the object holds.
struct Old {
    file: Arc<File>,
    /// Where the ranges begin that it holds, and their hashes.
    ranges: HashMap<u64, ChainingValue>,
}

impl Old {
    /// None where the parts of the object are not known, or the file has none of them.
    async fn of(fetch: &Fetch<'_>) -> Option<Self> {
        let (tree, key) = (Arc::clone(fetch.tree), fetch.entry.key.clone());
        let file = blocking(move || tree.open_file(&key)).await?;
        let length = file.metadata().ok()?.len();
        let parts = known_parts(fetch).await?;
        let (file, size) = (Arc::new(file), fetch.entry.size);
        let all = parts.hashes.len();
        let found: Vec<Option<Vec<(u64, ChainingValue)>>> =
            stream::iter(ranges(size, parts.part_bytes).zip(parts.hashes))
                .map(|(part, expected)| {
                    let file = Arc::clone(&file);
                    async move {
                        if part.end > length || fetch.context.stop.is_requested() {
                            return None;
                        }
                        let _turn = fetch.context.hashing().await;
                        fetch.context.read(part.end - part.start);
                        blocking(move || hash_part(&file, part, &expected)).await
                    }
                })
                .buffered(fetch.context.threads)
                .collect()
                .await;
        let count = found.iter().flatten().count();
        fetch.remark(&format!("{count} of {all} parts are in the old file"));
        let ranges = found.into_iter().flatten().flatten().collect();
        (count > 0).then_some(Self { file, ranges })
    }
}

/// The hashes of the ranges of one part of a file, if it is what is expected. Blocks.
fn hash_part(
    file: &File,
    part: Range<u64>,
    expected: &ChainingValue,
) -> Option<Vec<(u64, ChainingValue)>> {
    let starts = ranges(part.end - part.start, RANGE_BYTES);
    let all: std::io::Result<Vec<(u64, ChainingValue)>> = starts
        .map(|range| part.start + range.start..part.start + range.end)
        .map(|range| Ok((range.start, hash_range(file, range)?.chaining_value())))
        .collect();
    let all = all.ok()?;
    let values: Vec<ChainingValue> = all.iter().map(|(_, value)| *value).collect();
    (group_parts(&values, values.len()).first() == Some(expected)).then_some(all)
}

/// The hashes of the object's parts, from the catalog of this pair, or of one that sends there.
async fn known_parts(fetch: &Fetch<'_>) -> Option<Parts> {
    let (key, etag) = (fetch.entry.key.clone(), fetch.entry.etag()?.clone());
    let senders = fetch.context.senders.clone();
    let found = fetch.context.ask(fetch.context.twins.as_ref(), move |catalog| {
        let record = catalog.record(&key)?;
        let of_object = Stamp::Object(etag.clone());
        if let Some(record) = record.filter(|record| record.source.as_ref() == Some(&of_object))
            && let Some(blake3) = record.blake3
            && let Some(parts) = catalog.parts(&key, blake3)?
        {
            return Ok(Some(parts));
        }
        let Some((history, address)) = senders else { return Ok(None) };
        let catalogs = history.senders(&address)?;
        Ok(catalogs.iter().find_map(|path| glance(path, &key, &etag)))
    });
    let parts = found.await?;
    let is_whole = ranges(fetch.entry.size, parts.part_bytes.max(1)).count() == parts.hashes.len();
    (is_whole && parts.part_bytes.is_power_of_two() && parts.part_bytes >= RANGE_BYTES)
        .then_some(parts)
}

struct Ranged<'a> {
    fetch: &'a Fetch<'a>,
    staged: Arc<Staged>,
    found: HashMap<u64, FetchedRange>,
    old: Option<Old>,
    recorder: Option<Arc<Catalog>>,
    info: OnceLock<ObjectInfo>,
    /// How many were fetched.
    bytes: AtomicU64,
}

impl Ranged<'_> {
    /// Brings all ranges, and holds what is in the temporary file then against the object's proof.
    async fn to_its_end(&self) -> Result<(ObjectInfo, (Blake3, Finding), Vec<ChainingValue>)> {
        let fetch = self.fetch;
        if !self.found.is_empty() {
            let all = fetch.entry.size.div_ceil(RANGE_BYTES);
            fetch.remark(&format!("{} of {all} ranges are here", self.found.len()));
        }
        let values = stream::iter(ranges(fetch.entry.size, RANGE_BYTES))
            .map(|range| self.bring(range))
            .buffered(PARTS_IN_FLIGHT)
            .try_collect::<Vec<_>>()
            .await?;
        let info = if let Some(info) = self.info.get() {
            info.clone()
        } else {
            // Not a byte of it had to be fetched.
            let info = fetch.bucket.head(fetch.object_key).await?;
            fetch.check_etag(&info)?;
            info
        };
        let info = fetch.with_proof(info).await;
        let (what, stop, staged) =
            (fetch.what(), fetch.context.stop.clone(), Arc::clone(&self.staged));
        let _turn = fetch.context.hashing().await;
        blocking(move || {
            let found = verify_parts(what, &info, &values, (&staged, &stop))?;
            Ok((info, found, values))
        })
        .await
    }

    /// One range, from wherever it is.
    async fn bring(&self, range: Range<u64>) -> Result<ChainingValue> {
        let (fetch, start) = (self.fetch, range.start);
        go_on(&fetch.context.stop)?;
        let begun = self.begun(&range).await;
        let position = begun.as_ref().map_or(start, |(_, position)| *position);
        if position < range.end
            && let Some(value) = self.taken_from_old(&range).await?
        {
            fetch.skipped(range.end - start);
            self.record(&range, value).await;
            return Ok(value);
        }
        fetch.skipped(position - start);
        let begun = begun.map(|(hasher, _)| hasher);
        if let (Some(hasher), true) = (&begun, position == range.end) {
            return Ok(hasher.chaining_value());
        }
        let _memory = fetch.room().await;
        go_on(&fetch.context.stop)?;
        let marks = self.recorder.as_ref().map(|catalog| Marks {
            catalog: Arc::clone(catalog),
            key: fetch.entry.key.clone(),
            start,
            last: Instant::now(),
        });
        let writer = Writer { staged: &self.staged, hasher: begun, position, marks };
        let hasher = |_: &ObjectInfo| PartHasher::new(start);
        let hasher = fetch.range(writer, range.end, &self.info, hasher).await?;
        let value = hasher.chaining_value();
        self.bytes.fetch_add(range.end - position, Ordering::Relaxed);
        self.record(&range, value).await;
        Ok(value)
    }

    /// The hasher of what the temporary file has of a range, and where that ends.
    async fn begun(&self, range: &Range<u64>) -> Option<(PartHasher, u64)> {
        let FetchedRange { start, bytes, hash } = *self.found.get(&range.start)?;
        let end = start.checked_add(bytes).filter(|end| *end <= range.end)?;
        let hasher = self.hash(start..end).await?;
        (hasher.chaining_value() == hash).then_some((hasher, end))
    }

    /// Hashes what is in the temporary file; none where that can't be read.
    async fn hash(&self, range: Range<u64>) -> Option<PartHasher> {
        let staged = Arc::clone(&self.staged);
        let _turn = self.fetch.context.hashing().await;
        blocking(move || staged.with_file(|file| hash_range(file, range))).await
    }

    /// Copies a range of the old file. None where the copy is not what was hashed there.
    async fn taken_from_old(&self, range: &Range<u64>) -> Result<Option<ChainingValue>> {
        let Some(old) = &self.old else { return Ok(None) };
        let Some(expected) = old.ranges.get(&range.start) else { return Ok(None) };
        let (staged, file, copied) =
            (Arc::clone(&self.staged), Arc::clone(&old.file), range.clone());
        blocking(move || staged.copy_range(&file, copied)).await?;
        let value = self.hash(range.clone()).await.map(|hasher| hasher.chaining_value());
        Ok(value.filter(|value| value == expected))
    }

    async fn record(&self, range: &Range<u64>, hash: ChainingValue) {
        let key = self.fetch.entry.key.clone();
        let range = FetchedRange { start: range.start, bytes: range.end - range.start, hash };
        let note = move |catalog: &Catalog| catalog.fetched_range(&key, &range);
        self.fetch.context.ask(self.recorder.as_ref(), note).await;
    }

    /// What is in the temporary file is of no use to a later run.
    async fn give_up(&self) {
        self.staged.keep(false);
        let key = self.fetch.entry.key.clone();
        let forget = move |catalog: &Catalog| catalog.close_download(&key);
        self.fetch.context.ask(self.recorder.as_ref(), forget).await;
    }
}

impl Fetch<'_> {
    fn skipped(&self, bytes: u64) {
        self.context.observer.event(&Event::Skipped { key: &self.entry.key, bytes });
    }

    fn remark(&self, text: &str) {
        self.context.observer.event(&Event::Remark { key: &self.entry.key, text });
    }
}
