//! What may happen between a killed upload and the next run: at the server, to the file, to the
//! catalog.

use std::collections::BTreeSet;
use std::fs;

use super::{DONE, KEY, PARTS, SIZE, cut, large, length_at, parts_listed, wait_until};
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    killed_upload_is_gone_on_with_from_its_remembered_parts,
    upload_that_the_server_no_longer_knows_begins_anew,
    part_that_is_another_at_the_server_is_sent_again,
    file_that_has_changed_begins_anew_and_its_old_upload_is_aborted,
    file_that_has_shrunk_or_become_a_link_takes_its_old_upload_along,
    file_that_was_only_touched_is_gone_on_with,
    comparing_everything_anew_goes_on_with_an_upload,
    uploads_of_others_are_left_alone,
    upload_of_a_deleted_file_is_aborted_by_the_next_run_without_failures,
    upload_of_a_lost_catalog_stays_and_the_file_is_sent_anew,
    upload_that_was_completed_as_its_run_was_killed_is_not_sent_again,
    upload_below_another_prefix_is_not_mistaken_for_it,
}

/// A site with a file whose upload was killed.
struct Cut {
    site: Site,
    up: String,
    /// Its id.
    id: String,
    /// The numbers of the parts that are remembered.
    parts: BTreeSet<u32>,
}

impl Cut {
    #[track_caller]
    fn new(server: &Server) -> Self {
        let site = Site::new(server);
        let up = large(&site, SIZE);
        let known = cut(&site, &up, &site.url(""));
        let (id, parts) = (known.id(), known.parts());
        assert_eq!(site.bucket.upload_ids(), BTreeSet::from([id.clone()]));
        Self { site, up, id, parts }
    }

    /// The next run; how many parts it sent.
    #[track_caller]
    fn go_on(&self, flags: &[&str]) -> usize {
        self.site.proxy.reset();
        self.site.haul_with(&["sync", &self.up, &self.site.url("")], flags).done();
        self.site.proxy.count(Kind::Part)
    }

    /// The object is the file, and nothing else is left.
    #[track_caller]
    fn assert_complete(&self) {
        self.site.assert_holds(&self.up, "");
        assert_eq!(self.site.bucket.upload_ids(), BTreeSet::new());
        self.site.assert_sync_is_idle(&self.up, &self.site.url(""));
    }
}

fn killed_upload_is_gone_on_with_from_its_remembered_parts(server: &Server) {
    let cut = Cut::new(server);
    assert_eq!(cut.go_on(&[]), PARTS - DONE);
    let starts = cut.parts.iter().map(|number| u64::from(number - 1) * PART_BYTES);
    let done: u64 = starts.map(|start| length_at(SIZE, start)).sum();
    assert_eq!(cut.site.proxy.sent_bytes(), SIZE - done);
    assert_eq!(parts_listed(&cut.site), 1);
    assert_eq!(cut.site.proxy.count(Kind::Begin), 0);
    cut.assert_complete();
}

fn upload_that_the_server_no_longer_knows_begins_anew(server: &Server) {
    let cut = Cut::new(server);
    cut.site.bucket.abort_multipart(KEY, &cut.id);
    assert_eq!(cut.go_on(&[]), PARTS);
    assert_eq!(cut.site.proxy.count(Kind::Begin), 1);
    cut.assert_complete();
}

fn part_that_is_another_at_the_server_is_sent_again(server: &Server) {
    for size in [PART_BYTES, PART_BYTES / 2] {
        let cut = Cut::new(server);
        tree::generated(cut.site.at(""), "other", size, 2);
        let number = *cut.parts.first().unwrap();
        cut.site.bucket.put_part(KEY, &cut.id, number, cut.site.at("other").as_ref());
        assert_eq!(cut.go_on(&[]), PARTS - DONE + 1);
        let name = format!("partNumber={number}&");
        let passed = cut.site.proxy.passed().into_iter();
        let again = passed.filter(|one| one.kind == Kind::Part && one.target.contains(&name));
        assert_eq!(again.count(), 1);
        cut.assert_complete();
    }
}

fn file_that_has_changed_begins_anew_and_its_old_upload_is_aborted(server: &Server) {
    for size in [SIZE, SIZE + 1] {
        let cut = Cut::new(server);
        tree::generated(&cut.up, KEY, size, 3);
        assert_eq!(cut.go_on(&[]), PARTS);
        cut.assert_complete();
    }
}

fn file_that_has_shrunk_or_become_a_link_takes_its_old_upload_along(server: &Server) {
    let cut = Cut::new(server);
    tree::generated(&cut.up, KEY, 1000, 3);
    assert_eq!(cut.go_on(&[]), 0);
    cut.assert_complete();
    let cut = Cut::new(server);
    fs::remove_file(format!("{}/{KEY}", cut.up)).unwrap();
    tree::link(&cut.up, KEY, "elsewhere");
    assert_eq!(cut.go_on(&[]), 0);
    cut.assert_complete();
}

fn file_that_was_only_touched_is_gone_on_with(server: &Server) {
    let cut = Cut::new(server);
    let file = format!("{}/{KEY}", cut.up);
    tree::touch(&file, 1_600_000_000);
    assert_eq!(cut.go_on(&[]), PARTS - DONE);
    assert_eq!(cut.site.bucket.hash(KEY), tree::hash(file.as_ref()));
    cut.site.assert_sync_is_idle(&cut.up, &cut.site.url(""));
    // The upload was begun with the old time.
    assert_eq!(cut.go_on(&["--update-metadata"]), 0);
    cut.assert_complete();
}

fn comparing_everything_anew_goes_on_with_an_upload(server: &Server) {
    let cut = Cut::new(server);
    assert_eq!(cut.go_on(&["-c"]), PARTS - DONE);
    cut.assert_complete();
}

fn uploads_of_others_are_left_alone(server: &Server) {
    let cut = Cut::new(server);
    let other = cut.site.bucket.begin_multipart(KEY);
    assert_eq!(cut.go_on(&[]), PARTS - DONE);
    assert_eq!(cut.site.bucket.upload_ids(), BTreeSet::from([other.clone()]));
    // Nor is it taken up by a run that has none of its own.
    fs::write(format!("{}/{KEY}", cut.up), tree::noise(20 << 20, 4)).unwrap();
    assert_eq!(cut.go_on(&[]), 2);
    cut.site.assert_holds(&cut.up, "");
    assert_eq!(cut.site.bucket.upload_ids(), BTreeSet::from([other]));
}

fn upload_of_a_deleted_file_is_aborted_by_the_next_run_without_failures(server: &Server) {
    let cut = Cut::new(server);
    let id = BTreeSet::from([cut.id.clone()]);
    fs::remove_file(format!("{}/{KEY}", cut.up)).unwrap();
    for name in ["a", "broken"] {
        tree::file(&cut.up, name, name);
    }
    let ends = ["sync", &cut.up, &cut.site.url("")];
    let denied = Fault::Answer(403, "AccessDenied");
    cut.site.proxy.rule(Rule::every(Kind::Put, denied).on("/broken"));
    cut.site.haul(&ends).exits(&[1]);
    assert_eq!(cut.site.bucket.upload_ids(), id, "after a failure");
    cut.site.proxy.reset();
    cut.site.haul_with(&ends, &["-n"]).done();
    assert_eq!(cut.site.bucket.upload_ids(), id, "after a run that was to change nothing");
    cut.site.haul_with(&ends, &["--exclude", KEY]).done();
    assert_eq!(cut.site.bucket.upload_ids(), id, "by a run that is not to touch it");
    cut.go_on(&[]);
    cut.assert_complete();
}

fn upload_of_a_lost_catalog_stays_and_the_file_is_sent_anew(server: &Server) {
    let cut = Cut::new(server);
    cut.site.forget();
    assert_eq!(cut.go_on(&[]), PARTS);
    cut.site.assert_holds(&cut.up, "");
    assert_eq!(cut.site.bucket.upload_ids(), BTreeSet::from([cut.id.clone()]));
}

/// Killed while it asks for the object that it has just completed.
fn upload_that_was_completed_as_its_run_was_killed_is_not_sent_again(server: &Server) {
    let site = Site::new(server);
    let up = large(&site, SIZE);
    site.proxy.rule(Rule::every(Kind::Head, Fault::Hang));
    let running = site.run(&["sync", &up, &site.url("")]).start();
    wait_until("the HEAD", || {
        site.proxy.answered(Kind::Complete) == 1 && site.proxy.count(Kind::Head) > 0
    });
    running.kill();
    let known = super::Known::of(&site);
    assert_eq!(known.parts().len(), PARTS);
    let cut = Cut { site, up, id: known.id(), parts: known.parts() };
    assert_eq!(cut.go_on(&[]), 0);
    assert!(super::Known::of(&cut.site).is_empty());
    cut.assert_complete();
}

/// The same file on its way to two places.
fn upload_below_another_prefix_is_not_mistaken_for_it(server: &Server) {
    let cut = Cut::new(server);
    cut.site.haul(&["sync", &cut.up, &cut.site.url("other")]).done();
    assert_eq!(cut.site.proxy.count(Kind::Part), PARTS);
    assert_eq!(cut.site.bucket.upload_ids(), BTreeSet::from([cut.id.clone()]));
    cut.site.bucket.delete("other/large");
    assert_eq!(cut.go_on(&[]), PARTS - DONE);
    cut.assert_complete();
}
