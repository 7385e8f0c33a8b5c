//! What counts as the same: content, whatever the times say.

use std::fs;

use crate::support::{Kind, Server, Site, tree};

on_both_servers! {
    changed_content_of_same_size_and_mtime_is_sent,
    changed_large_content_of_same_size_and_mtime_is_sent,
    changed_local_content_of_same_size_and_mtime_is_fetched_again,
    touched_file_is_not_sent,
    object_changed_by_another_client_is_replaced,
    objects_of_another_client_are_adopted,
    multipart_object_of_another_client_compares_right,
    size_only_looks_no_further,
    checksum_reads_again_and_sends_nothing_that_is_same,
    excluded_names_are_not_sent,
    last_matching_filter_wins,
    check_tells_same_from_different,
}

/// Rewrites a file with other bytes, and sets back its time.
fn rewrite_in_place(path: &str, body: &[u8]) {
    let before = fs::metadata(path).unwrap();
    assert_eq!(before.len(), body.len() as u64);
    fs::write(path, body).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

fn changed_content_of_same_size_and_mtime_is_sent(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "before");
    tree::file(&up, "b", "the same");
    site.haul(&["sync", &up, &site.url("")]).done();
    rewrite_in_place(&site.at("up/a"), b"after!");
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_eq!(site.proxy.count(Kind::Put), 1);
    site.assert_holds(&up, "");
}

fn changed_large_content_of_same_size_and_mtime_is_sent(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 20 << 20, 1);
    site.haul(&["sync", &up, &site.url("")]).done();
    let mut bytes = fs::read(site.at("up/large")).unwrap();
    bytes[19 << 20] ^= 1;
    rewrite_in_place(&site.at("up/large"), &bytes);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
}

fn changed_local_content_of_same_size_and_mtime_is_fetched_again(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "before");
    tree::generated(&up, "large", 20 << 20, 2);
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.at("down");
    site.haul(&["sync", &site.url(""), &down]).done();
    rewrite_in_place(&site.at("down/a"), b"broken");
    let mut bytes = fs::read(site.at("down/large")).unwrap();
    bytes[5] ^= 1;
    rewrite_in_place(&site.at("down/large"), &bytes);
    site.haul(&["sync", &site.url(""), &down]).done();
    tree::assert_same(&up, &down);
}

fn touched_file_is_not_sent(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "small", "small");
    tree::generated(&up, "large", 20 << 20, 3);
    site.haul(&["sync", &up, &site.url("")]).done();
    tree::touch(site.at("up/small"), 1_750_000_000);
    tree::touch(site.at("up/large"), 1_750_000_000);
    site.assert_sync_is_idle(&up, &site.url(""));
}

fn object_changed_by_another_client_is_replaced(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "ours");
    tree::file(&up, "b", "kept");
    site.haul(&["sync", &up, &site.url("")]).done();
    site.bucket.put("a", b"them");
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_eq!(site.proxy.count(Kind::Put), 1);
    site.assert_holds(&up, "");
}

fn objects_of_another_client_are_adopted(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a", "b/c", "empty"] {
        tree::file(&up, name, if name == "empty" { "" } else { name });
        site.bucket.put_file(name, site.at(&format!("up/{name}")).as_ref());
    }
    site.assert_sync_is_idle(&up, &site.url(""));
    site.assert_sync_is_idle(&site.url(""), &up);
}

/// Its part size is another one: it is sent again, or found to be the same, and right in both
/// cases.
fn multipart_object_of_another_client_compares_right(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 20 << 20, 4);
    let path = site.at("up/large");
    site.bucket.put_multipart("large", path.as_ref(), 8 << 20);
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_eq!(site.bucket.hash("large"), tree::hash(path.as_ref()));
    site.assert_sync_is_idle(&up, &site.url(""));
    tree::generated(site.at("other"), "large", 20 << 20, 5);
    site.bucket.put_multipart("large", site.at("other/large").as_ref(), 8 << 20);
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_eq!(site.bucket.hash("large"), tree::hash(path.as_ref()));
}

fn size_only_looks_no_further(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "same-size", "ours");
    tree::file(&up, "other-size", "longer");
    site.bucket.put("same-size", b"them");
    site.bucket.put("other-size", b"short");
    site.haul(&["sync", &up, &site.url(""), "--size-only"]).done();
    assert_eq!(site.bucket.get("same-size"), b"them");
    assert_eq!(site.bucket.get("other-size"), b"longer");
}

fn checksum_reads_again_and_sends_nothing_that_is_same(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "before");
    tree::file(&up, "b", "kept");
    site.haul(&["sync", &up, &site.url("")]).done();
    rewrite_in_place(&site.at("up/a"), b"after!");
    site.proxy.reset();
    site.haul(&["sync", &up, &site.url(""), "-c"]).done();
    assert_eq!(site.proxy.count(Kind::Put), 1);
    site.assert_holds(&up, "");
}

fn excluded_names_are_not_sent(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a.txt", "a.tmp", "d/b.tmp", "cache/x", "d/cache/y", "keep/cache.txt"] {
        tree::file(&up, name, name);
    }
    let filters = ["--exclude", "*.tmp", "--exclude", "cache"];
    site.haul_with(&["sync", &up, &site.url("")], &filters).done();
    site.bucket.assert_keys(&["a.txt", "keep/cache.txt"]);
}

fn last_matching_filter_wins(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a.log", "b.log", "c.txt"] {
        tree::file(&up, name, name);
    }
    let sync = |filters: &[&str]| {
        site.haul(&[&["sync", &up, &site.url("")], filters].concat()).done();
    };
    sync(&["--exclude", "*", "--include", "a.log"]);
    site.bucket.assert_keys(&["a.log"]);
    sync(&["--include", "b.log", "--exclude", "*.log"]);
    site.bucket.assert_keys(&["a.log", "c.txt"]);
}

fn check_tells_same_from_different(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "before");
    tree::file(&up, "d/b", "b");
    let url = site.url("");
    site.haul(&["sync", &up, &url]).done();
    site.haul(&["check", &up, &url]).done();
    site.haul(&["check", &url, &up]).done();
    rewrite_in_place(&site.at("up/a"), b"after!");
    site.haul(&["check", &up, &url]).exits(&[1]).names("a");
    tree::file(&up, "d/missing", "missing");
    site.proxy.reset();
    site.haul(&["check", &up, &url]).exits(&[1]).names("d/missing");
    site.haul(&["check", &url, &up]).exits(&[1]).names("a");
    site.proxy.assert_no_transfers();
    site.bucket.assert_keys(&["a", "d/b"]);
    assert_eq!(fs::read(site.at("up/a")).unwrap(), b"after!");
}
