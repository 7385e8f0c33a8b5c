//! Where haul keeps what it remembers: to lose it costs a notice and time, and it is no part of
//! what is synced.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::catalog::a_few;
use crate::support::run::Outcome;
use crate::support::{Server, Site, tree};

on_both_servers! {
    unusable_catalog_costs_a_notice_and_time,
    catalog_of_a_newer_haul_is_left_alone,
    catalog_that_breaks_while_it_is_read_costs_a_notice_and_time,
    state_that_cannot_be_written_costs_a_notice,
    state_below_the_source_is_not_sent,
    state_below_the_target_is_not_deleted,
}

/// Syncs with a catalog that can't be used: nothing is sent, and the next run knows all again.
#[track_caller]
fn assert_recovers(site: &Site, up: &str) -> Outcome {
    site.proxy.reset();
    let outcome = site.haul(&["sync", up, &site.url(""), "--json"]).done();
    assert_eq!(outcome.summary("transferred") + outcome.summary("copied"), 0);
    site.proxy.assert_no_transfers();
    site.assert_sync_only_lists(up, &site.url(""), 1);
    outcome
}

#[track_caller]
fn assert_notice(outcome: &Outcome) {
    assert!(outcome.stderr.contains("catalog"), "not a word of it:\n{}", outcome.stderr);
}

fn unusable_catalog_costs_a_notice_and_time(server: &Server) {
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let site = Site::new(server);
    let up = a_few(&site);
    let catalog = site.catalog();
    site.haul(&["sync", &up, &site.url("other")]).done();
    let foreign = site.catalogs().into_iter().find(|path| *path != catalog).unwrap();
    for key in site.bucket.keys().iter().filter(|key| key.starts_with("other/")) {
        site.bucket.delete(key);
    }
    let execute = |path: &Path, statement: &str| {
        Connection::open(path).unwrap().execute_batch(statement).unwrap();
    };
    let damages: [Damage<'_>; 7] = [
        ("truncated to nothing", &|path| fs::write(path, "").unwrap()),
        ("truncated", &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("garbage", &|path| fs::write(path, tree::noise(30_000, 4)).unwrap()),
        ("foreign", &|path| assert!(fs::copy(&foreign, path).unwrap() > 0)),
        ("without a table", &|path| execute(path, "DROP TABLE entry")),
        ("odd values", &|path| execute(path, "UPDATE entry SET size = 'x', blake3 = 7")),
        ("half a name", &|path| execute(path, "DELETE FROM meta WHERE name = 'target'")),
    ];
    for (what, damage) in damages {
        println!("{what}");
        damage(&catalog);
        let outcome = assert_recovers(&site, &up);
        // An empty file is a new database.
        if what != "truncated to nothing" {
            assert_notice(&outcome);
            assert!(catalog.with_extension("db.unusable").exists(), "it was not kept");
        }
    }
    println!("missing");
    fs::remove_file(&catalog).unwrap();
    assert_recovers(&site, &up);
    println!("all of it missing");
    site.forget();
    assert_recovers(&site, &up);
    site.assert_holds(&up, "");
}

/// Two versions that share a home must not take turns in throwing away what the other remembers.
fn catalog_of_a_newer_haul_is_left_alone(server: &Server) {
    let site = Site::new(server);
    let up = a_few(&site);
    let catalog = site.catalog();
    Connection::open(&catalog).unwrap().execute_batch("PRAGMA user_version = 999").unwrap();
    let before = fs::read(&catalog).unwrap();
    site.proxy.reset();
    let outcome = site.haul(&["sync", &up, &site.url("")]).done();
    assert_notice(&outcome);
    site.proxy.assert_no_transfers();
    assert_eq!(fs::read(&catalog).unwrap(), before);
    assert!(!catalog.with_extension("db.unusable").exists());
}

/// The page that holds the row of a key in the middle is overwritten.
fn catalog_that_breaks_while_it_is_read_costs_a_notice_and_time(server: &Server) {
    const PAGE: usize = 4096;
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..300_u64 {
        tree::file(&up, format!("f{number:03}"), tree::noise(20, number));
    }
    let url = site.url("");
    site.haul(&["sync", &up, &url]).done();
    let catalog = site.catalog();
    let listed = site.bucket.list();
    let etag = &listed["f200"].etag;
    let mut bytes = fs::read(&catalog).unwrap();
    let found = bytes.windows(etag.len()).position(|window| window == etag.as_bytes());
    let start = found.expect("the row is in the file") / PAGE * PAGE;
    assert!(start > 0, "not the schema");
    bytes[start..start + PAGE].fill(0xa5);
    fs::write(&catalog, bytes).unwrap();
    let outcome = assert_recovers(&site, &up);
    assert_notice(&outcome);
    assert_eq!(site.bucket.list(), listed);
}

fn state_that_cannot_be_written_costs_a_notice(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    fs::write(site.at("a-file"), "").unwrap();
    let args = |state: &str| ["sync", &up, &site.url(""), "--state-dir", state].map(str::to_owned);
    let in_its_place = args(&site.at("a-file"));
    let in_its_place = in_its_place.each_ref().map(String::as_str);
    assert_notice(&site.haul(&in_its_place).done());
    assert_eq!(site.bucket.get("a"), b"a");
    assert_notice(&site.haul(&in_its_place).done());
    tree::file(&up, "b", "b");
    let read_only = site.directory("read-only");
    tree::chmod(&read_only, 0o555);
    let args = args(&read_only);
    let outcome = site.haul_unprivileged(&args.each_ref().map(String::as_str));
    tree::chmod(&read_only, 0o755);
    assert_notice(&outcome.done());
    site.assert_holds(&up, "");
    assert_eq!(fs::read_dir(&read_only).unwrap().count(), 0);
}

/// As where a home is mirrored, in which the state lies by default.
fn state_below_the_source_is_not_sent(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (site.directory("up"), site.url(""));
    tree::file(&up, "a", "a");
    let state = format!("{up}/.local/state/haul");
    site.haul(&["sync", &up, &url, "--state-dir", &state]).done();
    site.bucket.assert_keys(&["a"]);
    site.proxy.reset();
    site.haul(&["sync", &up, &url, "--state-dir", &state]).done();
    site.proxy.assert_only_lists(1);
}

fn state_below_the_target_is_not_deleted(server: &Server) {
    let site = Site::new(server);
    let (down, url) = (site.directory("down"), site.url(""));
    site.bucket.put("a", b"a");
    let state = format!("{down}/.local/state/haul");
    for _ in 0..3 {
        let flags = ["--delete", "--state-dir", &state];
        site.haul_with(&["sync", &url, &down], &flags).done();
        assert_eq!(fs::read(format!("{down}/a")).unwrap(), b"a");
    }
    let runs = site.haul(&["history", "--json", "--state-dir", &state]).done();
    assert_eq!(runs.json().len(), 3);
    assert_eq!(tree::read(&state).len(), 3, "the history, a catalog and its lock");
}
