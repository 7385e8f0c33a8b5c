//! Large files: hashed, then sent in parts. What the server has already is not sent again: the
//! parts of an upload that a run before left unfinished, and those of the object itself that are
//! unchanged.

use super::copy;
use super::delta::{Base, Same};
use super::parts::{PARTS_IN_FLIGHT, finish, md5_of, ranges};
use super::upload::{Stored, Upload, copy_twin, local};
use super::{Context, blocking, budget::Buffer, go_on};
use crate::bucket::{
    Bucket, Metadata, ObjectRef, PartInfo, PartOrigin, PartRef, PartTag, Payload, Signing,
};
use crate::catalog::{OpenUpload, Parts, Record, SentContent, SentFile, Stamp};
use crate::entry::{Entry, Signature};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Event};
use crate::fingerprint::{ETag, MAX_OBJECT_BYTES, MAX_PARTS, Md5Bytes, part_bytes};
use crate::hash::{FileHash, Source, group_parts, merge_parts};
use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sends a large file in parts, once it is hashed.
pub(super) async fn send_large(
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
    let remembered = Remembered::look_up(context, bucket, upload).await;
    let part = remembered.part_bytes(entry.size);
    context.observer.event(&Event::Started { key: &entry.key, bytes: entry.size });
    let hash = match remembered.hash(context, upload, &source, part) {
        Some(hash) => hash,
        None => hash_file(context, &source, entry, part).await?,
    };
    let metadata = Metadata::of_file(hash.blake3, Some((signature.modified, mode)), Some(part));
    let settled = hash.settled;
    let file = SentFile { signature, mode, settled, is_mixed: false };
    let sending = Sending { context, bucket, upload, source, hash, part, metadata, file };
    sending.to_its_end(remembered).await
}

pub(super) async fn open(path: &Path, signature: Signature) -> Result<Arc<Source>> {
    let path = path.to_owned();
    blocking(move || Source::open(&path, signature)).await.map(Arc::new)
}

/// The hashes of a file, its parts read at once on several threads.
pub(super) async fn hash_file(
    context: &Context<'_>,
    source: &Arc<Source>,
    entry: &Entry,
    part: u64,
) -> Result<FileHash> {
    let (size, settled) = (entry.size, source.is_settled());
    if size <= part {
        let (source, _turn) = (Arc::clone(source), context.hashing().await);
        let blake3 = blocking(move || source.blake3()).await?;
        context.read(size);
        return Ok(FileHash { blake3, parts: Vec::new(), settled });
    }
    let parts = stream::iter(ranges(size, part))
        .map(|range| async move {
            let (source, _turn) = (Arc::clone(source), context.hashing().await);
            go_on(&context.stop)?;
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

/// What the catalog knows of a file that is to be sent.
#[derive(Default)]
struct Remembered {
    /// Uploads of it that are not complete, the newest first.
    begun: Vec<OpenUpload>,
    /// The object that it was sent to before.
    base: Option<Base>,
}

impl Remembered {
    async fn look_up(context: &Context<'_>, bucket: &Arc<dyn Bucket>, upload: &Upload) -> Self {
        let key = upload.entry.key.clone();
        let begun = context.ask(context.unfinished.as_ref(), move |c| c.uploads_of(&key)).await;
        let is_whole = |begun: &OpenUpload| {
            let size = begun.content.as_ref().map(|content| content.file.signature.size);
            begun.object_key == upload.object_key && size == Some(upload.entry.size)
        };
        let begun = begun.into_iter().filter(is_whole).collect();
        let key = upload.entry.key.clone();
        let base = context.ask(context.twins.as_ref(), move |catalog| {
            let Some(record) = catalog.record(&key)? else { return Ok(None) };
            let Some(blake3) = record.blake3 else { return Ok(None) };
            Ok(catalog.parts(&key, blake3)?.map(|parts| (record, parts)))
        });
        let base = base.await;
        let base = base.and_then(|(record, parts): (Record, Parts)| {
            let Some(Stamp::Object(etag)) = record.target else { return None };
            let (bucket, key) = (bucket.name().to_owned(), upload.object_key.clone());
            Some(Base { object: ObjectRef { bucket, key, etag }, size: record.size, parts })
        });
        Self { begun, base }
    }

    /// The part size: the one that the object has, as long as it fits, so that its parts can be
    /// kept.
    fn part_bytes(&self, size: u64) -> u64 {
        let of_begun = self.begun.iter().filter_map(|begun| begun.content.as_ref());
        let known = of_begun
            .map(|content| content.part_bytes)
            .chain(self.base.iter().map(|base| base.parts.part_bytes));
        known.into_iter().find(|part| fits(*part, size)).unwrap_or_else(|| part_bytes(size))
    }

    /// The hash of the file, where it need not be read for that.
    fn hash(
        &self,
        context: &Context<'_>,
        upload: &Upload,
        source: &Source,
        part: u64,
    ) -> Option<FileHash> {
        // A change in the same tick as the comparison would not show.
        let compared = upload.hash.as_ref().filter(|hash| hash.settled && !hash.parts.is_empty());
        if let Some(hash) = compared {
            let group = usize::try_from(part / part_bytes(upload.entry.size)).unwrap_or(0);
            return (group > 0)
                .then(|| FileHash { parts: group_parts(&hash.parts, group), ..hash.clone() });
        }
        let mut contents = self.begun.iter().filter_map(|begun| begun.content.as_ref());
        let same = contents.find(|content| {
            let file = content.file;
            let is_still =
                upload.entry.signature().is_some_and(|now| file.signature.is_still(&now));
            file.settled && is_still && content.part_bytes == part
        });
        let same = same.filter(|_| source.is_settled() && context.trusts_signatures)?;
        Some(FileHash { blake3: same.blake3, parts: same.hashes.clone(), settled: true })
    }
}

/// True where a file of `size` bytes can be sent in parts of `part` bytes, at least two of them.
fn fits(part: u64, size: u64) -> bool {
    part >= part_bytes(0)
        && part.is_power_of_two()
        && part < size
        && size.div_ceil(part) <= MAX_PARTS
}

/// An upload under way.
struct Begun {
    id: String,
    /// The parts that are at the server.
    done: HashMap<u32, PartTag>,
    /// The file as the upload's metadata describes it.
    file: SentFile,
    /// A later run can go on with it.
    is_remembered: bool,
    resumed: bool,
}

pub(super) struct Sending<'a> {
    context: &'a Context<'a>,
    pub bucket: &'a Arc<dyn Bucket>,
    upload: &'a Upload,
    pub source: Arc<Source>,
    pub hash: FileHash,
    /// Bytes of a part.
    pub part: u64,
    metadata: Metadata,
    file: SentFile,
}

impl Sending<'_> {
    pub(super) fn entry(&self) -> &Entry {
        &self.upload.entry
    }

    pub(super) fn remark(&self, text: &str) {
        self.context.observer.event(&Event::Remark { key: &self.entry().key, text });
    }

    fn skipped(&self, bytes: u64) {
        self.context.observer.event(&Event::Skipped { key: &self.entry().key, bytes });
    }

    async fn to_its_end(&self, remembered: Remembered) -> Result<Stored> {
        let mut begun = self.take_up(&remembered.begun).await?;
        if begun.is_none() {
            let twins = find_twins(self.context, &self.hash, self.entry().size).await;
            let copied = copy_twin(self.context, self.bucket, self.upload, &self.metadata, twins);
            if let Some(etag) = copied.await {
                let mut stored = Stored::new(Deed::Copy, self.entry(), &self.hash, &etag);
                stored.parts = Some(self.parts(Vec::new()));
                return Ok(stored);
            }
        }
        let mut base = remembered.base;
        let mut is_last = false;
        loop {
            let may_copy = begun.as_ref().is_none_or(|begun| begun.file.is_mixed);
            let same = match base.take().filter(|_| may_copy) {
                Some(base) => self.same_parts(base).await?,
                None => None,
            };
            let current = match begun.take() {
                Some(begun) => begun,
                None => self.begin(same.is_some()).await?,
            };
            let is_plain = !current.resumed && same.is_none();
            match self.send(current, same).await {
                // The upload is gone, or the object that parts were copied from.
                Err(error) if !is_last && begins_again(&error, is_plain) => {
                    self.remark(&format!("{error}; beginning again"));
                    is_last = true;
                }
                outcome => return outcome,
            }
        }
    }

    /// An upload of this content that the server still knows, with the parts that the catalog and
    /// the server agree on.
    async fn take_up(&self, begun: &[OpenUpload]) -> Result<Option<Begun>> {
        for begun in begun {
            let Some(content) = &begun.content else { continue };
            if content.blake3 != self.hash.blake3 || content.part_bytes != self.part {
                continue;
            }
            let listed = match self.bucket.list_parts(&begun.object_key, &begun.id).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.remark("the server no longer knows the upload that was begun");
                    self.context.upload_closed(&begun.id).await;
                    continue;
                }
                Err(error) if is_gone_away(&error) => return Err(error),
                Err(error) => {
                    self.remark(&format!("{error}; the upload that was begun is given up"));
                    self.context.give_up(self.bucket, &begun.object_key, &begun.id).await;
                    continue;
                }
                Ok(listed) => listed,
            };
            let done = self.agreed(&begun.id, listed).await;
            self.remark(&format!(
                "going on with an upload: {} of {} parts are at the server",
                done.len(),
                self.hash.parts.len()
            ));
            let (id, file) = (begun.id.clone(), content.file);
            return Ok(Some(Begun { id, done, file, is_remembered: true, resumed: true }));
        }
        Ok(None)
    }

    /// The parts that the catalog has of an upload and that are `listed` so: all that is listed of
    /// their number, which may be more than one.
    async fn agreed(&self, upload: &str, listed: Vec<PartInfo>) -> HashMap<u32, PartTag> {
        let id = upload.to_owned();
        let catalog = self.context.unfinished.as_ref();
        let recorded = self.context.ask(catalog, move |catalog| catalog.sent_parts(&id)).await;
        let mut by_number: HashMap<u32, Vec<PartInfo>> = HashMap::new();
        for part in listed {
            by_number.entry(part.number).or_default().push(part);
        }
        let sizes = ranges(self.entry().size, self.part).map(|range| range.end - range.start);
        let sizes: HashMap<u32, u64> = (1..).zip(sizes).collect();
        let agrees = |tag: &PartTag| {
            let (size, etag) = (sizes.get(&tag.number), ETag::parse(&tag.etag));
            let is_so = |part: &PartInfo| part.etag == etag && Some(&part.size) == size;
            by_number.get(&tag.number).is_some_and(|parts| parts.iter().all(is_so))
        };
        recorded.into_iter().filter(agrees).map(|tag| (tag.number, tag)).collect()
    }

    async fn begin(&self, is_mixed: bool) -> Result<Begun> {
        let key = &self.upload.object_key;
        let origin = if is_mixed { PartOrigin::Mixed } else { PartOrigin::Sent };
        let id = self.bucket.create_upload(key, &self.metadata, origin).await?;
        let file = SentFile { is_mixed, ..self.file };
        let content = SentContent {
            file,
            blake3: self.hash.blake3,
            part_bytes: self.part,
            hashes: self.hash.parts.clone(),
        };
        let open = OpenUpload {
            id: id.clone(),
            key: self.entry().key.clone(),
            object_key: key.clone(),
            content: Some(content),
        };
        let is_remembered = self.context.upload_opened(self.bucket, open).await;
        Ok(Begun { id, done: HashMap::new(), file, is_remembered, resumed: false })
    }

    /// Sends what is not there yet and completes the upload. Where that fails, it is taken back,
    /// unless a later run can go on with it.
    async fn send(&self, begun: Begun, same: Option<Same>) -> Result<Stored> {
        let (key, size) = (&self.upload.object_key, self.entry().size);
        let sent = AtomicU64::new(0);
        let finished = match self.send_parts(&begun, same.as_ref(), &sent).await {
            Ok(parts) => {
                let copied = begun.file.is_mixed;
                let finished = finish(self.bucket, key, &begun.id, &parts, (size, copied)).await;
                finished.map(|info| (info.etag, parts))
            }
            Err(error) => Err(error),
        };
        match &finished {
            Err(error) if begun.is_remembered && may_be_resumed(error) => {}
            Err(_) => self.context.give_up(self.bucket, key, &begun.id).await,
            Ok(_) => self.context.upload_closed(&begun.id).await,
        }
        let (etag, parts) = finished?;
        let mut stored = Stored::new(Deed::Upload, self.entry(), &self.hash, &etag);
        let described = (begun.file.signature.modified, begun.file.mode);
        if let Some(record) = &mut stored.record {
            record.drifted = described != (self.file.signature.modified, self.file.mode);
        }
        stored.bytes = sent.into_inner();
        let md5s = parts.iter().filter_map(|part| md5_of(&part.etag)).collect();
        stored.parts = Some(self.parts(md5s));
        Ok(stored)
    }

    fn parts(&self, md5s: Vec<Md5Bytes>) -> Parts {
        Parts { part_bytes: self.part, hashes: self.hash.parts.clone(), md5s }
    }

    async fn send_parts(
        &self,
        begun: &Begun,
        same: Option<&Same>,
        sent: &AtomicU64,
    ) -> Result<Vec<PartTag>> {
        let numbered = (1u32..).zip(ranges(self.entry().size, self.part));
        let parts = stream::iter(numbered)
            .map(|(number, range)| async move {
                let Some(tag) = begun.done.get(&number) else {
                    return self.bring(begun, same, (number, range), sent).await;
                };
                self.skipped(range.end - range.start);
                Ok::<_, Error>(tag.clone())
            })
            .buffered(PARTS_IN_FLIGHT)
            .try_collect()
            .await?;
        let source = Arc::clone(&self.source);
        blocking(move || source.check_unchanged()).await?;
        if let Some(Same { object, .. }) = same
            && self.bucket.head(&object.key).await?.etag != object.etag
        {
            return Err(copy::moved_on(self.bucket, object));
        }
        Ok(parts)
    }

    /// Has the server copy one part, or sends it.
    async fn bring(
        &self,
        begun: &Begun,
        same: Option<&Same>,
        (number, range): (u32, Range<u64>),
        sent: &AtomicU64,
    ) -> Result<PartTag> {
        go_on(&self.context.stop)?;
        let bytes = range.end - range.start;
        let part = PartRef { key: &self.upload.object_key, upload: &begun.id, number };
        let copied = match same {
            Some(same) => self.copy_part(same, part, range.clone()).await?,
            None => None,
        };
        let tag = if let Some(tag) = copied {
            self.skipped(bytes);
            tag
        } else {
            let tag = self.send_part(begun, part, range).await?;
            sent.fetch_add(bytes, Ordering::Relaxed);
            self.context.observer.event(&Event::Moved { key: &self.entry().key, bytes });
            tag
        };
        let catalog = self.context.unfinished.as_ref().filter(|_| begun.is_remembered);
        let (id, sent) = (begun.id.clone(), tag.clone());
        self.context.ask(catalog, move |catalog| catalog.sent_part(&id, &sent)).await;
        Ok(tag)
    }

    async fn send_part(
        &self,
        begun: &Begun,
        part: PartRef<'_>,
        range: Range<u64>,
    ) -> Result<PartTag> {
        let room = usize::try_from(range.end - range.start).expect("a part fits into memory");
        let buffer = self.context.budget.buffer(room).await;
        go_on(&self.context.stop)?;
        // Where a change may not show in the signature, the hash must.
        let expected = self.hash.parts.get(index_of(part.number)).copied();
        let expected = expected.filter(|_| !self.hash.settled);
        let how = (expected, self.bucket.signing(), begun.file.is_mixed);
        let payload = read_part(&self.source, range.start, buffer, how).await?;
        self.bucket.put_part(part, payload).await
    }
}

pub(super) fn index_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX) - 1
}

/// True where the server or the run went away: another request would not do better.
pub(super) fn is_gone_away(error: &Error) -> bool {
    use ErrorKind::{Busy, Hung, Interrupted, Network};
    matches!(error.kind(), Network | Hung | Busy | Interrupted)
}

/// True where a transfer that failed so is worth keeping.
pub(super) fn may_be_resumed(error: &Error) -> bool {
    is_gone_away(error) || error.kind() == ErrorKind::Setup
}

/// True where an upload from the start may succeed.
fn begins_again(error: &Error, is_plain: bool) -> bool {
    match error.kind() {
        ErrorKind::NotFound => true,
        ErrorKind::Precondition | ErrorKind::Corrupt | ErrorKind::Protocol | ErrorKind::Denied => {
            !is_plain
        }
        _ => false,
    }
}

async fn find_twins(context: &Context<'_>, hash: &FileHash, size: u64) -> Vec<Record> {
    let blake3 = hash.blake3;
    context.ask(context.twins.as_ref(), move |catalog| catalog.twins(blake3, size)).await
}

async fn read_part(
    source: &Arc<Source>,
    offset: u64,
    mut buffer: Buffer,
    (expected, signing, with_md5): (Option<ChainingValue>, Signing, bool),
) -> Result<Payload> {
    let source = Arc::clone(source);
    blocking(move || {
        let mut digest = signing.hasher();
        source.read_into(buffer.as_mut()?, offset, |piece| digest.update(piece))?;
        // A later run will trust this part, though this one may not come to its end.
        source.check_unchanged()?;
        if let Some(expected) = expected {
            source.check_part(buffer.as_ref(), offset, &expected)?;
        }
        let md5 = with_md5.then(|| crate::fingerprint::md5(buffer.as_ref()));
        Ok(Payload { bytes: Bytes::from_owner(buffer), sha256: digest.finish(), md5 })
    })
    .await
}

#[cfg(test)]
mod tests;
