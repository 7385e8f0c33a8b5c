//! `kill -9` at system calls, by strace, which counts them for each thread by itself: between any
//! two steps of a transfer the run may end.

use std::fs;
use std::path::Path;

use fastrand::Rng;

use super::kills::{
    assert_downloaded, assert_uploaded, change, each_file, finished, kills_wanted, starts, taken,
};
use super::ledger::{Ledger, Run};
use super::{KEY, SIZE, cut};
use crate::support::{Server, Site, tree};

on_both_servers! {
    upload_killed_at_system_calls_is_completed,
    download_killed_at_system_calls_is_completed,
    download_over_an_old_file_killed_at_system_calls_is_completed,
}

/// What system calls are about.
#[derive(Clone, Copy, Debug)]
enum Place {
    Any,
    Catalog,
    /// The file that is sent, or the temporary one of the download.
    File,
}

/// System calls, with a question mark for what not every machine has; where; and which of them, at
/// most, is not made.
type Call = (&'static str, Place, u32);

const OF_UPLOADS: [Call; 6] = [
    ("pwrite64", Place::Catalog, 4),
    ("?fdatasync,?fsync", Place::Catalog, 2),
    ("sendto,?sendmsg,?writev", Place::Any, 40),
    ("recvfrom,?recvmsg,?readv", Place::Any, 8),
    ("pread64", Place::File, 8),
    ("?unlink,?unlinkat,?ftruncate", Place::Catalog, 1),
];
const OF_DOWNLOADS: [Call; 9] = [
    ("pwrite64", Place::File, 8),
    ("pwrite64", Place::Catalog, 4),
    ("recvfrom,?recvmsg,?readv", Place::Any, 300),
    ("fallocate", Place::File, 1),
    ("fchmod", Place::File, 1),
    ("?utimensat", Place::File, 1),
    ("syncfs", Place::Any, 1),
    ("?rename,?renameat,?renameat2", Place::Any, 1),
    ("?unlink,?unlinkat,?ftruncate", Place::Catalog, 1),
];
const OF_COPIES: [Call; 3] = [
    ("copy_file_range", Place::Any, 1),
    ("pread64", Place::File, 8),
    ("pwrite64", Place::Catalog, 3),
];

/// A transfer that is to be killed.
struct Victim<'a> {
    site: &'a Site,
    ends: [&'a str; 2],
    /// The file that is sent, or the temporary one.
    file: &'a str,
    call: Call,
}

impl Victim<'_> {
    /// Which paths the calls are to be about.
    fn paths(&self) -> Vec<String> {
        let catalogs = self.site.catalogs().into_iter().map(|path| path.display().to_string());
        match self.call.1 {
            Place::Any => Vec::new(),
            Place::Catalog => catalogs.flat_map(|path| [format!("{path}-wal"), path]).collect(),
            Place::File => vec![self.file.to_owned()],
        }
    }

    /// Syncs below strace; it may come to its end.
    #[track_caller]
    fn kill(&self, rng: &mut Rng) -> Run {
        let (calls, place, most) = self.call;
        let count = rng.u32(1..=most);
        let mut strace: Vec<String> = ["-f", "-qq", "-o", "/dev/null"].map(Into::into).into();
        strace.extend(self.paths().into_iter().flat_map(|path| ["-P".to_owned(), path]));
        let inject = format!("inject={calls}:signal=KILL:when={count}");
        strace.extend(["-e".to_owned(), format!("trace={calls}"), "-e".to_owned(), inject]);
        let strace: Vec<&str> = strace.iter().map(String::as_str).collect();
        let sync = self.site.run(&["sync", self.ends[0], self.ends[1], "-j", "4"]);
        let outcome = sync.below("strace", &strace).finish();
        assert!(matches!(outcome.code, None | Some(0 | 137)), "strace cannot do it: {outcome:?}");
        let run = taken(self.site, outcome.code != Some(0), Vec::new());
        let (was_killed, passed) = (run.was_killed, run.passed.len());
        eprintln!("{calls} {place:?} {count}: killed {was_killed}, {passed} requests");
        run
    }

    /// Kills runs of it at calls of one kind, then lets one come to its end.
    #[track_caller]
    fn suffer(
        &self,
        (rng, kills): (&mut Rng, u32),
        ledger: &mut Ledger,
        enter: impl Fn(&mut Ledger, &Site, &Run),
    ) {
        while ledger.kills < kills {
            let run = self.kill(rng);
            enter(ledger, self.site, &run);
            if !run.was_killed {
                break;
            }
        }
        enter(ledger, self.site, &finished(self.site, self.ends));
    }
}

/// There is a catalog already, so that no kill falls into its making.
fn upload(server: &Server, call: Call, rng: &mut Rng, kills: u32) -> Ledger {
    let site = Site::new(server);
    let (up, url) = (site.directory("up"), site.url(""));
    tree::file(&up, "small", "small");
    finished(&site, [&up, &url]);
    super::large(&site, SIZE);
    let mut ledger = Ledger::new(&site, SIZE, starts(SIZE));
    let victim = Victim { site: &site, ends: [&up, &url], file: &format!("{up}/{KEY}"), call };
    victim.suffer((rng, kills), &mut ledger, Ledger::enter_upload);
    assert_uploaded(&site, &up, &ledger);
    ledger
}

fn upload_killed_at_system_calls_is_completed(server: &Server) {
    let mut calls = OF_UPLOADS.into_iter().cycle();
    each_file(kills_wanted(6), 1, |rng, kills| upload(server, calls.next().unwrap(), rng, kills));
}

/// An object, and what a download of it calls its temporary file.
struct Sent {
    site: Site,
    up: String,
    down: String,
    temporary: String,
}

impl Sent {
    #[track_caller]
    fn new(server: &Server) -> Self {
        let site = Site::new(server);
        let up = super::large(&site, SIZE);
        let (url, down) = (site.url(""), site.at("down"));
        finished(&site, [&up, &url]);
        cut(&site, &url, &down);
        let temporary = format!("{down}/{}", tree::temporary_files(&down)[0]);
        finished(&site, [&url, &down]);
        tree::file(&up, "small", "small");
        finished(&site, [&up, &url]);
        Self { site, up, down, temporary }
    }

    #[track_caller]
    fn download(
        &self,
        call: Call,
        due: &[u64],
        (rng, kills): (&mut Rng, u32),
        arrange: impl Fn(&str),
    ) -> Ledger {
        let (site, url, down) = (&self.site, self.site.url(""), self.down.as_str());
        arrange(&url);
        site.proxy.reset();
        let mut ledger = Ledger::new(site, SIZE, due.iter().copied());
        let victim = Victim { site, ends: [&url, down], file: &self.temporary, call };
        victim.suffer((rng, kills), &mut ledger, Ledger::enter_download);
        assert_downloaded(&self.up, down, &ledger);
        ledger
    }

    /// Into a directory without it. There is a catalog already.
    #[track_caller]
    fn anew(&self, call: Call, mut rng: Rng, kills: u32) -> Ledger {
        let all: Vec<u64> = starts(SIZE).collect();
        self.download(call, &all, (&mut rng, kills), |url| {
            fs::remove_dir_all(&self.down).unwrap();
            self.site.forget();
            self.site.haul(&["sync", url, &self.down, "--exclude", KEY]).done();
            assert!(!Path::new(&self.down).join(KEY).exists());
        })
    }

    /// Over an old version that most of the object is in.
    #[track_caller]
    fn again(&self, call: Call, mut rng: Rng, kills: u32) -> Ledger {
        let mut all: Vec<u64> = starts(SIZE).collect();
        rng.shuffle(&mut all);
        change(&format!("{}/{KEY}", self.up), &all[..2], &mut rng);
        self.download(call, &all[..2], (&mut rng, kills), |url| {
            self.site.haul(&["sync", &self.up, url]).done();
        })
    }
}

fn download_killed_at_system_calls_is_completed(server: &Server) {
    let sent = Sent::new(server);
    let mut calls = OF_DOWNLOADS.into_iter().cycle();
    each_file(kills_wanted(9), 1, |rng, kills| sent.anew(calls.next().unwrap(), rng.fork(), kills));
}

fn download_over_an_old_file_killed_at_system_calls_is_completed(server: &Server) {
    let sent = Sent::new(server);
    let mut calls = OF_COPIES.into_iter().cycle();
    each_file(kills_wanted(3), 1, |rng, kills| {
        sent.again(calls.next().unwrap(), rng.fork(), kills)
    });
}
