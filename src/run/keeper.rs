//! What surrounds a run that is remembered: the lock, the catalog, the line in the history.

use crate::catalog::{Catalog, Ending, History, Lock, Pair, Side};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Observer, Summary};
use crate::execute::blocking;
use crate::job::{Afterwards, Effect, Job};
use std::sync::Arc;

/// Errors that the history keeps of one run.
pub(super) const KEPT_ERRORS: usize = 20;

/// The memory of a job, as long as it runs.
pub(super) struct Keeper<'a> {
    job: &'a Job,
    observer: &'a dyn Observer,
    history: Option<(History, i64)>,
    pub(super) catalog: Option<Arc<Catalog>>,
    /// The same, where only what is not complete is remembered: what is moved away is not there to
    /// be compared again.
    pub(super) unfinished: Option<Arc<Catalog>>,
    /// Given back last.
    lock: Option<Lock>,
}

impl<'a> Keeper<'a> {
    /// Notes in the history that the run begins.
    pub(super) fn begin(job: &'a Job, observer: &'a dyn Observer) -> Self {
        let mut keeper =
            Self { job, observer, history: None, catalog: None, unfinished: None, lock: None };
        if let Some(state) = &job.state {
            let history = History::of(state);
            let begun = history.begin(job.command, &job.pair());
            keeper.history = keeper.or_tell(begun).map(|number| (history, number));
        }
        keeper
    }

    /// Takes the lock of the pair and opens its catalog. Where nothing can be kept, that is told,
    /// and the run does without.
    ///
    /// # Errors
    /// `Locked`, where another run of the pair is under way. A run that only looks does without the
    /// memory then.
    pub(super) fn open(&mut self) -> Result<()> {
        let Some(state) = &self.job.state else {
            return Ok(());
        };
        let pair = self.job.pair();
        let lock = match Lock::take(state, &pair) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::Locked => {
                if self.job.effect == Effect::Apply {
                    return Err(error);
                }
                self.tell(&format!("going on without the catalog: {}", error.cause()));
                return Ok(());
            }
            Err(error) => {
                self.tell(&format!("going on without a catalog: {error}"));
                return Ok(());
            }
        };
        match Catalog::open(state, pair, &lock) {
            Ok((catalog, notice)) => {
                if let Some(notice) = notice {
                    self.tell(&format!("the catalog was lost: {notice}"));
                }
                let keeps = self.job.afterwards == Afterwards::KeepSource;
                self.unfinished = Some(Arc::new(catalog));
                self.catalog = self.unfinished.clone().filter(|_| keeps);
            }
            Err(error) => self.tell(&format!("going on without a catalog: {error}")),
        }
        self.lock = Some(lock);
        Ok(())
    }

    /// Where the catalogs are found of pairs that send files to where this job fetches from.
    pub(super) fn senders(&self) -> Option<(History, String)> {
        let (history, _) = self.history.as_ref()?;
        let Pair { source, files, .. } = self.job.pair();
        (files == Some(Side::Target)).then(|| (history.clone(), source))
    }

    fn tell(&self, text: &str) {
        self.observer.event(&Event::Notice(text));
    }

    fn or_tell<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.tell(&format!("the history is not written: {error}"))).ok()
    }

    /// Writes down how the run ended, and gives back the lock.
    pub(super) async fn close(mut self, outcome: &Result<Summary>, mut errors: Vec<String>) {
        self.catalog = None;
        if let Some(catalog) = self.unfinished.take() {
            blocking(move || catalog.close()).await;
        }
        let Some((history, number)) = self.history.take() else {
            return;
        };
        let (exit, summary) = match outcome {
            Ok(summary) => (summary.exit_code_of(self.job.effect), summary.clone()),
            Err(error) => {
                errors.push(Error::to_string(error));
                (error.kind().exit_code(), Summary::default())
            }
        };
        let end = move || history.end(number, &Ending { exit, summary: &summary, errors: &errors });
        let written = blocking(end).await;
        self.or_tell(written);
    }
}
