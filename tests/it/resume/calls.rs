//! `kill -9` at system calls, by strace, which counts them for each thread by itself: between any two
//! steps of a transfer the run may end.

use fastrand::Rng;

use super::KEY;
use super::kills::{
    assert_downloaded, assert_uploaded, change, each_file, finished, starts, taken,
};
use super::ledger::{Ledger, Run};
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
    ("pwrite64", 30),
    ("sendto,?sendmsg,?writev", 300),
    ("?fdatasync,?fsync", 4),
    ("pread64", 60),
    ("recvfrom,?recvmsg,?readv", 40),
    ("?unlink,?unlinkat,?ftruncate", 4),
    ("close", 80),
];
const OF_DOWNLOADS: [Call; 9] = [
    ("pwrite64", 60),
    ("recvfrom,?recvmsg,?readv", 2000),
    ("fallocate", 1),
    ("?rename,?renameat,?renameat2", 1),
    ("?fdatasync,?fsync,?syncfs", 5),
    ("fchmod", 1),
    ("?utimensat", 1),
    ("pread64", 30),
    ("?unlink,?unlinkat,?ftruncate", 4),
];
const OF_COPIES: [Call; 3] = [("copy_file_range", 4), ("pread64", 60), ("pwrite64", 30)];
const SIZE: u64 = super::SIZE;

/// Syncs below strace; it may come to its end.
#[track_caller]
fn killed_in(site: &Site, ends: [&str; 2], rng: &mut Rng, (call, most): Call) -> Run {
    let count = rng.u32(1..=most);
    let (traced, injected) =
        (format!("trace={call}"), format!("inject={call}:signal=KILL:when={count}"));
    let strace = ["-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", &traced, "-e", &injected];
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
    calls: &[Call],
    ledger: &mut Ledger,
    enter: impl Fn(&mut Ledger, &Site, &Run),
) {
    let call = calls[rng.usize(..calls.len())];
    while ledger.kills < kills {
        let run = killed_in(site, ends, rng, call);
        enter(ledger, site, &run);
        if !run.was_killed {
            break;
        }
    }
    enter(ledger, site, &finished(site, ends));
}

fn upload(server: &Server, rng: &mut Rng, kills: u32) -> Ledger {
    let site = Site::new(server);
    let up = super::large(&site, SIZE);
    let mut ledger = Ledger::new(&site, SIZE, starts(SIZE));
    let url = site.url("");
    let enter = Ledger::enter_upload;
    kill_in_calls((&site, [&up, &url]), (rng, kills), &OF_UPLOADS, &mut ledger, enter);
    assert_uploaded(&site, &up, &ledger);
    ledger
}

fn upload_killed_at_system_calls_is_completed(server: &Server) {
    each_file(12, |rng, kills| upload(server, rng, kills.min(3)));
}

fn download(site: &Site, up: &str, rng: &mut Rng, kills: u32) -> Ledger {
    site.forget();
    let (url, down) = (site.url(""), site.at("down"));
    let mut ledger = Ledger::new(site, SIZE, starts(SIZE));
    let enter = Ledger::enter_download;
    kill_in_calls((site, [&url, &down]), (rng, kills), &OF_DOWNLOADS, &mut ledger, enter);
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
    each_file(12, |rng, kills| download(&site, &up, rng, kills.min(3)));
}

/// Most of the new file is in the old one.
fn copied(site: &Site, up: &str, rng: &mut Rng, kills: u32) -> Ledger {
    let (url, down) = (site.url(""), site.at("down"));
    let mut all: Vec<u64> = starts(SIZE).collect();
    rng.shuffle(&mut all);
    change(&format!("{up}/{KEY}"), &all[..2], rng);
    site.haul(&["sync", up, &url]).done();
    site.proxy.reset();
    let mut ledger = Ledger::new(site, SIZE, all[..2].iter().copied());
    let enter = Ledger::enter_download;
    kill_in_calls((site, [&url, &down]), (rng, kills), &OF_COPIES, &mut ledger, enter);
    assert_downloaded(up, &down, &ledger);
    ledger
}

fn download_over_an_old_file_killed_at_system_calls_is_completed(server: &Server) {
    let (site, up) = sent(server);
    let down = site.directory("down");
    site.haul(&["sync", &site.url(""), &down]).done();
    tree::assert_same(&up, &down);
    site.proxy.reset();
    each_file(6, |rng, kills| copied(&site, &up, rng, kills.min(3)));
}
