//! Names: odd ones survive, impossible and hostile ones are refused by name and harm nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::support::{Server, Site, tree};

on_both_servers! {
    odd_names_come_back_identical,
    names_with_backslashes_come_back_where_the_server_keeps_them,
    deep_and_long_names_come_back_identical,
    key_that_is_too_long_is_refused_by_name,
    name_that_is_not_utf8_is_refused_by_name,
    hostile_keys_write_nothing_outside_the_target,
    key_through_a_symlink_writes_nothing_outside,
    symlink_object_then_key_through_it_writes_nothing_outside,
    file_and_directory_of_one_name_do_not_mix,
    directory_in_the_place_of_a_file_is_not_lost,
    cp_recursive_refuses_hostile_keys_too,
}

const ODD_NAMES: &[&str] = &[
    "with space",
    " leading and trailing ",
    "plus+plus",
    "percent%41%2f%",
    "hash#fragment",
    "question?mark=1&b;c",
    "quotes'\"`",
    "<a>&amp;</a>",
    "new\nline",
    "tab\tstop",
    "control\u{1}\u{7f}",
    "caf\u{e9}",
    "cafe\u{301}",
    "\u{1f600} emoji",
    "\u{feff}bom",
    "*",
    "[a-z]{b,c}",
    "$HOME",
    "~",
    "-rf",
    "...",
    ".hidden",
    "s3:",
    "d +%#/ e?\u{1f600}/f&;=",
];

fn odd_names_come_back_identical(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ODD_NAMES {
        tree::file(&up, name, format!("this is {name}"));
    }
    tree::directory(&up, "empty +%#? \u{e9}");
    site.assert_round_trip(&up);
}

/// `SeaweedFS` folds `\` to `/`: all that can be asked there is that the other files are not
/// harmed.
fn names_with_backslashes_come_back_where_the_server_keeps_them(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "back\\slash", "back");
    tree::file(&up, "trailing\\", "trailing");
    tree::file(&up, "plain", "plain");
    if server.stores_any_key() {
        return site.assert_round_trip(&up);
    }
    site.haul(&["sync", &up, &site.url("")]);
    assert_eq!(site.bucket.get("plain"), b"plain");
}

fn deep_and_long_names_come_back_identical(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "d/".repeat(200) + "leaf", "deep");
    let long = "n".repeat(255);
    tree::file(&up, format!("{long}/{}/{}", "o".repeat(255), "p".repeat(255)), "long");
    tree::file(&up, format!("{}x{}", "\u{1f600}".repeat(60), "y".repeat(14)), "wide");
    site.assert_round_trip(&up);
}

/// S3 allows keys of 1,024 bytes.
fn key_that_is_too_long_is_refused_by_name(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    let long = format!("{0}/{0}/{0}/{0}/overlong-name", "n".repeat(255));
    tree::file(&up, &long, "unreachable");
    tree::file(&up, "zzz", "after it");
    site.haul(&["sync", &up, &site.url("")]).exits(&[3]).names("overlong-name");
    site.bucket.assert_keys(&["zzz"]);
}

fn name_that_is_not_utf8_is_refused_by_name(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "good", "good");
    tree::file(&up, Path::new(OsStr::from_bytes(b"latin1-caf\xe9.txt")), "bad");
    tree::file(&up, Path::new(OsStr::from_bytes(b"latin1-dir\xff/inside")), "bad");
    let outcome = site.haul(&["sync", &up, &site.url("")]).exits(&[3]);
    outcome.names("latin1-caf").names("latin1-dir");
    site.bucket.assert_keys(&["good"]);
    assert_eq!(site.bucket.get("good"), b"good");
}

const HOSTILE_KEYS: &[&str] = &[
    "../esc",
    "../../esc",
    "a/../../esc",
    "/abs",
    "a//b",
    "//",
    "./x",
    "x/.",
    "x/..",
    "x/./y",
    "..",
    ".",
];

/// Stores what the server accepts as it is, and answers those keys.
fn put_hostile(site: &Site, prefix: &str) -> Vec<&'static str> {
    let put = |key: &&&str| site.bucket.try_put(&format!("{prefix}{key}"), b"hostile").is_ok();
    let tried: Vec<&str> = HOSTILE_KEYS.iter().filter(put).copied().collect();
    let stored = site.bucket.keys();
    tried.into_iter().filter(|key| stored.contains(&format!("{prefix}{key}"))).collect()
}

fn hostile_keys_write_nothing_outside_the_target(server: &Server) {
    for prefix in ["", "p/"] {
        let site = Site::new(server);
        let stored = put_hostile(&site, prefix);
        assert!(!stored.is_empty() || !server.stores_any_key(), "no hostile key was stored");
        site.bucket.put(&format!("{prefix}good"), b"good");
        site.bucket.put(&format!("{prefix}zz/good"), b"good");
        let down = site.directory("outer/down");
        let outcome = site.haul(&["sync", &site.url(prefix), &down]);
        assert_only_safe(&site, &outcome.output(), &stored);
        outcome.exits(if stored.is_empty() { &[0] } else { &[3] });
    }
}

/// The good keys arrived, the hostile ones are named, and nothing is beside the target.
#[track_caller]
fn assert_only_safe(site: &Site, printed: &str, stored: &[&str]) {
    for key in stored {
        assert!(printed.contains(key), "{key:?} is not named in:\n{printed}");
    }
    assert_eq!(fs::read(site.at("outer/down/good")).unwrap(), b"good");
    assert_eq!(fs::read(site.at("outer/down/zz/good")).unwrap(), b"good");
    let beside: Vec<_> = fs::read_dir(site.at("outer")).unwrap().collect();
    assert_eq!(beside.len(), 1, "something was made beside the target: {beside:?}");
    for outside in [site.at("esc"), "/abs".to_owned()] {
        assert!(!Path::new(&outside).exists(), "{outside} was made");
    }
}

fn cp_recursive_refuses_hostile_keys_too(server: &Server) {
    let site = Site::new(server);
    let stored = put_hostile(&site, "");
    site.bucket.put("good", b"good");
    site.bucket.put("zz/good", b"good");
    let down = site.directory("outer/down");
    let outcome = site.haul(&["cp", "-r", &site.url(""), &down]);
    assert_only_safe(&site, &outcome.output(), &stored);
    outcome.exits(if stored.is_empty() { &[0] } else { &[3] });
}

fn key_through_a_symlink_writes_nothing_outside(server: &Server) {
    let site = Site::new(server);
    let outside = site.directory("outside");
    tree::file(&outside, "file", "untouched");
    let down = site.directory("down");
    tree::link(&down, "out", "../outside");
    tree::link(&down, "sub/up", "../../outside");
    site.bucket.put("out/file", b"hostile");
    site.bucket.put("out/new", b"hostile");
    site.bucket.put("sub/up/deep/new", b"hostile");
    site.bucket.put("zz", b"good");
    let before = tree::read(&outside);
    let outcome = site.haul(&["sync", &site.url(""), &down]).exits(&[3]);
    outcome.names("out/file").names("out/new").names("sub/up/deep/new");
    tree::assert_equal(&before, &tree::read(&outside));
    assert_eq!(fs::read(site.at("down/zz")).unwrap(), b"good");
}

/// The symlink itself comes from the bucket: `link` is an object, `link/esc` another.
fn symlink_object_then_key_through_it_writes_nothing_outside(server: &Server) {
    let site = Site::new(server);
    let outside = site.directory("outside");
    let up = site.directory("up");
    tree::link(&up, "link", "../outside");
    site.haul(&["sync", &up, &site.url("")]).done();
    let _ = site.bucket.try_put("link/esc", b"hostile");
    site.haul(&["sync", &site.url(""), &site.directory("down")]);
    assert!(tree::read(&outside).is_empty(), "something went through the link");
}

fn file_and_directory_of_one_name_do_not_mix(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("a", b"file");
    let both = site.bucket.try_put("a/b", b"below").is_ok();
    site.bucket.put("other", b"other");
    let down = site.directory("down");
    let outcome = site.haul(&["sync", &site.url(""), &down]);
    let found = tree::read(&down);
    assert!(found.contains_key(OsStr::new("other")));
    if both && site.bucket.keys().len() == 3 {
        outcome.exits(&[3]).names("a");
        let file = found.contains_key(OsStr::new("a"));
        let below = found.contains_key(OsStr::new("a/b"));
        assert!(file != below, "one of the two is there: {found:?}");
    }
    assert!(tree::temporary_files(&down).is_empty());
}

fn directory_in_the_place_of_a_file_is_not_lost(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("name", b"a file in the bucket");
    site.bucket.put("other", b"other");
    let down = site.directory("down");
    tree::file(&down, "name/precious", "precious");
    site.haul(&["sync", &site.url(""), &down]).exits(&[1, 3]).names("name");
    assert_eq!(fs::read(site.at("down/name/precious")).unwrap(), b"precious");
    assert_eq!(fs::read(site.at("down/other")).unwrap(), b"other");
}
