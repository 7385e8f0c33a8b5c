//! Ctrl-C: soon over, and the next run goes on with what is done.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::run::Running;
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    interrupted_upload_is_gone_on_with_by_the_next_run,
    interrupted_download_is_gone_on_with_by_the_next_run,
    reader_that_goes_away_does_not_end_a_run,
}

const LARGE: u64 = 300 << 20;

/// Waits until so many requests of this kind were answered.
#[track_caller]
fn wait_for(site: &Site, kind: Kind, answered: usize) {
    let started = Instant::now();
    while site.proxy.answered(kind) < answered {
        assert!(started.elapsed() < Duration::from_secs(90), "no {kind:?} came through");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Interrupts the run: it ends with 130 within ten seconds.
#[track_caller]
fn interrupt(running: Running) {
    let asked = Instant::now();
    running.interrupt();
    running.finish().exits(&[130]);
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
}

fn interrupted_upload_is_gone_on_with_by_the_next_run(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", LARGE, 1);
    site.proxy.rule(Rule::every(Kind::Part, Fault::SlowRequest(16 << 20)));
    let running = site.run(&["sync", &up, &site.url(""), "-j", "4"]).start();
    wait_for(&site, Kind::Part, 2);
    interrupt(running);
    assert_eq!(site.bucket.uploads(), ["large"]);
    site.bucket.assert_keys(&[]);
    let parts = site.proxy.answered(Kind::Part);
    assert_eq!(site.proxy.count(Kind::Part), parts, "a part that was under way was cut");
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    let all = usize::try_from(LARGE.div_ceil(PART_BYTES)).unwrap();
    assert_eq!(site.proxy.count(Kind::Part), all - parts);
    site.assert_holds(&up, "");
    assert_eq!(site.bucket.uploads(), [""; 0]);
}

fn interrupted_download_is_gone_on_with_by_the_next_run(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 40 << 20, 2);
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    site.proxy.reset();
    // One range comes through, the others never do.
    site.proxy.rule(Rule::every(Kind::Get, Fault::StallResponse(1 << 20)).skip(1));
    let running = site.run(&["sync", &site.url(""), &down, "--idle-timeout", "60s"]).start();
    wait_for(&site, Kind::Get, 3);
    thread::sleep(Duration::from_millis(500));
    interrupt(running);
    assert_eq!(tree::temporary_files(&down).len(), 1);
    site.proxy.reset();
    site.haul(&["sync", &site.url(""), &down]).done();
    assert_eq!(site.proxy.count(Kind::Get), 2);
    tree::assert_same(&up, &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
}

/// As in `haul sync --json … 2>&1 | head -1`: nobody listens any more, and everything arrives.
fn reader_that_goes_away_does_not_end_a_run(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..50 {
        tree::file(&up, format!("f{number}"), number.to_string());
    }
    tree::generated(&up, "large", 40 << 20, 3);
    let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["sync", &up, &site.url(""), "--json", "-v"])
        .env("AWS_ENDPOINT_URL", &server.endpoint)
        .env("AWS_ACCESS_KEY_ID", &server.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &server.secret_key)
        .env("HAUL_STATE_DIR", site.state_directory())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    site.assert_holds(&up, "");
}
