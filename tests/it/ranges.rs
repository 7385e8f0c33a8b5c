//! Listings in key ranges at once: they see what a listing in sequence sees, and ask for no page
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::server::Kind as ServerKind;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    listing_in_ranges_asks_for_no_page_more,
    changes_by_others_are_noticed_in_ranges,
    ranges_are_found_without_a_catalog,
    keys_in_an_odd_order_around_the_ends_of_ranges_are_seen,
    last_range_that_is_full_costs_no_page_more,
    range_that_cannot_be_listed_deletes_nothing,
    empty_pages_that_are_not_the_last_lose_nothing,
}

/// Keys of a page, and of a range: every so-many-th key ends one.
const PAGE: usize = 1000;
const RANGE: usize = 4000;

/// A tree with these keys; no two contents are alike. Answers the keys in byte order.
fn tree_of(up: &str, keys: impl IntoIterator<Item = String>) -> Vec<String> {
    let keys: BTreeSet<String> = keys.into_iter().collect();
    for key in &keys {
        tree::file(up, key, key);
    }
    keys.into_iter().collect()
}

fn numbered(directory: &'static str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{directory}{:02}/f{number:05}", number / 450))
}

/// The bucket of a site holds a tree of so many keys.
fn filled(site: &Site, count: usize) -> (String, Vec<String>) {
    let up = site.directory("up");
    let keys = tree_of(&up, numbered("d", count));
    site.haul(&["sync", &up, &site.url("")]).done();
    (up, keys)
}

/// How many pages of listings were asked for with this in their query.
fn lists_with(site: &Site, query: &str) -> usize {
    let passed = site.proxy.passed().into_iter();
    passed.filter(|one| one.kind == Kind::List && one.target.contains(query)).count()
}

/// What a sync with `--delete` would do.
#[track_caller]
fn planned(site: &Site, source: &str, target: &str) -> BTreeMap<String, String> {
    site.proxy.reset();
    let flags = ["--delete", "--max-delete", "100%", "--json"];
    site.haul_with(&["plan", source, target], &flags).done().planned()
}

#[track_caller]
fn assert_keys(site: &Site, expected: &[String]) {
    let (found, expected) = (site.bucket.keys(), expected.iter().cloned().collect());
    let differ: Vec<_> = found.symmetric_difference(&expected).collect();
    assert!(differ.is_empty(), "on one side only: {differ:?}");
}

fn listing_in_ranges_asks_for_no_page_more(server: &Server) {
    const COUNT: usize = 12_345;
    let site = Site::new(server);
    let (up, keys) = filled(&site, COUNT);
    let (url, down) = (site.url(""), site.at("down"));
    assert_keys(&site, &keys);
    site.assert_sync_only_lists(&up, &url, COUNT.div_ceil(PAGE));
    assert_eq!(lists_with(&site, "start-after"), COUNT / RANGE + 1, "ranges");
    site.haul(&["sync", &url, &down]).done();
    tree::assert_same(&up, &down);
    site.assert_sync_only_lists(&url, &down, COUNT.div_ceil(PAGE));
    assert_eq!(lists_with(&site, "start-after"), COUNT / RANGE + 1, "ranges");
}

fn changes_by_others_are_noticed_in_ranges(server: &Server) {
    let site = Site::new(server);
    let (up, keys) = filled(&site, 8765);
    let url = site.url("");
    let mut expected = BTreeMap::new();
    // An end of a range, what follows one, and what is in the middle of one.
    for gone in [&keys[RANGE - 1], &keys[2 * RANGE], &keys[RANGE + PAGE + PAGE / 2]] {
        site.bucket.delete(gone);
        expected.insert(gone.clone(), "transfer".to_owned());
    }
    let end = &keys[2 * RANGE - 1];
    site.bucket.put(end, b"another content");
    expected.insert(end.clone(), "transfer".to_owned());
    // Right behind ends, right before the first and behind the last key, and in the middle.
    let around = [&keys[RANGE - 1], end, &keys[0], &keys[keys.len() - 1], &keys[RANGE + PAGE]];
    let extra = around.into_iter().map(|key| format!("{key}0")).chain(["a".into(), "z".into()]);
    for extra in extra {
        site.bucket.put(&extra, b"extra");
        expected.insert(extra, "delete".to_owned());
    }
    assert_eq!(planned(&site, &up, &url), expected);
    assert_eq!(lists_with(&site, "start-after"), 3, "ranges");
    site.haul(&["sync", &up, &url, "--delete"]).done();
    assert_keys(&site, &keys);
    site.assert_sync_only_lists(&up, &url, keys.len().div_ceil(PAGE));
}

fn ranges_are_found_without_a_catalog(server: &Server) {
    let site = Site::new(server);
    let (up, keys) = filled(&site, 9100);
    let (url, down) = (site.url(""), site.directory("down"));
    site.forget();
    site.bucket.delete(&keys[6000]);
    site.bucket.put("d15/extra", b"extra");
    let expected = [(&keys[6000][..], "transfer"), ("d15/extra", "delete")];
    let expected = expected.map(|(key, action)| (key.to_owned(), action.to_owned()));
    assert_eq!(planned(&site, &up, &url), expected.into_iter().collect());
    assert!(lists_with(&site, "delimiter") > 0, "directories were not asked for");
    assert!(lists_with(&site, "start-after") > 2, "ranges were not listed");
    site.haul(&["sync", &up, &url, "--delete"]).done();
    assert_keys(&site, &keys);
    site.forget();
    tree::file(&down, "d07/extra", "extra");
    site.proxy.reset();
    let all = ["--delete", "--max-delete", "100%", "--json"];
    let outcome = site.haul_with(&["sync", &url, &down], &all).done();
    assert_eq!(outcome.summary("deleted"), 1);
    assert!(lists_with(&site, "start-after") > 2, "ranges were not listed");
    tree::assert_same(&up, &down);
}

/// Names that bytes order otherwise than directories do.
fn odd(stem: &str) -> Vec<String> {
    let ends = ["!", "-", "-/x", ".", "./x", "/", "0", "é", "é/x", " "];
    let below = (0..12).map(|number| format!("{stem}/{number:02}"));
    let beside = ends.iter().filter(|end| **end != "/").map(|end| format!("{stem}{end}"));
    // `.` and `-` are names of files here, where nothing is below them.
    let clash = |key: &String| !["-", ".", "é"].iter().any(|end| key == &format!("{stem}{end}"));
    below.chain(beside.filter(clash)).chain([format!("{stem}-a"), format!("{stem}.a")]).collect()
}

fn keys_in_an_odd_order_around_the_ends_of_ranges_are_seen(server: &Server) {
    let site = Site::new(server);
    let (up, url, down) = (site.directory("up"), site.url(""), site.directory("down"));
    let (first, second) = (odd("b"), odd("d"));
    let half = first.len() / 2;
    // Both groups lie across an end.
    let between = RANGE - first.len();
    let all = numbered("a", RANGE - half)
        .chain(first.clone())
        .chain(numbered("c", between))
        .chain(second.clone())
        .chain(numbered("e", 700));
    let keys = tree_of(&up, all);
    assert!(first.contains(&keys[RANGE - 1]) && second.contains(&keys[2 * RANGE - 1]));
    site.haul(&["sync", &up, &url]).done();
    assert_keys(&site, &keys);
    site.assert_sync_is_idle(&up, &url);
    if server.kind == ServerKind::Rgw {
        site.assert_sync_only_lists(&up, &url, keys.len().div_ceil(PAGE));
        assert_eq!(lists_with(&site, "start-after"), 3, "ranges");
    }
    // Each second of the odd keys goes.
    let gone: Vec<&String> = first.iter().chain(&second).step_by(2).collect();
    for key in &gone {
        site.bucket.delete(key);
    }
    let expected = gone.iter().map(|key| ((*key).clone(), "transfer".to_owned())).collect();
    assert_eq!(planned(&site, &up, &url), expected);
    site.haul(&["sync", &up, &url, "--delete"]).done();
    assert_keys(&site, &keys);
    tree::file(&down, "b-extra", "extra");
    let everything = ["--delete", "--max-delete", "100%", "--json"];
    let outcome = site.haul_with(&["sync", &url, &down], &everything).done();
    assert_eq!(outcome.summary("deleted"), 1);
    tree::assert_same(&up, &down);
    for _ in 0..2 {
        let outcome = site.haul_with(&["sync", &url, &down], &everything).done();
        assert_eq!(outcome.summary("deleted") + outcome.summary("transferred"), 0);
        site.forget();
    }
    assert!(planned(&site, &up, &url).is_empty());
    tree::assert_same(&up, &down);
}

fn last_range_that_is_full_costs_no_page_more(server: &Server) {
    let site = Site::new(server);
    let (up, _) = filled(&site, RANGE);
    site.assert_sync_only_lists(&up, &site.url(""), RANGE / PAGE);
}

fn range_that_cannot_be_listed_deletes_nothing(server: &Server) {
    let site = Site::new(server);
    let (up, keys) = filled(&site, 8500);
    let (url, down) = (site.url(""), site.at("down"));
    site.haul(&["sync", &url, &down]).done();
    // Something to delete on either side, so that a delete would show.
    site.bucket.put("z/extra", b"extra");
    tree::file(&down, "d00/extra-down", "extra");
    let before = tree::read(&down);
    let flags = ["--delete", "--max-delete", "100%", "--retries", "1"];
    let (refused, cut) = (Fault::Answer(500, "InternalError"), Fault::CutResponse(5000));
    let ends = [PAGE - 1, RANGE - 1, 2 * RANGE - 1].map(|index| &keys[index]);
    for (end, fault) in ends.into_iter().zip([refused.clone(), cut, refused.clone()]) {
        site.proxy.reset();
        let query = format!("start-after={}", end.replace('/', "%2F"));
        site.proxy.rule(Rule::every(Kind::List, fault).on(&query));
        site.haul_with(&["sync", &up, &url], &flags).exits(&[1, 6]);
        site.haul_with(&["sync", &url, &down], &flags).exits(&[1, 6]);
        assert!(lists_with(&site, &query) >= 2, "{query} was not asked for");
        assert_eq!(site.proxy.count(Kind::Delete), 0);
    }
    tree::assert_equal(&before, &tree::read(&down));
    assert_eq!(site.bucket.keys().len(), keys.len() + 1);
    // Once only: asked again.
    site.proxy.reset();
    let cut = Rule::every(Kind::List, Fault::CutResponse(5000)).on("start-after");
    site.proxy.rule(cut.times(1));
    site.haul_with(&["sync", &up, &url], &flags).done();
    assert_keys(&site, &keys);
    // What directories there are can't be found out: then the listing is in sequence.
    site.forget();
    site.proxy.reset();
    site.proxy.rule(Rule::every(Kind::List, refused).on("delimiter"));
    site.haul_with(&["sync", &url, &down], &flags).done();
    assert_eq!(lists_with(&site, "start-after"), lists_with(&site, "delimiter"), "ranges");
    tree::assert_same(&up, &down);
}

/// A page with nothing on it, after which the listing goes on behind the same key: both servers
/// take a key as a token.
fn empty_page(target: &str) -> String {
    let after = target.split(['?', '&']).find_map(|pair| pair.strip_prefix("start-after="));
    let token = after.expect("a start").replace("%2F", "/");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>\
         <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount>\
         <NextContinuationToken>{token}</NextContinuationToken></ListBucketResult>"
    )
}

fn empty_pages_that_are_not_the_last_lose_nothing(server: &Server) {
    let site = Site::new(server);
    let (up, keys) = filled(&site, 8500);
    let (url, down) = (site.url(""), site.at("down"));
    let empty = || Rule::every(Kind::List, Fault::reply(empty_page)).on("start-after");
    site.proxy.rule(empty());
    site.haul(&["sync", &url, &down, "--delete"]).done();
    tree::assert_same(&up, &down);
    site.proxy.reset();
    site.proxy.rule(empty());
    let outcome = site.haul(&["sync", &up, &url, "--delete", "--json"]).done();
    assert_eq!(lists_with(&site, "start-after"), 3, "ranges");
    assert_eq!(site.proxy.passed().len(), keys.len().div_ceil(PAGE) + 3, "pages");
    assert_eq!(outcome.summary("transferred") + outcome.summary("deleted"), 0);
    // With the same token again and again it would never end.
    let again = |_: &str| empty_page("?start-after=d01/f00500");
    site.proxy.rule(Rule::every(Kind::List, Fault::reply(again)).on("continuation-token"));
    fs::remove_dir_all(format!("{down}/d00")).unwrap();
    let outcome = site.haul(&["sync", &up, &url, "--delete"]).exits(&[1, 6]);
    outcome.names("continuation token");
    assert_eq!(site.bucket.keys().len(), keys.len());
}
