//! A network that breaks: what is retried ends right, what cannot be is told, and no wrong byte is
//! ever kept.

use std::fs;
use std::time::Duration;

use crate::support::oracle::Bucket;
use crate::support::run::Outcome;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    bursts_of_slow_down_are_retried,
    bursts_of_slow_down_are_retried_in_multipart,
    connection_cut_during_an_upload_is_retried,
    connection_cut_during_a_download_is_retried,
    silent_server_ends_an_upload_within_the_idle_timeout,
    silent_server_ends_a_listing_within_the_idle_timeout,
    stalled_download_ends_within_the_idle_timeout,
    bit_flipped_in_an_upload_is_not_stored_as_done,
    bit_flipped_in_a_part_is_not_stored_as_done,
    bit_flipped_in_every_upload_fails_the_file,
    bit_flipped_in_a_download_never_reaches_the_file,
    bit_flipped_in_every_download_keeps_the_old_file,
    object_changed_before_its_get_is_never_mixed,
    object_changed_between_two_ranges_is_never_mixed,
    file_that_changes_under_its_upload_is_never_mixed,
    file_that_fails_for_good_leaves_the_others_done,
    broken_multipart_is_kept_and_a_refused_one_taken_back,
}

const SLOW_DOWN: Fault = Fault::Answer(503, "SlowDown");
const LARGE: u64 = 40 << 20;

/// A tree of a few small files, one that goes alone and one that is sent in parts.
fn tree_with_large(site: &Site) -> String {
    let up = site.directory("up");
    for name in ["a", "b", "c/d"] {
        tree::file(&up, name, tree::noise(200_000, 1));
    }
    tree::generated(&up, "middle", 5 << 20, 3);
    tree::generated(&up, "large", LARGE, 2);
    up
}

fn bursts_of_slow_down_are_retried(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a", "b", "c", "d"] {
        tree::file(&up, name, name);
    }
    site.proxy.rule(Rule::every(Kind::Put, SLOW_DOWN).times(5));
    site.proxy.rule(Rule::every(Kind::List, SLOW_DOWN).times(2));
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
    let down = site.directory("down");
    site.proxy.rule(Rule::every(Kind::Get, Fault::Answer(500, "InternalError")).times(3));
    site.haul(&["sync", &site.url(""), &down]).done();
    tree::assert_same(&up, &down);
}

fn bursts_of_slow_down_are_retried_in_multipart(server: &Server) {
    let site = Site::new(server);
    let up = tree_with_large(&site);
    for kind in [Kind::Begin, Kind::Part, Kind::Complete] {
        site.proxy.rule(Rule::every(kind, SLOW_DOWN).times(2));
    }
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
    assert!(site.bucket.uploads().is_empty(), "an upload was left open");
}

fn connection_cut_during_an_upload_is_retried(server: &Server) {
    let site = Site::new(server);
    let up = tree_with_large(&site);
    site.proxy.rule(Rule::every(Kind::Put, Fault::CutRequest(100_000)).times(2));
    site.proxy.rule(Rule::every(Kind::Part, Fault::CutRequest(5 << 20)).times(2));
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
    assert!(site.bucket.uploads().is_empty(), "an upload was left open");
}

fn connection_cut_during_a_download_is_retried(server: &Server) {
    let site = Site::new(server);
    let up = tree_with_large(&site);
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    site.proxy.rule(Rule::every(Kind::Get, Fault::CutResponse(2 << 20)).on("middle").times(2));
    site.proxy.rule(Rule::every(Kind::Get, Fault::CutResponse(100_000)).times(4));
    site.haul(&["sync", &site.url(""), &down]).done();
    tree::assert_same(&up, &down);
    assert!(tree::temporary_files(&down).is_empty());
}

/// Runs with a short idle timeout and fails where that did not end it.
#[track_caller]
fn haul_impatiently(site: &Site, source: &str, target: &str) -> Outcome {
    let flags = ["--idle-timeout", "2s", "--retries", "1"];
    let outcome = site.haul_with(&["sync", source, target], &flags).exits(&[1, 6]);
    assert!(outcome.took < Duration::from_secs(45), "took {:?}", outcome.took);
    assert!(!outcome.stderr.trim().is_empty(), "nothing was said");
    outcome
}

fn silent_server_ends_an_upload_within_the_idle_timeout(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    tree::file(&up, "silent", "silent");
    site.proxy.rule(Rule::every(Kind::Put, Fault::Hang).on("/silent"));
    haul_impatiently(&site, &up, &site.url("")).names("silent");
    site.bucket.assert_keys(&["a"]);
}

fn silent_server_ends_a_listing_within_the_idle_timeout(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    site.proxy.rule(Rule::every(Kind::List, Fault::Hang));
    haul_impatiently(&site, &up, &site.url(""));
}

fn stalled_download_ends_within_the_idle_timeout(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("stalled", &tree::noise(500_000, 3));
    let down = site.directory("down");
    site.proxy.rule(Rule::every(Kind::Get, Fault::StallResponse(1000)));
    haul_impatiently(&site, &site.url(""), &down).names("stalled");
    assert!(tree::read(&down).is_empty(), "something was left");
}

/// Either the run repaired it, or it says that it failed; in no case is a wrong object called done.
#[track_caller]
fn assert_right_or_told(site: &Site, up: &str, outcome: Outcome) {
    if outcome.exits(&[0, 1]).code == Some(0) {
        site.assert_holds(up, "");
        site.assert_sync_is_idle(up, &site.url(""));
    }
    site.proxy.reset();
    site.haul(&["sync", up, &site.url("")]).done();
    site.assert_holds(up, "");
}

fn bit_flipped_in_an_upload_is_not_stored_as_done(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "flipped", tree::noise(200_000, 4));
    tree::file(&up, "other", "other");
    site.proxy.rule(Rule::every(Kind::Put, Fault::FlipRequest(1000)).on("/flipped").times(1));
    let outcome = site.haul(&["sync", &up, &site.url("")]);
    assert_right_or_told(&site, &up, outcome);
}

fn bit_flipped_in_a_part_is_not_stored_as_done(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", LARGE, 5);
    site.proxy.rule(Rule::every(Kind::Part, Fault::FlipRequest(1 << 20)).skip(1).times(1));
    let outcome = site.haul(&["sync", &up, &site.url("")]);
    assert_right_or_told(&site, &up, outcome);
}

fn bit_flipped_in_every_upload_fails_the_file(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "flipped", tree::noise(200_000, 6));
    tree::generated(&up, "large-flipped", LARGE, 6);
    site.proxy.rule(Rule::every(Kind::Put, Fault::FlipRequest(1000)));
    site.proxy.rule(Rule::every(Kind::Part, Fault::FlipRequest(1000)));
    let outcome = site.haul(&["sync", &up, &site.url(""), "--retries", "1"]);
    outcome.exits(&[1]).names("flipped").names("large-flipped");
    assert!(site.bucket.head("large-flipped").is_none(), "a wrong object was completed");
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
}

fn bit_flipped_in_a_download_never_reaches_the_file(server: &Server) {
    let site = Site::new(server);
    let up = tree_with_large(&site);
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    site.proxy.rule(Rule::every(Kind::Get, Fault::FlipResponse(1000)).times(3));
    let outcome = site.haul(&["sync", &site.url(""), &down]).exits(&[0, 1]);
    let expected = tree::read(&up);
    for (path, node) in tree::read(&down) {
        assert_eq!(expected.get(&path), Some(&node), "at {}", path.display());
    }
    assert!(tree::temporary_files(&down).is_empty());
    if outcome.code == Some(0) {
        tree::assert_same(&up, &down);
    }
}

fn bit_flipped_in_every_download_keeps_the_old_file(server: &Server) {
    let site = Site::new(server);
    let up = tree_with_large(&site);
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    tree::file(&down, "a", "the old file");
    tree::generated(&down, "large", LARGE + 1, 7);
    let before = tree::read(&down);
    site.proxy.rule(Rule::every(Kind::Get, Fault::FlipResponse(1000)));
    site.haul(&["sync", &site.url(""), &down, "--retries", "1"]).exits(&[1]).names("large");
    tree::assert_equal(&before, &tree::read(&down));
}

/// Overwrites `key` with the file at `path` just before the `after`-th GET of it goes to the
/// server.
fn overwrite_before_get(site: &Site, key: &'static str, path: String, after: usize) {
    let bucket = Bucket::clone(&site.bucket);
    let overwrite = Fault::hook(move || bucket.put_file(key, path.as_ref()));
    site.proxy.rule(Rule::every(Kind::Get, overwrite).skip(after).times(1));
}

/// The file is one of the two whole, or it is absent and the run says so.
#[track_caller]
fn assert_whole(site: &Site, outcome: Outcome, key: &str) {
    let found = site.at("down") + "/" + key;
    let code = outcome.exits(&[0, 1, 3]).code;
    if !fs::exists(&found).unwrap() {
        assert_ne!(code, Some(0), "no file, and not a word");
        return;
    }
    let found = tree::hash(found.as_ref());
    let whole = ["old", "new"].map(|name| tree::hash((site.at(name) + "/" + key).as_ref()));
    assert!(whole.contains(&found), "the file is neither the old nor the new one");
}

fn object_changed_before_its_get_is_never_mixed(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("old"), "key", tree::noise(100_000, 8));
    tree::file(site.at("new"), "key", tree::noise(100_000, 9));
    site.haul(&["sync", &site.at("old"), &site.url("")]).done();
    overwrite_before_get(&site, "key", site.at("new/key"), 0);
    let outcome = site.haul(&["sync", &site.url(""), &site.directory("down")]);
    assert_whole(&site, outcome, "key");
}

fn object_changed_between_two_ranges_is_never_mixed(server: &Server) {
    let site = Site::new(server);
    tree::generated(site.at("old"), "key", LARGE, 10);
    tree::generated(site.at("new"), "key", LARGE, 11);
    site.haul(&["sync", &site.at("old"), &site.url("")]).done();
    overwrite_before_get(&site, "key", site.at("new/key"), 1);
    let outcome = site.haul(&["sync", &site.url(""), &site.directory("down"), "-j", "1"]);
    assert_whole(&site, outcome, "key");
}

/// The file is rewritten between its hash and its parts: told, or stored whole as it was; never
/// mixed.
fn file_that_changes_under_its_upload_is_never_mixed(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", LARGE, 13);
    let before = tree::hash(site.at("up/large").as_ref());
    let root = up.clone();
    let rewrite = Fault::hook(move || tree::generated(&root, "large", LARGE, 14));
    site.proxy.rule(Rule::every(Kind::Begin, rewrite).times(1));
    let outcome = site.haul(&["sync", &up, &site.url("")]).exits(&[0, 1, 3]);
    if outcome.code != Some(0) {
        outcome.names("large");
    } else if site.bucket.hash("large") != before {
        site.assert_holds(&up, "");
    }
    if let Some(head) = site.bucket.head("large") {
        assert_eq!(head.metadata["blake3"], site.bucket.hash("large"));
    }
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
}

fn file_that_fails_for_good_leaves_the_others_done(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a", "broken", "c"] {
        tree::file(&up, name, name);
    }
    site.proxy.rule(Rule::every(Kind::Put, Fault::Answer(403, "AccessDenied")).on("/broken"));
    let outcome = site.haul(&["sync", &up, &site.url(""), "--json"]).exits(&[1]).names("broken");
    assert_eq!(outcome.summary("failed"), 1);
    assert_eq!(outcome.summary("transferred"), 2);
    assert_eq!(outcome.summary("exit"), 1);
    site.bucket.assert_keys(&["a", "c"]);
}

fn broken_multipart_is_kept_and_a_refused_one_taken_back(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", LARGE, 12);
    for (broken, left) in [
        (Fault::Answer(500, "InternalError"), ["large"].as_slice()),
        (Fault::Answer(403, "QuotaExceeded"), &[]),
    ] {
        site.proxy.reset();
        site.proxy.rule(Rule::every(Kind::Part, broken).on("partNumber=2"));
        let outcome = site.haul(&["sync", &up, &site.url(""), "--retries", "1"]);
        outcome.exits(&[1]).names("large");
        assert_eq!(site.bucket.uploads(), left);
        site.bucket.assert_keys(&[]);
    }
}
