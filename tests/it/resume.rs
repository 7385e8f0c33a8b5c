//! Transfers that were cut are gone on with: what a killed or stopped run has done is not done
//! again, and nothing of it is left behind.
//!
//! `HAUL_RESUME_KILLS` asks for more kills in each test, `HAUL_RESUME_SEED` for others; the seed of
//! each transfer is printed where it fails.

mod calls;
mod downloads;
mod kills;
mod known;
mod ledger;
mod stops;
mod uploads;

use self::known::Known;
use crate::support::run::wait_until;
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Site, tree};

/// The key of the file that is cut.
const KEY: &str = "large";
/// Five parts, the last a short one.
const SIZE: u64 = (68 << 20) + 123;
const PARTS: usize = 5;
/// How many of them are done where a run is cut.
const DONE: usize = 2;

/// The length of the part or range that begins at `start`.
fn length_at(size: u64, start: u64) -> u64 {
    PART_BYTES.min(size - start)
}

/// A directory `up` with the large file.
fn large(site: &Site, bytes: u64) -> String {
    let up = site.directory("up");
    tree::generated(&up, KEY, bytes, 1);
    up
}

/// Starts a sync of which so many parts or ranges come through, and kills it once they are
/// remembered. Answers what is.
#[track_caller]
fn cut(site: &Site, source: &str, target: &str) -> Known {
    site.proxy.rule(Rule::every(Kind::Part, Fault::Hang).skip(DONE));
    site.proxy.rule(Rule::every(Kind::Get, Fault::StallResponse(1 << 20)).on(KEY).skip(DONE));
    let running = site.run(&["sync", source, target, "-j", "4"]).start();
    wait_until("what was finished in the catalog", || Known::of_running(site).done() >= DONE);
    running.kill();
    site.proxy.wait_until_idle();
    site.proxy.reset();
    let known = Known::of(site);
    assert_eq!(known.done(), DONE);
    known
}

/// How often the server was asked what parts it has.
fn parts_listed(site: &Site) -> usize {
    let passed = site.proxy.passed().into_iter();
    passed.filter(|one| one.kind == Kind::Other && one.target.contains("uploadId=")).count()
}
