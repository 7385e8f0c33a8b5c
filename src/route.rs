//! The direction of a run, matched once: how entries are scanned, compared, moved and deleted between
//! these two places.

use crate::bucket::{Bucket, ObjectRef};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Outcome};
use crate::execute::{
    Content, Context, Download, Landing, Question, Upload, commit, copy, delete_local,
    delete_objects, download, upload_batch,
};
use crate::job::{Afterwards, Effect, Job, Place};
use crate::plan::{Names, Pair};
use crate::scan::{Filter, Order, Scan, Seen, check_directory, scan_bucket, scan_local};
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

/// What a unit of work comes back with.
pub(crate) enum Moved {
    /// It has ended.
    Ended(Vec<Outcome>),
    /// It is fetched, and waits for its group to land.
    Fetched(Box<Landing>),
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
        Ok(Self { job, direction, tree: trees.0.map(Arc::new), source_tree: trees.1.map(Arc::new) })
    }

    /// Starts both scans.
    pub(crate) fn scan(&self, seen: &Seen, order: Order) -> (Scan, Scan) {
        let source_filter = self.job.filter.clone();
        let target_filter = match self.job.delete_excluded {
            true => Filter::default(),
            false => self.job.filter.clone(),
        };
        let objects = |place: Prefixed<'_>, filter: Filter, seen: Seen| {
            scan_bucket(Arc::clone(place.bucket), place.prefix.to_owned(), filter, seen, order)
        };
        let unseen = Seen::default();
        match self.direction {
            Direction::Up { root, to } => (
                scan_local(root.to_owned(), source_filter, seen.clone(), false),
                objects(to, target_filter, unseen),
            ),
            Direction::Down { from, root } => (
                objects(from, source_filter, seen.clone()),
                scan_local(root.to_owned(), target_filter, unseen, true),
            ),
            Direction::Across { from, to } => {
                (objects(from, source_filter, seen.clone()), objects(to, target_filter, unseen))
            }
        }
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

    /// The pair with the places where its contents are.
    pub(crate) fn question(&self, pair: Pair) -> Question {
        let local = |root: &Path, entry: &Entry| Content::Local(root.join(entry.key.as_str()));
        let (source, target) = match self.direction {
            Direction::Up { root, to } => (local(root, &pair.source), to.content(&pair.target)),
            Direction::Down { from, root } => {
                (from.content(&pair.source), local(root, &pair.target))
            }
            Direction::Across { from, to } => {
                (from.content(&pair.source), to.content(&pair.target))
            }
        };
        Question { pair, source, target }
    }

    /// Moves these entries; all but small uploads come one at a time.
    pub(crate) async fn transfer(&self, context: &Context<'_>, entries: Vec<Entry>) -> Moved {
        match self.direction {
            Direction::Up { root, to } => {
                Moved::Ended(self.upload(context, root, to, entries).await)
            }
            Direction::Down { from, .. } => self.fetch(context, from, entries).await,
            Direction::Across { from, to } => {
                let mut outcomes = Vec::with_capacity(entries.len());
                for entry in entries {
                    outcomes.push(self.copy(context, from, to, entry).await);
                }
                Moved::Ended(outcomes)
            }
        }
    }

    async fn upload(
        &self,
        context: &Context<'_>,
        root: &Path,
        to: Prefixed<'_>,
        entries: Vec<Entry>,
    ) -> Vec<Outcome> {
        let upload = |entry: &Entry| Upload {
            path: root.join(entry.key.as_str()),
            object_key: to.key(entry),
            entry: entry.clone(),
        };
        let uploads = entries.iter().map(upload).collect();
        let outcomes = upload_batch(context, to.bucket, uploads).await;
        let Some(tree) = &self.source_tree else {
            return outcomes;
        };
        let sent = |entry: &Entry| {
            outcomes.iter().any(|outcome| outcome.key == entry.key && outcome.result.is_ok())
        };
        let sent = entries.into_iter().filter(sent).collect();
        let removed = delete_local(Arc::clone(tree), sent).await;
        with_removals(outcomes, removed)
    }

    async fn fetch(&self, context: &Context<'_>, from: Prefixed<'_>, entries: Vec<Entry>) -> Moved {
        let mut outcomes = Vec::new();
        let Some(tree) = &self.tree else {
            return Moved::Ended(outcomes);
        };
        for entry in entries {
            let object_key = from.key(&entry);
            match download(context, from.bucket, tree, Download { object_key, entry }).await {
                Ok(landing) => return Moved::Fetched(Box::new(landing)),
                Err(outcome) => outcomes.push(*outcome),
            }
        }
        Moved::Ended(outcomes)
    }

    async fn copy(
        &self,
        context: &Context<'_>,
        from: Prefixed<'_>,
        to: Prefixed<'_>,
        entry: Entry,
    ) -> Outcome {
        let source = ObjectRef {
            bucket: from.bucket.name().to_owned(),
            key: from.key(&entry),
            etag: entry.etag().cloned().unwrap_or(crate::fingerprint::ETag::Opaque("".into())),
        };
        let result = copy(context, from.bucket, &source, to.bucket, &to.key(&entry)).await;
        let (key, bytes) = (entry.key.clone(), entry.size);
        let copied =
            Outcome { key, deed: Deed::Copy, result: result.map(|()| bytes), unverified: false };
        if copied.result.is_err() || self.job.afterwards == Afterwards::KeepSource {
            return copied;
        }
        let removed = delete_objects(from.bucket, from.prefix, vec![entry]).await;
        with_removals(vec![copied], removed).pop().expect("one copy has one outcome")
    }

    /// Gives a group of fetched files their names.
    pub(crate) async fn land(&self, group: Vec<Landing>) -> Vec<Outcome> {
        let Some(tree) = &self.tree else {
            return Vec::new();
        };
        let entries: Vec<Entry> = match self.job.afterwards {
            Afterwards::KeepSource => Vec::new(),
            Afterwards::RemoveSource => group.iter().map(|landing| landing.entry.clone()).collect(),
        };
        let outcomes = commit(Arc::clone(tree), group).await;
        let Direction::Down { from, .. } = self.direction else {
            return outcomes;
        };
        if entries.is_empty() {
            return outcomes;
        }
        // The names must be durable, too, before their source goes.
        let synced = tree.sync().is_ok();
        let landed = |entry: &Entry| {
            synced && outcomes.iter().any(|o| o.key == entry.key && o.result.is_ok())
        };
        let landed = entries.into_iter().filter(landed).collect();
        let removed = delete_objects(from.bucket, from.prefix, landed).await;
        with_removals(outcomes, removed)
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

/// A move whose source could not be removed has not succeeded.
fn with_removals(mut outcomes: Vec<Outcome>, removals: Vec<Outcome>) -> Vec<Outcome> {
    for removal in removals {
        let Err(error) = removal.result else { continue };
        if let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.key == removal.key) {
            let what = format!("transferred {}, but the source stays", removal.key);
            outcome.result = Err(Error::new(ErrorKind::Write, what, error));
        }
    }
    outcomes
}
