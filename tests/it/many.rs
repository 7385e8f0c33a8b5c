//! More keys than one page of a listing holds.

use std::fs;

use crate::support::oracle::etag_of;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    more_keys_than_a_page_go_up_and_down_and_vanish,
}

const FILES: u64 = 2500;
const REMOVED: u64 = 1500;

fn name(number: u64) -> String {
    format!("d{}/f{number}", number % 7)
}

fn more_keys_than_a_page_go_up_and_down_and_vanish(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..FILES {
        tree::file(&up, name(number), tree::noise(100, number));
    }
    let (url, down) = (site.url(""), site.at("down"));
    let outcome = site.haul(&["sync", &up, &url, "--json"]).done();
    assert_eq!(outcome.summary("transferred"), FILES);
    assert_listed(&site, &up);
    site.assert_sync_is_idle(&up, &url);
    assert!(site.proxy.count(Kind::List) > 2, "the listing has more than one page");
    site.haul(&["sync", &url, &down]).done();
    tree::assert_same(&up, &down);
    site.assert_sync_is_idle(&url, &down);
    cut_listing_deletes_nothing(&site, &up, &down);
    most_of_them_vanish(&site, &up, &down);
}

/// The listing has exactly the tree's names, each with the MD5 of its file.
#[track_caller]
fn assert_listed(site: &Site, root: &str) {
    let listed = site.bucket.list();
    let tree = tree::read(root);
    assert_eq!(listed.len(), tree.len());
    for path in tree.keys() {
        let key = path.to_str().unwrap();
        let etag = etag_of(format!("{root}/{key}").as_ref(), None);
        assert_eq!(listed.get(key).map(|found| &found.etag), Some(&etag), "{key}");
    }
}

/// The first page comes, the second does not: as if the rest of the source were gone.
fn cut_listing_deletes_nothing(site: &Site, up: &str, down: &str) {
    let before = site.bucket.keys().len();
    for fault in [Fault::Answer(500, "InternalError"), Fault::CutResponse(5000)] {
        site.proxy.reset();
        site.proxy.rule(Rule::every(Kind::List, fault).on("continuation-token"));
        let flags = ["--delete", "--max-delete", "100%", "--retries", "1"];
        site.haul_with(&["sync", &site.url(""), down], &flags).exits(&[1, 6]);
        site.haul_with(&["sync", up, &site.url("")], &flags).exits(&[1, 6]);
    }
    site.proxy.reset();
    tree::assert_same(up, down);
    assert_eq!(site.bucket.keys().len(), before);
}

/// 1,500 of 2,500 are more than half: refused unless asked for.
fn most_of_them_vanish(site: &Site, up: &str, down: &str) {
    for number in 0..REMOVED {
        fs::remove_file(format!("{up}/{}", name(number))).unwrap();
    }
    let url = site.url("");
    site.haul(&["sync", up, &url, "--delete"]).exits(&[4]);
    assert_eq!(site.bucket.keys().len() as u64, FILES);
    let all = ["--delete", "--max-delete", "100%", "--json"];
    let outcome = site.haul_with(&["sync", up, &url], &all).done();
    assert_eq!(outcome.summary("deleted"), REMOVED);
    assert_listed(site, up);
    site.haul(&["sync", &url, down, "--delete"]).exits(&[4]);
    site.haul_with(&["sync", &url, down], &all).done();
    tree::assert_same(up, down);
}
