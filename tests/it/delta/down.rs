//! A large file that is here in another version: what is fetched, by what is known of the object's
//! parts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use super::{
    MIB, Mirror, append, assert_stored, fetched_bytes, forge_hashes, insert, overwrite, truncate,
};
use crate::support::site::PART_BYTES;
use crate::support::{Fault, Kind, Rule, Server, tree};

on_both_servers! {
    what_was_changed_here_is_fetched,
    what_was_changed_at_the_sender_is_fetched,
    directory_that_was_never_synced_fetches_what_differs,
    unknown_parts_are_fetched_whole,
    checksum_fetches_the_whole,
    old_file_that_changes_while_it_is_copied_is_never_mixed,
    other_names_of_the_old_file_keep_its_content,
    links_in_the_place_of_the_old_file_are_not_followed,
    directory_in_the_place_of_the_old_file_stays,
    old_file_that_cannot_be_read_is_fetched_whole,
    stopped_restore_keeps_the_old_file_and_is_gone_on_with,
    wrong_hashes_in_the_catalog_of_the_sender_do_no_harm,
}

/// A mirror of `large`, and a directory that was fetched from its bucket.
struct Both {
    mirror: Mirror,
    down: String,
    /// The file there.
    file: String,
}

impl Both {
    fn new(server: &Server, bytes: u64) -> Self {
        let mirror = Mirror::new(server, bytes);
        let (down, file) = (mirror.site.at("down"), mirror.site.at("down/large"));
        let both = Self { mirror, down, file };
        both.assert_fetches(bytes);
        both
    }

    /// The upper directory has changed.
    fn send(&self) {
        self.mirror.sync(&[]);
        assert_stored(&self.mirror.site, &self.mirror.up);
    }

    fn args<'a>(&'a self, url: &'a str) -> [&'a str; 5] {
        ["sync", url, &self.down, "--json", "-v"]
    }

    /// Fetches: so many bytes come, and the two directories are the same then.
    #[track_caller]
    fn assert_fetches(&self, bytes: u64) {
        self.mirror.site.proxy.reset();
        self.assert_fetches_now(bytes, &[]);
        self.mirror.site.assert_sync_only_lists(&self.mirror.site.url(""), &self.down, 1);
    }

    /// As [`Both::assert_fetches`], with the rules of the proxy and these flags.
    #[track_caller]
    fn assert_fetches_now(&self, bytes: u64, flags: &[&str]) {
        let site = &self.mirror.site;
        let outcome = site.haul_with(&self.args(&site.url("")), flags).done();
        assert_eq!(fetched_bytes(site), bytes, "{}", outcome.output());
        self.assert_same();
    }

    #[track_caller]
    fn assert_same(&self) {
        tree::assert_same(&self.mirror.up, &self.down);
        assert_eq!(tree::temporary_files(&self.down), [""; 0]);
    }
}

fn what_was_changed_here_is_fetched(server: &Server) {
    let both = Both::new(server, 52 * MIB);
    overwrite(&both.file, 20 * MIB, 4096, 2);
    both.assert_fetches(PART_BYTES);
    tree::flip_bit(&both.file, 51 * MIB);
    both.assert_fetches(4 * MIB);
    truncate(&both.file, 40 * MIB);
    both.assert_fetches(PART_BYTES + 4 * MIB);
    append(&both.file, MIB, 3);
    both.assert_fetches(0);
    insert(&both.file, 40 * MIB, 1, 4);
    both.assert_fetches(PART_BYTES + 4 * MIB);
    insert(&both.file, 0, 1, 5);
    both.assert_fetches(52 * MIB);
    tree::generated(&both.down, "large", 52 * MIB, 6);
    both.assert_fetches(52 * MIB);
    truncate(&both.file, 0);
    both.assert_fetches(52 * MIB);
}

fn what_was_changed_at_the_sender_is_fetched(server: &Server) {
    let both = Both::new(server, 50 * MIB);
    let file = &both.mirror.file;
    overwrite(file, 20 * MIB, 4096, 2);
    both.send();
    both.assert_fetches(PART_BYTES);
    append(file, 15 * MIB, 3);
    both.send();
    both.assert_fetches(PART_BYTES + MIB);
    // What the last part holds now is the beginning of what it was.
    truncate(file, 40 * MIB);
    both.send();
    both.assert_fetches(0);
    truncate(file, 2 * PART_BYTES);
    both.send();
    both.assert_fetches(0);
    // Changes on both sides.
    overwrite(file, 0, 10, 4);
    overwrite(&both.file, 20 * MIB, 10, 5);
    both.send();
    both.assert_fetches(2 * PART_BYTES);
    tree::chmod(file, 0o640);
    append(file, MIB, 6);
    both.send();
    both.assert_fetches(MIB);
}

fn directory_that_was_never_synced_fetches_what_differs(server: &Server) {
    let mirror = Mirror::new(server, 50 * MIB);
    let (down, file) = (mirror.site.at("down"), mirror.site.at("down/large"));
    tree::copy(&mirror.up, &down);
    overwrite(&file, 20 * MIB, 4096, 2);
    let both = Both { mirror, down, file };
    both.assert_fetches(PART_BYTES);
}

fn unknown_parts_are_fetched_whole(server: &Server) {
    let both = Both::new(server, 40 * MIB);
    both.mirror.site.forget();
    overwrite(&both.file, 20 * MIB, 4096, 2);
    both.assert_fetches(40 * MIB);
    // From here on they are known again.
    overwrite(&both.file, 20 * MIB, 4096, 3);
    both.assert_fetches(PART_BYTES);
    // Of what another client has sent, nothing is.
    tree::generated(&both.mirror.up, "large", 40 * MIB, 4);
    let site = &both.mirror.site;
    site.bucket.put_multipart("large", both.mirror.file.as_ref(), 8 * MIB);
    site.proxy.reset();
    site.haul(&both.args(&site.url(""))).done();
    assert_eq!(fetched_bytes(site), 40 * MIB);
    assert_eq!(tree::hash(both.file.as_ref()), tree::hash(both.mirror.file.as_ref()));
}

fn checksum_fetches_the_whole(server: &Server) {
    let both = Both::new(server, 40 * MIB);
    overwrite(&both.file, 20 * MIB, 4096, 2);
    both.mirror.site.proxy.reset();
    both.assert_fetches_now(40 * MIB, &["-c"]);
}

/// More parts than are brought at once, of which the first is fetched: the last is copied only
/// after that.
const MANY: u64 = 18 * PART_BYTES;

/// The last part changes between its comparison and its copy: it is fetched, too.
fn old_file_that_changes_while_it_is_copied_is_never_mixed(server: &Server) {
    let both = Both::new(server, MANY);
    let changes: [fn(&str); 2] =
        [|file| overwrite(file, MANY - 4096, 4096, 3), |file| truncate(file, MANY - PART_BYTES)];
    for change in changes {
        overwrite(&both.file, 0, 4096, 2);
        let (site, file) = (&both.mirror.site, both.file.clone());
        site.proxy.reset();
        let hook = Fault::hook(move || change(&file));
        site.proxy.rule(Rule::every(Kind::Get, hook).times(1));
        both.assert_fetches_now(2 * PART_BYTES, &[]);
    }
}

fn other_names_of_the_old_file_keep_its_content(server: &Server) {
    let both = Both::new(server, 40 * MIB);
    let other = both.mirror.site.at("other-name");
    fs::hard_link(&both.file, &other).unwrap();
    overwrite(&both.file, 20 * MIB, 4096, 2);
    let hash = tree::hash(other.as_ref());
    both.assert_fetches(PART_BYTES);
    assert_eq!(tree::hash(other.as_ref()), hash);
    // Nor do the two share a byte from now on.
    overwrite(&other, 0, 40 * MIB, 3);
    both.assert_same();
}

fn links_in_the_place_of_the_old_file_are_not_followed(server: &Server) {
    let both = Both::new(server, 40 * MIB);
    let outside = both.mirror.site.at("outside");
    fs::rename(&both.down, &outside).unwrap();
    // In the place of the file, and of its directory.
    tree::link(&both.down, "large", &format!("{outside}/large"));
    both.assert_fetches(40 * MIB);
    fs::remove_dir_all(&both.down).unwrap();
    tree::directory(&both.mirror.up, "deep");
    fs::rename(&both.mirror.file, format!("{}/deep/large", both.mirror.up)).unwrap();
    both.mirror.site.haul(&["sync", &both.mirror.up, &both.mirror.site.url(""), "--delete"]).done();
    tree::link(&both.down, "deep", &outside);
    let site = &both.mirror.site;
    site.proxy.reset();
    let before = fs::metadata(format!("{outside}/large")).unwrap();
    site.haul(&both.args(&site.url(""))).exits(&[1, 3]).names("deep/large");
    let after = fs::metadata(format!("{outside}/large")).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
    assert_eq!(tree::temporary_files(&outside), [""; 0]);
}

fn directory_in_the_place_of_the_old_file_stays(server: &Server) {
    let both = Both::new(server, 40 * MIB);
    fs::remove_file(&both.file).unwrap();
    tree::file(&both.down, "large/mine", "mine");
    let site = &both.mirror.site;
    site.proxy.reset();
    site.haul(&both.args(&site.url(""))).exits(&[3]).names("large");
    assert_eq!(fetched_bytes(site), 0);
    assert_eq!(fs::read(format!("{}/large/mine", both.down)).unwrap(), b"mine");
}

fn old_file_that_cannot_be_read_is_fetched_whole(server: &Server) {
    let both = Both::new(server, 40 * MIB);
    append(&both.file, 1, 2);
    tree::chmod(&both.file, 0o200);
    let site = &both.mirror.site;
    site.proxy.reset();
    site.haul_unprivileged(&both.args(&site.url(""))).done();
    assert_eq!(fetched_bytes(site), 40 * MIB);
    both.assert_same();
}

fn stopped_restore_keeps_the_old_file_and_is_gone_on_with(server: &Server) {
    let both = Both::new(server, 4 * PART_BYTES);
    overwrite(&both.file, 0, 4096, 2);
    overwrite(&both.file, 40 * MIB, 4096, 3);
    let (site, before) = (&both.mirror.site, tree::hash(both.file.as_ref()));
    site.proxy.reset();
    // One range comes, the other does not.
    site.proxy.rule(Rule::every(Kind::Get, Fault::StallResponse(MIB)).skip(1));
    let (url, started) = (site.url(""), Instant::now());
    let running = site.run(&both.args(&url)).args(&["--idle-timeout", "60s"]).start();
    while fetched_bytes(site) < PART_BYTES + MIB {
        assert!(started.elapsed() < Duration::from_secs(90), "{:#?}", site.proxy.passed());
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    running.interrupt();
    running.finish().exits(&[130]);
    assert_eq!(tree::hash(both.file.as_ref()), before);
    both.assert_fetches(PART_BYTES);
}

/// Only the hash of the whole proves what is made of parts.
fn wrong_hashes_in_the_catalog_of_the_sender_do_no_harm(server: &Server) {
    let mirror = Mirror::new(server, 40 * MIB);
    let (down, file) = (mirror.site.at("down"), mirror.site.at("down/large"));
    tree::copy(&mirror.up, &down);
    overwrite(&file, 20 * MIB, 4096, 2);
    forge_hashes(&mirror.site, &down);
    let both = Both { mirror, down, file };
    both.assert_fetches(40 * MIB);
}
