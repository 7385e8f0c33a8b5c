//! What may happen between a killed download and the next run: to the object, to its temporary
//! file, to the catalog.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use super::{DONE, KEY, Known, PARTS, SIZE, cut, large};
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    killed_download_is_gone_on_with_from_its_remembered_ranges,
    object_that_was_replaced_is_fetched_whole,
    object_that_has_shrunk_or_become_a_link_leaves_no_temporary_file,
    range_that_was_tampered_with_is_fetched_again,
    temporary_file_that_was_cut_off_is_filled_again,
    temporary_file_that_is_gone_costs_its_ranges,
    link_in_the_place_of_a_temporary_file_is_not_followed,
    temporary_file_of_a_gone_object_is_removed_by_the_next_run_without_failures,
    temporary_file_of_a_small_gone_object_is_removed_too,
    temporary_file_that_cannot_be_written_is_gone_on_with,
    comparing_everything_anew_goes_on_with_a_download,
    download_of_a_lost_catalog_begins_anew,
    file_of_another_pair_in_the_same_place_is_not_trusted,
}

/// A site with a download that was killed.
struct Cut {
    site: Site,
    up: String,
    down: String,
    /// Where the ranges begin that are remembered.
    ranges: BTreeSet<u64>,
}

impl Cut {
    #[track_caller]
    fn new(server: &Server) -> Self {
        let site = Site::new(server);
        let up = large(&site, SIZE);
        site.haul(&["sync", &up, &site.url("")]).done();
        Self::of(site, up)
    }

    /// The object is in the bucket.
    #[track_caller]
    fn of(site: Site, up: String) -> Self {
        site.proxy.reset();
        let down = site.directory("down");
        let ranges = cut(&site, &site.url(""), &down).ranges();
        assert_eq!(tree::temporary_files(&down).len(), 1);
        Self { site, up, down, ranges }
    }

    fn temporary_file(&self) -> String {
        format!("{}/{}", self.down, tree::temporary_files(&self.down)[0])
    }

    /// How many ranges were asked for since.
    fn fetched(&self) -> usize {
        let passed = self.site.proxy.passed().into_iter();
        passed.filter(|one| one.kind == Kind::Get && one.target.ends_with(KEY)).count()
    }

    /// The next run; how many ranges it fetched.
    #[track_caller]
    fn go_on(&self, flags: &[&str]) -> usize {
        self.site.proxy.reset();
        self.site.haul_with(&["sync", &self.site.url(""), &self.down], flags).done();
        self.fetched()
    }

    /// The files are those that were sent, and nothing else is left.
    #[track_caller]
    fn assert_complete(&self) {
        tree::assert_same(&self.up, &self.down);
        assert!(Known::of(&self.site).is_empty());
        self.site.assert_sync_is_idle(&self.site.url(""), &self.down);
    }
}

fn killed_download_is_gone_on_with_from_its_remembered_ranges(server: &Server) {
    let cut = Cut::new(server);
    assert_eq!(cut.go_on(&[]), PARTS - DONE);
    cut.assert_complete();
}

fn object_that_was_replaced_is_fetched_whole(server: &Server) {
    let cut = Cut::new(server);
    tree::generated(&cut.up, KEY, SIZE, 2);
    let file = format!("{}/{KEY}", cut.up);
    cut.site.bucket.put_multipart(KEY, file.as_ref(), PART_BYTES);
    assert_eq!(cut.go_on(&[]), PARTS);
    assert_eq!(tree::hash(format!("{}/{KEY}", cut.down).as_ref()), tree::hash(file.as_ref()));
    assert_eq!(tree::temporary_files(&cut.down), [""; 0]);
    assert!(Known::of(&cut.site).is_empty());
}

fn object_that_has_shrunk_or_become_a_link_leaves_no_temporary_file(server: &Server) {
    let cut = Cut::new(server);
    tree::generated(&cut.up, KEY, 2 << 20, 2);
    cut.site.haul(&["sync", &cut.up, &cut.site.url("")]).done();
    assert_eq!(cut.go_on(&[]), 1);
    cut.assert_complete();
    let cut = Cut::new(server);
    fs::remove_file(format!("{}/{KEY}", cut.up)).unwrap();
    tree::link(&cut.up, KEY, "elsewhere");
    cut.site.haul(&["sync", &cut.up, &cut.site.url("")]).done();
    assert_eq!(cut.go_on(&[]), 1);
    cut.assert_complete();
}

fn range_that_was_tampered_with_is_fetched_again(server: &Server) {
    let cut = Cut::new(server);
    let start = *cut.ranges.last().unwrap();
    tree::flip_bit(cut.temporary_file(), start + 5);
    assert_eq!(cut.go_on(&[]), PARTS - DONE + 1);
    cut.assert_complete();
}

fn temporary_file_that_was_cut_off_is_filled_again(server: &Server) {
    let cut = Cut::new(server);
    let file = File::options().write(true).open(cut.temporary_file()).unwrap();
    file.set_len(*cut.ranges.last().unwrap() + 1).unwrap();
    assert_eq!(cut.go_on(&[]), PARTS - DONE + 1);
    cut.assert_complete();
}

fn temporary_file_that_is_gone_costs_its_ranges(server: &Server) {
    let cut = Cut::new(server);
    fs::remove_file(cut.temporary_file()).unwrap();
    assert_eq!(cut.go_on(&[]), PARTS);
    cut.assert_complete();
}

fn link_in_the_place_of_a_temporary_file_is_not_followed(server: &Server) {
    let cut = Cut::new(server);
    let (temporary, elsewhere) = (cut.temporary_file(), cut.site.at("elsewhere"));
    fs::rename(&temporary, &elsewhere).unwrap();
    let before = tree::hash(elsewhere.as_ref());
    symlink(&elsewhere, &temporary).unwrap();
    assert_eq!(cut.go_on(&[]), PARTS);
    assert_eq!(tree::hash(elsewhere.as_ref()), before);
    cut.assert_complete();
}

fn temporary_file_of_a_gone_object_is_removed_by_the_next_run_without_failures(server: &Server) {
    let cut = Cut::new(server);
    let temporary = tree::temporary_files(&cut.down);
    cut.site.bucket.delete(KEY);
    fs::remove_file(format!("{}/{KEY}", cut.up)).unwrap();
    for name in ["a", "broken"] {
        tree::file(&cut.up, name, name);
    }
    cut.site.haul(&["sync", &cut.up, &cut.site.url("")]).done();
    let ends = ["sync", &cut.site.url(""), &cut.down];
    let denied = Fault::Answer(403, "AccessDenied");
    cut.site.proxy.rule(Rule::every(Kind::Get, denied).on("/broken"));
    cut.site.haul(&ends).exits(&[1]);
    assert_eq!(tree::temporary_files(&cut.down), temporary, "after a failure");
    cut.site.proxy.reset();
    cut.site.haul_with(&ends, &["-n"]).done();
    assert_eq!(tree::temporary_files(&cut.down), temporary, "a run that was to change nothing");
    cut.site.haul_with(&ends, &["--exclude", KEY]).done();
    assert_eq!(tree::temporary_files(&cut.down), temporary, "a run that is not to touch it");
    assert_eq!(cut.go_on(&[]), 0);
    cut.assert_complete();
}

/// Killed when it had fetched a small object, and waited for others to land with it.
fn temporary_file_of_a_small_gone_object_is_removed_too(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["small", "stalled"] {
        tree::file(&up, name, tree::noise(2 << 20, 1));
    }
    tree::file(&up, "other", "other");
    let (url, down) = (site.url(""), site.directory("down"));
    site.haul(&["sync", &up, &url]).done();
    site.proxy.reset();
    site.proxy.rule(Rule::every(Kind::Get, Fault::StallResponse(1 << 20)).on("/stalled"));
    let running = site.run(&["sync", &url, &down]).start();
    super::wait_until("a temporary file", || !tree::temporary_files(&down).is_empty());
    running.kill();
    for name in ["small", "stalled"] {
        site.bucket.delete(name);
        fs::remove_file(format!("{up}/{name}")).unwrap();
    }
    site.proxy.reset();
    site.haul(&["sync", &url, &down, "--delete", "--max-delete", "100%"]).done();
    tree::assert_same(&up, &down);
}

/// A killed run may have given it the mode of the object already.
fn temporary_file_that_cannot_be_written_is_gone_on_with(server: &Server) {
    let site = Site::new(server);
    let up = large(&site, SIZE);
    tree::chmod(format!("{up}/{KEY}"), 0o400);
    site.haul(&["sync", &up, &site.url("")]).done();
    let cut = Cut::of(site, up);
    tree::chmod(cut.temporary_file(), 0o400);
    cut.site.haul_unprivileged(&["sync", &cut.site.url(""), &cut.down]).done();
    assert_eq!(cut.fetched(), PARTS - DONE);
    let mode = fs::metadata(format!("{}/{KEY}", cut.down)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o400);
    tree::assert_same(&cut.up, &cut.down);
}

fn comparing_everything_anew_goes_on_with_a_download(server: &Server) {
    let cut = Cut::new(server);
    assert_eq!(cut.go_on(&["-c"]), PARTS - DONE);
    cut.assert_complete();
}

fn download_of_a_lost_catalog_begins_anew(server: &Server) {
    let cut = Cut::new(server);
    cut.site.forget();
    assert_eq!(cut.go_on(&[]), PARTS);
    cut.assert_complete();
}

/// Two pairs fetch objects of one name and size into one directory, one after the other.
fn file_of_another_pair_in_the_same_place_is_not_trusted(server: &Server) {
    let cut = Cut::new(server);
    let other = cut.site.directory("other");
    tree::generated(&other, KEY, SIZE, 2);
    cut.site.haul(&["sync", &other, &cut.site.url("other")]).done();
    let ends = ["sync", &cut.site.url("other"), &cut.down];
    cut.site.haul(&ends).done();
    assert_eq!(
        tree::hash(format!("{}/{KEY}", cut.down).as_ref()),
        tree::hash(format!("{other}/{KEY}").as_ref())
    );
    cut.site.bucket.delete("other/large");
    cut.go_on(&[]);
    cut.assert_complete();
}
