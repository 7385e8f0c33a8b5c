//! A scan: what one side holds, as an ordered stream of batches.
//!
//! Owns the order check. Does not know what a plan makes of it.

mod bucket;
mod device;
mod filter;
mod local;
mod ranges;
mod spool;

pub use bucket::{Order, scan_bucket};
pub use device::Device;
pub use filter::{Filter, FilterBuilder, Seen};
pub use local::{check_directory, scan_local};
pub(crate) use ranges::Ends;
pub use ranges::Splits;
pub use spool::Spool;

use crate::entry::Scanned;
use crate::error::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::VecDeque;

/// How many items travel together: enough to make the hand-over between threads cheap.
pub(crate) const BATCH_ITEMS: usize = 512;
/// How many batches wait between a scan and the plan. With pages of 1,000 keys, about 1 MB.
pub(crate) const BATCHES_AHEAD: usize = 4;

/// A stream of [`Scanned`] in key order. An error ends it, and the run.
pub struct Scan {
    batches: BoxStream<'static, Result<Vec<Scanned>>>,
    ready: VecDeque<Scanned>,
    last: Option<String>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl Scan {
    /// A scan over batches that should be in key order.
    #[must_use]
    pub fn new(batches: BoxStream<'static, Result<Vec<Scanned>>>) -> Self {
        Self { batches: batches.fuse().boxed(), ready: VecDeque::new(), last: None }
    }

    /// The next item that is already here.
    #[must_use]
    pub fn head(&self) -> Option<&Scanned> {
        self.ready.front()
    }

    /// Waits until an item is here; false at the end. Nothing is lost if it is dropped half-way.
    ///
    /// # Errors
    /// What ended the scan, or `Unordered` where an item is out of order: deletes could not be
    /// proven then.
    pub async fn fill(&mut self) -> Result<bool> {
        while self.ready.is_empty() {
            let Some(batch) = self.batches.next().await else {
                return Ok(false);
            };
            let batch = batch?;
            self.check(&batch)?;
            self.ready = batch.into();
        }
        Ok(true)
    }

    /// Takes the item that [`Scan::head`] shows.
    pub fn pop(&mut self) -> Option<Scanned> {
        self.ready.pop_front()
    }

    fn check(&mut self, batch: &[Scanned]) -> Result<()> {
        let mut last = self.last.as_deref();
        for position in batch.iter().filter_map(Scanned::position) {
            if last.is_some_and(|last| position <= last) {
                let what = format!("cannot plan at {}", crate::key::printable(position));
                return Err(Error::new(ErrorKind::Unordered, what, "it is out of key order"));
            }
            last = Some(position);
        }
        self.last = last.map(str::to_owned);
        Ok(())
    }
}
