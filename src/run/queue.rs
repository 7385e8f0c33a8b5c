//! What waits in a run: steps for room to be done, fetched files for company to land.

use crate::entry::Entry;
use crate::execute::{Landing, SMALL_BYTES};
use crate::plan::{Action, Pair, Side};
use crate::route::Transfer;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A group of downloads lands when it has so many files, so many bytes, or waits so long.
const GROUP_FILES: usize = 128;
const GROUP_BYTES: u64 = 256 << 20;
const GROUP_AGE: Duration = Duration::from_secs(2);

/// Steps that wait.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) small: VecDeque<Transfer>,
    pub(super) large: VecDeque<Transfer>,
    pub(super) pairs: VecDeque<Pair>,
    /// What is on one side only, and is to be read all the same.
    pub(super) alone: VecDeque<(Side, Entry)>,
    /// Files whose objects' metadata are to be brought up to date.
    pub(super) updates: VecDeque<Pair>,
}

impl Queue {
    pub(super) fn waiting(&self) -> usize {
        let transfers = self.small.len() + self.large.len() + self.updates.len();
        transfers + self.pairs.len() + self.alone.len()
    }

    /// Has what `action` is about read, since it is not compared with anything.
    pub(super) fn read_alone(&mut self, action: &Action) {
        let (source, target) = match action {
            Action::Transfer { source, replaces, .. } | Action::Copy { source, replaces, .. } => {
                (Some(source), replaces.as_ref())
            }
            Action::Delete { target } | Action::Spare { target, .. } => (None, Some(target)),
            Action::Keep { .. } | Action::Update { .. } | Action::Refuse { .. } => (None, None),
        };
        let sides = [(Side::Source, source), (Side::Target, target)];
        let has_content = |(side, entry): (Side, Option<&Entry>)| {
            Some((side, entry.filter(|entry| !entry.is_directory())?.clone()))
        };
        self.alone.extend(sides.into_iter().filter_map(has_content));
    }

    /// The next small files, at most `together` and of no more than 1 MiB, or a single one.
    pub(super) fn next_small(&mut self, together: usize) -> Vec<Transfer> {
        let mut bytes = 0;
        let fits = |transfer: &&Transfer| {
            bytes += transfer.entry.size;
            bytes <= SMALL_BYTES
        };
        let count = self.small.iter().take(together).take_while(fits).count().max(1);
        let count = count.min(self.small.len());
        self.small.drain(..count).collect()
    }
}

/// Downloads that wait to land together.
pub(super) struct Group {
    pub(super) landings: Vec<Landing>,
    bytes: u64,
    since: Instant,
}

impl Group {
    pub(super) fn new() -> Self {
        Self { landings: Vec::new(), bytes: 0, since: Instant::now() }
    }

    pub(super) fn add(&mut self, landing: Landing) {
        if self.landings.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += landing.entry.size;
        self.landings.push(landing);
    }

    /// When it lands at the latest.
    pub(super) fn due(&self) -> Instant {
        self.since + GROUP_AGE
    }

    pub(super) fn is_due(&self) -> bool {
        !self.landings.is_empty()
            && (self.landings.len() >= GROUP_FILES
                || self.bytes >= GROUP_BYTES
                || self.due() <= Instant::now())
    }

    pub(super) fn take(&mut self) -> Vec<Landing> {
        self.bytes = 0;
        std::mem::take(&mut self.landings)
    }
}
