//! Sort-order traps and prefix boundaries, with `--delete`: exactly what vanished at the source
//! vanishes at the target.

use std::fs;

use crate::support::{Server, Site, tree};

on_both_servers! {
    prefix_is_a_directory_boundary_upward,
    prefix_is_a_directory_boundary_downward,
    removed_names_vanish_from_the_bucket,
    removed_keys_vanish_from_the_directory,
    every_single_removal_is_exact,
    disorder_behind_the_first_page_is_sorted_out,
}

/// `/` sorts after `!`, `-`, `.` and before `0`: a directory's own name sorts elsewhere than its
/// keys.
const TRAPS: &[&str] = &[
    "foo!",
    "foo-bar",
    "foo-bar/x",
    "foo.txt",
    "foo/x",
    "foo/x.y",
    "foo/x-y/z",
    "foo/x!",
    "foo/x0/z",
    "foo/foo/foo",
    "foo/foo.foo",
    "foo/foo-",
    "foo0",
    "foo0/foo",
    "foo\u{e9}",
    "Foo",
    "fo",
    "\u{1f600}",
    "\u{ffee}",
];

fn make(root: &str, names: &[&str]) {
    for name in names.iter().filter(|name| !clashes(name, names)) {
        tree::file(root, name, format!("this is {name}"));
    }
}

/// On a disk, a name is a file or a directory.
fn clashes(name: &str, names: &[&str]) -> bool {
    let below = format!("{name}/");
    names.iter().any(|other| other.starts_with(&below))
}

fn prefix_is_a_directory_boundary_upward(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "kept", "kept");
    for key in ["run1/gone", "run1/kept", "run10/kept", "run1.txt", "run1-b/x", "run"] {
        site.bucket.put(key, b"before");
    }
    site.haul(&["sync", &up, &site.url("run1"), "--delete"]).done();
    site.bucket.assert_keys(&["run1/kept", "run10/kept", "run1.txt", "run1-b/x", "run"]);
    assert_eq!(site.bucket.get("run1/kept"), b"kept");
    assert_eq!(site.bucket.get("run10/kept"), b"before");
}

fn prefix_is_a_directory_boundary_downward(server: &Server) {
    let site = Site::new(server);
    for key in ["run1/a", "run10/b", "run1.txt", "run1-b/x"] {
        site.bucket.put(key, key.as_bytes());
    }
    let down = site.directory("down");
    tree::file(&down, "extra", "extra");
    tree::file(site.directory("down0"), "beside", "beside");
    site.haul(&["sync", &site.url("run1/"), &down, "--delete"]).done();
    let found: Vec<_> = tree::read(&down).into_keys().collect();
    assert_eq!(found, ["a"]);
    assert!(fs::exists(site.at("down0/beside")).unwrap());
}

fn removed_names_vanish_from_the_bucket(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    make(&up, TRAPS);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
    for name in ["foo/x", "foo!", "foo0/foo", "foo/foo/foo", "Foo", "\u{ffee}"] {
        fs::remove_file(site.at("up").clone() + "/" + name).unwrap();
    }
    for name in ["foo/foo", "foo0"] {
        fs::remove_dir(site.at("up") + "/" + name).unwrap();
    }
    let outcome = site.haul(&["sync", &up, &site.url(""), "--delete", "--json"]).done();
    assert_eq!(outcome.summary("deleted"), 6);
    assert_eq!(outcome.summary("transferred"), 0);
    site.assert_holds(&up, "");
    site.assert_sync_is_idle(&up, &site.url(""));
}

fn removed_keys_vanish_from_the_directory(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    make(&up, TRAPS);
    let down = site.directory("down");
    site.haul(&["sync", &up, &site.url("")]).done();
    site.haul(&["sync", &site.url(""), &down]).done();
    for name in ["foo/x", "foo/x-y/z", "foo.txt", "foo0/foo", "fo"] {
        site.bucket.delete(name);
        fs::remove_file(format!("{up}/{name}")).unwrap();
    }
    for name in ["foo/x-y", "foo0"] {
        fs::remove_dir(format!("{up}/{name}")).unwrap();
    }
    let outcome = site.haul(&["sync", &site.url(""), &down, "--delete", "--json"]).done();
    assert_eq!(outcome.summary("deleted"), 5);
    tree::assert_same(&up, &down);
}

/// The first page of 1,000 keys is in order on every server; what follows is not on SeaweedFS.
fn disorder_behind_the_first_page_is_sorted_out(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..1100 {
        tree::file(&up, format!("a{number:04}"), number.to_string());
    }
    make(&up, &["z/a/b", "z/a-1", "z/a.txt", "z/a!", "z/b"]);
    let (url, down) = (site.url(""), site.directory("down"));
    site.haul(&["sync", &up, &url]).done();
    let outcome = site.haul(&["sync", &url, &down, "--delete", "--json"]).done();
    assert_eq!(outcome.summary("failed"), 0);
    tree::assert_same(&up, &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
    site.assert_sync_is_idle(&url, &down);
    fs::remove_file(format!("{up}/z/a-1")).unwrap();
    let outcome = site.haul(&["sync", &up, &url, "--delete", "--json"]).done();
    assert_eq!(outcome.summary("deleted"), 1);
    site.assert_sync_is_idle(&up, &url);
    let outcome = site.haul(&["sync", &url, &down, "--delete", "--json"]).done();
    assert_eq!(outcome.summary("deleted"), 1);
    tree::assert_same(&up, &down);
}

/// One removal after another, each followed by a sync that deletes that one key.
fn every_single_removal_is_exact(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    let names = ["a", "a!", "a-/b", "a.b/c", "b/a", "b.a", "b/a-", "b0"];
    make(&up, &names);
    tree::file(&up, "anchor", "anchor");
    site.haul(&["sync", &up, &site.url("")]).done();
    let mut left: Vec<&str> = names.into_iter().chain(["anchor"]).collect();
    for name in names {
        fs::remove_file(format!("{up}/{name}")).unwrap();
        for directory in ["a-", "a.b", "b"] {
            let _ = fs::remove_dir(format!("{up}/{directory}"));
        }
        left.retain(|kept| *kept != name);
        site.haul(&["sync", &up, &site.url(""), "--delete"]).done();
        site.bucket.assert_keys(&left);
    }
}
