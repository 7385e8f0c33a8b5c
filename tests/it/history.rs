//! Runs side by side and one after the other: the lock of a pair, what a killed run leaves, the
//! history.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::oracle::etag_of;
use crate::support::run::{Running, wait_until};
use crate::support::{Fault, Kind, Rule, Server, Site, Watch, tree};

on_both_servers! {
    second_run_of_a_pair_says_who_runs_and_changes_nothing,
    other_pairs_run_beside_a_run,
    looking_goes_on_beside_a_run,
    lock_of_a_killed_run_does_not_outlive_it,
    killed_upload_keeps_what_was_finished,
    killed_download_keeps_what_was_finished,
    interrupted_upload_remembers_all_that_it_finished,
    history_tells_how_runs_ended,
    history_knows_running_from_killed,
}

/// A sync that has begun and cannot end.
fn endless(site: &Site) -> (String, Running) {
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    site.proxy.rule(Rule::every(Kind::Put, Fault::Hang));
    let running = site.run(&["sync", &up, &site.url("")]).start();
    wait_until("the first PUT", || site.proxy.count(Kind::Put) > 0);
    (up, running)
}

fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

fn second_run_of_a_pair_says_who_runs_and_changes_nothing(server: &Server) {
    let site = Site::new(server);
    let (up, running) = endless(&site);
    tree::link(site.at(""), "another-name", "up");
    let before = site.proxy.passed().len();
    let who = format!("process {} on {}", running.id(), host());
    let names = [up.clone(), format!("{up}/"), format!("{up}/./"), site.at("another-name")];
    for name in &names {
        for url in [site.url(""), format!("{}/", site.url(""))] {
            let second = site.haul(&["sync", name, &url]).exits(&[5]).explains(&who);
            assert!(second.took < Duration::from_secs(30), "took {:?}", second.took);
        }
    }
    assert_eq!(site.proxy.passed().len(), before, "something was asked");
    site.bucket.assert_keys(&[]);
    running.kill();
}

fn other_pairs_run_beside_a_run(server: &Server) {
    let site = Site::new(server);
    let (up, running) = endless(&site);
    let rest = site.at("rest");
    tree::file(&rest, "b", "b");
    // It is the same hanging proxy for all: what is in the bucket already is not sent.
    for (key, body) in [("other/a", b"a"), ("b", b"b")] {
        site.bucket.put(key, body);
    }
    site.haul(&["sync", &up, &site.url("other")]).done();
    site.haul(&["sync", &rest, &site.url("")]).done();
    site.haul(&["sync", &site.url("other"), &up]).done();
    running.kill();
}

fn looking_goes_on_beside_a_run(server: &Server) {
    let site = Site::new(server);
    let (up, running) = endless(&site);
    let plan = site.haul(&["plan", &up, &site.url(""), "--json"]).done();
    assert_eq!(plan.planned()["a"], "transfer");
    assert!(plan.stderr.contains("without the catalog"), "{}", plan.stderr);
    site.haul(&["sync", "-n", &up, &site.url("")]).done();
    let check = site.haul(&["check", &up, &site.url("")]).exits(&[1]).names("a");
    assert!(check.stderr.contains("without the catalog"), "{}", check.stderr);
    let manifest = site.haul(&["manifest", &up]).done();
    assert_eq!(manifest.text(), format!("{}  a\n", blake3::hash(b"a").to_hex()));
    running.kill();
}

fn lock_of_a_killed_run_does_not_outlive_it(server: &Server) {
    let site = Site::new(server);
    let (up, running) = endless(&site);
    running.kill();
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
}

/// The keys that a catalog in use holds: what a run that begins now would find.
fn remembered(site: &Site, catalog: &Path) -> BTreeSet<String> {
    let copy = site.directory("copy-of-the-catalog");
    for ending in ["", "-wal"] {
        let file = format!("{}{ending}", catalog.display());
        let _ = fs::copy(file, format!("{copy}/c.db{ending}"));
    }
    let keys = || -> rusqlite::Result<BTreeSet<String>> {
        let connection = Connection::open(format!("{copy}/c.db"))?;
        let mut select = connection.prepare("SELECT CAST(key AS TEXT) FROM entry")?;
        select.query_map([], |row| row.get(0))?.collect()
    };
    let keys = keys();
    fs::remove_dir_all(copy).unwrap();
    // Copied while it was written: not yet.
    keys.unwrap_or_default()
}

/// The keys of requests of one kind that were answered.
fn answered(site: &Site, kind: Kind) -> BTreeSet<String> {
    let passed = site.proxy.passed().into_iter();
    let done = passed.filter(|passed| passed.kind == kind && passed.status == 200);
    done.map(|passed| passed.target.rsplit('/').next().unwrap().to_owned())
        .map(|name| name.split('?').next().unwrap().to_owned())
        .collect()
}

const MANY: usize = 400;

/// Starts a sync whose transfers take a while each, waits until what was finished at one moment is
/// written down, and kills it. Answers what was finished then.
#[track_caller]
fn killed_half_way(site: &Site, source: &str, target: &str, kind: Kind) -> BTreeSet<String> {
    let slow = Fault::hook(|| thread::sleep(Duration::from_millis(200)));
    site.proxy.rule(Rule::every(kind, slow));
    let before = site.catalogs();
    let running = site.run(&["sync", source, target, "-j", "8"]).start();
    wait_until("the first transfers", || answered(site, kind).len() >= 20);
    let finished = answered(site, kind);
    let mut known = BTreeSet::new();
    wait_until("what was finished in the catalog", || {
        let catalogs = site.catalogs();
        let new = catalogs.iter().find(|path| !before.contains(path));
        known = new.map(|path| remembered(site, path)).unwrap_or_default();
        known.is_superset(&finished)
    });
    running.kill();
    assert!(answered(site, kind).len() < MANY, "it was not half-way");
    known
}

fn many_files(site: &Site) -> String {
    let up = site.directory("up");
    for number in 0..MANY as u64 {
        tree::file(&up, format!("f{number}"), tree::noise(100, number));
    }
    up
}

/// The listing has exactly the tree's names, each with the MD5 of its file.
#[track_caller]
fn assert_listed(site: &Site, root: &str) {
    let listed = site.bucket.list();
    assert_eq!(listed.len(), MANY);
    for (key, found) in listed {
        assert_eq!(found.etag, etag_of(format!("{root}/{key}").as_ref(), None), "{key}");
    }
}

fn killed_upload_keeps_what_was_finished(server: &Server) {
    let site = Site::new(server);
    let up = many_files(&site);
    let known = killed_half_way(&site, &up, &site.url(""), Kind::Put);
    site.proxy.reset();
    let watch = Watch::over([up.as_str()]);
    let outcome = site.haul(&["sync", &up, &site.url(""), "--json"]).done();
    let opened: BTreeSet<String> = watch.opened().into_iter().collect();
    assert!(known.is_disjoint(&opened), "read again");
    assert!(known.is_disjoint(&answered(&site, Kind::Put)), "sent again");
    // What arrived at the server as the run was killed may be asked for: the text of a link could
    // stand in the file.
    assert!(known.is_disjoint(&answered(&site, Kind::Head)), "asked for");
    assert!(site.proxy.count(Kind::Head) <= 8);
    assert!(outcome.summary("transferred") <= (MANY - known.len()) as u64);
    assert_listed(&site, &up);
    site.assert_sync_only_lists(&up, &site.url(""), 1);
}

fn killed_download_keeps_what_was_finished(server: &Server) {
    let site = Site::new(server);
    let (up, down) = (many_files(&site), site.at("down"));
    site.haul(&["sync", &up, &site.url("")]).done();
    site.proxy.reset();
    let known = killed_half_way(&site, &site.url(""), &down, Kind::Get);
    site.proxy.reset();
    let watch = Watch::over([down.as_str()]);
    site.haul(&["sync", &site.url(""), &down]).done();
    let opened: BTreeSet<String> = watch.opened().into_iter().collect();
    assert!(known.is_disjoint(&opened), "read again");
    assert!(known.is_disjoint(&answered(&site, Kind::Get)), "fetched again");
    assert_eq!(site.proxy.count(Kind::Head), 0);
    tree::assert_same(&up, &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
    site.assert_sync_only_lists(&site.url(""), &down, 1);
}

/// What a killed run may lose, one that was stopped does not.
fn interrupted_upload_remembers_all_that_it_finished(server: &Server) {
    let site = Site::new(server);
    let up = many_files(&site);
    let slow = Fault::hook(|| thread::sleep(Duration::from_millis(100)));
    site.proxy.rule(Rule::every(Kind::Put, slow));
    let running = site.run(&["sync", &up, &site.url(""), "-j", "8", "--json"]).start();
    wait_until("the first transfers", || site.proxy.answered(Kind::Put) >= 20);
    running.interrupt();
    let transferred = running.finish().exits(&[130]).summary("transferred");
    assert!((1..MANY as u64).contains(&transferred), "{transferred}");
    let known = remembered(&site, &site.catalog());
    assert_eq!(known.len() as u64, transferred);
    assert!(known.is_subset(&site.bucket.keys()));
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    assert!(known.is_disjoint(&answered(&site, Kind::Put)), "sent again");
    assert_listed(&site, &up);
}

#[track_caller]
fn history(site: &Site) -> Vec<Value> {
    site.haul(&["history", "--json"]).done().json()
}

fn history_tells_how_runs_ended(server: &Server) {
    let site = Site::new(server);
    assert!(history(&site).is_empty());
    let (up, url) = (site.directory("up"), site.url("p"));
    for name in ["a", "broken"] {
        tree::file(&up, name, name);
    }
    let denied = Fault::Answer(403, "AccessDenied");
    site.proxy.rule(Rule::every(Kind::Put, denied).on("/broken").times(1));
    site.haul(&["sync", &up, &url]).exits(&[1]);
    site.haul(&["sync", &up, &url]).done();
    tree::file(&up, "new", "new");
    site.haul(&["check", &up, &url]).exits(&[1]);
    site.haul(&["plan", &up, &url]).done();
    site.haul(&["sync", &url, &site.at("missing/down")]).done();
    fs::remove_dir_all(&up).unwrap();
    site.directory("up");
    site.haul(&["sync", &up, &url, "--delete"]).exits(&[4]);
    let runs = history(&site);
    let text = |run: &Value, name: &str| run[name].as_str().unwrap_or_default().to_owned();
    let commands: Vec<String> = runs.iter().map(|run| text(run, "command")).collect();
    assert_eq!(commands, ["sync", "sync", "check", "plan", "sync", "sync"]);
    let exits: Vec<_> = runs.iter().map(|run| run["exit"].as_u64().unwrap()).collect();
    assert_eq!(exits, [1, 0, 1, 0, 0, 4]);
    for run in &runs {
        assert_eq!(text(run, "state"), format!("exit {}", run["exit"]));
        assert_eq!(text(run, "host"), host());
        assert!(text(run, "started") <= text(run, "ended"), "{run}");
    }
    let count = |run: usize, name: &str| runs[run]["counts"][name].as_u64().unwrap();
    assert_eq!((count(0, "transferred"), count(0, "failed")), (1, 1));
    assert!(runs[0]["errors"][0].as_str().unwrap().contains("broken"), "{}", runs[0]);
    assert_eq!((count(1, "transferred"), count(1, "bytes"), count(1, "kept")), (1, 6, 1));
    assert_eq!(runs[1]["errors"].as_array().map(Vec::len), Some(0));
    assert_eq!((count(2, "to_transfer"), count(4, "transferred")), (1, 2));
    let up = fs::canonicalize(&up).unwrap();
    assert_eq!(text(&runs[0], "source"), up.to_str().unwrap());
    assert!(text(&runs[0], "target").ends_with(&format!("{}/p/", site.bucket.name)));
    let last = site.haul(&["history", "--json", "-l", "2"]).done().json();
    assert_eq!(last, runs[4..]);
    site.haul(&["history"]).done().names("exit 4").names("1 transferred");
}

fn history_knows_running_from_killed(server: &Server) {
    let site = Site::new(server);
    let (_, running) = endless(&site);
    let runs = history(&site);
    let states: BTreeMap<_, _> =
        runs.iter().map(|run| (run["pid"].as_u64(), &run["state"])).collect();
    assert_eq!(states[&Some(running.id().into())], "running");
    running.kill();
    let runs = history(&site);
    assert_eq!((&runs[0]["state"], &runs[0]["exit"]), (&"killed".into(), &Value::Null));
}
