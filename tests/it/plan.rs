//! A plan is what sync then does, and changes nothing itself.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Kind, Server, Site, tree};

on_both_servers! {
    plan_is_what_an_upload_then_does,
    plan_is_what_a_download_then_does,
    plan_is_what_a_copy_then_does,
    dry_run_changes_nothing,
    plan_shows_what_is_kept_when_asked,
    plan_prints_one_line_an_action,
    run_shows_one_mapping,
    sync_reports_one_summary,
}

/// A tree half of which is in the bucket already, and a bucket with keys that the tree does not
/// have.
fn half_done(site: &Site) -> String {
    let up = site.directory("up");
    for name in ["changed", "d/changed", "kept", "d/kept"] {
        tree::file(&up, name, name);
    }
    tree::link(&up, "link", "kept");
    site.haul(&["sync", &up, &site.url("")]).done();
    for name in ["new", "d/new", "changed", "d/changed"] {
        tree::file(&up, name, format!("now {name}"));
    }
    tree::link(&up, "d/new-link", "../kept");
    tree::directory(&up, "new-empty");
    for key in ["extra", "d/extra", "d/deep/extra"] {
        site.bucket.put(key, b"extra");
    }
    up
}

/// Keys whose state differs, as the action that explains the difference.
fn differences<S: PartialEq>(
    before: &BTreeMap<String, S>,
    after: &BTreeMap<String, S>,
    written: &str,
) -> BTreeMap<String, String> {
    let removed = before.keys().filter(|key| !after.contains_key(*key));
    let changed = after.iter().filter(|(key, state)| before.get(*key) != Some(state));
    let removed = removed.map(|key| (key.clone(), "delete".to_owned()));
    removed.chain(changed.map(|(key, _)| (key.clone(), written.to_owned()))).collect()
}

fn plan_is_what_an_upload_then_does(server: &Server) {
    let site = Site::new(server);
    let up = half_done(&site);
    let (url, flags) = (site.url(""), ["--delete", "--json"]);
    let planned = site.haul_with(&["plan", &up, &url], &flags).done().planned();
    let dry = site.haul_with(&["sync", "-n", &up, &url], &flags).done().planned();
    let before = site.bucket.list();
    site.haul_with(&["sync", &up, &url], &flags).done();
    let done = differences(&before, &site.bucket.list(), "transfer");
    assert_eq!(done.len(), 9, "{done:?}");
    assert_eq!(planned, done);
    assert_eq!(dry, done);
}

/// The leaves of a directory by the keys that they have in a bucket.
fn by_key(root: &str) -> BTreeMap<String, tree::Node> {
    let spell = |(path, node): (std::ffi::OsString, tree::Node)| {
        let path = path.into_string().expect("UTF-8");
        let slash = if node == tree::Node::EmptyDirectory { "/" } else { "" };
        (path + slash, node)
    };
    tree::read(root).into_iter().map(spell).collect()
}

fn plan_is_what_a_download_then_does(server: &Server) {
    let site = Site::new(server);
    let up = half_done(&site);
    let (url, down) = (site.url(""), site.at("down"));
    site.haul(&["sync", &url, &down]).done();
    site.haul(&["sync", &up, &url, "--delete"]).done();
    let flags = ["--delete", "--json"];
    let planned = site.haul_with(&["plan", &url, &down], &flags).done().planned();
    let before = by_key(&down);
    site.haul_with(&["sync", &url, &down], &flags).done();
    let done = differences(&before, &by_key(&down), "transfer");
    assert_eq!(done.len(), 9, "{done:?}");
    assert_eq!(planned, done);
}

fn plan_is_what_a_copy_then_does(server: &Server) {
    let site = Site::new(server);
    let other = site.another_bucket();
    for key in ["a", "d/b", "same"] {
        site.bucket.put(key, key.as_bytes());
    }
    other.put("same", b"same");
    other.put("extra", b"extra");
    let (url, target) = (site.url(""), format!("s3://{}", other.name));
    let flags = ["--delete", "--json"];
    let planned = site.haul_with(&["plan", &url, &target], &flags).done().planned();
    let before = other.list();
    site.haul_with(&["sync", &url, &target], &flags).done();
    assert_eq!(planned, differences(&before, &other.list(), "copy"));
}

fn dry_run_changes_nothing(server: &Server) {
    let site = Site::new(server);
    let up = half_done(&site);
    let (url, before) = (site.url(""), site.bucket.list());
    let tree = tree::read(&up);
    let absent = site.at("absent");
    site.proxy.reset();
    for command in [&["plan"][..], &["sync", "-n"], &["sync", "--dry-run"]] {
        let flagged = [command, &["--delete"]].concat();
        let run = |ends: &[&str; 2]| site.haul_with(&flagged, ends).done().names("d/changed");
        run(&[&up, &url]).names("d/deep/extra");
        run(&[&url, &up]);
        run(&[&url, &absent]);
    }
    assert_eq!(site.bucket.list(), before);
    tree::assert_equal(&tree, &tree::read(&up));
    assert!(!fs::exists(&absent).unwrap(), "the target directory was made");
    site.proxy.assert_no_transfers();
    assert_eq!(site.proxy.count(Kind::Delete), 0);
}

fn plan_shows_what_is_kept_when_asked(server: &Server) {
    let site = Site::new(server);
    let up = half_done(&site);
    let kept = |flags: &[&str]| {
        let events = site.haul_with(&["plan", &up, &site.url(""), "--json"], flags).done().json();
        let mut kept: Vec<String> = events
            .iter()
            .filter(|event| event["action"] == "keep")
            .map(|event| event["key"].as_str().expect("a key").to_owned())
            .collect();
        kept.sort();
        kept
    };
    assert_eq!(kept(&[]), [""; 0]);
    assert_eq!(kept(&["-v"]), ["d/kept", "kept", "link"]);
}

fn plan_prints_one_line_an_action(server: &Server) {
    let site = Site::new(server);
    let up = half_done(&site);
    let printed = site.haul(&["plan", &up, &site.url(""), "--delete"]).done().text();
    for key in ["new", "d/new", "changed", "d/changed", "extra", "d/deep/extra"] {
        let line = printed.lines().any(|line| line.contains(key));
        assert!(line, "no line for {key} in:\n{printed}");
    }
}

fn run_shows_one_mapping(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    let target = site.url("p/a");
    site.haul(&["sync", &up, &site.url("p")]).done().names(&format!("-> {target}"));
}

fn sync_reports_one_summary(server: &Server) {
    let site = Site::new(server);
    let up = half_done(&site);
    let outcome = site.haul(&["sync", &up, &site.url(""), "--delete", "--json"]).done();
    let summaries = outcome.json().iter().filter(|event| event["event"] == "summary").count();
    assert_eq!(summaries, 1);
    let count = |name| outcome.summary(name);
    assert_eq!([count("transferred"), count("deleted"), count("kept")], [6, 3, 3]);
    let rest = ["copied", "spared", "refused", "failed", "unreadable", "exit"];
    assert_eq!(rest.map(count), [0; 6]);
    let bytes = ["now new", "now d/new", "now changed", "now d/changed", "../kept"];
    assert_eq!(count("bytes"), bytes.map(str::len).iter().sum::<usize>() as u64);
}
