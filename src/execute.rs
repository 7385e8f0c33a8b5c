//! The executor: takes decided steps, and does them, a bounded number at a time.
//!
//! Owns what all transfers of a run share: the blocking hop, what is begun and not complete. The
//! requests in flight are bounded by the endpoint, the bytes in buffers by [`Budget`].
//! Nothing here decides what is transferred.

mod arrival;
mod budget;
mod copy;
mod delete;
mod delta;
mod download;
mod inspect;
mod landing;
mod large;
mod parts;
mod proof;
mod ranges;
mod resolve;
mod stream;
mod upload;

pub(crate) use budget::DEFAULT_BYTES;
pub(crate) use copy::{copy, update_metadata};
pub(crate) use delete::{delete_local, delete_objects};
pub(crate) use download::{Download, download, download_batch, may_resume};
pub(crate) use inspect::{inspect, remembered};
pub(crate) use landing::{Landing, commit};
pub(crate) use proof::{Finding, Proof};
pub(crate) use resolve::{Answer, Content, Question, resolve};
pub(crate) use stream::upload_stream;
pub(crate) use upload::{Upload, upload_batch};

use crate::bucket::Bucket;
use crate::catalog::{Catalog, Change, History, OpenUpload};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Observer, Outcome};
use crate::key::Key;
use crate::stop::Stop;
use budget::Budget;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Files up to this size are read in batches, and sent by one PUT each.
pub(crate) const SMALL_BYTES: u64 = 1 << 20;
/// How many small files share one hop to a blocking thread.
pub(crate) const BATCH_FILES: usize = 16;
/// How often an action is begun again when its bytes turn out wrong.
const ATTEMPTS: u32 = 3;
/// How long a run that is to stop finishes what is under way.
pub(crate) const GRACE: Duration = Duration::from_secs(4);
/// How long the server has to take back unfinished uploads when a run stops.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What all transfers of one run share.
pub(crate) struct Context<'a> {
    pub observer: &'a dyn Observer,
    /// Where contents are looked for that the target already holds; none where nothing that is
    /// remembered is to be trusted.
    pub twins: Option<Arc<Catalog>>,
    /// Where transfers are remembered that are not complete; none where they begin anew each time.
    pub unfinished: Option<Arc<Catalog>>,
    /// Where catalogs are found of runs that sent to where this one fetches from, and its address.
    pub senders: Option<(History, String)>,
    /// A file that looks as it did has the content that it had.
    pub trusts_signatures: bool,
    pub budget: Arc<Budget>,
    /// Asked by blocking work that takes long: its future may have been dropped.
    pub stop: Stop,
    /// Uploads that nobody can go on with.
    open_uploads: Mutex<HashMap<String, Endless>>,
    /// Blocking threads that read and hash at once.
    pub threads: usize,
    /// Their turns: the pool has other work, too, such as looking up names.
    hashing: Semaphore,
}

/// An upload that only this run can end.
struct Endless {
    bucket: Arc<dyn Bucket>,
    key: String,
}

impl<'a> Context<'a> {
    pub(crate) fn new(observer: &'a dyn Observer, memory_bytes: u64) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        Self {
            observer,
            twins: None,
            unfinished: None,
            senders: None,
            trusts_signatures: true,
            stop: Stop::new(),
            budget: Budget::new(memory_bytes),
            open_uploads: Mutex::default(),
            threads,
            hashing: Semaphore::new(threads),
        }
    }

    /// So many bytes were read to be compared.
    fn read(&self, bytes: u64) {
        self.observer.event(&Event::Read { bytes });
    }

    /// What was looked up; where that failed, people are told, and nothing was found.
    pub(crate) fn looked_up<T: Default>(&self, found: Result<T>) -> T {
        found.unwrap_or_else(|error| {
            self.observer.event(&Event::Notice(&error.to_string()));
            T::default()
        })
    }

    /// What `work` finds in, or writes to, a catalog on a blocking thread; nothing without one. As
    /// [`Context::looked_up`] where that fails.
    pub(crate) async fn ask<T: Default + Send + 'static>(
        &self,
        catalog: Option<&Arc<Catalog>>,
        work: impl FnOnce(&Catalog) -> Result<T> + Send + 'static,
    ) -> T {
        let Some(catalog) = catalog.map(Arc::clone) else { return T::default() };
        self.looked_up(blocking(move || work(&catalog)).await)
    }

    /// A turn at hashing.
    async fn hashing(&self) -> SemaphorePermit<'_> {
        self.hashing.acquire().await.expect("the semaphore is never closed")
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, HashMap<String, Endless>> {
        self.open_uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an upload that was begun. True where a later run can go on with it.
    async fn upload_opened(&self, bucket: &Arc<dyn Bucket>, open: OpenUpload) -> bool {
        let can_be_resumed = open.content.is_some();
        let (id, key) = (open.id.clone(), open.object_key.clone());
        // First in memory: whoever waits here may be dropped.
        self.uploads().insert(id.clone(), Endless { bucket: Arc::clone(bucket), key });
        let note = move |catalog: &Catalog| catalog.open_upload(&open);
        let is_remembered = self.ask(self.unfinished.as_ref(), note).await;
        if is_remembered && can_be_resumed {
            self.uploads().remove(&id);
        }
        is_remembered && can_be_resumed
    }

    /// Takes note of an upload that nobody can go on with: a stopped run takes it back, the run
    /// after a killed one.
    async fn endless_upload(&self, bucket: &Arc<dyn Bucket>, object_key: &str, id: &str) {
        let (key, object_key) = (Key::new(object_key), object_key.to_owned());
        let open = OpenUpload { id: id.to_owned(), key, object_key, content: None };
        self.upload_opened(bucket, open).await;
    }

    /// Forgets an upload that is complete or gone.
    async fn upload_closed(&self, id: &str) {
        self.uploads().remove(id);
        let id = id.to_owned();
        self.ask(self.unfinished.as_ref(), move |catalog| catalog.close_upload(&id)).await;
    }

    /// Takes an upload back. Where the server does not answer, a later run will.
    pub(crate) async fn give_up(&self, bucket: &Arc<dyn Bucket>, object_key: &str, id: &str) {
        match bucket.abort_upload(object_key, id).await {
            Ok(()) => self.upload_closed(id).await,
            Err(error) => {
                tracing::debug!(%error, "an upload stays");
                self.uploads().remove(id);
                let id = id.to_owned();
                self.ask(self.unfinished.as_ref(), move |catalog| catalog.condemn_upload(&id))
                    .await;
            }
        }
    }

    /// Takes back the uploads that nobody can go on with, after the run was stopped.
    pub(crate) async fn abort_uploads(&self) {
        let open: Vec<(String, Endless)> = self.uploads().drain().collect();
        let aborts = open.iter().map(|(id, open)| self.give_up(&open.bucket, &open.key, id));
        let all = futures::future::join_all(aborts);
        if tokio::time::timeout(ABORT_TIMEOUT, all).await.is_err() {
            tracing::warn!("the server did not take back all unfinished uploads in time");
        }
    }
}

/// How an action ended, and what is to be remembered of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub outcome: Outcome,
    pub change: Option<Change>,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, change: None }
    }
}

/// Fails where the run is to stop.
fn go_on(stop: &Stop) -> Result<()> {
    match stop.is_requested() {
        true => Err(Error::new(ErrorKind::Interrupted, "stopped", "the run is to end")),
        false => Ok(()),
    }
}

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Counts how often an action was begun whose bytes turned out wrong on the way.
#[derive(Debug, Default)]
struct Attempts(u32);

impl Attempts {
    /// True where it makes sense to begin again.
    fn again(&mut self, error: &Error) -> bool {
        self.0 += 1;
        let again = self.0 < ATTEMPTS && error.kind() == ErrorKind::Corrupt;
        if again {
            tracing::debug!(%error, "beginning again");
        }
        again
    }
}
