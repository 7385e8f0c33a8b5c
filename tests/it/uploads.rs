//! Unfinished uploads as people see them: `haul uploads`, and single copies that are cut and gone
//! on with.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    uploads_are_listed_and_aborted_below_a_prefix_only,
    uploads_that_are_young_stay,
    copy_of_one_file_that_is_cut_is_gone_on_with,
    copy_of_one_object_that_is_cut_is_gone_on_with,
    copy_of_another_content_begins_anew_and_takes_the_old_upload_back,
}

fn uploads_are_listed_and_aborted_below_a_prefix_only(server: &Server) {
    let site = Site::new(server);
    for key in ["run1/a b+c", "run1/é", "run10/a", "run1"] {
        site.bucket.begin_multipart(key);
    }
    let listed = site.haul(&["uploads", "ls", &site.url(""), "--json"]).done().json();
    let mut keys: Vec<String> =
        listed.iter().map(|upload| upload["key"].as_str().unwrap().to_owned()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["run1", "run1/a b+c", "run1/é", "run10/a"]);
    let text = site.haul(&["uploads", "ls", &site.url("run10")]).done().text();
    assert!(text.contains(&format!("{}/a", site.url("run10"))), "{text}");
    assert_eq!(text.lines().count(), 1);
    site.haul(&["uploads", "abort", "-n", &site.url("run1")]).done();
    assert_eq!(site.bucket.uploads().len(), 4);
    site.haul(&["uploads", "abort", &site.url("run1")]).done();
    assert_eq!(site.bucket.uploads(), ["run10/a"]);
    site.haul(&["uploads", "abort", &site.url("")]).done();
    assert_eq!(site.bucket.uploads(), [""; 0]);
    assert_eq!(site.haul(&["uploads", "ls", &site.url("")]).done().text(), "");
}

fn uploads_that_are_young_stay(server: &Server) {
    let site = Site::new(server);
    site.bucket.begin_multipart("young");
    site.haul(&["uploads", "abort", "--older-than", "7d", &site.url("")]).done();
    assert_eq!(site.bucket.uploads(), ["young"]);
    // Some servers keep whole seconds.
    thread::sleep(Duration::from_millis(2100));
    site.haul(&["uploads", "abort", "--older-than", "1s", &site.url("")]).done();
    assert_eq!(site.bucket.uploads(), [""; 0]);
}

const PARTS: u64 = 10;

/// Starts a single copy whose requests of this kind come through one after the other, and
/// interrupts it half-way. Answers how many came through.
#[track_caller]
fn cut(site: &Site, kind: Kind, args: &[&str]) -> usize {
    site.proxy.rule(Rule::every(kind, Fault::delay(Duration::from_millis(200))).times(4));
    site.proxy.rule(Rule::every(kind, Fault::Hang).skip(4));
    let running = site.run(args).start();
    let started = Instant::now();
    while site.proxy.answered(kind) < 4 {
        assert!(started.elapsed() < Duration::from_mins(1), "nothing came through");
        thread::sleep(Duration::from_millis(20));
    }
    running.interrupt();
    running.finish().exits(&[130]);
    let done = site.proxy.answered(kind);
    site.proxy.reset();
    done
}

#[track_caller]
fn assert_nothing_is_kept(site: &Site) {
    let kept: Vec<_> = fs::read_dir(site.state_directory())
        .map(|files| files.map(|file| file.unwrap().file_name()).collect())
        .unwrap_or_default();
    assert!(kept.is_empty(), "{kept:?}");
}

fn copy_of_one_file_that_is_cut_is_gone_on_with(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", PARTS * PART_BYTES, 1);
    let (file, url) = (format!("{up}/large"), site.url("large"));
    let done = cut(&site, Kind::Part, &["cp", &file, &url]);
    assert_eq!(site.bucket.uploads(), ["large"]);
    site.haul(&["cp", &file, &url]).done();
    let sent = usize::try_from(PARTS).unwrap() - done;
    assert_eq!(site.proxy.count(Kind::Part), sent);
    assert_eq!(site.bucket.uploads(), [""; 0]);
    site.assert_holds(&up, "");
    assert_nothing_is_kept(&site);
}

fn copy_of_one_object_that_is_cut_is_gone_on_with(server: &Server) {
    let site = Site::new(server);
    let (up, down) = (site.directory("up"), site.directory("down"));
    tree::generated(&up, "large", PARTS * PART_BYTES, 2);
    site.haul(&["cp", &format!("{up}/large"), &site.url("large")]).done();
    let (file, url) = (format!("{down}/large"), site.url("large"));
    let done = cut(&site, Kind::Get, &["cp", &url, &file]);
    assert_eq!(tree::temporary_files(&down).len(), 1);
    site.haul(&["cp", &url, &file]).done();
    let fetched = usize::try_from(PARTS).unwrap() - done;
    assert_eq!(site.proxy.count(Kind::Get), fetched);
    tree::assert_same(&up, &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
    assert_nothing_is_kept(&site);
}

fn copy_of_another_content_begins_anew_and_takes_the_old_upload_back(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", PARTS * PART_BYTES, 3);
    let (file, url) = (format!("{up}/large"), site.url("large"));
    cut(&site, Kind::Part, &["mv", &file, &url]);
    tree::generated(&up, "large", PARTS * PART_BYTES, 4);
    let expected = tree::read(&up);
    site.haul(&["mv", &file, &url]).done();
    assert_eq!(site.proxy.count(Kind::Part), usize::try_from(PARTS).unwrap());
    assert_eq!(site.bucket.uploads(), [""; 0]);
    assert!(tree::read(&up).is_empty(), "the source stays");
    site.haul(&["cp", &url, &file]).done();
    tree::assert_equal(&expected, &tree::read(&up));
    assert_nothing_is_kept(&site);
}
