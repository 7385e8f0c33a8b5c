//! `kill -9` at moments that are chosen by what has passed at the proxy, never by a clock: so many
//! bytes of bodies, or so many requests.

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;

use super::KEY;
use super::ledger::{Ledger, REQUESTS, Run};
use crate::support::proxy::Passed;
use crate::support::server::Kind as ServerKind;
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    upload_killed_at_random_moments_sends_only_what_was_in_flight_again,
    download_killed_at_random_moments_fetches_only_what_was_in_flight_again,
    changed_file_killed_at_random_moments_sends_only_its_changes,
    upload_of_a_gibibyte_survives_kills,
    download_of_a_gibibyte_survives_kills,
}

/// Kills of one file.
const KILLS_OF_A_FILE: u32 = 5;
const LARGE: u64 = 300 << 20;
/// Bytes a second of one body, so that a kill falls into it.
const RATE: u64 = 48 << 20;

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// How many kills a test wants: `usual`, unless the environment asks for others.
pub fn kills_wanted(usual: u32) -> u32 {
    u32::try_from(number("HAUL_RESUME_KILLS", usual.into())).unwrap()
}

/// Transfers files with a generator each, with so many kills `of_a_file`, until there were as many
/// as are `wanted`.
#[track_caller]
pub fn each_file(wanted: u32, of_a_file: u32, mut transfer: impl FnMut(&mut Rng, u32) -> Ledger) {
    let (mut kills, mut moved, mut in_flight, mut orphans) = (0, 0, 0, 0);
    let first = number("HAUL_RESUME_SEED", 0);
    for seed in first..first + 4 * u64::from(wanted) {
        eprintln!("HAUL_RESUME_SEED={seed}");
        let ledger = transfer(&mut Rng::with_seed(seed), of_a_file.min(wanted - kills));
        kills += ledger.kills;
        moved += ledger.moved;
        in_flight += ledger.in_flight;
        orphans += ledger.orphans.len();
        if kills >= wanted {
            break;
        }
    }
    eprintln!("{kills} kills, {moved} bytes moved, {in_flight} in flight, {orphans} orphans");
    assert_eq!(kills, wanted, "too few runs could be killed");
}

/// When a run is killed.
#[derive(Debug)]
enum Moment {
    /// So many bytes of bodies have passed.
    Bytes(u64),
    /// So many requests have arrived.
    Requests(usize),
}

impl Moment {
    /// One that comes before `left` bytes have passed.
    fn any(rng: &mut Rng, left: u64) -> Self {
        match rng.u32(..4) {
            0 => Self::Requests(rng.usize(..16)),
            _ => Self::Bytes(rng.u64(..=left / 2)),
        }
    }

    fn has_come(&self, site: &Site, bytes_before: u64) -> bool {
        match *self {
            Self::Bytes(bytes) => site.proxy.moved_bytes() - bytes_before >= bytes,
            Self::Requests(count) => site.proxy.passed().len() >= count,
        }
    }
}

/// Bodies take their time.
fn slow_down(site: &Site) {
    site.proxy.rule(Rule::every(Kind::Part, Fault::SlowRequest(RATE)));
    site.proxy.rule(Rule::every(Kind::Get, Fault::SlowResponse(RATE)));
}

/// What passed at the proxy, which is then as new.
pub fn taken(site: &Site, was_killed: bool, before: Vec<Passed>) -> Run {
    site.proxy.wait_until_idle();
    let passed = site.proxy.passed();
    site.proxy.reset();
    Run { was_killed, before, passed }
}

/// Runs a sync, and kills it when the moment comes; it may have ended by then.
#[track_caller]
fn killed_at(site: &Site, ends: [&str; 2], moment: &Moment) -> Run {
    slow_down(site);
    let jobs = REQUESTS.to_string();
    let bytes_before = site.proxy.moved_bytes();
    let mut running = site.run(&["sync", ends[0], ends[1], "-j", &jobs]).start();
    while !moment.has_come(site, bytes_before) && !running.is_over() {
        thread::sleep(Duration::from_millis(1));
    }
    let before = site.proxy.passed();
    if !running.is_over() {
        running.signal(Signal::KILL);
    }
    let code = running.finish().code;
    assert!(matches!(code, None | Some(0)), "exit {code:?}");
    taken(site, code.is_none(), before)
}

/// A run that is let through to its end.
#[track_caller]
pub fn finished(site: &Site, ends: [&str; 2]) -> Run {
    site.haul(&["sync", ends[0], ends[1]]).done();
    taken(site, false, Vec::new())
}

/// Kills runs of one transfer, then lets one come to its end.
#[track_caller]
fn kill_again_and_again(
    (site, ends): (&Site, [&str; 2]),
    (rng, kills): (&mut Rng, u32),
    ledger: &mut Ledger,
    enter: impl Fn(&mut Ledger, &Site, &Run),
) {
    while ledger.kills < kills {
        let moment = Moment::any(rng, ledger.left());
        let run = killed_at(site, ends, &moment);
        eprintln!("{moment:?}: killed {}, {} requests", run.was_killed, run.passed.len());
        enter(ledger, site, &run);
        if !run.was_killed {
            break;
        }
    }
    enter(ledger, site, &finished(site, ends));
}

/// What is there once an upload was completed.
#[track_caller]
pub fn assert_uploaded(site: &Site, up: &str, ledger: &Ledger) {
    let expected = tree::hash(format!("{up}/{KEY}").as_ref());
    assert_eq!(site.bucket.hash(KEY), expected);
    site.assert_metadata(KEY, "blake3", &expected);
    assert_eq!(site.bucket.upload_ids(), ledger.orphans);
    assert!(ledger.known.is_empty(), "{:?}", ledger.known);
    site.assert_sync_is_idle(up, &site.url(""));
}

/// What is there once a download was completed.
#[track_caller]
pub fn assert_downloaded(up: &str, down: &str, ledger: &Ledger) {
    tree::assert_same(up, down);
    assert_eq!(tree::temporary_files(down), [""; 0]);
    assert!(ledger.known.is_empty(), "{:?}", ledger.known);
}

pub fn starts(bytes: u64) -> impl Iterator<Item = u64> {
    (0..bytes.div_ceil(PART_BYTES)).map(|index| index * PART_BYTES)
}

fn upload(server: &Server, bytes: u64, rng: &mut Rng, kills: u32) -> Ledger {
    let site = Site::new(server);
    let up = super::large(&site, bytes);
    let mut ledger = Ledger::new(&site, bytes, starts(bytes));
    let ends = [up.as_str(), &site.url("")];
    kill_again_and_again((&site, ends), (rng, kills), &mut ledger, Ledger::enter_upload);
    assert_uploaded(&site, &up, &ledger);
    ledger
}

fn upload_killed_at_random_moments_sends_only_what_was_in_flight_again(server: &Server) {
    each_file(kills_wanted(4), KILLS_OF_A_FILE, |rng, kills| {
        upload(server, LARGE + rng.u64(..PART_BYTES), rng, kills)
    });
}

fn upload_of_a_gibibyte_survives_kills(server: &Server) {
    each_file(1, KILLS_OF_A_FILE, |rng, kills| upload(server, 1 << 30, rng, kills));
}

fn download(site: &Site, up: &str, bytes: u64, rng: &mut Rng, kills: u32) -> Ledger {
    site.forget();
    let down = site.at("down");
    let mut ledger = Ledger::new(site, bytes, starts(bytes));
    let ends = [site.url(""), down.clone()];
    let ends = [ends[0].as_str(), &ends[1]];
    kill_again_and_again((site, ends), (rng, kills), &mut ledger, Ledger::enter_download);
    assert_downloaded(up, &down, &ledger);
    std::fs::remove_dir_all(&down).unwrap();
    ledger
}

/// Fetches what was sent once, in one way or another, again and again.
fn download_killed(server: &Server, bytes: u64, wanted: u32) {
    let site = Site::new(server);
    let up = super::large(&site, bytes);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.proxy.reset();
    each_file(wanted, KILLS_OF_A_FILE, |rng, kills| download(&site, &up, bytes, rng, kills));
}

fn download_killed_at_random_moments_fetches_only_what_was_in_flight_again(server: &Server) {
    download_killed(server, LARGE + 4321, kills_wanted(4));
}

fn download_of_a_gibibyte_survives_kills(server: &Server) {
    download_killed(server, 1 << 30, 1);
}

/// Changes one byte of each of these parts.
pub fn change(path: &str, starts: &[u64], rng: &mut Rng) {
    let file = File::options().write(true).open(path).unwrap();
    for start in starts {
        file.write_all_at(&[rng.u8(..)], start + 1_000_000).unwrap();
    }
}

/// Most of the object is copied by the server from the object itself.
fn changed(site: &Site, up: &str, bytes: u64, rng: &mut Rng, kills: u32) -> Ledger {
    let mut all: Vec<u64> = starts(bytes).collect();
    rng.shuffle(&mut all);
    let changed = &all[..6];
    change(&format!("{up}/{KEY}"), changed, rng);
    // The copied parts of SeaweedFS have other ETags than those that are sent, and are not
    // believed.
    let mut due: BTreeSet<u64> = changed.iter().copied().collect();
    if site.server.kind == ServerKind::Seaweed {
        due.extend(all);
    }
    let mut ledger = Ledger::new(site, bytes, due);
    let url = site.url("");
    kill_again_and_again((site, [up, &url]), (rng, kills), &mut ledger, Ledger::enter_upload);
    assert_uploaded(site, up, &ledger);
    for orphan in &ledger.orphans {
        site.bucket.abort_multipart(KEY, orphan);
    }
    ledger
}

fn changed_file_killed_at_random_moments_sends_only_its_changes(server: &Server) {
    let site = Site::new(server);
    let up = super::large(&site, LARGE);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.proxy.reset();
    each_file(kills_wanted(3), KILLS_OF_A_FILE, |rng, kills| {
        changed(&site, &up, LARGE, rng, kills)
    });
}
