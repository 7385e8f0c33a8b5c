//! What haul remembers between runs: doing nothing costs listings alone, and no change goes unseen.

use std::fs;

use rusqlite::Connection;

use crate::support::{Fault, Kind, Rule, Server, Site, Watch, tree};

on_both_servers! {
    nothing_to_do_costs_listings_alone_in_every_direction,
    listing_out_of_order_is_known_the_next_time,
    touched_and_chmodded_files_are_read_once_and_not_sent,
    touched_target_files_are_read_once_and_not_fetched,
    change_that_keeps_size_and_mtime_is_noticed,
    file_replaced_by_another_of_its_size_and_mtime_is_noticed,
    objects_changed_behind_our_back_are_put_right,
    changes_of_both_sides_are_put_right_downward,
    checksum_reads_every_file_again_and_sends_nothing,
    sizes_alone_are_not_remembered_as_contents,
    what_a_check_found_out_is_remembered,
    file_that_changes_on_its_way_is_not_remembered_as_sent,
    filters_do_not_make_forget,
    filters_do_not_hide_what_was_never_sent,
}

/// A bit more than a page: small files, empty ones, one in parts, a link, an empty directory.
fn page_and_more(site: &Site) -> String {
    let up = site.directory("up");
    for number in 0..1005_u64 {
        let bytes = if number % 100 == 0 { 0 } else { 50 };
        tree::file(&up, format!("d{}/f{number}", number % 5), tree::noise(bytes, number));
    }
    tree::generated(&up, "large", 20 << 20, 1);
    tree::link(&up, "link", "d0/f0");
    tree::directory(&up, "nothing-in-it");
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_eq!(site.bucket.keys().len(), 1008);
    up
}

fn nothing_to_do_costs_listings_alone_in_every_direction(server: &Server) {
    let site = Site::new(server);
    let (up, url, down) = (page_and_more(&site), site.url(""), site.at("down"));
    site.assert_sync_only_lists(&up, &url, 2);
    site.assert_sync_only_lists(&up, &url, 2);
    site.haul(&["sync", &url, &down]).done();
    site.assert_sync_only_lists(&url, &down, 2);
    tree::assert_same(&up, &down);
    let other = site.another_bucket();
    let target = format!("s3://{}", other.name);
    site.haul(&["sync", &url, &target]).done();
    site.assert_sync_only_lists(&url, &target, 4);
    // A copy of what was sent in parts has another ETag on some servers.
    let (mut from, mut to) = (site.bucket.list(), other.list());
    assert_eq!(from.remove("large").unwrap().size, to.remove("large").unwrap().size);
    assert_eq!(from, to);
    assert_eq!(other.hash("large"), site.bucket.hash("large"));
}

fn listing_out_of_order_is_known_the_next_time(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a/b", "a-1", "a.txt", "a!", "b"] {
        tree::file(&up, name, name);
    }
    site.haul(&["sync", &up, &site.url("")]).done();
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_sync_only_lists(&up, &site.url(""), 1);
    site.haul(&["sync", &site.url(""), &site.at("down")]).done();
    site.assert_sync_only_lists(&site.url(""), &site.at("down"), 1);
}

/// A few files, one of them in parts, and their sync.
pub fn a_few(site: &Site) -> String {
    let up = site.directory("up");
    for name in ["a", "b", "c", "d/e"] {
        tree::file(&up, name, format!("this is {name}"));
    }
    tree::file(&up, "empty", "");
    tree::generated(&up, "large", 20 << 20, 2);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_sync_only_lists(&up, &site.url(""), 1);
    site.proxy.reset();
    up
}

/// Syncs; exactly these files were opened, and nothing but one page was asked for.
#[track_caller]
fn assert_only_reads(site: &Site, source: &str, target: &str, files: &[&str]) {
    site.proxy.reset();
    let watch = Watch::over([source, target]);
    let outcome = site.haul(&["sync", source, target, "--json"]).done();
    assert_eq!(watch.opened(), files);
    site.proxy.assert_only_lists(1);
    assert_eq!(outcome.summary("transferred") + outcome.summary("copied"), 0);
}

fn touched_and_chmodded_files_are_read_once_and_not_sent(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (a_few(&site), site.url(""));
    let mtimes = ["a", "large"].map(|key| site.bucket.head(key).unwrap().metadata["mtime"].clone());
    for name in ["a", "empty", "large"] {
        tree::touch(format!("{up}/{name}"), 1_750_000_000);
    }
    tree::chmod(format!("{up}/d/e"), 0o600);
    assert_only_reads(&site, &up, &url, &["a", "d/e", "large"]);
    site.assert_sync_only_lists(&up, &url, 1);
    for (key, mtime) in ["a", "large"].into_iter().zip(&mtimes) {
        site.assert_metadata(key, "mtime", mtime);
    }
}

fn touched_target_files_are_read_once_and_not_fetched(server: &Server) {
    let site = Site::new(server);
    let (up, url, down) = (a_few(&site), site.url(""), site.at("down"));
    site.haul(&["sync", &url, &down]).done();
    site.assert_sync_only_lists(&url, &down, 1);
    tree::assert_same(&up, &down);
    tree::touch(format!("{down}/a"), 1_750_000_000);
    tree::touch(format!("{down}/large"), 1_750_000_000);
    assert_only_reads(&site, &url, &down, &["a", "large"]);
    site.assert_sync_only_lists(&url, &down, 1);
}

/// Writes into a file, and sets back its mtime.
fn rewrite(path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let before = fs::metadata(path).unwrap();
    let mut body = fs::read(path).unwrap();
    change(&mut body);
    fs::write(path, body).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), before.len());
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

fn change_that_keeps_size_and_mtime_is_noticed(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (a_few(&site), site.url(""));
    rewrite(&format!("{up}/a"), |body| body[0] ^= 1);
    rewrite(&format!("{up}/large"), |body| body[19 << 20] ^= 1);
    let outcome = site.haul(&["sync", &up, &url, "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 2);
    site.assert_holds(&up, "");
    site.assert_sync_only_lists(&up, &url, 1);
}

fn file_replaced_by_another_of_its_size_and_mtime_is_noticed(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (a_few(&site), site.url(""));
    let before = fs::metadata(format!("{up}/a")).unwrap();
    tree::file(site.at("elsewhere"), "a", "THIS IS A");
    let other = fs::File::options().write(true).open(site.at("elsewhere/a")).unwrap();
    other.set_modified(before.modified().unwrap()).unwrap();
    fs::rename(site.at("elsewhere/a"), format!("{up}/a")).unwrap();
    assert_eq!(fs::metadata(format!("{up}/a")).unwrap().len(), before.len());
    let outcome = site.haul(&["sync", &up, &url, "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 1);
    assert_eq!(site.bucket.get("a"), b"THIS IS A");
    site.assert_sync_only_lists(&up, &url, 1);
}

fn objects_changed_behind_our_back_are_put_right(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (a_few(&site), site.url(""));
    site.bucket.put("a", b"THIS IS A");
    site.bucket.delete("b");
    tree::generated(site.at("other"), "large", 20 << 20, 3);
    site.bucket.put_multipart("large", site.at("other/large").as_ref(), 16 << 20);
    let outcome = site.haul(&["sync", &up, &url, "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 3);
    site.assert_holds(&up, "");
    site.assert_sync_only_lists(&up, &url, 1);
}

fn changes_of_both_sides_are_put_right_downward(server: &Server) {
    let site = Site::new(server);
    let (_, url, down) = (a_few(&site), site.url(""), site.at("down"));
    site.haul(&["sync", &url, &down]).done();
    site.bucket.put("a", b"THIS IS A");
    fs::remove_file(format!("{down}/b")).unwrap();
    rewrite(&format!("{down}/c"), |body| body[0] ^= 1);
    rewrite(&format!("{down}/large"), |body| body[5] ^= 1);
    let outcome = site.haul(&["sync", &url, &down, "--json"]).done();
    assert_eq!(outcome.summary("transferred") + outcome.summary("copied"), 4);
    for key in ["a", "b", "c", "d/e", "empty", "large"] {
        let path = format!("{down}/{key}");
        assert_eq!(tree::hash(path.as_ref()), site.bucket.hash(key), "{key}");
    }
    // What has no mtime of its own may be read once more.
    site.haul(&["sync", &url, &down]).done();
    site.assert_sync_only_lists(&url, &down, 1);
}

fn checksum_reads_every_file_again_and_sends_nothing(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (a_few(&site), site.url(""));
    let watch = Watch::over([up.as_str()]);
    site.haul(&["sync", &up, &url, "-c"]).done();
    assert_eq!(watch.opened(), ["a", "b", "c", "d/e", "large"]);
    site.proxy.assert_no_transfers();
    site.assert_sync_only_lists(&up, &url, 1);
}

fn sizes_alone_are_not_remembered_as_contents(server: &Server) {
    let site = Site::new(server);
    let (up, url, down) = (site.directory("up"), site.url(""), site.at("down"));
    tree::file(&up, "a", "ours");
    site.bucket.put("a", b"them");
    tree::file(&down, "a", "here");
    site.haul(&["sync", &up, &url, "--size-only"]).done();
    site.haul(&["sync", &url, &down, "--size-only"]).done();
    assert_eq!(site.bucket.get("a"), b"them");
    site.haul(&["sync", &url, &down]).done();
    assert_eq!(fs::read(format!("{down}/a")).unwrap(), b"them");
    site.haul(&["sync", &up, &url]).done();
    site.assert_holds(&up, "");
}

fn what_a_check_found_out_is_remembered(server: &Server) {
    let site = Site::new(server);
    let (up, url) = (site.directory("up"), site.url(""));
    for name in ["a", "d/b"] {
        tree::file(&up, name, name);
        site.bucket.put(name, name.as_bytes());
    }
    tree::file(&up, "c", "ours");
    site.bucket.put("c", b"them");
    site.haul(&["check", &up, &url]).exits(&[1]).names("c");
    site.haul(&["check", &up, &url]).exits(&[1]).names("c");
    let watch = Watch::over([up.as_str()]);
    let outcome = site.haul(&["sync", &up, &url, "--json"]).done();
    assert_eq!((watch.opened(), outcome.summary("transferred")), (vec!["c".to_owned()], 1));
    assert_eq!(site.bucket.get("c"), b"ours");
    site.assert_sync_only_lists(&up, &url, 1);
}

fn file_that_changes_on_its_way_is_not_remembered_as_sent(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 40 << 20, 5);
    tree::file(&up, "small", "before");
    let root = up.clone();
    let rewrite = Fault::hook(move || tree::generated(&root, "large", 40 << 20, 6));
    site.proxy.rule(Rule::every(Kind::Begin, rewrite).times(1));
    let small = format!("{up}/small");
    let rewrite = Fault::hook(move || fs::write(&small, "after!").unwrap());
    site.proxy.rule(Rule::every(Kind::Put, rewrite).on("/small").times(1));
    let outcome = site.haul(&["sync", &up, &site.url(""), "--json"]).exits(&[3]).names("large");
    assert!(outcome.summary("changed") > 0);
    let connection = Connection::open(site.catalog()).unwrap();
    let rows = "SELECT count(*) FROM entry WHERE key = CAST('large' AS BLOB)";
    assert_eq!(connection.query_row(rows, [], |row| row.get::<_, i64>(0)), Ok(0));
    drop(connection);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.assert_holds(&up, "");
    assert_eq!(site.bucket.get("small"), b"after!");
    site.assert_sync_only_lists(&up, &site.url(""), 1);
}

/// Syncs with these filters; nothing moves, and no file is opened.
#[track_caller]
fn assert_idle_with(site: &Site, source: &str, target: &str, filters: &[&str]) {
    site.proxy.reset();
    let watch = Watch::over([source, target]);
    site.haul_with(&["sync", source, target], filters).done();
    assert_eq!(watch.opened(), [""; 0], "with {filters:?}");
    site.proxy.assert_only_lists(1);
}

fn filters_do_not_make_forget(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a", "a.tmp", "cache/x", "cache/y.tmp", "d/b.tmp", "d/cache/z", "z"] {
        tree::file(&up, name, name);
    }
    let (url, down) = (site.url(""), site.at("down"));
    site.haul(&["sync", &up, &url]).done();
    site.haul(&["sync", &url, &down]).done();
    let filters: [&[&str]; 4] = [
        &["--exclude", "*.tmp"],
        &["--exclude", "cache/"],
        &["--exclude", "*", "--include", "z"],
        &["--exclude", "/d/**"],
    ];
    for filters in filters {
        for (source, target) in [(&up, &url), (&url, &down)] {
            assert_idle_with(&site, source, target, filters);
            assert_idle_with(&site, source, target, &[]);
            assert_idle_with(&site, source, target, filters);
        }
    }
    tree::assert_same(&up, &down);
}

fn filters_do_not_hide_what_was_never_sent(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for name in ["a", "b.tmp"] {
        tree::file(&up, name, name);
    }
    let url = site.url("");
    site.haul(&["sync", &up, &url, "--exclude", "*.tmp"]).done();
    let outcome = site.haul(&["sync", &up, &url, "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 1);
    // Gone while it is left out, and back with another content.
    fs::remove_file(format!("{up}/b.tmp")).unwrap();
    site.haul(&["sync", &up, &url, "--exclude", "*.tmp", "--delete"]).done();
    site.bucket.assert_keys(&["a", "b.tmp"]);
    tree::file(&up, "b.tmp", "BTMP!");
    site.haul(&["sync", &up, &url]).done();
    site.assert_holds(&up, "");
}
