//! What a run remembers: the catalog's records beside the scans, in key order, and the changes that
//! wait to be written.
//!
//! Reading and writing go to blocking threads. Whatever fails here is told, and costs only time.

use crate::catalog::{Catalog, Change, Record};
use crate::error::Error;
use crate::scan::Filter;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Batches of records that are read ahead.
const BATCHES_AHEAD: usize = 2;
/// Changes are written when there are so many, or the first waits so long: what a killed run has
/// to find out again.
const JOURNAL_CHANGES: usize = 512;
const JOURNAL_AGE: Duration = Duration::from_secs(1);

type Batch = Result<Vec<Record>, Error>;

/// The memory of one run, which may be none.
pub(super) struct Memory {
    catalog: Option<Arc<Catalog>>,
    batches: Option<mpsc::Receiver<Batch>>,
    ready: VecDeque<Record>,
    journal: Vec<Change>,
    since: Instant,
    /// What is being written: it goes on, though nobody may wait for it any more.
    writing: Option<JoinHandle<()>>,
    /// Troubles that people should know of.
    pub(super) troubles: Vec<Error>,
}

impl Memory {
    pub(super) fn new(catalog: Option<Arc<Catalog>>) -> Self {
        let batches = catalog.clone().map(read_ahead);
        Self {
            catalog,
            batches,
            ready: VecDeque::new(),
            journal: Vec::new(),
            since: Instant::now(),
            writing: None,
            troubles: Vec::new(),
        }
    }

    pub(super) fn catalog(&self) -> Option<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// Goes on to `key`, or to the end. What lies before it is on neither side any more, and is
    /// forgotten if the `filter` would have shown it. False where so much is to be forgotten that
    /// it must be written first. May be dropped wherever it waits.
    pub(super) async fn seek(&mut self, key: Option<&str>, filter: &Filter) -> bool {
        loop {
            while let Some(record) = self.ready.front() {
                if key.is_some_and(|key| record.key.as_str() >= key) {
                    return true;
                }
                if self.is_full() {
                    return false;
                }
                if filter.admits(record.key.as_str()) {
                    self.note(Change::Forget(record.key.clone()));
                }
                self.ready.pop_front();
            }
            let Some(batches) = &mut self.batches else { return true };
            match batches.recv().await {
                None => self.batches = None,
                Some(Ok(records)) => self.ready = records.into(),
                Some(Err(error)) => self.troubles.push(error),
            }
        }
    }

    /// The record of `key`, which was sought.
    pub(super) fn take(&mut self, key: &str) -> Option<Box<Record>> {
        let is_next = self.ready.front().is_some_and(|record| record.key.as_str() == key);
        is_next.then(|| self.ready.pop_front()).flatten().map(Box::new)
    }

    /// Remembers `change` once it is written.
    pub(super) fn note(&mut self, change: Change) {
        if self.catalog.is_none() {
            return;
        }
        if self.journal.is_empty() {
            self.since = Instant::now();
        }
        self.journal.push(change);
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.journal.is_empty()
    }

    /// True where nothing more should be found out before something is written.
    pub(super) fn is_full(&self) -> bool {
        self.journal.len() >= 4 * JOURNAL_CHANGES
    }

    /// When what waits is written at the latest.
    pub(super) fn due(&self) -> Instant {
        self.since + JOURNAL_AGE
    }

    pub(super) fn is_due(&self) -> bool {
        self.is_waiting() && (self.journal.len() >= JOURNAL_CHANGES || self.due() <= Instant::now())
    }

    /// Begins to write what waits; the answer tells how that ended. One at a time.
    pub(super) fn write(&mut self) -> impl Future<Output = Option<Error>> + Send + 'static {
        let (catalog, changes) = (self.catalog.clone(), std::mem::take(&mut self.journal));
        let (sender, answer) = oneshot::channel();
        if let Some(catalog) = catalog.filter(|_| !changes.is_empty()) {
            self.writing = Some(tokio::task::spawn_blocking(move || {
                let _ = sender.send(catalog.write(&changes).err());
            }));
        }
        async { answer.await.ok().flatten() }
    }

    /// Waits for what is being written, and writes the rest.
    pub(super) async fn write_rest(&mut self) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        let trouble = self.write().await;
        self.troubles.extend(trouble);
    }
}

/// Reads the whole catalog on a blocking thread, which ends when nobody listens any more.
fn read_ahead(catalog: Arc<Catalog>) -> mpsc::Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut last = String::new();
        loop {
            let batch = catalog.batch_after(&last);
            if let Ok(records) = &batch {
                let Some(end) = records.last() else { return };
                end.key.as_str().clone_into(&mut last);
            }
            if sender.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    receiver
}
