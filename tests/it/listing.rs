//! `ls`, `du`, `stat`, `rm`, `mb`, `rb`: what they print is what the bucket holds, and they remove
//! what they say.

use serde_json::Value;

use crate::support::{Kind, Server, Site, tree};

on_both_servers! {
    ls_without_a_url_shows_the_buckets,
    ls_shows_one_level,
    ls_recursive_shows_every_key,
    ls_long_shows_sizes,
    ls_json_is_one_object_a_line,
    du_adds_up_the_bytes,
    stat_shows_size_and_hash,
    rm_removes_one_key,
    rm_of_a_prefix_needs_the_flag,
    rm_recursive_keeps_to_the_boundary,
    rm_dry_run_removes_nothing,
    mb_makes_a_bucket_and_rb_removes_it,
    rb_refuses_a_bucket_that_is_not_empty,
}

/// A bucket with two levels of keys.
fn filled(server: &Server) -> Site {
    let site = Site::new(server);
    for (key, size) in [("a.txt", 11), ("d/b.txt", 2200), ("d/e/c +%.txt", 33), ("d-e", 1)] {
        site.bucket.put(key, &tree::noise(size, 1));
    }
    site
}

/// Whether any string in this JSON ends so, or any number is this one.
fn holds(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::String(text), Value::String(end)) => text.ends_with(end.as_str()),
        (Value::Object(fields), _) => fields.values().any(|field| holds(field, wanted)),
        (Value::Array(values), _) => values.iter().any(|value| holds(value, wanted)),
        _ => value == wanted,
    }
}

#[track_caller]
fn assert_json_holds(lines: &[Value], wanted: impl Into<Value>) {
    let wanted = wanted.into();
    assert!(lines.iter().any(|line| holds(line, &wanted)), "no {wanted} in {lines:?}");
}

fn ls_without_a_url_shows_the_buckets(server: &Server) {
    let site = filled(server);
    let other = site.another_bucket();
    site.haul(&["ls"]).done().names(&site.bucket.name).names(&other.name);
    let lines = site.haul(&["ls", "--json"]).done().json();
    assert_json_holds(&lines, site.bucket.name.as_str());
}

fn ls_shows_one_level(server: &Server) {
    let site = filled(server);
    let printed = site.haul(&["ls", &site.url("")]).done().text();
    assert_eq!(printed.lines().count(), 3, "{printed}");
    for name in ["a.txt", "d/", "d-e"] {
        assert!(printed.lines().any(|line| line.ends_with(name)), "no {name} in {printed}");
    }
    let printed = site.haul(&["ls", &site.url("d")]).done().text();
    assert_eq!(printed.lines().count(), 2, "{printed}");
}

fn ls_recursive_shows_every_key(server: &Server) {
    let site = filled(server);
    let printed = site.haul(&["ls", "-r", &site.url("")]).done().text();
    assert_eq!(printed.lines().count(), 4, "{printed}");
    for key in site.bucket.keys() {
        assert!(printed.lines().any(|line| line.ends_with(&key)), "no {key} in {printed}");
    }
    let below = site.haul(&["ls", "-r", &site.url("d")]).done().text();
    assert_eq!(below.lines().count(), 2, "{below}");
}

fn ls_long_shows_sizes(server: &Server) {
    let site = filled(server);
    let printed = site.haul(&["ls", "-l", &site.url("")]).done().text();
    let line = printed.lines().find(|line| line.ends_with("a.txt")).expect("a line");
    assert!(line.contains("11"), "no size in {line:?}");
}

fn ls_json_is_one_object_a_line(server: &Server) {
    let site = filled(server);
    let lines = site.haul(&["ls", "-r", "--json", &site.url("")]).done().json();
    assert_eq!(lines.len(), 4);
    for (key, listed) in site.bucket.list() {
        let line = lines.iter().find(|line| holds(line, &key.as_str().into()));
        let line = line.unwrap_or_else(|| panic!("no {key} in {lines:?}"));
        assert!(holds(line, &listed.size.into()), "no size in {line}");
    }
}

fn du_adds_up_the_bytes(server: &Server) {
    let site = filled(server);
    let total = |prefix: &str| site.haul(&["du", "--json", &site.url(prefix)]).done().json();
    assert_json_holds(&total(""), 2245);
    assert_json_holds(&total("d"), 2233);
    site.haul(&["du", &site.url("")]).done();
}

fn stat_shows_size_and_hash(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "d/key", tree::noise(12_345, 1));
    site.haul(&["sync", &up, &site.url("")]).done();
    let hash = tree::hash(site.at("up/d/key").as_ref());
    let lines = site.haul(&["stat", "--json", &site.url("d/key")]).done().json();
    assert_json_holds(&lines, 12_345);
    assert_json_holds(&lines, hash.as_str());
    assert_json_holds(&lines, site.bucket.head("d/key").unwrap().etag);
    site.haul(&["stat", &site.url("d/key")]).done().names(&hash);
    site.haul(&["stat", &site.url("d/missing")]).fails().names("d/missing");
}

fn rm_removes_one_key(server: &Server) {
    let site = filled(server);
    site.haul(&["rm", &site.url("d/e/c +%.txt")]).done();
    site.bucket.assert_keys(&["a.txt", "d/b.txt", "d-e"]);
}

fn rm_of_a_prefix_needs_the_flag(server: &Server) {
    let site = filled(server);
    site.haul(&["rm", &site.url("d")]).fails();
    site.haul(&["rm", &site.url("")]).fails();
    assert_eq!(site.bucket.keys().len(), 4);
}

fn rm_recursive_keeps_to_the_boundary(server: &Server) {
    let site = filled(server);
    site.haul(&["rm", "-r", &site.url("d")]).done();
    site.bucket.assert_keys(&["a.txt", "d-e"]);
    site.haul(&["rm", "-r", &site.url("")]).done();
    site.bucket.assert_keys(&[]);
}

fn rm_dry_run_removes_nothing(server: &Server) {
    let site = filled(server);
    site.haul(&["rm", "-r", "-n", &site.url("")]).done().names("d/b.txt");
    site.haul(&["rm", "-n", &site.url("a.txt")]).done().names("a.txt");
    assert_eq!(site.bucket.keys().len(), 4);
    assert_eq!(site.proxy.count(Kind::Delete), 0);
}

fn mb_makes_a_bucket_and_rb_removes_it(server: &Server) {
    let site = Site::new(server);
    let made = site.absent_bucket();
    let url = format!("s3://{}", made.name);
    site.haul(&["mb", &url]).done();
    assert!(made.exists());
    site.haul(&["rb", &url]).done();
    assert!(!made.exists());
    site.haul(&["rb", &url]).fails().names(&made.name);
}

fn rb_refuses_a_bucket_that_is_not_empty(server: &Server) {
    let site = filled(server);
    site.haul(&["rb", &site.url("")]).fails().names(&site.bucket.name);
    assert!(site.bucket.exists());
    assert_eq!(site.bucket.keys().len(), 4);
}
