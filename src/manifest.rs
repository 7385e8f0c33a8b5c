//! The hashes of all files of a directory, or objects below a prefix, from what is known where that
//! is enough.

use crate::catalog::{Catalog, History, Lock, Pair, Record};
use crate::entry::{Entry, EntryKind, Scanned};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Control, Deed, Event, Outcome, Summary};
use crate::execute::{Content, Context, DEFAULT_BYTES, inspect, remembered};
use crate::fingerprint::Blake3;
use crate::job::Place;
use crate::scan::{Filter, Order, Scan, Seen, Splits, scan_bucket, scan_local};
use futures::{StreamExt, TryStreamExt, stream};
use std::path::Path;
use std::sync::Arc;

/// Files and objects looked at at once.
const AT_ONCE: usize = 32;

/// Tells `each` the key, size and BLAKE3 of every file or object of `place`, in key order. Links
/// and directories have no content of their own and are left out. What the catalogs in `state` or
/// the server know is not read, unless `state` is none: then every byte is.
///
/// What can't be read is counted, told to the observer, and left out.
///
/// # Errors
/// `Setup` where there is no such place, whatever ends a listing, or an error of `each`.
pub async fn manifest(
    place: &Place,
    state: Option<&Path>,
    control: &Control<'_>,
    each: &mut dyn FnMut(&Entry, Blake3) -> Result<()>,
) -> Result<Summary> {
    let context = Context::new(control.observer, DEFAULT_BYTES);
    let catalogs = state.map(|state| open_all(state, place, control)).unwrap_or_default();
    let knowing = Knowing { context: &context, place, catalogs, trusts: state.is_some() };
    let mut summary = Summary::default();
    let scan = match place {
        Place::Directory(root) => {
            scan_local(root.clone(), Filter::default(), Seen::default(), false)
        }
        Place::Bucket { bucket, prefix } => scan_bucket(
            Arc::clone(bucket),
            prefix.clone(),
            Filter::default(),
            Seen::default(),
            (Order::Sort, Splits::default()),
        ),
    };
    let items = items(scan);
    let mut hashes = items.map_ok(|item| knowing.hash(item)).try_buffered(AT_ONCE).boxed();
    loop {
        let next = tokio::select! {
            biased;
            () = control.stop.requested() => None,
            next = hashes.next() => Some(next),
        };
        let Some(next) = next else {
            summary.interrupted = true;
            break;
        };
        match next.transpose()? {
            None => break,
            Some(Hashed::Known(entry, blake3)) => {
                each(&entry, blake3)?;
                summary.kept += 1;
            }
            Some(Hashed::Nothing) => {}
            Some(Hashed::Unread(gap)) => {
                summary.unreadable += 1;
                control.observer.event(&Event::Unread(&gap));
            }
            Some(Hashed::Failed(entry, error)) => {
                let (key, deed) = (entry.key, Deed::Download);
                let outcome = Outcome { key, deed, result: Err(error), unverified: false };
                summary.count(&outcome);
                control.observer.event(&Event::Finished(&outcome));
            }
        }
    }
    drop(hashes);
    knowing.catalogs.iter().for_each(|(catalog, _)| catalog.close());
    Ok(summary)
}

fn items(scan: Scan) -> impl futures::Stream<Item = Result<Scanned>> {
    stream::try_unfold(scan, async |mut scan| {
        scan.fill().await?;
        Ok(scan.pop().map(|item| (item, scan)))
    })
}

/// The catalogs of all pairs of which `place` is one end, except those that are in use.
fn open_all(state: &Path, place: &Place, control: &Control<'_>) -> Vec<(Arc<Catalog>, Lock)> {
    let tell = |error: &Error| control.observer.event(&Event::Notice(&error.to_string()));
    let pairs = History::of(state).pairs(&place.address()).unwrap_or_else(|error| {
        tell(&error);
        Vec::new()
    });
    let open = |pair: Pair| -> Result<(Arc<Catalog>, Lock)> {
        let lock = Lock::take(state, &pair)?;
        let (catalog, _) = Catalog::open(state, pair, &lock)?;
        Ok((Arc::new(catalog), lock))
    };
    let pairs = pairs.into_iter().filter(|pair| Catalog::path(state, pair).exists());
    pairs.filter_map(|pair| open(pair).inspect_err(tell).ok()).collect()
}

enum Hashed {
    Known(Entry, Blake3),
    /// It has no content.
    Nothing,
    Unread(crate::entry::Gap),
    Failed(Entry, Error),
}

/// Where hashes are known from.
struct Knowing<'a> {
    context: &'a Context<'a>,
    place: &'a Place,
    catalogs: Vec<(Arc<Catalog>, Lock)>,
    trusts: bool,
}

impl Knowing<'_> {
    async fn hash(&self, item: Scanned) -> Result<Hashed> {
        let entry = match item {
            Scanned::Entry(entry) => entry,
            Scanned::Gap(gap) => return Ok(Hashed::Unread(gap)),
            Scanned::Unnamed { name, reason } => {
                let cause = reason.to_string();
                return Ok(Hashed::Unread(crate::entry::Gap::Subtree { prefix: name, cause }));
            }
        };
        if entry.is_directory() || entry.kind == EntryKind::Symlink {
            return Ok(Hashed::Nothing);
        }
        if entry.size == 0 {
            return Ok(Hashed::Known(entry, Blake3::of(b"")));
        }
        match self.content_hash(&entry).await {
            Ok(Some(blake3)) => Ok(Hashed::Known(entry, blake3)),
            Ok(None) => Ok(Hashed::Nothing),
            Err(error) if error.kind() == ErrorKind::Setup => Err(error),
            Err(error) => Ok(Hashed::Failed(entry, error)),
        }
    }

    /// None where it is a link.
    async fn content_hash(&self, entry: &Entry) -> Result<Option<Blake3>> {
        const LINK: u32 = 0o120_000;
        let record = if self.trusts { self.record(entry).await } else { None };
        if let Some(record) = &record
            && let (Some(blake3), Some(mode)) = (remembered(Some(record), entry), record.mode())
        {
            return Ok((mode & 0o170_000 != LINK).then_some(blake3));
        }
        let content = match self.place {
            Place::Directory(root) => Content::Local(root.join(entry.key.as_str())),
            Place::Bucket { bucket, prefix } => {
                let object_key = format!("{prefix}{}", entry.key.as_str());
                let info = bucket.head(&object_key).await?;
                if info.metadata.is_symlink() {
                    return Ok(None);
                }
                if let (true, Some(blake3)) = (self.trusts, info.metadata.blake3()) {
                    return Ok(Some(blake3));
                }
                Content::Remote { bucket: Arc::clone(bucket), object_key }
            }
        };
        inspect(self.context, &content, entry, None).await.map(|found| Some(found.blake3))
    }

    /// The record of an entry that looks as it is remembered.
    async fn record(&self, entry: &Entry) -> Option<Record> {
        for (catalog, _) in &self.catalogs {
            let key = entry.key.clone();
            let record = self.context.ask(Some(catalog), move |c| c.record(&key)).await;
            if record.as_ref().is_some_and(|record| remembered(Some(record), entry).is_some()) {
                return record;
            }
        }
        None
    }
}
