//! The listing of a bucket prefix as a scan.
//!
//! Pages are fetched one ahead of the consumer. Their order is checked before any of their keys is
//! let through. A listing that is out of order in its first page is spooled to disk and sorted;
//! where that shows only later, the scan ends with `Unordered`, and the run begins again with
//! [`Order::Sort`].

use super::ranges::{Lister, Splits, Way, is_ordered};
use super::{Filter, Scan, Seen, Spool};
use crate::bucket::{Bucket, Listed};
use crate::entry::{Entry, EntryKind, Origin, Scanned};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use futures::StreamExt;
use std::sync::Arc;

/// What is known of the order in which a server lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Byte order, to be checked.
    Check,
    /// No order: spool everything and sort it.
    Sort,
}

/// Scans the objects of `bucket` below `prefix` (empty, or with its `/`); `splits` say where it can
/// be listed in ranges.
#[must_use]
pub fn scan_bucket(
    bucket: Arc<dyn Bucket>,
    prefix: String,
    filter: Filter,
    seen: Seen,
    (order, splits): (Order, Splits),
) -> Scan {
    let what = format!("{}/{prefix}", bucket.url());
    let way = match order {
        Order::Check => Way::InRanges,
        Order::Sort => Way::InSequence,
    };
    let pages = Lister::start(bucket, prefix.clone(), way, splits);
    let listing = Listing { pages, last: None, spool: None, prefix, what, filter, seen };
    let batches = futures::stream::unfold(Some((listing, order)), async |state| {
        let (mut listing, order) = state?;
        match listing.next_batch(order).await {
            Ok(Some(batch)) => Some((Ok(batch), Some((listing, order)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Scan::new(batches.boxed())
}

struct Listing {
    pages: Lister,
    last: Option<String>,
    spool: Option<(Spool, Option<Key>)>,
    prefix: String,
    what: String,
    filter: Filter,
    seen: Seen,
}

impl Listing {
    async fn next_batch(&mut self, order: Order) -> Result<Option<Vec<Scanned>>> {
        if self.spool.is_some() || order == Order::Sort {
            return self.next_sorted(Vec::new()).await;
        }
        let Some(page) = self.pages.next().await.transpose()? else {
            return Ok(None);
        };
        if self.is_ordered(&page.objects) {
            self.last = page.objects.last().map(|object| object.key.clone()).or(self.last.take());
            return self.admit(page.objects).map(Some);
        }
        if self.last.is_none() {
            return self.next_sorted(page.objects).await;
        }
        let cause = "the server does not list in byte order";
        Err(Error::new(ErrorKind::Unordered, format!("cannot merge {}", self.what), cause))
    }

    fn is_ordered(&self, objects: &[Listed]) -> bool {
        let first_fits = match (&self.last, objects.first()) {
            (Some(last), Some(first)) => *last < first.key,
            _ => true,
        };
        first_fits && is_ordered(objects)
    }

    fn admit(&self, objects: Vec<Listed>) -> Result<Vec<Scanned>> {
        let mut batch = Vec::with_capacity(objects.len());
        for object in objects {
            let Some(name) = object.key.strip_prefix(&self.prefix) else {
                let cause = format!("the server listed `{}`, which is not in it", object.key);
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("cannot list {}", self.what),
                    cause,
                ));
            };
            // The marker of the prefix itself stands for the root.
            if name.is_empty() {
                continue;
            }
            if !self.filter.admits(name) {
                self.seen.excluded();
                continue;
            }
            self.seen.admitted();
            batch.push(Scanned::Entry(entry(name, &object)));
        }
        Ok(batch)
    }

    /// Spools all pages, `first` ahead, then reads them back in order.
    async fn next_sorted(&mut self, first: Vec<Listed>) -> Result<Option<Vec<Scanned>>> {
        if self.spool.is_none() {
            let mut spool = Spool::new()?;
            self.spool_all(&mut spool, first)?;
            while let Some(page) = self.pages.next().await.transpose()? {
                self.spool_all(&mut spool, page.objects)?;
            }
            self.spool = Some((spool, None));
        }
        let Some((spool, after)) = &mut self.spool else {
            return Ok(None);
        };
        let batch = spool.batch_after(after.as_ref())?;
        let Some(last) = batch.last() else {
            return Ok(None);
        };
        *after = Some(last.key.clone());
        Ok(Some(batch.into_iter().map(Scanned::Entry).collect()))
    }

    fn spool_all(&self, spool: &mut Spool, objects: Vec<Listed>) -> Result<()> {
        for item in self.admit(objects)? {
            if let Scanned::Entry(entry) = item {
                spool.put(&entry)?;
            }
        }
        Ok(())
    }
}

/// A zero-byte key that ends in `/` marks a directory; one with content is an object like another,
/// which no path can hold.
fn entry(name: &str, object: &Listed) -> Entry {
    let key = Key::new(name);
    let marker = key.is_directory() && object.size == 0;
    let kind = if marker { EntryKind::Directory { empty: true } } else { EntryKind::File };
    let modified = object.modified.as_str().into();
    let origin = Origin::Remote { etag: object.etag.clone(), modified };
    Entry { key, kind, size: object.size, origin }
}
