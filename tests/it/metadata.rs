//! `--update-metadata`: an object says what its file says, and no byte is sent for it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::oracle::Bucket;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    new_mtime_and_mode_are_written_without_a_byte_sent,
    mtime_that_was_left_alone_is_written_by_a_later_run,
    metadata_and_type_of_another_client_stay,
    object_in_260_mib_is_updated_whole,
    object_overwritten_during_its_update_is_put_right,
    only_uploads_update_metadata,
}

/// Fails unless the object says what the file's inode does, and has its bytes.
#[track_caller]
fn assert_described(site: &Site, root: &str, key: &str) {
    let found = fs::metadata(format!("{root}/{key}")).unwrap();
    site.assert_metadata(key, "mtime", &format!("{}.{:09}", found.mtime(), found.mtime_nsec()));
    site.assert_metadata(key, "mode", &format!("{:o}", found.mode()));
    let hash = tree::hash(format!("{root}/{key}").as_ref());
    site.assert_metadata(key, "blake3", &hash);
    assert_eq!(site.bucket.hash(key), hash, "the bytes of {key}");
}

/// Syncs with the flag: so many objects are updated, and nothing is sent.
#[track_caller]
fn assert_updates(site: &Site, up: &str, objects: u64) {
    site.proxy.reset();
    let url = site.url("");
    let outcome = site.haul(&["sync", up, &url, "--update-metadata", "--json"]).done();
    assert_eq!(site.proxy.sent_bytes(), 0, "{:#?}", site.proxy.passed());
    assert_eq!(site.proxy.count(Kind::Get), 0);
    let counts = ["updated", "transferred", "copied"].map(|name| outcome.summary(name));
    assert_eq!(counts, [objects, 0, 0]);
}

fn a_few(site: &Site) -> String {
    let up = site.directory("up");
    for name in ["a", "b", "kept"] {
        tree::file(&up, name, name);
    }
    tree::file(&up, "empty", "");
    tree::generated(&up, "large", 20 << 20, 1);
    site.haul(&["sync", &up, &site.url("")]).done();
    up
}

fn new_mtime_and_mode_are_written_without_a_byte_sent(server: &Server) {
    let site = Site::new(server);
    let up = a_few(&site);
    let before = site.bucket.list();
    tree::touch(format!("{up}/a"), 1_750_000_000);
    tree::chmod(format!("{up}/b"), 0o600);
    tree::touch(format!("{up}/empty"), 1_750_000_001);
    tree::touch(format!("{up}/large"), 1_750_000_002);
    assert_updates(&site, &up, 4);
    for key in ["a", "b", "empty", "kept", "large"] {
        assert_described(&site, &up, key);
    }
    assert_eq!(site.bucket.list(), before, "sizes and ETags");
    site.assert_metadata("large", "part-size", &(16 << 20).to_string());
    site.assert_sync_only_lists(&up, &site.url(""), 1);
    assert_updates(&site, &up, 0);
    site.proxy.assert_only_lists(1);
}

fn mtime_that_was_left_alone_is_written_by_a_later_run(server: &Server) {
    let site = Site::new(server);
    let up = a_few(&site);
    let old = site.bucket.head("a").unwrap();
    for name in ["a", "empty", "large"] {
        tree::touch(format!("{up}/{name}"), 1_750_000_000);
    }
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_sync_only_lists(&up, &site.url(""), 1);
    assert_eq!(site.bucket.head("a"), Some(old));
    assert_updates(&site, &up, 3);
    for key in ["a", "b", "empty", "kept", "large"] {
        assert_described(&site, &up, key);
    }
    assert_updates(&site, &up, 0);
    site.proxy.assert_only_lists(1);
}

fn metadata_and_type_of_another_client_stay(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "theirs", "the same");
    let metadata = [("owner", "somebody"), ("mtime", "1.5")];
    site.bucket.put_described("theirs", b"the same", &metadata, "text/x-notes");
    assert_updates(&site, &up, 1);
    assert_described(&site, &up, "theirs");
    tree::touch(format!("{up}/theirs"), 1_750_000_000);
    assert_updates(&site, &up, 1);
    assert_described(&site, &up, "theirs");
    site.assert_metadata("theirs", "owner", "somebody");
    assert_eq!(site.bucket.head("theirs").unwrap().content_type, "text/x-notes");
}

/// Above 256 MiB the copy is made in parts, onto itself. Where that changes the ETag, it is sent
/// again.
fn object_in_260_mib_is_updated_whole(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 260 << 20, 2);
    let url = site.url("");
    site.haul(&["sync", &up, &url]).done();
    tree::touch(format!("{up}/large"), 1_750_000_000);
    assert_updates(&site, &up, 1);
    assert_described(&site, &up, "large");
    assert_eq!(site.bucket.uploads(), [""; 0]);
    site.assert_sync_only_lists(&up, &url, 1);
}

fn object_overwritten_during_its_update_is_put_right(server: &Server) {
    let site = Site::new(server);
    let up = a_few(&site);
    tree::generated(site.at("other"), "large", 20 << 20, 3);
    tree::touch(format!("{up}/a"), 1_750_000_000);
    tree::touch(format!("{up}/large"), 1_750_000_000);
    let (bucket, other) = (Bucket::clone(&site.bucket), site.at("other/large"));
    let overwrite = Fault::hook(move || drop(bucket.put("a", b"A")));
    site.proxy.rule(Rule::every(Kind::Copy, overwrite).on("/a").times(1));
    let bucket = Bucket::clone(&site.bucket);
    let overwrite = Fault::hook(move || bucket.put_multipart("large", other.as_ref(), 16 << 20));
    site.proxy.rule(Rule::every(Kind::Copy, overwrite).on("/large").times(1));
    site.haul(&["sync", &up, &site.url(""), "--update-metadata"]).exits(&[0, 1]);
    // Whether it was sent in the same run, or is found by the next.
    site.haul(&["sync", &up, &site.url(""), "--update-metadata"]).done();
    for key in ["a", "large"] {
        assert_described(&site, &up, key);
    }
    site.assert_sync_only_lists(&up, &site.url(""), 1);
}

fn only_uploads_update_metadata(server: &Server) {
    let site = Site::new(server);
    let up = a_few(&site);
    let flags = ["--update-metadata"];
    site.haul_with(&["sync", &site.url(""), &site.at("down")], &flags).exits(&[2]);
    site.haul_with(&["sync", &site.url("a"), &site.url("b")], &flags).exits(&[2]);
    assert!(!fs::exists(site.at("down")).unwrap());
    site.haul_with(&["plan", &up, &site.url("")], &flags).done();
}
