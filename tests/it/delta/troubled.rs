//! What goes wrong while a changed file is sent: what can't be copied is sent, and the object is
//! right or not there.

use std::thread;
use std::time::{Duration, Instant};

use super::{MIB, Mirror, append, assert_stored, forge_hashes, overwrite};
use crate::support::oracle::Bucket;
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, tree};

on_both_servers! {
    object_replaced_between_the_runs_is_not_copied_from,
    object_replaced_before_it_is_copied_from_does_no_harm,
    object_replaced_while_it_is_copied_from_does_no_harm,
    object_replaced_before_the_end_does_no_harm,
    object_deleted_before_it_is_copied_from_does_no_harm,
    server_that_does_not_copy_parts_gets_them_sent,
    copied_part_with_another_hash_is_sent,
    copy_that_fails_in_its_answer_is_asked_for_again,
    broken_copies_are_gone_on_with,
    stopped_change_is_gone_on_with,
    file_that_changes_again_while_it_is_sent_is_never_mixed,
    wrong_hashes_in_the_catalog_do_no_harm,
}

/// Four parts, the last of them short.
const BYTES: u64 = 3 * PART_BYTES + 6 * MIB;

/// A mirror whose file has changed in its second part, and in its last.
fn changed(server: &Server) -> Mirror {
    let mirror = Mirror::new(server, BYTES);
    overwrite(&mirror.file, 20 * MIB, 4096, 2);
    append(&mirror.file, MIB, 3);
    tree::generated(mirror.site.at("other"), "large", BYTES, 4);
    mirror.site.proxy.reset();
    mirror
}

const CHANGED: u64 = PART_BYTES + 7 * MIB;
const WHOLE: u64 = BYTES + MIB;

/// Puts another content of the same size in the object's place.
fn replace(mirror: &Mirror) -> impl Fn() + Send + Sync + 'static + use<> {
    let (bucket, other) = (Bucket::clone(&mirror.site.bucket), mirror.site.at("other/large"));
    move || bucket.put_multipart("large", other.as_ref(), PART_BYTES)
}

/// The run ends well, and so does the bucket.
#[track_caller]
fn assert_right(mirror: &Mirror) {
    mirror.sync(&[]);
    assert_stored(&mirror.site, &mirror.up);
    mirror.site.assert_sync_only_lists(&mirror.up, &mirror.site.url(""), 1);
}

fn object_replaced_between_the_runs_is_not_copied_from(server: &Server) {
    let mirror = changed(server);
    replace(&mirror)();
    mirror.assert_sends(WHOLE).names("the object is not the one that was sent");
}

fn object_replaced_before_it_is_copied_from_does_no_harm(server: &Server) {
    let mirror = changed(server);
    let head = Rule::every(Kind::Head, Fault::hook(replace(&mirror))).on("/large");
    mirror.site.proxy.rule(head.times(1));
    mirror.sync(&[]).names("the object is not the one that was sent");
    assert_eq!(mirror.site.proxy.sent_bytes(), WHOLE);
    assert_stored(&mirror.site, &mirror.up);
}

fn object_replaced_while_it_is_copied_from_does_no_harm(server: &Server) {
    let mirror = changed(server);
    let copy = Rule::every(Kind::Copy, Fault::hook(replace(&mirror))).on("partNumber=3&");
    mirror.site.proxy.rule(copy.times(1));
    assert_right(&mirror);
}

fn object_replaced_before_the_end_does_no_harm(server: &Server) {
    let mirror = changed(server);
    // After the last copy, as it is looked at once more.
    let look = Rule::every(Kind::Head, Fault::hook(replace(&mirror))).on("/large").skip(1);
    mirror.site.proxy.rule(look.times(1));
    mirror.sync(&[]).names("no longer the object");
    assert_stored(&mirror.site, &mirror.up);
    overwrite(&mirror.file, 0, 10, 5);
    mirror.site.proxy.reset();
    // And after that look.
    let end = Rule::every(Kind::Complete, Fault::hook(replace(&mirror))).times(1);
    mirror.site.proxy.rule(end);
    assert_right(&mirror);
}

fn object_deleted_before_it_is_copied_from_does_no_harm(server: &Server) {
    let mirror = changed(server);
    let bucket = Bucket::clone(&mirror.site.bucket);
    let begin = Rule::every(Kind::Begin, Fault::hook(move || bucket.delete("large")));
    mirror.site.proxy.rule(begin.times(1));
    assert_right(&mirror);
}

fn server_that_does_not_copy_parts_gets_them_sent(server: &Server) {
    let mirror = changed(server);
    mirror.site.proxy.rule(Rule::every(Kind::Copy, Fault::Answer(501, "NotImplemented")));
    let outcome = mirror.sync(&[]).names("the server does not copy parts");
    assert_eq!(mirror.site.proxy.sent_bytes(), WHOLE);
    assert_eq!(outcome.summary("bytes"), WHOLE);
    assert_stored(&mirror.site, &mirror.up);
    // It is asked again the next time.
    append(&mirror.file, 1, 5);
    mirror.assert_sends(7 * MIB + 1);
}

/// What the proxy says that a copy has become, though nothing was copied.
fn copied_wrongly(_: &str) -> String {
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><CopyPartResult>\
     <LastModified>2026-01-01T00:00:00.000Z</LastModified>\
     <ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag></CopyPartResult>"
        .to_owned()
}

fn copied_part_with_another_hash_is_sent(server: &Server) {
    let mirror = changed(server);
    let wrong = Rule::every(Kind::Copy, Fault::reply(copied_wrongly)).on("partNumber=3&");
    mirror.site.proxy.rule(wrong);
    mirror.sync(&[]).names("a copied part is not the one that was sent");
    assert!(mirror.site.proxy.sent_bytes() >= CHANGED + PART_BYTES);
    assert_stored(&mirror.site, &mirror.up);
    // The same where the MD5s of the parts are not remembered.
    mirror.site.forget();
    mirror.site.assert_sync_is_idle(&mirror.up, &mirror.site.url(""));
    overwrite(&mirror.file, 0, 10, 5);
    mirror.site.proxy.reset();
    let wrong = Rule::every(Kind::Copy, Fault::reply(copied_wrongly)).on("partNumber=3&");
    mirror.site.proxy.rule(wrong);
    mirror.sync(&[]).names("a copied part is not the one that was sent");
    assert_stored(&mirror.site, &mirror.up);
}

/// S3 may find out that it fails after it has answered 200.
fn failed_late(_: &str) -> String {
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
     <Error><Code>InternalError</Code><Message>injected</Message></Error>"
        .to_owned()
}

fn copy_that_fails_in_its_answer_is_asked_for_again(server: &Server) {
    let mirror = changed(server);
    mirror.site.proxy.rule(Rule::every(Kind::Copy, Fault::reply(failed_late)).times(2));
    mirror.sync(&[]);
    assert_eq!(mirror.site.proxy.sent_bytes(), CHANGED);
    assert_stored(&mirror.site, &mirror.up);
}

fn broken_copies_are_gone_on_with(server: &Server) {
    let mirror = changed(server);
    let broken = Fault::Answer(500, "InternalError");
    mirror.site.proxy.rule(Rule::every(Kind::Copy, broken).on("partNumber=3&"));
    mirror.start(&["--retries", "1"]).finish().exits(&[1]).names("large");
    assert_eq!(mirror.site.bucket.uploads(), ["large"]);
    let old = tree::hash(mirror.site.at("up/large").as_ref());
    assert_ne!(mirror.site.bucket.hash("large"), old, "the object is the old one");
    let sent = mirror.site.proxy.sent_bytes();
    mirror.site.proxy.reset();
    let outcome = mirror.sync(&[]).names("going on with an upload");
    assert!(mirror.site.proxy.count(Kind::Copy) >= 1, "{}", outcome.output());
    assert_eq!(mirror.site.proxy.count(Kind::Begin), 0);
    assert!(sent + mirror.site.proxy.sent_bytes() >= CHANGED);
    assert!(mirror.site.proxy.sent_bytes() <= CHANGED, "{}", outcome.output());
    assert_stored(&mirror.site, &mirror.up);
    mirror.site.assert_sync_only_lists(&mirror.up, &mirror.site.url(""), 1);
}

fn stopped_change_is_gone_on_with(server: &Server) {
    let mirror = changed(server);
    let (site, started) = (&mirror.site, Instant::now());
    // All comes through but the last part.
    site.proxy.rule(Rule::every(Kind::Part, Fault::Hang).on("partNumber=4&"));
    let running = mirror.start(&["--idle-timeout", "60s"]).start();
    while site.proxy.answered(Kind::Copy) < 2 || site.proxy.answered(Kind::Part) < 1 {
        assert!(started.elapsed() < Duration::from_secs(90), "{:#?}", site.proxy.passed());
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    running.interrupt();
    running.finish().exits(&[130]);
    assert_eq!(site.bucket.uploads(), ["large"]);
    mirror.assert_sends(7 * MIB).names("3 of 4 parts are at the server");
    // The parts that were copied by the run before are known as the others are.
    overwrite(&mirror.file, 0, 10, 5);
    mirror.assert_sends(PART_BYTES);
}

fn file_that_changes_again_while_it_is_sent_is_never_mixed(server: &Server) {
    let mirror = changed(server);
    let before = mirror.site.bucket.hash("large");
    let file = mirror.file.clone();
    let change = Fault::hook(move || overwrite(&file, 40 * MIB, 4096, 6));
    mirror.site.proxy.rule(Rule::every(Kind::Begin, change).times(1));
    mirror.start(&[]).finish().exits(&[3]).names("large");
    assert_eq!(mirror.site.bucket.hash("large"), before);
    mirror.assert_sends(CHANGED + PART_BYTES);
}

/// The catalog takes a part for unchanged that has changed.
fn wrong_hashes_in_the_catalog_do_no_harm(server: &Server) {
    let mirror = changed(server);
    forge_hashes(&mirror.site, &mirror.up);
    mirror.assert_sends(WHOLE);
}
