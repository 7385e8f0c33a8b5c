//! `kill -9` at system calls, by strace, which counts them for each thread by itself: between any two
//! steps of a transfer the run may end.

use fastrand::Rng;

use super::kills::{
    assert_downloaded, assert_uploaded, change, each_file, finished, starts, taken,
};
use super::ledger::{Ledger, Run};
use super::{KEY, SIZE};
use crate::support::{Server, Site, tree};

on_both_servers! {
    upload_killed_at_system_calls_is_completed,
    download_killed_at_system_calls_is_completed,
    download_over_an_old_file_killed_at_system_calls_is_completed,
}

/// System calls, with a question mark for what not every machine has; and how many of them, at most,
/// are let through.
type Call = (&'static str, u32);

const OF_UPLOADS: [Call; 7] = [
    ("pwrite64", 6),
    ("sendto,?sendmsg,?writev", 300),
    ("?fdatasync,?fsync", 2),
    ("pread64", 12),
    ("recvfrom,?recvmsg,?readv", 20),
    ("?unlink,?unlinkat,?ftruncate", 1),
    ("close", 30),
];
const OF_DOWNLOADS: [Call; 8] = [
    ("pwrite64", 12),
    ("recvfrom,?recvmsg,?readv", 1000),
    ("fallocate", 1),
    ("?rename,?renameat,?renameat2", 1),
    ("?fdatasync,?fsync,?syncfs", 2),
    ("fchmod", 1),
    ("?utimensat", 1),
    ("?unlink,?unlinkat,?ftruncate", 1),
];
const OF_COPIES: [Call; 3] = [("copy_file_range", 1), ("pread64", 12), ("pwrite64", 3)];

/// Syncs below strace; it may come to its end.
#[track_caller]
fn killed_in(site: &Site, ends: [&str; 2], rng: &mut Rng, (call, most): Call) -> Run {
    let count = rng.u32(1..=most);
    let (traced, injected) =
        (format!("trace={call}"), format!("inject={call}:signal=KILL:when={count}"));
    let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &traced, "-e", &injected];
    let outcome =
        site.run(&["sync", ends[0], ends[1], "-j", "4"]).below("strace", &strace).finish();
    assert!(matches!(outcome.code, None | Some(0 | 137)), "strace cannot do it: {outcome:?}");
    let run = taken(site, outcome.code != Some(0), Vec::new());
    eprintln!("{call} {count}: killed {}, {} requests", run.was_killed, run.passed.len());
    run
}

/// Kills runs of one transfer at calls of one kind, then lets one come to its end.
#[track_caller]
fn kill_in_calls(
    (site, ends): (&Site, [&str; 2]),
    (rng, kills): (&mut Rng, u32),
    call: Call,
    ledger: &mut Ledger,
    enter: impl Fn(&mut Ledger, &Site, &Run),
) {
    while ledger.kills < kills {
        let run = killed_in(site, ends, rng, call);
        enter(ledger, site, &run);
        if !run.was_killed {
            break;
        }
    }
    enter(ledger, site, &finished(site, ends));
}

fn upload(server: &Server, call: Call, rng: &mut Rng, kills: u32) -> Ledger {
    let site = Site::new(server);
    let up = super::large(&site, SIZE);
    let mut ledger = Ledger::new(&site, SIZE, starts(SIZE));
    let url = site.url("");
    let enter = Ledger::enter_upload;
    kill_in_calls((&site, [&up, &url]), (rng, kills), call, &mut ledger, enter);
    assert_uploaded(&site, &up, &ledger);
    ledger
}

fn upload_killed_at_system_calls_is_completed(server: &Server) {
    let mut calls = OF_UPLOADS.into_iter().cycle();
    each_file(14, |rng, kills| upload(server, calls.next().unwrap(), rng, kills.min(2)));
}

fn download(site: &Site, up: &str, call: Call, rng: &mut Rng, kills: u32) -> Ledger {
    site.forget();
    let (url, down) = (site.url(""), site.at("down"));
    let mut ledger = Ledger::new(site, SIZE, starts(SIZE));
    let enter = Ledger::enter_download;
    kill_in_calls((site, [&url, &down]), (rng, kills), call, &mut ledger, enter);
    assert_downloaded(up, &down, &ledger);
    std::fs::remove_dir_all(&down).unwrap();
    ledger
}

fn sent(server: &Server) -> (Site, String) {
    let site = Site::new(server);
    let up = super::large(&site, SIZE);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.proxy.reset();
    (site, up)
}

fn download_killed_at_system_calls_is_completed(server: &Server) {
    let (site, up) = sent(server);
    let mut calls = OF_DOWNLOADS.into_iter().cycle();
    each_file(16, |rng, kills| download(&site, &up, calls.next().unwrap(), rng, kills.min(2)));
}

/// Most of the new file is in the old one.
fn copied(site: &Site, up: &str, call: Call, rng: &mut Rng, kills: u32) -> Ledger {
    let (url, down) = (site.url(""), site.at("down"));
    let mut all: Vec<u64> = starts(SIZE).collect();
    rng.shuffle(&mut all);
    change(&format!("{up}/{KEY}"), &all[..2], rng);
    site.haul(&["sync", up, &url]).done();
    site.proxy.reset();
    let mut ledger = Ledger::new(site, SIZE, all[..2].iter().copied());
    let enter = Ledger::enter_download;
    kill_in_calls((site, [&url, &down]), (rng, kills), call, &mut ledger, enter);
    assert_downloaded(up, &down, &ledger);
    ledger
}

fn download_over_an_old_file_killed_at_system_calls_is_completed(server: &Server) {
    let (site, up) = sent(server);
    let down = site.directory("down");
    site.haul(&["sync", &site.url(""), &down]).done();
    tree::assert_same(&up, &down);
    site.proxy.reset();
    let mut calls = OF_COPIES.into_iter().cycle();
    each_file(6, |rng, kills| copied(&site, &up, calls.next().unwrap(), rng, kills.min(2)));
}
