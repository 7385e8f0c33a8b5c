//! Content that the target has already under another name is not sent again, and whatever happens
//! meanwhile, the right bytes arrive.

use std::fs;

use crate::support::oracle::Bucket;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    renamed_directory_is_copied_by_the_server,
    renamed_file_of_260_mib_is_copied_in_parts,
    duplicate_is_copied_by_the_server,
    swapped_names_end_with_the_right_contents,
    twin_overwritten_between_runs_is_not_copied,
    twin_deleted_between_runs_is_not_missed,
    twin_overwritten_during_its_copy_does_no_harm,
    copy_that_fails_is_sent,
    object_renamed_in_the_bucket_is_not_fetched,
    changed_local_twin_is_not_copied,
    objects_swapped_in_the_bucket_are_swapped_here,
    links_and_files_of_one_content_stay_what_they_are,
}

/// Fails unless the bucket holds exactly the tree's bytes with the metadata of its files. The ETags
/// of copies are not those of uploads on every server.
#[track_caller]
fn assert_contents(site: &Site, root: &str) {
    let tree = tree::read(root);
    let keys: Vec<String> = tree.keys().map(|path| path.to_str().unwrap().to_owned()).collect();
    site.bucket.assert_keys(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    for (key, node) in keys.iter().zip(tree.values()) {
        let tree::Node::File { mode, mtime, size, hash } = node else { panic!("only files") };
        assert_eq!(site.bucket.head(key).unwrap().size, *size, "{key}");
        assert_eq!(&site.bucket.hash(key), hash, "the bytes of {key}");
        site.assert_metadata(key, "blake3", hash);
        site.assert_metadata(key, "mtime", mtime);
        site.assert_metadata(key, "mode", &format!("{mode:o}"));
    }
    assert_eq!(site.bucket.uploads(), [""; 0]);
}

/// Syncs what has been renamed: no byte of an object is sent or fetched.
#[track_caller]
fn assert_copies(site: &Site, up: &str, flags: &[&str], copies: u64) {
    site.proxy.reset();
    let outcome = site.haul_with(&["sync", up, &site.url(""), "--json"], flags).done();
    assert_eq!(site.proxy.sent_bytes(), 0, "{:#?}", site.proxy.passed());
    assert_eq!(site.proxy.count(Kind::Get), 0);
    assert_eq!((outcome.summary("copied"), outcome.summary("transferred")), (copies, 0));
    assert_contents(site, up);
    site.assert_sync_only_lists(up, &site.url(""), 1);
}

fn rename(root: &str, from: &str, to: &str) {
    fs::rename(format!("{root}/{from}"), format!("{root}/{to}")).unwrap();
}

fn renamed_directory_is_copied_by_the_server(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..20 {
        tree::file(&up, format!("old name/f{number}"), format!("content {number}"));
    }
    tree::generated(&up, "old name/deep/large", 20 << 20, 1);
    tree::file(&up, "stays", "stays");
    site.haul(&["sync", &up, &site.url("")]).done();
    rename(&up, "old name", "new +%#? \u{e9}");
    assert_copies(&site, &up, &["--delete"], 21);
    assert_eq!(site.bucket.keys().len(), 22);
    // And back, with another mode and mtime on the way.
    rename(&up, "new +%#? \u{e9}", "old name");
    tree::chmod(format!("{up}/old name/f1"), 0o600);
    tree::touch(format!("{up}/old name/deep/large"), 1_750_000_000);
    assert_copies(&site, &up, &["--delete"], 21);
}

fn renamed_file_of_260_mib_is_copied_in_parts(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "before", 260 << 20, 2);
    tree::file(&up, "anchor", "anchor");
    site.haul(&["sync", &up, &site.url("")]).done();
    rename(&up, "before", "after");
    assert_copies(&site, &up, &["--delete"], 1);
    site.assert_metadata("after", "part-size", &(16 << 20).to_string());
}

fn duplicate_is_copied_by_the_server(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "small", "small");
    tree::generated(&up, "large", 20 << 20, 3);
    site.haul(&["sync", &up, &site.url("")]).done();
    for name in ["small", "large"] {
        fs::copy(format!("{up}/{name}"), format!("{up}/{name} copy")).unwrap();
    }
    // A new copy of what is there takes the place of another content, too.
    assert_copies(&site, &up, &[], 2);
    fs::copy(format!("{up}/large"), format!("{up}/small")).unwrap();
    assert_copies(&site, &up, &[], 1);
}

fn swapped_names_end_with_the_right_contents(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for number in 0..20 {
        tree::file(&up, format!("a{number}"), format!("content a{number:02}"));
        tree::file(&up, format!("b{number}"), format!("content b{number:02}"));
    }
    tree::generated(&up, "large-a", 20 << 20, 4);
    tree::generated(&up, "large-b", 20 << 20, 5);
    site.haul(&["sync", &up, &site.url("")]).done();
    for _ in 0..3 {
        let pairs = (0..20).map(|number| (format!("a{number}"), format!("b{number}")));
        for (a, b) in pairs.chain([("large-a".to_owned(), "large-b".to_owned())]) {
            rename(&up, &a, "between");
            rename(&up, &b, &a);
            rename(&up, "between", &b);
        }
        site.haul(&["sync", &up, &site.url(""), "--delete"]).done();
        assert_contents(&site, &up);
        site.assert_sync_only_lists(&up, &site.url(""), 1);
    }
}

/// A small and a large file that are in the bucket and have been renamed.
fn renamed(site: &Site) -> String {
    let up = site.directory("up");
    tree::file(&up, "small", "small");
    tree::generated(&up, "large", 20 << 20, 6);
    tree::file(&up, "anchor", "anchor");
    site.haul(&["sync", &up, &site.url("")]).done();
    rename(&up, "small", "new-small");
    rename(&up, "large", "new-large");
    tree::generated(site.at("other"), "large", 20 << 20, 7);
    up
}

fn twin_overwritten_between_runs_is_not_copied(server: &Server) {
    let site = Site::new(server);
    let up = renamed(&site);
    site.bucket.put("small", b"SMALL");
    site.bucket.put_multipart("large", site.at("other/large").as_ref(), 16 << 20);
    let outcome = site.haul(&["sync", &up, &site.url(""), "--delete", "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 2);
    assert_contents(&site, &up);
    site.assert_sync_only_lists(&up, &site.url(""), 1);
}

fn twin_deleted_between_runs_is_not_missed(server: &Server) {
    let site = Site::new(server);
    let up = renamed(&site);
    site.bucket.delete("small");
    site.bucket.delete("large");
    let outcome = site.haul(&["sync", &up, &site.url(""), "--delete", "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 2);
    assert_contents(&site, &up);
    site.assert_sync_only_lists(&up, &site.url(""), 1);
}

fn twin_overwritten_during_its_copy_does_no_harm(server: &Server) {
    let site = Site::new(server);
    let up = renamed(&site);
    let (bucket, other) = (Bucket::clone(&site.bucket), site.at("other/large"));
    let overwrite = Fault::hook(move || drop(bucket.put("small", b"SMALL")));
    site.proxy.rule(Rule::every(Kind::Copy, overwrite).on("/new-small").times(1));
    let bucket = Bucket::clone(&site.bucket);
    let overwrite = Fault::hook(move || bucket.put_multipart("large", other.as_ref(), 16 << 20));
    site.proxy.rule(Rule::every(Kind::Copy, overwrite).on("/new-large").times(1));
    let outcome = site.haul(&["sync", &up, &site.url(""), "--json"]).done();
    assert!(site.proxy.count(Kind::Copy) >= 2, "nothing was copied");
    assert_eq!(outcome.summary("transferred"), 2);
    for key in ["new-small", "new-large"] {
        let hash = tree::hash(format!("{up}/{key}").as_ref());
        assert_eq!(site.bucket.hash(key), hash, "{key}");
        site.assert_metadata(key, "blake3", &hash);
    }
    site.haul(&["sync", &up, &site.url(""), "--delete"]).done();
    assert_contents(&site, &up);
}

fn copy_that_fails_is_sent(server: &Server) {
    let site = Site::new(server);
    let up = renamed(&site);
    site.proxy.rule(Rule::every(Kind::Copy, Fault::Answer(501, "NotImplemented")));
    let outcome = site.haul(&["sync", &up, &site.url(""), "--delete", "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 2);
    assert_contents(&site, &up);
}

/// A mirror of a small and a large object, which then get other names in the bucket.
fn renamed_in_the_bucket(site: &Site) -> String {
    let (up, down) = (site.directory("up"), site.at("down"));
    tree::file(&up, "small", "small");
    tree::generated(&up, "large", 20 << 20, 8);
    tree::file(&up, "anchor", "anchor");
    site.haul(&["sync", &up, &site.url("")]).done();
    site.haul(&["sync", &site.url(""), &down]).done();
    for name in ["small", "large"] {
        site.bucket.copy(name, &format!("moved/new-{name}"));
        site.bucket.delete(name);
        tree::directory(&up, "moved");
        rename(&up, name, &format!("moved/new-{name}"));
    }
    site.proxy.reset();
    down
}

fn object_renamed_in_the_bucket_is_not_fetched(server: &Server) {
    let site = Site::new(server);
    let down = renamed_in_the_bucket(&site);
    let outcome = site.haul(&["sync", &site.url(""), &down, "--delete", "--json"]).done();
    assert_eq!(site.proxy.count(Kind::Get), 0, "{:#?}", site.proxy.passed());
    assert_eq!((outcome.summary("copied"), outcome.summary("deleted")), (2, 2));
    tree::assert_same(site.at("up"), &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
    site.assert_sync_only_lists(&site.url(""), &down, 1);
}

fn changed_local_twin_is_not_copied(server: &Server) {
    let site = Site::new(server);
    let down = renamed_in_the_bucket(&site);
    for name in ["small", "large"] {
        let path = format!("{down}/{name}");
        let (mut body, mtime) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified());
        body[3] ^= 1;
        fs::write(&path, body).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(mtime.unwrap()).unwrap();
    }
    let outcome = site.haul(&["sync", &site.url(""), &down, "--delete", "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 2);
    tree::assert_same(site.at("up"), &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
}

fn objects_swapped_in_the_bucket_are_swapped_here(server: &Server) {
    let site = Site::new(server);
    let (up, down, url) = (site.directory("up"), site.at("down"), site.url(""));
    for number in 0..20 {
        tree::file(&up, format!("a{number}"), format!("content a{number:02}"));
        tree::file(&up, format!("b{number}"), format!("content b{number:02}"));
    }
    site.haul(&["sync", &up, &url]).done();
    site.haul(&["sync", &url, &down]).done();
    for number in 0..20 {
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        for (from, to) in [(a.as_str(), "between"), (&b, &a), ("between", &b)] {
            site.bucket.copy(from, to);
            rename(&up, from, to);
        }
        site.bucket.delete("between");
    }
    site.haul(&["sync", &url, &down, "--delete"]).done();
    tree::assert_same(&up, &down);
    assert_eq!(tree::temporary_files(&down), [""; 0]);
}

/// A link's object holds its text, which may be a file's content as well.
fn links_and_files_of_one_content_stay_what_they_are(server: &Server) {
    let site = Site::new(server);
    let (up, down, url) = (site.directory("up"), site.at("down"), site.url(""));
    let sync = || {
        site.haul(&["sync", &up, &url, "--delete"]).done();
        site.assert_holds(&up, "");
        site.haul(&["sync", &url, &down, "--delete"]).done();
        tree::assert_same(&up, &down);
        site.assert_sync_only_lists(&up, &url, 1);
        site.assert_sync_only_lists(&url, &down, 1);
    };
    tree::link(&up, "link", "the text");
    tree::file(&up, "other-file", "another text");
    sync();
    tree::file(&up, "file", "the text");
    tree::link(&up, "other-link", "another text");
    sync();
    // And each in the other's place. Their ETags stay, so that a mirror here can't know before it
    // is made anew.
    for (file, link) in [("file", "link"), ("other-file", "other-link")] {
        rename(&up, file, "between");
        rename(&up, link, file);
        rename(&up, "between", link);
    }
    site.haul(&["sync", &up, &url]).done();
    site.assert_holds(&up, "");
    site.haul(&["sync", &url, &site.at("anew")]).done();
    tree::assert_same(&up, site.at("anew"));
}
