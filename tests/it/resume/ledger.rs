//! The books of a transfer that is killed again and again: what each run sent or fetched, held
//! against what the catalog knew before and after it.
//!
//! A part is in flight where a killed run began to send it and the catalog does not have it: such a
//! part may be sent again, any other may not.

use std::collections::BTreeSet;

use super::known::Known;
use super::{KEY, length_at};
use crate::support::proxy::Passed;
use crate::support::server::Kind as ServerKind;
use crate::support::site::PART_BYTES;
use crate::support::{Kind, Site};

/// Requests that a run of these tests may have under way.
pub const REQUESTS: usize = 4;

/// A run that has ended, by a kill or by itself.
pub struct Run {
    pub was_killed: bool,
    /// What had passed right before it was killed.
    pub before: Vec<Passed>,
    /// What had passed once all its connections were gone.
    pub passed: Vec<Passed>,
}

/// A part that was sent or copied.
struct Part {
    upload: String,
    number: u32,
    bytes: u64,
    /// The position of its request among all of the run.
    index: usize,
}

pub struct Ledger {
    size: u64,
    /// Where the parts begin that are not at the target.
    due: BTreeSet<u64>,
    pub moved: u64,
    pub in_flight: u64,
    pub kills: u32,
    /// Uploads that the server began as the run was killed, so that nobody knows their ids.
    pub orphans: BTreeSet<String>,
    pub known: Known,
    /// Parts by upload and number that SeaweedFS lists more than once: as it copied them, and as
    /// they were sent after the copy did not prove right. Nothing is known for sure of such a part.
    doubles: BTreeSet<(String, u32)>,
}

/// The value of a parameter of a request.
fn parameter(target: &str, name: &str) -> Option<String> {
    let pairs = url::Url::parse("http://host").unwrap().join(target).unwrap();
    let found = pairs.query_pairs().find(|(found, _)| found == name);
    found.map(|(_, value)| value.into_owned())
}

fn parts(passed: &[Passed]) -> Vec<Part> {
    let is_part = |one: &Passed| matches!(one.kind, Kind::Part | Kind::Copy);
    let sent = passed.iter().enumerate().filter(|(_, one)| is_part(one));
    let part = |(index, one): (usize, &Passed)| {
        let upload = parameter(&one.target, "uploadId")?;
        let number = parameter(&one.target, "partNumber")?.parse().unwrap();
        Some(Part { upload, number, bytes: one.body_bytes, index })
    };
    sent.filter_map(part).collect()
}

fn count(passed: &[Passed], kind: Kind) -> usize {
    passed.iter().filter(|one| one.kind == kind).count()
}

impl Ledger {
    /// Of a transfer of so many `bytes` that has to move the parts that begin at `due`.
    pub fn new(site: &Site, bytes: u64, due: impl IntoIterator<Item = u64>) -> Self {
        let (known, due) = (Known::of(site), due.into_iter().collect());
        let (moved, in_flight, kills, orphans) = (0, 0, 0, BTreeSet::new());
        Self { size: bytes, due, moved, in_flight, kills, orphans, known, doubles: BTreeSet::new() }
    }

    /// Where the parts begin that the catalog knows to be sent.
    fn sent(&self) -> BTreeSet<u64> {
        let parts = self.known.parts().into_iter().map(|number| u64::from(number - 1) * PART_BYTES);
        parts.filter(|start| self.due.contains(start)).collect()
    }

    fn bytes(&self, starts: &BTreeSet<u64>) -> u64 {
        starts.iter().map(|start| length_at(self.size, *start)).sum()
    }

    /// Bytes that are still to be moved.
    pub fn left(&self) -> u64 {
        self.bytes(&self.due) - self.bytes(&self.sent()) - self.known.fetched(&self.due)
    }

    /// Fails where more was moved than had to be.
    #[track_caller]
    fn assert_within(&self) {
        let (due, in_flight) = (self.bytes(&self.due), self.in_flight);
        assert!(self.moved <= due + in_flight, "{} of {due} + {in_flight}", self.moved);
    }

    /// Enters a run that sent.
    #[track_caller]
    pub fn enter_upload(&mut self, site: &Site, run: &Run) {
        let known = Known::of(site);
        let sent = parts(&run.passed);
        let done = sent.iter().filter(|part| self.known.has_part(&part.upload, part.number));
        for part in done {
            let is_double = self.doubles.contains(&(part.upload.clone(), part.number));
            assert!(is_double, "part {} was sent again, the catalog had it", part.number);
            self.in_flight += part.bytes;
        }
        self.find_doubles(site, run);
        self.moved += sent.iter().map(|part| part.bytes).sum::<u64>();
        let completed =
            run.passed.iter().any(|one| one.kind == Kind::Complete && one.status == 200);
        if run.was_killed && !completed {
            let is_lost = |part: &&Part| !known.has_part(&part.upload, part.number);
            let lost: Vec<&Part> = sent.iter().filter(is_lost).collect();
            // A copy that does not prove right is followed by the part.
            let is_answered = |part: &&&Part| {
                let request = run.before.get(part.index);
                request.is_some_and(|one| one.kind == Kind::Part && one.status > 0)
            };
            let late = lost.iter().filter(is_answered).count();
            assert!(late <= REQUESTS, "{late} parts were answered and not written down");
            self.in_flight += lost.iter().map(|part| part.bytes).sum::<u64>();
        }
        self.kills += u32::from(run.was_killed);
        self.find_orphans(site, run, &known);
        self.known = known;
        self.assert_within();
    }

    fn find_doubles(&mut self, site: &Site, run: &Run) {
        if site.server.kind == ServerKind::Seaweed {
            let is_copy = |part: &Part| run.passed[part.index].kind == Kind::Copy;
            let copied = parts(&run.passed).into_iter().filter(is_copy);
            self.doubles.extend(copied.map(|part| (part.upload, part.number)));
        }
    }

    /// An upload that the catalog does not know is one whose beginning was answered as the run was
    /// killed: that run has sent no part.
    #[track_caller]
    fn find_orphans(&mut self, site: &Site, run: &Run, known: &Known) {
        let open = site.bucket.upload_ids();
        let unknown: Vec<String> = open
            .difference(&known.ids())
            .filter(|id| !self.orphans.contains(*id))
            .cloned()
            .collect();
        if unknown.is_empty() {
            return;
        }
        let begun = count(&run.passed, Kind::Begin);
        let sent = parts(&run.passed).len();
        assert!(run.was_killed, "{unknown:?} was left by a run that had its time");
        assert_eq!((unknown.len(), begun, sent), (1, 1, 0), "{unknown:?} is not in the catalog");
        self.orphans.extend(unknown);
    }

    /// Enters a run that fetched.
    #[track_caller]
    pub fn enter_download(&mut self, site: &Site, run: &Run) {
        let is_get = |one: &&Passed| one.kind == Kind::Get && one.target.ends_with(KEY);
        let gets: Vec<&Passed> = run.passed.iter().filter(is_get).collect();
        let fetched: u64 = gets.iter().map(|one| one.response_bytes).sum();
        let (known, before) = (Known::of(site), self.known.fetched(&self.due));
        let ranges = std::mem::replace(&mut self.known, known).ranges();
        self.moved += fetched;
        // Else it has landed, or was not begun.
        if run.was_killed && !self.known.downloads.is_empty() {
            let left = self.known.ranges();
            assert!(ranges.is_subset(&left), "of {ranges:?} only {left:?} is remembered");
            let lost = gets.len() - left.difference(&ranges).count();
            assert!(lost <= 2 * REQUESTS, "{lost} ranges were fetched and not written down");
            self.in_flight += fetched - (self.known.fetched(&self.due) - before);
        }
        self.kills += u32::from(run.was_killed);
        self.assert_within();
    }
}
