//! The accounts of a run: what was seen, planned and done, and what went wrong.

use super::keeper::KEPT_ERRORS;
use crate::entry::{Gap, Scanned};
use crate::error::ErrorKind;
use crate::event::{Event, Observer, Outcome, Summary};
use crate::key::Key;
use crate::plan::guard::Evidence;
use crate::plan::{Action, Why};
use std::collections::HashSet;

/// So many failures of the network in a row, at least, and the server counts as gone.
const LOST: usize = 32;

/// What a run has seen and done so far. All that is told of it goes through here.
pub(super) struct Ledger<'a> {
    observer: &'a dyn Observer,
    pub(super) summary: Summary,
    pub(super) evidence: Evidence,
    /// Names under way that the target does not have: one that can't be read may be a renamed one.
    unseen: HashSet<Key>,
    /// Failures of the network since the last success.
    lost: usize,
    /// The first errors of single entries.
    pub(super) errors: Vec<String>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(observer: &'a dyn Observer) -> Self {
        Self {
            observer,
            summary: Summary::default(),
            evidence: Evidence::default(),
            unseen: HashSet::new(),
            lost: 0,
            errors: Vec::new(),
        }
    }

    pub(super) fn tell(&self, event: &Event<'_>) {
        self.observer.event(event);
    }

    /// Takes note of what the scans saw of one name.
    pub(super) fn saw(&mut self, source: Option<&Scanned>, target: Option<&Scanned>) {
        self.evidence.source_entries += u64::from(is_evidence(source));
        self.evidence.target_entries += u64::from(is_evidence(target));
    }

    pub(super) fn saw_nothing(&self) -> bool {
        self.evidence.source_entries + self.evidence.target_entries == 0
    }

    pub(super) fn unread(&mut self, gap: &Gap) {
        self.summary.unreadable += 1;
        self.tell(&Event::Unread(gap));
    }

    pub(super) fn planned(&mut self, action: &Action) {
        self.tell(&Event::Planned(action));
        let summary = &mut self.summary;
        match action {
            Action::Transfer { source, why, .. } | Action::Copy { source, why, .. } => {
                summary.to_transfer += 1;
                summary.to_transfer_bytes += source.size;
                summary.unknown += u64::from(*why == Why::Unknown);
            }
            Action::Update { .. } => summary.to_update += 1,
            Action::Delete { .. } => self.evidence.deletes += 1,
            Action::Keep { key, .. } => summary.kept += u64::from(!key.is_directory()),
            Action::Spare { .. } => summary.spared += 1,
            Action::Refuse { .. } => summary.refused += 1,
        }
    }

    /// `key` goes to a target that does not have it, and deletes will follow.
    pub(super) fn may_be_renamed(&mut self, key: &Key) {
        self.unseen.insert(key.clone());
    }

    pub(super) fn ended(&mut self, outcome: &Outcome) {
        // It has not failed: it is for the next run.
        if outcome.result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
            return;
        }
        let was_unseen = self.unseen.remove(&outcome.key);
        let unread = outcome.result.as_ref().is_err_and(|error| is_unread(error.kind()));
        self.evidence.failed += u64::from(was_unseen && unread);
        match &outcome.result {
            Ok(_) => self.lost = 0,
            Err(error) => {
                let is_lost = matches!(error.kind(), ErrorKind::Network | ErrorKind::Hung);
                self.lost = if is_lost { self.lost + 1 } else { 0 };
                if self.errors.len() < KEPT_ERRORS {
                    self.errors.push(error.to_string());
                }
            }
        }
        self.summary.count(outcome);
        self.tell(&Event::Finished(outcome));
    }

    /// True where the server does not answer any more.
    pub(super) fn has_lost(&self, transfers: usize) -> bool {
        self.lost >= LOST.max(2 * transfers)
    }

    pub(super) fn give_up(&mut self) {
        let cause = format!("gave up: the server failed {} times in a row", self.lost);
        self.summary.gave_up = Some(cause);
    }

    pub(super) fn disagree(&mut self, key: &Key, disagreements: &[String]) {
        for what in disagreements {
            self.summary.disagreements += 1;
            self.tell(&Event::Disagreement { key, what });
        }
    }
}

/// True where a source could not be read, or changed meanwhile.
pub(super) fn is_unread(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unreadable | ErrorKind::Changed)
}

/// Directories prove nothing: an unmounted tree has some, too.
fn is_evidence(item: Option<&Scanned>) -> bool {
    match item {
        None => false,
        Some(Scanned::Entry(entry)) => !entry.is_directory(),
        Some(Scanned::Gap(_) | Scanned::Unnamed { .. }) => true,
    }
}
