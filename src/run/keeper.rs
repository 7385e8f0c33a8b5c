//! What surrounds a run that is remembered: the lock, the catalog, the line in the history.

use crate::catalog::{Catalog, Ending, History};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Observer, Summary};
use crate::job::{Afterwards, Effect, Job};
use std::sync::Arc;

/// Errors that the history keeps of one run.
pub(super) const KEPT_ERRORS: usize = 20;

/// The memory of a job, as long as it runs.
pub(super) struct Keeper<'a> {
    observer: &'a dyn Observer,
    effect: Effect,
    pub(super) catalog: Option<Arc<Catalog>>,
    history: Option<(History, i64)>,
}

impl<'a> Keeper<'a> {
    /// Takes the lock of the pair and opens its catalog. Where nothing can be kept, that is told, and
    /// the run does without.
    ///
    /// # Errors
    /// `Locked`, where another run changes things. One that only looks does without the memory.
    pub(super) fn open(job: &Job, observer: &'a dyn Observer) -> Result<Self> {
        let mut keeper = Self { observer, effect: job.effect, catalog: None, history: None };
        let Some(state) = &job.state else {
            return Ok(keeper);
        };
        // What is moved away is not there to be compared again.
        if job.afterwards == Afterwards::KeepSource {
            match Catalog::open(state, job.pair()) {
                Ok((catalog, notice)) => {
                    if let Some(notice) = notice {
                        keeper.tell(&format!("the catalog was lost: {notice}"));
                    }
                    keeper.catalog = Some(Arc::new(catalog));
                }
                Err(error) if error.kind() == ErrorKind::Locked => {
                    if job.effect == Effect::Apply {
                        return Err(error);
                    }
                    keeper.tell(&format!("going on without the catalog: {}", error.cause()));
                }
                Err(error) => keeper.tell(&format!("going on without a catalog: {error}")),
            }
        }
        let history = History::of(state);
        let begun = history.begin(job.effect.name(), &job.pair());
        keeper.history = keeper.or_tell(begun).map(|number| (history, number));
        Ok(keeper)
    }

    fn tell(&self, text: &str) {
        self.observer.event(&Event::Notice(text));
    }

    fn or_tell<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.tell(&format!("the history is not written: {error}"))).ok()
    }

    /// Writes down how the run ended, and gives back the lock.
    pub(super) fn close(self, outcome: &Result<Summary>, mut errors: Vec<String>) {
        if let Some(catalog) = &self.catalog {
            catalog.close();
        }
        let Some((history, number)) = &self.history else {
            return;
        };
        let none = Summary::default();
        let (exit, summary) = match outcome {
            Ok(summary) => (summary.exit_code_of(self.effect), summary),
            Err(error) => {
                errors.push(Error::to_string(error));
                (error.kind().exit_code(), &none)
            }
        };
        let written = history.end(*number, &Ending { exit, summary, errors: &errors });
        self.or_tell(written);
    }
}
