//! A file that was sent before and has changed: what is sent, by the kind of change.

use std::fs;

use super::{MIB, Mirror, append, assert_stored, insert, noise, overwrite, truncate};
use crate::support::site::PART_BYTES;
use crate::support::{Kind, Server, tree};

on_both_servers! {
    append_sends_the_parts_that_it_changes,
    append_behind_a_full_part_sends_what_is_new,
    edits_in_place_send_the_parts_they_are_in,
    truncation_sends_no_more_than_the_last_part,
    what_moves_every_byte_is_sent_whole,
    part_that_moved_by_one_part_is_not_taken_for_the_other,
    touched_file_sends_nothing,
    edit_after_the_catalog_was_lost_sends_one_part,
    edit_of_an_adopted_mirror_sends_one_part,
    checksum_trusts_no_part_that_is_remembered,
    copies_and_renames_of_a_changed_file_are_still_copied,
    changed_file_that_equals_another_is_copied_from_that,
}

fn append_sends_the_parts_that_it_changes(server: &Server) {
    let mirror = Mirror::new(server, 130 * MIB);
    append(&mirror.file, MIB, 2);
    mirror.assert_sends(3 * MIB).names("8 of 9 parts are unchanged");
    // The last part is filled, and another begun.
    append(&mirror.file, 14 * MIB, 3);
    mirror.assert_sends(PART_BYTES + MIB);
    tree::chmod(&mirror.file, 0o640);
    append(&mirror.file, 1, 4);
    mirror.assert_sends(MIB + 1);
}

fn append_behind_a_full_part_sends_what_is_new(server: &Server) {
    let mirror = Mirror::new(server, 3 * PART_BYTES);
    append(&mirror.file, MIB, 2);
    mirror.assert_sends(MIB);
    // From one part, which is sent as a whole, to two.
    truncate(&mirror.file, PART_BYTES);
    mirror.assert_sends(PART_BYTES);
    append(&mirror.file, 1, 3);
    mirror.assert_sends(PART_BYTES + 1);
    append(&mirror.file, 1, 4);
    mirror.assert_sends(2);
}

fn edits_in_place_send_the_parts_they_are_in(server: &Server) {
    let mirror = Mirror::new(server, 68 * MIB);
    overwrite(&mirror.file, 40 * MIB, 4096, 2);
    mirror.assert_sends(PART_BYTES).names("4 of 5 parts are unchanged");
    // On both sides of a border, and in the last part, which is a short one.
    overwrite(&mirror.file, 2 * PART_BYTES - 1, 2, 3);
    overwrite(&mirror.file, 67 * MIB, 10, 4);
    mirror.assert_sends(2 * PART_BYTES + 4 * MIB);
    // With the old mtime, and one bit; and as it was.
    for _ in 0..2 {
        tree::flip_bit(&mirror.file, 0);
        mirror.assert_sends(PART_BYTES);
    }
}

fn truncation_sends_no_more_than_the_last_part(server: &Server) {
    let mirror = Mirror::new(server, 68 * MIB);
    truncate(&mirror.file, 54 * MIB);
    mirror.assert_sends(6 * MIB);
    truncate(&mirror.file, 3 * PART_BYTES);
    let outcome = mirror.assert_sends(0);
    assert_eq!(outcome.summary("transferred"), 1);
    outcome.names("3 of 3 parts are unchanged");
    truncate(&mirror.file, 3 * PART_BYTES - 1);
    mirror.assert_sends(PART_BYTES - 1);
    truncate(&mirror.file, MIB);
    mirror.assert_sends(MIB);
    truncate(&mirror.file, 0);
    mirror.assert_sends(0);
}

fn what_moves_every_byte_is_sent_whole(server: &Server) {
    let mirror = Mirror::new(server, 50 * MIB);
    insert(&mirror.file, 0, 1, 2);
    mirror.assert_sends(50 * MIB + 1).names("no part of it is unchanged");
    // What is before the place stays.
    insert(&mirror.file, 33 * MIB, 10, 3);
    mirror.assert_sends(18 * MIB + 11);
    tree::generated(&mirror.up, "large", 50 * MIB + 11, 4);
    mirror.assert_sends(50 * MIB + 11).names("no part of it is unchanged");
}

/// Its parts have the places of others then, with which their hashes change.
fn part_that_moved_by_one_part_is_not_taken_for_the_other(server: &Server) {
    let mirror = Mirror::unsent(server, 1);
    let part = |seed| noise(PART_BYTES, seed);
    fs::write(&mirror.file, [part(1), part(2), part(3)].concat()).unwrap();
    mirror.assert_sends(3 * PART_BYTES);
    fs::write(&mirror.file, [part(3), part(1), part(2)].concat()).unwrap();
    mirror.assert_sends(3 * PART_BYTES);
    // The second is where it was.
    fs::write(&mirror.file, [part(1), part(1), part(3)].concat()).unwrap();
    mirror.assert_sends(2 * PART_BYTES);
}

fn touched_file_sends_nothing(server: &Server) {
    let mirror = Mirror::new(server, 50 * MIB);
    tree::touch(&mirror.file, 1_750_000_000);
    mirror.site.assert_sync_is_idle(&mirror.up, &mirror.site.url(""));
    // And its parts are known still: what is sent bears the new time.
    append(&mirror.file, 1, 2);
    mirror.assert_sends(2 * MIB + 1);
}

fn edit_after_the_catalog_was_lost_sends_one_part(server: &Server) {
    let mirror = Mirror::new(server, 50 * MIB);
    mirror.site.forget();
    mirror.site.assert_sync_is_idle(&mirror.up, &mirror.site.url(""));
    overwrite(&mirror.file, 20 * MIB, 4096, 2);
    mirror.assert_sends(PART_BYTES);
    // Of an object whose parts were copied in part.
    mirror.site.forget();
    mirror.site.assert_sync_is_idle(&mirror.up, &mirror.site.url(""));
    overwrite(&mirror.file, 40 * MIB, 4096, 3);
    mirror.assert_sends(PART_BYTES);
    // Lost at the same time: nothing can be known.
    mirror.site.forget();
    overwrite(&mirror.file, 0, 4096, 4);
    mirror.assert_sends(50 * MIB);
}

/// Parts of another size are no hindrance: ranges are copied.
fn edit_of_an_adopted_mirror_sends_one_part(server: &Server) {
    let mirror = Mirror::unsent(server, 40 * MIB);
    let site = &mirror.site;
    site.bucket.put_multipart("large", mirror.file.as_ref(), 8 * MIB);
    site.assert_sync_is_idle(&mirror.up, &site.url(""));
    // Its hash is known now, and those of its parts once it was read by parts.
    tree::touch(&mirror.file, 1_750_000_000);
    site.assert_sync_is_idle(&mirror.up, &site.url(""));
    overwrite(&mirror.file, 20 * MIB, 4096, 2);
    mirror.assert_sends(PART_BYTES);
}

fn checksum_trusts_no_part_that_is_remembered(server: &Server) {
    let mirror = Mirror::new(server, 40 * MIB);
    overwrite(&mirror.file, 20 * MIB, 4096, 2);
    mirror.site.proxy.reset();
    mirror.sync(&["-c"]);
    assert_eq!(mirror.site.proxy.sent_bytes(), 40 * MIB);
    assert_eq!(mirror.site.proxy.count(Kind::Copy), 0);
    assert_stored(&mirror.site, &mirror.up);
    // What is sent so is remembered.
    append(&mirror.file, MIB, 3);
    mirror.assert_sends(9 * MIB);
}

fn copies_and_renames_of_a_changed_file_are_still_copied(server: &Server) {
    let mirror = Mirror::new(server, 40 * MIB);
    overwrite(&mirror.file, 20 * MIB, 4096, 2);
    mirror.assert_sends(PART_BYTES);
    let (site, copy) = (&mirror.site, format!("{}/copy", mirror.up));
    fs::copy(&mirror.file, &copy).unwrap();
    mirror.assert_sends(0);
    overwrite(&mirror.file, 39 * MIB, 4096, 3);
    mirror.assert_sends(8 * MIB);
    fs::rename(&mirror.file, format!("{}/renamed", mirror.up)).unwrap();
    site.haul(&["sync", &mirror.up, &site.url(""), "--delete"]).done();
    assert_eq!(site.proxy.sent_bytes(), 0);
    overwrite(&copy, 0, 4096, 4);
    append(&format!("{}/renamed", mirror.up), MIB, 5);
    mirror.assert_sends(PART_BYTES + 9 * MIB);
}

fn changed_file_that_equals_another_is_copied_from_that(server: &Server) {
    let mirror = Mirror::unsent(server, 40 * MIB);
    let other = format!("{}/other", mirror.up);
    tree::generated(&mirror.up, "other", 40 * MIB, 9);
    mirror.assert_sends(80 * MIB);
    fs::copy(&other, &mirror.file).unwrap();
    let outcome = mirror.assert_sends(0);
    assert_eq!(outcome.summary("copied"), 1);
    // From then on each has its own parts.
    overwrite(&other, 0, 4096, 2);
    overwrite(&mirror.file, 39 * MIB, 4096, 3);
    mirror.assert_sends(PART_BYTES + 8 * MIB);
}
