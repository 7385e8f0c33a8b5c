//! `--delete` needs proof: what could not be read is spared, what looks wrong is refused, and a
//! failure stops it.

use std::fs;

use rusqlite::Connection;

use crate::support::oracle::Bucket;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    without_the_flag_nothing_is_deleted,
    extras_are_deleted_in_both_directions,
    unreadable_directory_spares_its_keys,
    unreadable_file_keeps_its_object,
    unreadable_new_file_stops_the_deletes,
    unreadable_target_file_is_replaced,
    directory_that_cannot_be_entered_is_one_gap,
    leftovers_of_a_killed_run_are_taken_over,
    read_only_target_directory_says_so,
    unreadable_root_deletes_nothing,
    empty_source_directory_is_refused,
    empty_source_prefix_is_refused,
    missing_source_directory_deletes_nothing,
    source_on_another_file_system_deletes_nothing,
    max_delete_is_checked_before_the_first_delete,
    max_delete_takes_a_share_of_the_target,
    failed_upload_stops_the_deletes,
    failed_download_stops_the_deletes,
    ignore_errors_deletes_all_the_same,
    excluded_names_are_kept_unless_told,
    filter_that_excludes_everything_deletes_nothing,
    deletes_follow_the_transfers,
    download_deletes_links_and_not_what_they_point_to,
    failed_listing_deletes_nothing,
    object_rewritten_after_the_listing_is_not_deleted_unseen,
}

/// A tree of these files, each holding its own name, synced to the bucket.
fn mirrored(site: &Site, names: &[&str]) -> String {
    let up = site.directory("up");
    for name in names {
        tree::file(&up, name, name);
    }
    site.haul(&["sync", &up, &site.url("")]).done();
    site.bucket.assert_keys(names);
    site.proxy.reset();
    up
}

fn remove(root: &str, name: &str) {
    fs::remove_file(format!("{root}/{name}")).unwrap();
}

fn without_the_flag_nothing_is_deleted(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b"]);
    remove(&up, "b");
    site.haul(&["sync", &up, &site.url("")]).done();
    site.bucket.assert_keys(&["a", "b"]);
    assert_eq!(site.proxy.count(Kind::Delete), 0);
}

fn extras_are_deleted_in_both_directions(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b", "c/d/e", "c/f"]);
    let down = site.at("down");
    site.haul(&["sync", &site.url(""), &down]).done();
    remove(&up, "b");
    fs::remove_dir_all(format!("{up}/c/d")).unwrap();
    let outcome = site.haul(&["sync", &up, &site.url(""), "--delete", "--json"]).done();
    assert_eq!(outcome.summary("deleted"), 2);
    site.bucket.assert_keys(&["a", "c/f"]);
    site.haul(&["sync", &site.url(""), &down, "--delete"]).done();
    tree::assert_same(&up, &down);
    site.assert_sync_is_idle(&site.url(""), &down);
}

fn unreadable_directory_spares_its_keys(server: &Server) {
    let site = Site::new(server);
    let names = ["gone", "keep", "locked!", "locked/a", "locked/b/c", "locked0"];
    let up = mirrored(&site, &names);
    remove(&up, "gone");
    remove(&up, "locked!");
    tree::chmod(format!("{up}/locked"), 0o000);
    let args = ["sync", &up, &site.url(""), "--delete", "--json"];
    let outcome = site.haul_unprivileged(&args);
    tree::chmod(format!("{up}/locked"), 0o755);
    let outcome = outcome.exits(&[3]).names("locked");
    site.bucket.assert_keys(&["keep", "locked/a", "locked/b/c", "locked0"]);
    assert_eq!(outcome.summary("spared"), 2);
    assert_eq!(outcome.summary("deleted"), 2);
}

fn unreadable_file_keeps_its_object(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "gone", "locked", "z"]);
    remove(&up, "gone");
    tree::file(&up, "locked", "changed, and no longer readable");
    tree::file(&up, "z", "changed");
    tree::chmod(format!("{up}/locked"), 0o000);
    let outcome = site.haul_unprivileged(&["sync", &up, &site.url(""), "--delete"]);
    outcome.exits(&[3]).names("locked");
    site.bucket.assert_keys(&["a", "locked", "z"]);
    assert_eq!(site.bucket.get("locked"), b"locked");
    assert_eq!(site.bucket.get("z"), b"changed");
}

/// It may be what the missing name was renamed to: then the only copy would go.
fn unreadable_new_file_stops_the_deletes(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "old-name"]);
    remove(&up, "old-name");
    tree::file(&up, "new-name", "old-name");
    tree::chmod(format!("{up}/new-name"), 0o000);
    let outcome = site.haul_unprivileged(&["sync", &up, &site.url(""), "--delete"]);
    outcome.exits(&[1]).names("new-name");
    site.bucket.assert_keys(&["a", "old-name"]);
}

fn unreadable_target_file_is_replaced(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "f", "right");
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    tree::file(&down, "f", "wrong");
    tree::chmod(format!("{down}/f"), 0o000);
    site.haul_unprivileged(&["sync", &site.url(""), &down]).done();
    assert_eq!(fs::read(format!("{down}/f")).unwrap(), b"right");
}

/// Its names can be listed, but none of them looked at.
fn directory_that_cannot_be_entered_is_one_gap(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "locked/deep/f", "locked/g", "z"]);
    tree::file(&up, "z", "changed");
    tree::chmod(format!("{up}/locked"), 0o444);
    let outcome = site.haul_unprivileged(&["sync", &up, &site.url(""), "--delete"]);
    tree::chmod(format!("{up}/locked"), 0o755);
    outcome.exits(&[3]).names("locked");
    site.bucket.assert_keys(&["a", "locked/deep/f", "locked/g", "z"]);
    assert_eq!(site.bucket.get("z"), b"changed");
}

/// A temporary file that was already read-only, and one that was a link.
fn leftovers_of_a_killed_run_are_taken_over(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "f", "file");
    tree::file(&up, "g", "file, too");
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    let temporary = |name: &str| {
        let hex = blake3::hash(name.as_bytes()).to_hex();
        format!(".haul-{}.tmp", &hex[..16])
    };
    tree::file(&down, temporary("f"), "half of somethi");
    tree::chmod(format!("{down}/{}", temporary("f")), 0o444);
    tree::link(&down, &temporary("g"), "nowhere");
    assert_eq!(tree::temporary_files(&down).len(), 2);
    site.haul_unprivileged(&["sync", &site.url(""), &down]).done();
    tree::assert_same(&up, &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
}

fn read_only_target_directory_says_so(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("f", b"f");
    let down = site.directory("down");
    tree::chmod(&down, 0o555);
    let outcome = site.haul_unprivileged(&["sync", &site.url(""), &down]);
    tree::chmod(&down, 0o755);
    outcome.exits(&[1]).names("Permission denied");
    assert!(tree::read(&down).is_empty());
}

fn unreadable_root_deletes_nothing(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b"]);
    tree::chmod(&up, 0o000);
    let outcome = site.haul_unprivileged(&["sync", &up, &site.url(""), "--delete"]);
    tree::chmod(&up, 0o755);
    outcome.fails().names("up");
    site.bucket.assert_keys(&["a", "b"]);
}

fn empty_source_directory_is_refused(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b/c"]);
    fs::remove_dir_all(&up).unwrap();
    site.directory("up");
    site.haul(&["sync", &up, &site.url(""), "--delete"]).exits(&[4]);
    site.bucket.assert_keys(&["a", "b/c"]);
    assert_eq!(site.proxy.count(Kind::Delete), 0);
    site.haul(&["sync", &up, &site.url(""), "--delete", "--force-empty"]).done();
    site.bucket.assert_keys(&[]);
}

fn empty_source_prefix_is_refused(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("run1/a", b"a");
    let down = site.directory("down");
    tree::file(&down, "precious", "precious");
    site.haul(&["sync", &site.url("run"), &down, "--delete"]).exits(&[4]);
    assert_eq!(fs::read(site.at("down/precious")).unwrap(), b"precious");
    site.haul(&["sync", &site.url("run"), &down, "--delete", "--force-empty"]).done();
    assert!(!fs::exists(site.at("down/precious")).unwrap());
}

/// As if another file system had come to lie where the source was: the catalog says that it was
/// elsewhere.
fn source_on_another_file_system_deletes_nothing(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b"]);
    let device = |change: &str| {
        let catalog = Connection::open(site.catalog()).unwrap();
        catalog.execute(change, []).unwrap()
    };
    let elsewhere = "UPDATE meta SET value = replace(value, '\"kind\":\"', '\"kind\":\"another')
                     WHERE name = 'source_device'";
    assert_eq!(device(elsewhere), 1);
    remove(&up, "b");
    let args = ["sync", "--delete", &up, &site.url("")];
    for flags in [[].as_slice(), &["--force-empty", "--ignore-errors", "--max-delete", "100%"]] {
        site.haul(&[&args, flags].concat()).exits(&[4]).explains("another file system");
        site.bucket.assert_keys(&["a", "b"]);
    }
    site.haul(&["plan", "--delete", &up, &site.url("")]).exits(&[4]);
    site.haul(&["check", &up, &site.url("")]).exits(&[1]);
    // Who runs it without deletes says that this is right.
    site.haul(&["sync", &up, &site.url("")]).done();
    site.haul(&args).done();
    site.bucket.assert_keys(&["a"]);
}

fn missing_source_directory_deletes_nothing(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b"]);
    fs::remove_dir_all(&up).unwrap();
    for flags in [&["--delete"][..], &["--delete", "--force-empty"], &[]] {
        site.haul_with(&["sync", &up, &site.url("")], flags).fails().names("up");
        site.bucket.assert_keys(&["a", "b"]);
    }
}

fn max_delete_is_checked_before_the_first_delete(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b", "c", "d"]);
    for name in ["a", "b", "c"] {
        remove(&up, name);
    }
    let sync = |limit| site.haul(&["sync", &up, &site.url(""), "--delete", "--max-delete", limit]);
    sync("2").exits(&[4]);
    site.bucket.assert_keys(&["a", "b", "c", "d"]);
    assert_eq!(site.proxy.count(Kind::Delete), 0);
    sync("0").exits(&[4]);
    site.bucket.assert_keys(&["a", "b", "c", "d"]);
    sync("3").done();
    site.bucket.assert_keys(&["d"]);
}

fn max_delete_takes_a_share_of_the_target(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b", "c", "d"]);
    remove(&up, "a");
    remove(&up, "b");
    let sync = |limit| site.haul(&["sync", &up, &site.url(""), "--delete", "--max-delete", limit]);
    sync("49%").exits(&[4]);
    site.bucket.assert_keys(&["a", "b", "c", "d"]);
    sync("50%").done();
    site.bucket.assert_keys(&["c", "d"]);
}

/// The failed file may be a renamed one whose only copy would go.
fn failed_upload_stops_the_deletes(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["anchor", "old-name"]);
    fs::rename(format!("{up}/old-name"), format!("{up}/renamed")).unwrap();
    tree::file(&up, "new", "new");
    let broken = Fault::Answer(500, "InternalError");
    site.proxy.rule(Rule::every(Kind::Put, broken.clone()).on("/renamed"));
    site.proxy.rule(Rule::every(Kind::Copy, broken).on("/renamed"));
    let args = ["sync", &up, &site.url(""), "--delete", "--retries", "1", "--json"];
    let outcome = site.haul(&args).exits(&[1]).names("renamed");
    assert_eq!(outcome.summary("failed"), 1);
    assert_eq!(outcome.summary("deleted"), 0);
    site.bucket.assert_keys(&["anchor", "new", "old-name"]);
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url(""), "--delete"]).done();
    site.assert_holds(&up, "");
}

fn failed_download_stops_the_deletes(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("broken", b"broken");
    site.bucket.put("fine", b"fine");
    let down = site.directory("down");
    tree::file(&down, "extra", "extra");
    tree::file(&down, "broken", "the old file stays whole");
    site.proxy.rule(Rule::every(Kind::Get, Fault::Answer(500, "InternalError")).on("/broken"));
    let args = ["sync", &site.url(""), &down, "--delete", "--retries", "1"];
    site.haul(&args).exits(&[1]).names("broken");
    assert_eq!(fs::read(site.at("down/extra")).unwrap(), b"extra");
    assert_eq!(fs::read(site.at("down/broken")).unwrap(), b"the old file stays whole");
    assert_eq!(fs::read(site.at("down/fine")).unwrap(), b"fine");
    assert!(tree::temporary_files(&down).is_empty());
}

fn ignore_errors_deletes_all_the_same(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["anchor", "gone"]);
    remove(&up, "gone");
    tree::file(&up, "new", "new");
    site.proxy.rule(Rule::every(Kind::Put, Fault::Answer(500, "InternalError")).on("/new"));
    let flags = ["--delete", "--retries", "1", "--ignore-errors"];
    site.haul_with(&["sync", &up, &site.url("")], &flags).exits(&[1]);
    site.bucket.assert_keys(&["anchor"]);
}

fn excluded_names_are_kept_unless_told(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a.txt", "d/gone.log", "d/kept.log", "gone.txt", "x.log"]);
    remove(&up, "d/gone.log");
    remove(&up, "gone.txt");
    tree::file(&up, "x.log", "changed");
    let args = ["sync", &up, &site.url(""), "--exclude", "*.log", "--delete"];
    site.haul(&args).done();
    site.bucket.assert_keys(&["a.txt", "d/gone.log", "d/kept.log", "x.log"]);
    assert_eq!(site.bucket.get("x.log"), b"x.log");
    let again = ["--include", "kept.log"];
    site.haul(&[&args[..], &again, &["--delete-excluded"]].concat()).done();
    site.bucket.assert_keys(&["a.txt", "d/kept.log"]);
}

fn filter_that_excludes_everything_deletes_nothing(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b"]);
    for flags in [&["--delete"][..], &["--delete", "--delete-excluded"]] {
        site.haul_with(&["sync", &up, &site.url(""), "--exclude", "*"], flags).fails();
        site.bucket.assert_keys(&["a", "b"]);
    }
}

fn deletes_follow_the_transfers(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a-gone", "b-gone", "keep"]);
    remove(&up, "a-gone");
    remove(&up, "b-gone");
    for number in 0..20 {
        tree::file(&up, format!("z{number}"), tree::noise(1000, number));
    }
    site.haul(&["sync", &up, &site.url(""), "--delete"]).done();
    let passed = site.proxy.passed();
    let last_put = passed.iter().rposition(|passed| passed.kind == Kind::Put);
    let first_delete = passed.iter().position(|passed| passed.kind == Kind::Delete);
    assert!(last_put.unwrap() < first_delete.unwrap(), "a delete came first: {passed:#?}");
    site.assert_holds(&up, "");
}

fn download_deletes_links_and_not_what_they_point_to(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("a", b"a");
    let outside = site.directory("outside");
    tree::file(&outside, "precious", "precious");
    let down = site.directory("down");
    tree::link(&down, "to-directory", "../outside");
    tree::link(&down, "to-file", "../outside/precious");
    site.haul(&["sync", &site.url(""), &down, "--delete"]).done();
    assert_eq!(tree::read(&down).into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(fs::read(site.at("outside/precious")).unwrap(), b"precious");
}

fn failed_listing_deletes_nothing(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["a", "b"]);
    remove(&up, "b");
    let down = site.directory("down");
    tree::file(&down, "extra", "extra");
    site.proxy.rule(Rule::every(Kind::List, Fault::Answer(500, "InternalError")));
    let flags = ["--delete", "--force-empty", "--retries", "1"];
    site.haul_with(&["sync", &up, &site.url("")], &flags).exits(&[1, 6]);
    site.haul_with(&["sync", &site.url(""), &down], &flags).exits(&[1, 6]);
    site.bucket.assert_keys(&["a", "b"]);
    assert!(fs::exists(site.at("down/extra")).unwrap());
}

/// Another client writes the key between the plan and the delete: it still has to be there
/// afterwards.
fn object_rewritten_after_the_listing_is_not_deleted_unseen(server: &Server) {
    let site = Site::new(server);
    let up = mirrored(&site, &["gone", "keep"]);
    remove(&up, "gone");
    tree::file(&up, "new", "the put before which the other client writes");
    let bucket = Bucket::clone(&site.bucket);
    let rewrite = Fault::hook(move || {
        bucket.put("gone", b"written by another client");
    });
    site.proxy.rule(Rule::every(Kind::Put, rewrite).on("/new").times(1));
    site.haul(&["sync", &up, &site.url(""), "--delete"]).exits(&[0, 1, 3]);
    assert_eq!(site.bucket.get("gone"), b"written by another client");
}
