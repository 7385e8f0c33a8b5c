//! Random edits of large files, sent up and fetched down into a second directory after each few of
//! them. A case that fails is repeated by its number, as in [`crate::model`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{MIB, append, assert_stored, fetched_bytes, insert, overwrite, truncate};
use crate::model::{Case, each_case};
use crate::support::site::PART_BYTES;
use crate::support::{Server, Site, tree};

on_both_servers! {
    both_sides_follow_random_edits_and_no_part_goes_without_need,
}

const CASES: u64 = 5;
const SYNCS: u64 = 6;
/// So that disk and time are bounded.
const MOST_FILES: usize = 3;
const MOST_BYTES: u64 = 80 * MIB;

/// The hashes and sizes of the parts of each file.
type Parts = BTreeMap<String, Vec<(blake3::Hash, u64)>>;

fn parts_of(root: &str) -> Parts {
    let mut found = Parts::new();
    for path in tree::read(root).keys() {
        let bytes = fs::read(Path::new(root).join(path)).unwrap();
        let part = usize::try_from(PART_BYTES).unwrap();
        let hashes = bytes.chunks(part).map(|part| (blake3::hash(part), part.len() as u64));
        found.insert(path.to_str().unwrap().to_owned(), hashes.collect());
    }
    found
}

/// What has to go over the wire at most, where one side has `before` and the other `now`: the parts
/// that are new in their place; of a new name nothing, if its content is there under another that
/// nothing is written to.
fn due(before: &Parts, now: &Parts) -> u64 {
    let stays = |name: &String| now.get(name).is_none_or(|parts| before.get(name) == Some(parts));
    let mut due = 0;
    for (name, parts) in now {
        if before.iter().any(|(name, old)| old == parts && stays(name)) {
            continue;
        }
        // What is no larger than a part goes whole.
        let old = before.get(name).filter(|old| old.len() > 1 && parts.len() > 1);
        let is_new = |index: usize| old.and_then(|old| old.get(index)) != Some(&parts[index]);
        due += (0..parts.len()).filter(|index| is_new(*index)).map(|i| parts[i].1).sum::<u64>();
    }
    due
}

/// One edit of one of the files, which is told.
fn edit(rng: &mut fastrand::Rng, root: &str) -> String {
    let names: Vec<String> = parts_of(root).into_keys().collect();
    let name = &names[rng.usize(..names.len())];
    let path = format!("{root}/{name}");
    let (size, seed) = (fs::metadata(&path).unwrap().len(), rng.u64(..));
    let new = format!("{root}/f{seed:x}");
    let bytes = [1, 4096, MIB, PART_BYTES][rng.usize(..4)].min(MOST_BYTES - size.min(MOST_BYTES));
    let offset = rng.u64(..=size);
    match rng.u32(..20) {
        0..5 => {
            append(&path, bytes, seed);
            format!("appended {bytes} to {name}")
        }
        5..11 => {
            let bytes = bytes.min(size - offset);
            overwrite(&path, offset, bytes, seed);
            format!("overwrote {bytes} at {offset} of {name}")
        }
        11..14 => {
            // To the end of a part at times.
            let length = if rng.bool() { offset } else { offset / PART_BYTES * PART_BYTES };
            truncate(&path, length);
            format!("truncated {name} to {length}")
        }
        14..17 => {
            insert(&path, offset, bytes, seed);
            format!("inserted {bytes} at {offset} of {name}")
        }
        17 if names.len() < MOST_FILES => {
            fs::copy(&path, new).unwrap();
            format!("copied {name}")
        }
        _ => {
            fs::rename(&path, new).unwrap();
            format!("renamed {name}")
        }
    }
}

/// Gives each file a time that only its content makes: one that an edit has left as it was is not
/// touched, either.
fn set_times(root: &str, parts: &Parts) {
    for (name, parts) in parts {
        let last = parts.last().map_or(0, |(hash, _)| u64::from(hash.as_bytes()[0]));
        tree::touch(format!("{root}/{name}"), 1_700_000_000 + last);
    }
}

/// Syncs; no more comes through than is due.
#[track_caller]
fn sync(site: &Site, (source, target): (&str, &str), due: u64) {
    site.proxy.reset();
    let flags = ["--delete", "--max-delete", "100%", "-v"];
    let outcome = site.haul_with(&["sync", source, target], &flags).done();
    let moved = site.proxy.sent_bytes() + fetched_bytes(site);
    assert!(moved <= due, "{moved} bytes moved, {due} were due:\n{}", outcome.output());
}

fn follow(server: &Server, case: &Case, mut rng: fastrand::Rng) {
    let site = Site::new(server);
    let (up, down, url) = (site.directory("up"), site.at("down"), site.url(""));
    tree::generated(&up, "first", rng.u64(40 * MIB..60 * MIB), case.seed);
    let mut before = Parts::new();
    for _ in 0..SYNCS {
        let now = parts_of(&up);
        set_times(&up, &now);
        let due = due(&before, &now);
        case.note(format!("sync, {due} bytes are due"));
        sync(&site, (&up, &url), due);
        assert_stored(&site, &up);
        sync(&site, (&url, &down), due);
        tree::assert_same(&up, &down);
        before = now;
        for _ in 0..rng.u32(1..=3) {
            let done = edit(&mut rng, &up);
            case.note(done);
        }
    }
    assert_eq!(tree::temporary_files(&down), [""; 0]);
}

fn both_sides_follow_random_edits_and_no_part_goes_without_need(server: &Server) {
    each_case(CASES, |case, rng| follow(server, case, rng));
}
