//! The end of a run that has transferred everything: the deletes, if the guard agrees, and what is
//! left to be cleared up.

use super::{Run, leftovers};
use crate::catalog::{self, Change};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Outcome};
use crate::execute::Ended;
use crate::job::Effect;
use crate::key::Key;
use crate::plan::guard::{Decision, guard};
use crate::stop::Stop;

impl Run<'_> {
    /// All is transferred: the deletes, if the guard agrees, and the last names made durable.
    pub(super) async fn finish(&mut self, stop: &Stop) -> Result<()> {
        if self.seen.all_excluded() {
            let cause = "the patterns exclude every entry of the source";
            return Err(Error::new(ErrorKind::Usage, "nothing to do", cause));
        }
        if self.ledger.evidence.source_entries == 0 {
            let place = self.job.source.name("");
            self.ledger
                .tell(&Event::Notice(&format!("the source is empty: nothing is in {place}")));
        }
        self.ledger.evidence.failed += self.ledger.summary.failed;
        let moved = self.source_move();
        self.ledger.evidence.source_moved = moved.is_some();
        match guard(self.ledger.evidence, self.job.allowed) {
            Err(error) => {
                self.ledger.summary.guard = Some(format!("{error}{}", moved.unwrap_or_default()));
            }
            Ok(Decision::Skip) => self.ledger.summary.undeleted = self.ledger.evidence.deletes,
            Ok(Decision::Delete) if self.job.effect != Effect::Apply => {
                self.ledger.summary.to_delete = self.ledger.evidence.deletes;
            }
            Ok(Decision::Delete) => self.delete_all(stop).await?,
        }
        if self.ledger.summary.interrupted {
            return Ok(());
        }
        let summary = &self.ledger.summary;
        // A file that can't be read now may be gone on with later.
        let is_clean = summary.failed + summary.unreadable + summary.changed == 0;
        if is_clean && self.job.effect == Effect::Apply {
            let temporary = self.seen_there.take_temporary();
            leftovers::clear(self.context, self.route, &self.job.filter, temporary).await;
        }
        self.learn_places();
        self.route.sync()
    }

    /// Where the source directory was last time and is now, if that is not the same.
    fn source_move(&self) -> Option<String> {
        // To compare deletes nothing.
        let catalog = self.memory.catalog().filter(|_| self.job.effect != Effect::Check)?;
        let (now, before) = (self.route.source_device()?, catalog.device().ok()??);
        (!now.is_still(&before)).then(|| format!("; it was {before} and is {now}"))
    }

    /// Deletes what is to go, then the directories that are empty now.
    async fn delete_all(&mut self, stop: &Stop) -> Result<()> {
        let mut last: Option<Key> = None;
        loop {
            let batch = match self.route.deletes_backwards() {
                true => self.deletes.batch_before(last.as_ref())?,
                false => self.deletes.batch_after(last.as_ref())?,
            };
            let Some(end) = batch.last() else {
                return self.prune_all().await;
            };
            if stop.is_requested() {
                self.ledger.summary.interrupted = true;
                return Ok(());
            }
            last = Some(end.key.clone());
            let outcomes = self.route.delete(batch).await;
            self.account(outcomes.into_iter().map(forgotten).collect());
        }
    }

    /// Nobody planned these by name: only what fails is told.
    async fn prune_all(&mut self) -> Result<()> {
        let mut last: Option<Key> = None;
        loop {
            let batch = self.prunes.batch_before(last.as_ref())?;
            let Some(end) = batch.last() else {
                return Ok(());
            };
            last = Some(end.key.clone());
            let failed = |outcome: &Outcome| outcome.result.is_err();
            let outcomes = self.route.delete(batch).await;
            self.account(outcomes.into_iter().filter(failed).map(Ended::from).collect());
        }
    }

    /// Remembers where the next listings can be cut, and what the source is on.
    fn learn_places(&mut self) {
        let Some(catalog) = self.memory.catalog() else { return };
        let summary = &self.ledger.summary;
        let changed = summary.transferred + summary.copied + summary.deleted > 0;
        let target = match changed {
            true => std::mem::take(&mut self.target_ends),
            false => self.splits.1.learned(),
        };
        let source = self.splits.0.learned();
        for (side, ends) in [(catalog::Side::Source, source), (catalog::Side::Target, target)] {
            if let Err(error) = catalog.set_ends(side, &ends.into_vec()) {
                self.memory.troubles.push(error);
            }
        }
        let is_right = self.job.effect == Effect::Apply && self.ledger.summary.guard.is_none();
        if let Some(device) = self.route.source_device().filter(|_| is_right)
            && let Err(error) = catalog.set_device(device)
        {
            self.memory.troubles.push(error);
        }
    }
}

/// What is deleted needs no memory.
fn forgotten(outcome: Outcome) -> Ended {
    let change = Some(Change::Forget(outcome.key.clone()));
    Ended { outcome, change }
}
