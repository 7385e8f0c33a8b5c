//! Signals: what is under way may end and is remembered, nothing new is begun; a second one ends
//! the process at once.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{DONE, KEY, Known, PARTS, SIZE, large, wait_until};
use crate::support::run::{Outcome, Running};
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    stopped_upload_ends_what_is_under_way_and_begins_nothing,
    stopped_download_ends_what_is_under_way_and_begins_nothing,
    second_signal_ends_an_upload_at_once,
    second_signal_ends_a_download_at_once,
}

/// Requests under way as the signal comes.
const UNDER_WAY: usize = 2;

/// Holds requests until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn fault(&self) -> Fault {
        let gate = Arc::clone(&self.0);
        Fault::hook(move || {
            let (is_open, opened) = (gate.0.lock().unwrap(), &gate.1);
            let limit = Duration::from_secs(90);
            drop(opened.wait_timeout_while(is_open, limit, |is_open| !*is_open).unwrap());
        })
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// The requests of a kind for the large file, and how many of them were answered.
fn requests(site: &Site, kind: Kind) -> (usize, usize) {
    let passed = site.proxy.passed();
    let of_kind = || passed.iter().filter(|one| one.kind == kind && one.target.contains(KEY));
    (of_kind().count(), of_kind().filter(|one| one.status > 0).count())
}

/// Starts a sync of which some parts or ranges are remembered, and others under way.
#[track_caller]
fn half_way(site: &Site, ends: [&str; 2], kind: Kind, fault: Fault) -> Running {
    site.proxy.reset();
    site.proxy.rule(Rule::every(kind, fault).on(KEY).skip(DONE));
    // No more than those are read ahead.
    let (jobs, memory) = (UNDER_WAY.to_string(), if kind == Kind::Part { "32MiB" } else { "6MiB" });
    let flags = ["-j", &jobs, "--max-memory", memory];
    let running = site.run(&["sync", ends[0], ends[1]]).args(&flags).start();
    wait_until("what was finished", || {
        Known::of_running(site).done() == DONE && requests(site, kind).0 == DONE + UNDER_WAY
    });
    running
}

/// Signals of each kind, and the exit code of a run that it stops.
const SIGNALS: [(Signal, i32); 3] = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];

/// Stops a run in the middle; what was under way is remembered.
#[track_caller]
fn stop(site: &Site, ends: [&str; 2], kind: Kind, (signal, code): (Signal, i32)) {
    let gate = Gate::default();
    let running = half_way(site, ends, kind, gate.fault());
    running.signal(signal);
    // It is heard before anything else ends.
    thread::sleep(Duration::from_millis(500));
    gate.open();
    running.finish().exits(&[code]);
    let all = DONE + UNDER_WAY;
    assert_eq!(requests(site, kind), (all, all), "begun and answered");
    assert_eq!(Known::of(site).done(), all);
    site.proxy.reset();
}

#[track_caller]
fn go_on(site: &Site, ends: [&str; 2], kind: Kind, left: usize) {
    site.proxy.reset();
    site.haul(&["sync", ends[0], ends[1]]).done();
    assert_eq!(requests(site, kind).0, left);
    assert!(Known::of(site).is_empty());
}

fn stopped_upload_ends_what_is_under_way_and_begins_nothing(server: &Server) {
    for signal in SIGNALS {
        let site = Site::new(server);
        let (up, url) = (large(&site, SIZE), site.url(""));
        stop(&site, [&up, &url], Kind::Part, signal);
        assert_eq!(site.bucket.upload_ids(), Known::of(&site).ids());
        site.bucket.assert_keys(&[]);
        go_on(&site, [&up, &url], Kind::Part, PARTS - DONE - UNDER_WAY);
        site.assert_holds(&up, "");
        assert_eq!(site.bucket.uploads(), [""; 0]);
    }
}

fn stopped_download_ends_what_is_under_way_and_begins_nothing(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (large(&site, SIZE), site.url(""));
    site.haul(&["sync", &up, &url]).done();
    for signal in SIGNALS {
        let down = site.directory(&format!("down-{}", signal.1));
        site.forget();
        stop(&site, [&url, &down], Kind::Get, signal);
        assert_eq!(tree::temporary_files(&down).len(), 1);
        go_on(&site, [&url, &down], Kind::Get, PARTS - DONE - UNDER_WAY);
        tree::assert_same(&up, &down);
    }
}

/// Sends these signals by turns until the run is over. Where the first was heard late, two are one.
#[track_caller]
fn insist(mut running: Running, signals: [Signal; 2]) -> Outcome {
    for signal in signals.into_iter().cycle() {
        if running.is_over() {
            break;
        }
        running.signal(signal);
        thread::sleep(Duration::from_millis(300));
    }
    running.finish()
}

/// Ends runs by two signals each: none has had the time to write down how it ended.
#[track_caller]
fn end_at_once(site: &Site, ends: [&str; 2], kind: Kind) {
    let (interrupt, terminate) = (Signal::INT, Signal::TERM);
    for (signals, codes) in [
        ([interrupt, interrupt], [130].as_slice()),
        ([terminate, terminate], &[143]),
        ([interrupt, terminate], &[130, 143]),
    ] {
        site.forget();
        let running = half_way(site, ends, kind, Fault::Hang);
        insist(running, signals).exits(codes);
        site.proxy.wait_until_idle();
        let runs: Vec<Value> = site.haul(&["history", "--json"]).done().json();
        assert_eq!(runs.last().map(|run| &run["exit"]), Some(&Value::Null), "it came to its end");
        assert_eq!(Known::of(site).done(), DONE);
    }
    go_on(site, ends, kind, PARTS - DONE);
}

fn second_signal_ends_an_upload_at_once(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (large(&site, SIZE), site.url(""));
    end_at_once(&site, [&up, &url], Kind::Part);
    site.assert_holds(&up, "");
    // Those of the runs before, whose catalogs were lost.
    assert_eq!(site.bucket.uploads().len(), 2);
}

fn second_signal_ends_a_download_at_once(server: &Server) {
    let site = Site::new(server);
    let (up, url, down) = (large(&site, SIZE), site.url(""), site.at("down"));
    site.haul(&["sync", &up, &url]).done();
    end_at_once(&site, [&url, &down], Kind::Get);
    tree::assert_same(&up, &down);
}
