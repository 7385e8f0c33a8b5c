//! The direction of a run, matched once: how entries are scanned, compared, moved and deleted
//! between these two places.

use crate::bucket::{Bucket, Metadata, ObjectRef};
use crate::catalog::{Change, Record, Stamp};
use crate::entry::{Entry, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Outcome};
use crate::execute::{
    Content, Context, Download, Ended, Landing, Question, Upload, commit, copy, delete_local,
    delete_objects, download_batch, inspect, remembered, update_metadata, upload_batch,
};
use crate::hash::FileHash;
use crate::job::{Afterwards, Effect, Job, Place, resolved};
use crate::plan::{Names, Pair, Side};
use crate::scan::{
    Device, Filter, Order, Scan, Seen, Splits, check_directory, scan_bucket, scan_local,
};
use crate::tree::Tree;
use std::path::Path;
use std::sync::Arc;

/// Two places and the way between them.
pub(crate) struct Route<'a> {
    job: &'a Job,
    direction: Direction<'a>,
    /// The target directory, where one is written to.
    tree: Option<Arc<Tree>>,
    /// The source directory, where files are removed from it.
    source_tree: Option<Arc<Tree>>,
    source_device: Option<Device>,
}

#[derive(Clone, Copy)]
enum Direction<'a> {
    Up { root: &'a Path, to: Prefixed<'a> },
    Down { from: Prefixed<'a>, root: &'a Path },
    Across { from: Prefixed<'a>, to: Prefixed<'a> },
}

#[derive(Clone, Copy)]
struct Prefixed<'a> {
    bucket: &'a Arc<dyn Bucket>,
    prefix: &'a str,
}

impl Prefixed<'_> {
    fn key(&self, entry: &Entry) -> String {
        format!("{}{}", self.prefix, entry.key.as_str())
    }

    fn content(&self, entry: &Entry) -> Content {
        Content::Remote { bucket: Arc::clone(self.bucket), object_key: self.key(entry) }
    }
}

/// An entry to be transferred.
pub(crate) struct Transfer {
    pub entry: Entry,
    /// What the file hashes to, where the comparison had to read it.
    pub hash: Option<FileHash>,
}

/// What a unit of work comes back with.
#[derive(Default)]
pub(crate) struct Moved {
    /// What has ended.
    pub ended: Vec<Ended>,
    /// What is fetched, and waits for its group to land.
    pub fetched: Vec<Landing>,
}

impl<'a> Route<'a> {
    /// Checks both places; makes the target directory where one will be written to.
    pub(crate) fn open(job: &'a Job) -> Result<Self> {
        let direction = match (&job.source, &job.target) {
            (Place::Directory(root), Place::Bucket { bucket, prefix }) => {
                Direction::Up { root, to: Prefixed { bucket, prefix } }
            }
            (Place::Bucket { bucket, prefix }, Place::Directory(root)) => {
                Direction::Down { from: Prefixed { bucket, prefix }, root }
            }
            (Place::Bucket { bucket, prefix }, Place::Bucket { bucket: to, prefix: to_prefix }) => {
                let from = Prefixed { bucket, prefix };
                across(from, Prefixed { bucket: to, prefix: to_prefix })?
            }
            (Place::Directory(_), Place::Directory(_)) => {
                let cause = "both ends are directories of this machine; rsync is the tool for that";
                return Err(Error::new(ErrorKind::Usage, "cannot sync", cause));
            }
        };
        if job.update_metadata && !matches!(direction, Direction::Up { .. }) {
            let cause = "only the metadata of objects that files are uploaded to can be updated";
            return Err(Error::new(ErrorKind::Usage, "bad --update-metadata", cause));
        }
        let apply = job.effect == Effect::Apply;
        let moves = apply && job.afterwards == Afterwards::RemoveSource;
        let mut trees = (None, None);
        match direction {
            Direction::Up { root, .. } => {
                check_directory(root)?;
                trees.1 = moves.then(|| Tree::open(root)).transpose()?;
            }
            Direction::Down { root, .. } => {
                trees.0 = apply.then(|| Tree::open(root)).transpose()?;
            }
            Direction::Across { .. } => {}
        }
        let source_device = match direction {
            Direction::Up { root, .. } => Device::of(root),
            Direction::Down { .. } | Direction::Across { .. } => None,
        };
        let (tree, source_tree) = (trees.0.map(Arc::new), trees.1.map(Arc::new));
        Ok(Self { job, direction, tree, source_tree, source_device })
    }

    /// Starts both scans, of which `seen` and `seen_there` tell. The splits are those of the
    /// source's and of the target's listing.
    pub(crate) fn scan(
        &self,
        (seen, seen_there): (&Seen, &Seen),
        order: Order,
        (source_splits, target_splits): (Splits, Splits),
    ) -> (Scan, Scan) {
        let source_filter = self.hiding_state(self.job.filter.clone());
        let target_filter = self.hiding_state(match self.job.delete_excluded {
            true => Filter::default(),
            false => self.job.filter.clone(),
        });
        let objects = |place: Prefixed<'_>, filter: Filter, seen: Seen, splits: Splits| {
            let bucket = Arc::clone(place.bucket);
            scan_bucket(bucket, place.prefix.to_owned(), filter, seen, (order, splits))
        };
        let there = seen_there.clone();
        match self.direction {
            Direction::Up { root, to } => (
                scan_local(root.to_owned(), source_filter, seen.clone(), false),
                objects(to, target_filter, there, target_splits),
            ),
            Direction::Down { from, root } => (
                objects(from, source_filter, seen.clone(), source_splits),
                scan_local(root.to_owned(), target_filter, there, true),
            ),
            Direction::Across { from, to } => (
                objects(from, source_filter, seen.clone(), source_splits),
                objects(to, target_filter, there, target_splits),
            ),
        }
    }

    /// What haul remembers of its runs is no part of what it syncs.
    fn hiding_state(&self, filter: Filter) -> Filter {
        let root = match self.direction {
            Direction::Up { root, .. } | Direction::Down { root, .. } => root,
            Direction::Across { .. } => return filter,
        };
        let state = self.job.state.as_deref().map(resolved);
        let below = state.as_ref().and_then(|state| state.strip_prefix(resolved(root)).ok());
        match below.and_then(Path::to_str).filter(|below| !below.is_empty()) {
            Some(below) => filter.hiding(&format!("{below}/")),
            None => filter,
        }
    }

    /// The bucket that is written to.
    pub(crate) fn target_bucket(&self) -> Option<&Arc<dyn Bucket>> {
        match self.direction {
            Direction::Up { to, .. } | Direction::Across { to, .. } => Some(to.bucket),
            Direction::Down { .. } => None,
        }
    }

    /// What the source directory is on, where there is one.
    pub(crate) fn source_device(&self) -> Option<&Device> {
        self.source_device.as_ref()
    }

    /// The directory that is written to.
    pub(crate) fn tree(&self) -> Option<&Arc<Tree>> {
        self.tree.as_ref()
    }

    /// What names the target takes.
    pub(crate) fn names(&self) -> Names {
        match self.direction {
            Direction::Up { to, .. } | Direction::Across { to, .. } => {
                Names::Keys { prefix_bytes: to.prefix.len() }
            }
            Direction::Down { .. } => Names::Paths,
        }
    }

    /// True where the bytes never come here.
    pub(crate) fn is_server_side(&self) -> bool {
        matches!(self.direction, Direction::Across { .. })
    }

    /// What a transfer is called on this route.
    pub(crate) fn deed(&self) -> Deed {
        match self.direction {
            Direction::Up { .. } => Deed::Upload,
            Direction::Down { .. } => Deed::Download,
            Direction::Across { .. } => Deed::Copy,
        }
    }

    /// Where the content of an entry of the source is.
    fn source_content(&self, entry: &Entry) -> Content {
        match self.direction {
            Direction::Up { root, .. } => Content::Local(root.join(entry.key.as_str())),
            Direction::Down { from, .. } | Direction::Across { from, .. } => from.content(entry),
        }
    }

    fn target_content(&self, entry: &Entry) -> Content {
        match self.direction {
            Direction::Down { root, .. } => Content::Local(root.join(entry.key.as_str())),
            Direction::Up { to, .. } | Direction::Across { to, .. } => to.content(entry),
        }
    }

    /// Reads an entry of one side; answers what does not agree with its bytes.
    pub(crate) async fn inspect(
        &self,
        context: &Context<'_>,
        side: Side,
        entry: &Entry,
    ) -> Result<Vec<String>> {
        let place = match side {
            Side::Target => self.target_content(entry),
            Side::Source | Side::Both => self.source_content(entry),
        };
        let key = entry.key.clone();
        let record = context.ask(context.twins.as_ref(), move |catalog| catalog.record(&key)).await;
        let known = remembered(record.as_ref(), entry);
        inspect(context, &place, entry, known).await.map(|found| found.disagreements)
    }

    /// The pair with the places where its contents are.
    pub(crate) fn question(&self, pair: Pair) -> Question {
        let source = self.source_content(&pair.source);
        let target = self.target_content(&pair.target);
        Question { pair, source, target, by: self.job.compare }
    }

    /// Moves these entries: several small ones, or one.
    pub(crate) async fn transfer(&self, context: &Context<'_>, transfers: Vec<Transfer>) -> Moved {
        let ended = match self.direction {
            Direction::Up { root, to } => self.upload(context, root, to, transfers).await,
            Direction::Down { from, .. } => return self.fetch(context, from, transfers).await,
            Direction::Across { from, to } => {
                let mut ended = Vec::with_capacity(transfers.len());
                for transfer in transfers {
                    ended.push(self.copy(context, from, to, transfer.entry).await);
                }
                ended
            }
        };
        Moved { ended, fetched: Vec::new() }
    }

    async fn upload(
        &self,
        context: &Context<'_>,
        root: &Path,
        to: Prefixed<'_>,
        transfers: Vec<Transfer>,
    ) -> Vec<Ended> {
        let upload = |Transfer { entry, hash }: &Transfer| Upload {
            path: root.join(entry.key.as_str()),
            object_key: to.key(entry),
            entry: entry.clone(),
            hash: hash.clone(),
        };
        let uploads = transfers.iter().map(upload).collect();
        let ended = upload_batch(context, to.bucket, uploads).await;
        let Some(tree) = &self.source_tree else {
            return ended;
        };
        let entries = transfers.into_iter().map(|transfer| transfer.entry);
        let sent = entries.filter(|entry| has_succeeded(&ended, entry)).collect();
        let removed = delete_local(Arc::clone(tree), sent).await;
        with_removals(ended, removed)
    }

    async fn fetch(
        &self,
        context: &Context<'_>,
        from: Prefixed<'_>,
        transfers: Vec<Transfer>,
    ) -> Moved {
        let Some(tree) = &self.tree else {
            return Moved::default();
        };
        let download = |Transfer { entry, .. }: Transfer| {
            let object_key = from.key(&entry);
            Download { object_key, entry }
        };
        let batch = transfers.into_iter().map(download).collect();
        let (fetched, failed) = download_batch(context, from.bucket, tree, batch).await;
        Moved { ended: failed.into_iter().map(Ended::from).collect(), fetched }
    }

    async fn copy(
        &self,
        context: &Context<'_>,
        from: Prefixed<'_>,
        to: Prefixed<'_>,
        entry: Entry,
    ) -> Ended {
        let source = ObjectRef {
            bucket: from.bucket.name().to_owned(),
            key: from.key(&entry),
            etag: entry.etag().cloned().unwrap_or(crate::fingerprint::ETag::Opaque("".into())),
        };
        let target = (to.bucket, to.key(&entry));
        let copied = copy(context, from.bucket, &source, (target.0, &target.1)).await;
        let (key, bytes) = (entry.key.clone(), entry.size);
        let (result, change) = match copied {
            Err(error) => (Err(error), None),
            Ok(copied) => {
                let record = Record {
                    key: key.clone(),
                    size: bytes,
                    blake3: copied.blake3,
                    source: Stamp::of(&entry),
                    target: Stamp::of_object(&copied.etag),
                    drifted: false,
                };
                (Ok(bytes), (!entry.is_directory()).then_some(Change::Put(Box::new(record), None)))
            }
        };
        let outcome = Outcome { key, deed: Deed::Copy, result, unverified: false };
        let copied = Ended { outcome, change };
        if copied.outcome.result.is_err() || self.job.afterwards == Afterwards::KeepSource {
            return copied;
        }
        let removed = delete_objects(from.bucket, from.prefix, vec![entry]).await;
        with_removals(vec![copied], removed).pop().expect("one copy has one end")
    }

    /// Brings an object's metadata up to date with its file; where that goes wrong so that its
    /// content is in doubt, the file is sent.
    pub(crate) async fn update(
        &self,
        context: &Context<'_>,
        source: Entry,
        target: &Entry,
        mut record: Record,
    ) -> Vec<Ended> {
        let (Direction::Up { root, to }, Origin::Local { signature, mode }, Some(etag)) =
            (self.direction, &source.origin, target.etag())
        else {
            return Vec::new();
        };
        let mut metadata = Metadata::default();
        if let Some(blake3) = record.blake3 {
            metadata = Metadata::of_file(blake3, Some((signature.modified, *mode)), None);
        }
        let updated = update_metadata(context, to.bucket, &to.key(&source), etag, &metadata).await;
        let (result, change) = match updated {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let transfer = Transfer { entry: source, hash: None };
                return self.upload(context, root, to, vec![transfer]).await;
            }
            Err(error) => (Err(error), None),
            Ok(etag) => {
                record.target = Stamp::of_object(&etag);
                record.drifted = false;
                (Ok(0), Some(Change::Put(Box::new(record), None)))
            }
        };
        let outcome = Outcome { key: source.key, deed: Deed::Update, result, unverified: false };
        vec![Ended { outcome, change }]
    }

    /// Gives a group of fetched files their names.
    pub(crate) async fn land(&self, group: Vec<Landing>) -> Vec<Ended> {
        let Some(tree) = &self.tree else {
            return Vec::new();
        };
        let entries: Vec<Entry> = match self.job.afterwards {
            Afterwards::KeepSource => Vec::new(),
            Afterwards::RemoveSource => group.iter().map(|landing| landing.entry.clone()).collect(),
        };
        let ended = commit(Arc::clone(tree), group).await;
        let Direction::Down { from, .. } = self.direction else {
            return ended;
        };
        if entries.is_empty() {
            return ended;
        }
        // The names must be durable, too, before their source goes.
        let synced = tree.sync().is_ok();
        let landed = entries.into_iter().filter(|entry| synced && has_succeeded(&ended, entry));
        let removed = delete_objects(from.bucket, from.prefix, landed.collect()).await;
        with_removals(ended, removed)
    }

    /// Deletes these entries at the target.
    pub(crate) async fn delete(&self, entries: Vec<Entry>) -> Vec<Outcome> {
        match (self.direction, &self.tree) {
            (Direction::Up { to, .. } | Direction::Across { to, .. }, _) => {
                delete_objects(to.bucket, to.prefix, entries).await
            }
            (Direction::Down { .. }, Some(tree)) => delete_local(Arc::clone(tree), entries).await,
            (Direction::Down { .. }, None) => Vec::new(),
        }
    }

    /// Deletes run backwards in a directory, so that what is in it goes before it.
    pub(crate) fn deletes_backwards(&self) -> bool {
        matches!(self.direction, Direction::Down { .. })
    }

    /// Makes the names of landed files durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.tree.as_ref().map_or(Ok(()), |tree| tree.sync())
    }
}

fn across<'a>(from: Prefixed<'a>, to: Prefixed<'a>) -> Result<Direction<'a>> {
    let usage = |cause: String| Err(Error::new(ErrorKind::Usage, "cannot sync", cause));
    if from.bucket.endpoint_id() != to.bucket.endpoint_id() {
        return usage("the buckets are on different endpoints; go by way of a directory".into());
    }
    let overlap = from.prefix.starts_with(to.prefix) || to.prefix.starts_with(from.prefix);
    if from.bucket.name() == to.bucket.name() && overlap {
        return usage(format!(
            "{}/{} and {}/{} overlap",
            from.bucket.url(),
            from.prefix,
            to.bucket.url(),
            to.prefix
        ));
    }
    Ok(Direction::Across { from, to })
}

fn has_succeeded(ended: &[Ended], entry: &Entry) -> bool {
    ended.iter().any(|end| end.outcome.key == entry.key && end.outcome.result.is_ok())
}

/// A move whose source could not be removed has not succeeded.
fn with_removals(mut ended: Vec<Ended>, removals: Vec<Outcome>) -> Vec<Ended> {
    for removal in removals {
        let Err(error) = removal.result else { continue };
        if let Some(end) = ended.iter_mut().find(|end| end.outcome.key == removal.key) {
            let what = format!("transferred {}, but the source stays", removal.key);
            end.outcome.result = Err(Error::new(ErrorKind::Write, what, error));
        }
    }
    ended
}
