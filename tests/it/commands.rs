//! `cp`, `mv`, `cat` and the streams: one object or a tree of them, both ways.

use std::fs;

use crate::support::oracle::Bucket;
use crate::support::{Fault, Kind, Rule, Server, Site, tree};

on_both_servers! {
    cp_sends_a_file_under_the_name_given,
    cp_into_a_bucket_or_prefix_keeps_the_name,
    cp_fetches_an_object,
    cp_of_a_directory_needs_the_flag,
    cp_recursive_goes_up_and_down,
    cp_of_what_is_not_there_fails_by_name,
    cp_streams_from_stdin,
    cp_streams_a_large_stdin,
    cp_streams_to_stdout,
    cp_copies_on_the_server,
    cat_prints_the_bytes,
    mv_up_leaves_no_file,
    mv_keeps_a_source_that_changed_meanwhile,
    mv_down_leaves_no_object,
    mv_that_fails_keeps_the_source,
    mv_renames_on_the_server,
}

fn cp_sends_a_file_under_the_name_given(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("here"), "local.txt", "content");
    let file = site.at("here/local.txt");
    site.haul(&["cp", &file, &site.url("deep/renamed.txt")]).done();
    site.bucket.assert_keys(&["deep/renamed.txt"]);
    assert_eq!(site.bucket.get("deep/renamed.txt"), b"content");
    site.assert_metadata("deep/renamed.txt", "blake3", &tree::hash(file.as_ref()));
    assert!(fs::exists(file).unwrap());
}

fn cp_into_a_bucket_or_prefix_keeps_the_name(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("here"), "local.txt", "content");
    let file = site.at("here/local.txt");
    site.haul(&["cp", &file, &site.url("")]).done();
    site.haul(&["cp", &file, &site.url("prefix/")]).done();
    site.bucket.assert_keys(&["local.txt", "prefix/local.txt"]);
}

fn cp_fetches_an_object(server: &Server) {
    let site = Site::new(server);
    tree::generated(site.at("here"), "data", 20 << 20, 1);
    site.haul(&["cp", &site.at("here/data"), &site.url("d/data")]).done();
    let (renamed, directory) = (site.at("renamed"), site.directory("directory"));
    site.haul(&["cp", &site.url("d/data"), &renamed]).done();
    site.haul(&["cp", &site.url("d/data"), &directory]).done();
    let hash = tree::hash(site.at("here/data").as_ref());
    assert_eq!(tree::hash(renamed.as_ref()), hash);
    assert_eq!(tree::hash(site.at("directory/data").as_ref()), hash);
    tree::assert_same(site.at("here"), directory);
}

fn cp_of_a_directory_needs_the_flag(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("up"), "a", "a");
    site.haul(&["cp", &site.at("up"), &site.url("")]).fails().names("-r");
    site.bucket.assert_keys(&[]);
}

fn cp_recursive_goes_up_and_down(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    tree::file(&up, "b/c", "c");
    tree::link(&up, "link", "a");
    site.bucket.put("p/extra", b"extra");
    site.haul(&["cp", "-r", &up, &site.url("p")]).done();
    site.bucket.assert_keys(&["p/a", "p/b/c", "p/extra", "p/link"]);
    site.bucket.delete("p/extra");
    site.assert_holds(&up, "p/");
    site.haul(&["cp", &site.url("p"), &site.at("down"), "-r"]).done();
    tree::assert_same(&up, site.at("down"));
}

fn cp_of_what_is_not_there_fails_by_name(server: &Server) {
    let site = Site::new(server);
    let target = site.at("target");
    site.haul(&["cp", &site.url("no/such-key"), &target]).fails().names("no/such-key");
    assert!(!fs::exists(&target).unwrap());
    site.haul(&["cp", &site.at("no-such-file"), &site.url("")]).fails().names("no-such-file");
    site.bucket.assert_keys(&[]);
}

fn cp_streams_from_stdin(server: &Server) {
    let site = Site::new(server);
    for (key, body) in [("small", &b"from stdin"[..]), ("empty", b"")] {
        site.run(&["cp", "-", &site.url(key)]).stdin(body.to_vec()).finish().done();
        assert_eq!(site.bucket.get(key), body);
    }
}

fn cp_streams_a_large_stdin(server: &Server) {
    let site = Site::new(server);
    let body = tree::noise(40 << 20, 2);
    site.run(&["cp", "-", &site.url("large")]).stdin(body.clone()).finish().done();
    assert_eq!(site.bucket.hash("large"), blake3::hash(&body).to_hex().as_str());
    assert!(site.bucket.uploads().is_empty(), "an upload was left open");
    let outcome = site.haul(&["cp", &site.url("large"), "-"]).done();
    assert!(outcome.stdout == body, "stdout is not the object");
}

fn cp_streams_to_stdout(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("key", b"\0binary\xff\n");
    let outcome = site.haul(&["cp", &site.url("key"), "-"]).done();
    assert_eq!(outcome.stdout, b"\0binary\xff\n");
}

fn cp_copies_on_the_server(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("up"), "a", "content");
    site.haul(&["sync", &site.at("up"), &site.url("")]).done();
    site.proxy.reset();
    site.haul(&["cp", &site.url("a"), &site.url("copies/b")]).done();
    assert_eq!(site.bucket.get("copies/b"), b"content");
    let (from, to) = (site.bucket.head("a").unwrap(), site.bucket.head("copies/b").unwrap());
    assert_eq!(from.metadata, to.metadata);
    assert_eq!(site.proxy.count(Kind::Get) + site.proxy.count(Kind::Put), 0);
}

fn cat_prints_the_bytes(server: &Server) {
    let site = Site::new(server);
    let body = tree::noise(300_000, 3);
    site.bucket.put("d/key", &body);
    site.bucket.put("empty", b"");
    assert_eq!(site.haul(&["cat", &site.url("d/key")]).done().stdout, body);
    assert_eq!(site.haul(&["cat", &site.url("empty")]).done().stdout, b"");
    let missing = site.haul(&["cat", &site.url("missing")]).fails().names("missing");
    assert_eq!(missing.stdout, b"");
}

fn mv_up_leaves_no_file(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("up"), "one", "one");
    tree::file(site.at("up"), "many/a", "a");
    tree::file(site.at("up"), "many/b/c", "c");
    site.haul(&["mv", &site.at("up/one"), &site.url("moved")]).done();
    site.haul(&["mv", "-r", &site.at("up/many"), &site.url("many")]).done();
    site.bucket.assert_keys(&["many/a", "many/b/c", "moved"]);
    assert_eq!(site.bucket.get("moved"), b"one");
    assert_eq!(site.bucket.get("many/b/c"), b"c");
    assert_eq!(files(&site.at("up")), [""; 0]);
}

/// The file is rewritten while its old content is on the way up, the object while it is on the way
/// down.
fn mv_keeps_a_source_that_changed_meanwhile(server: &Server) {
    let site = Site::new(server);
    let file = site.at("up/file");
    tree::file(site.at("up"), "file", "old");
    let path = file.clone();
    let rewrite = Fault::hook(move || fs::write(&path, "newer").unwrap());
    site.proxy.rule(Rule::every(Kind::Put, rewrite).times(1));
    site.haul(&["mv", &file, &site.url("moved")]).exits(&[1]);
    assert_eq!(fs::read(&file).unwrap(), b"newer");
    site.proxy.reset();
    site.bucket.put("object", b"old");
    let bucket = Bucket::clone(&site.bucket);
    let rewrite = Fault::hook(move || drop(bucket.put("object", b"newer")));
    // The first HEAD looks at what is to come, the next asks whether it is still the same.
    site.proxy.rule(Rule::every(Kind::Head, rewrite).skip(1).times(1));
    site.haul(&["mv", &site.url("object"), &site.at("down")]).exits(&[1]);
    assert_eq!(fs::read(site.at("down")).unwrap(), b"old");
    assert_eq!(site.bucket.get("object"), b"newer");
}

fn mv_down_leaves_no_object(server: &Server) {
    let site = Site::new(server);
    for key in ["one", "many/a", "many/b/c", "many-others"] {
        site.bucket.put(key, key.as_bytes());
    }
    site.haul(&["mv", &site.url("one"), &site.at("down/one")]).done();
    site.haul(&["mv", "-r", &site.url("many"), &site.at("down/many")]).done();
    site.bucket.assert_keys(&["many-others"]);
    assert_eq!(files(&site.at("down")), ["many/a", "many/b/c", "one"]);
    assert_eq!(fs::read(site.at("down/many/b/c")).unwrap(), b"many/b/c");
}

fn mv_that_fails_keeps_the_source(server: &Server) {
    let site = Site::new(server);
    tree::file(site.at("up"), "one", "one");
    site.bucket.put("key", b"key");
    let broken = Fault::Answer(500, "InternalError");
    site.proxy.rule(Rule::every(Kind::Put, broken.clone()));
    site.proxy.rule(Rule::every(Kind::Get, broken));
    site.haul(&["mv", &site.at("up/one"), &site.url("moved"), "--retries", "1"]).fails();
    site.haul(&["mv", &site.url("key"), &site.at("moved"), "--retries", "1"]).fails();
    assert_eq!(fs::read(site.at("up/one")).unwrap(), b"one");
    site.bucket.assert_keys(&["key"]);
    assert!(!fs::exists(site.at("moved")).unwrap());
}

fn mv_renames_on_the_server(server: &Server) {
    let site = Site::new(server);
    site.bucket.put("from", b"content");
    site.haul(&["mv", &site.url("from"), &site.url("to")]).done();
    site.bucket.assert_keys(&["to"]);
    assert_eq!(site.bucket.get("to"), b"content");
    site.haul(&["mv", &site.url("to"), &site.url("to")]).fails();
    assert_eq!(site.bucket.get("to"), b"content");
    assert_eq!(site.proxy.count(Kind::Get) + site.proxy.count(Kind::Put), 0);
}

/// Paths of files and links, without directories.
fn files(root: &str) -> Vec<String> {
    let leaves = tree::read(root).into_iter();
    leaves
        .filter(|(_, node)| *node != tree::Node::EmptyDirectory)
        .map(|(path, _)| path.into_string().expect("UTF-8"))
        .collect()
}
