//! Reading every byte: `check --deep` finds what has changed without showing, `manifest` tells what
//! is there.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use rusqlite::Connection;

use crate::support::{Kind, Server, Site, Watch, tree};

on_both_servers! {
    deep_check_of_what_is_same_reads_all_of_it,
    deep_check_finds_a_file_that_is_not_what_is_remembered,
    deep_check_finds_an_object_that_is_not_what_is_recorded,
    deep_check_finds_plain_differences_and_reads_what_is_alone,
    manifest_has_the_hash_of_each_file,
    manifest_from_memory_reads_and_asks_nothing,
    manifest_without_memory_asks_and_does_not_read,
    manifest_by_checksum_reads_everything,
}

/// A tree with each kind of leaf, in the bucket.
fn mirrored(site: &Site) -> String {
    let up = site.directory("up");
    for name in ["a", "d/b", "d/c", "z"] {
        tree::file(&up, name, format!("this is {name}"));
    }
    tree::file(&up, "empty", "");
    tree::generated(&up, "large", 20 << 20, 1);
    tree::link(&up, "link", "d/b");
    tree::directory(&up, "nothing-in-it");
    site.haul(&["sync", &up, &site.url("")]).done();
    site.proxy.reset();
    up
}

/// The keys of objects that were read.
fn fetched(site: &Site) -> Vec<String> {
    let passed = site.proxy.passed().into_iter().filter(|passed| passed.kind == Kind::Get);
    let prefix = format!("/{}/", site.bucket.name);
    let path = |target: String| target.split('?').next().unwrap().replacen(&prefix, "", 1);
    let mut keys: Vec<String> = passed.map(|passed| path(passed.target)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn deep_check_of_what_is_same_reads_all_of_it(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site);
    let (url, watch) = (site.url(""), Watch::over([up.as_str()]));
    let outcome = site.haul(&["check", "--deep", &up, &url, "--json"]).done();
    assert_eq!(outcome.summary("disagreements"), 0);
    let read = |names: Vec<String>| -> Vec<String> {
        names.into_iter().filter(|name| name != "empty").collect()
    };
    assert_eq!(read(watch.opened()), ["a", "d/b", "d/c", "large", "z"]);
    assert_eq!(read(fetched(&site)), ["a", "d/b", "d/c", "large", "link", "z"]);
    let received: u64 = site
        .proxy
        .passed()
        .iter()
        .filter(|passed| passed.kind == Kind::Get)
        .map(|passed| passed.response_bytes)
        .sum();
    assert!(received >= 20 << 20, "only {received} bytes were read");
    site.haul(&["check", "--deep", &url, &up]).done();
    site.assert_sync_only_lists(&up, &url, 1);
}

/// Sets the remembered hash of a key: as if the bytes had changed and nothing else.
fn misremember(site: &Site, key: &str) {
    let connection = Connection::open(site.catalog()).unwrap();
    let update = "UPDATE entry SET blake3 = zeroblob(32) WHERE key = CAST(?1 AS BLOB)";
    assert_eq!(connection.execute(update, [key]), Ok(1));
}

fn deep_check_finds_a_file_that_is_not_what_is_remembered(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (mirrored(&site), site.url(""));
    misremember(&site, "d/b");
    misremember(&site, "large");
    let outcome = site.haul(&["check", "--deep", &up, &url, "--json"]).exits(&[1]);
    let found = outcome.json();
    for key in ["d/b", "large"] {
        let is_it =
            |event: &&serde_json::Value| event["event"] == "disagreement" && event["key"] == key;
        let told: Vec<_> = found.iter().filter(is_it).collect();
        let hash = tree::hash(format!("{up}/{key}").as_ref());
        assert!(told.iter().any(|event| event["error"].as_str().unwrap().contains(&hash)));
        let file = told.iter().any(|event| event["error"].as_str().unwrap().contains("the file"));
        assert!(file, "{told:?}");
    }
    assert!(outcome.summary("disagreements") >= 2);
    site.haul(&["check", "--deep", &up, &url]).exits(&[1]).names("d/b").names("large");
}

fn deep_check_finds_an_object_that_is_not_what_is_recorded(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (mirrored(&site), site.url(""));
    // The right bytes, and beside them a hash that is not theirs.
    let wrong = blake3::hash(b"something else").to_hex();
    site.bucket.put_described("a", b"this is a", &[("blake3", wrong.as_str())], "text/plain");
    // On one side only.
    site.bucket.put_described("alone", b"alone", &[("blake3", wrong.as_str())], "text/plain");
    let outcome = site.haul(&["check", "--deep", &up, &url, "--json"]).exits(&[1]);
    assert_eq!(outcome.summary("disagreements"), 2);
    let events = outcome.json();
    let named = events.iter().filter(|event| event["event"] == "disagreement");
    let mut named: Vec<_> = named.map(|event| event["key"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["a", "alone"]);
}

fn deep_check_finds_plain_differences_and_reads_what_is_alone(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (mirrored(&site), site.url(""));
    site.bucket.put("a", b"THIS IS A");
    site.bucket.put("only-there", b"there");
    tree::file(&up, "only-here", "here");
    let watch = Watch::over([up.as_str()]);
    let outcome = site.haul(&["check", "--deep", &up, &url, "--json"]).exits(&[1]);
    assert!(watch.opened().contains(&"only-here".to_owned()));
    assert!(fetched(&site).contains(&"only-there".to_owned()));
    let planned = outcome.planned();
    let keys: Vec<&str> = planned.keys().map(String::as_str).collect();
    assert_eq!(keys, ["a", "only-here", "only-there"]);
    assert_eq!(outcome.summary("disagreements"), 0);
    // And nothing was changed.
    assert_eq!(site.bucket.get("a"), b"THIS IS A");
    assert_eq!(fs::read(format!("{up}/a")).unwrap(), b"this is a");
}

/// The lines that `b3sum` would write, in key order.
fn expected(root: &str) -> String {
    let lines = tree::read(root).into_iter().filter_map(|(path, node)| {
        let tree::Node::File { hash, .. } = node else { return None };
        let name = String::from_utf8(path.as_bytes().to_vec()).unwrap();
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        let mark = if escaped == name { "" } else { "\\" };
        Some(format!("{mark}{hash}  {escaped}\n"))
    });
    lines.collect()
}

#[track_caller]
fn assert_manifest(site: &Site, place: &str, flags: &[&str], root: &str) {
    let outcome = site.haul_with(&["manifest", place], flags).done();
    assert_eq!(outcome.text(), expected(root), "the manifest of {place} {flags:?}");
}

fn manifest_has_the_hash_of_each_file(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site);
    for name in ["a-1", "d.txt", "d/new\nline", "\u{1f600} \u{e9}"] {
        tree::file(&up, name, name);
    }
    if server.stores_any_key() {
        tree::file(&up, "back\\slash", "backslash");
        tree::file(&up, "d/both\\\n", "both");
    }
    // Before anything is known of the new files, and after.
    assert_manifest(&site, &up, &[], &up);
    site.haul(&["sync", &up, &site.url("")]).done();
    for place in [&up, &site.url("")] {
        assert_manifest(&site, place, &[], &up);
        assert_manifest(&site, place, &["-c"], &up);
    }
    let outcome = site.haul(&["manifest", &site.url("d"), "--json"]).done();
    let lines = outcome.json();
    let found = lines.iter().find(|line| line["key"] == "b").unwrap();
    assert_eq!(found["blake3"], tree::hash(format!("{up}/d/b").as_ref()));
    site.haul(&["manifest", &site.at("missing")]).exits(&[6]);
}

fn manifest_from_memory_reads_and_asks_nothing(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site);
    let before = expected(&up);
    let watch = Watch::over([up.as_str()]);
    assert_eq!(site.haul(&["manifest", &up]).done().text(), before);
    assert_eq!(watch.opened(), [""; 0]);
    assert!(site.proxy.passed().is_empty(), "{:#?}", site.proxy.passed());
    assert_eq!(site.haul(&["manifest", &site.url("")]).done().text(), before);
    site.proxy.assert_only_lists(1);
    // What has changed is read, and only that.
    tree::file(&up, "a", "changed");
    let after = expected(&up);
    let watch = Watch::over([up.as_str()]);
    assert_eq!(site.haul(&["manifest", &up]).done().text(), after);
    assert_eq!(watch.opened(), ["a"]);
}

fn manifest_without_memory_asks_and_does_not_read(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site);
    site.forget();
    assert_manifest(&site, &site.url(""), &[], &up);
    assert_eq!(site.proxy.count(Kind::Get), 0);
    assert_eq!(site.proxy.count(Kind::Put), 0);
}

fn manifest_by_checksum_reads_everything(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site);
    misremember(&site, "a");
    // Were the recorded hash believed, it would be told.
    let wrong = blake3::hash(b"something else").to_hex();
    site.bucket.put_described("d/b", b"this is d/b", &[("blake3", wrong.as_str())], "text/plain");
    let watch = Watch::over([up.as_str()]);
    let outcome = site.haul(&["manifest", &up, "-c"]).done();
    assert_eq!(watch.opened(), ["a", "d/b", "d/c", "large", "z"]);
    assert_eq!(outcome.text(), expected(&up));
    assert_manifest(&site, &site.url(""), &["-c"], &up);
    assert_eq!(fetched(&site), ["a", "d/b", "d/c", "large", "z"]);
}
