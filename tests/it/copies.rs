//! Bucket to bucket: the server copies, no byte comes through here, and metadata goes along.

use crate::support::{Kind, Server, Site, tree};

on_both_servers! {
    bucket_to_bucket_copies_on_the_server,
    large_objects_are_copied_on_the_server,
    objects_of_300_mib_are_copied_in_parts,
    prefix_to_prefix_of_one_bucket_is_copied,
    bucket_to_bucket_deletes_extras_when_told,
    empty_source_bucket_is_refused,
}

/// No object was read, and none was sent: an empty marker may be written anew.
#[track_caller]
fn assert_nothing_came_through(site: &Site) {
    let passed = site.proxy.passed();
    assert_eq!(site.proxy.count(Kind::Get), 0, "objects were read: {passed:#?}");
    let writes = passed.iter().filter(|passed| matches!(passed.kind, Kind::Put | Kind::Part));
    assert_eq!(writes.map(|passed| passed.body_bytes).sum::<u64>(), 0, "{passed:#?}");
}

/// A tree with each kind of leaf and names that have to be encoded in a copy's source header.
fn source_tree(site: &Site) -> String {
    let up = site.directory("up");
    for name in ["a", "d/b", "d/with space +%41#?", "\u{e9}t\u{e9} \u{1f600}", "zero"] {
        tree::file(&up, name, if name == "zero" { "" } else { name });
    }
    tree::link(&up, "link", "d/b");
    tree::directory(&up, "empty");
    site.haul(&["sync", &up, &site.url("")]).done();
    up
}

fn bucket_to_bucket_copies_on_the_server(server: &Server) {
    let site = Site::new(server);
    let up = source_tree(&site);
    let other = site.another_bucket();
    let target = format!("s3://{}", other.name);
    site.proxy.reset();
    let outcome = site.haul(&["sync", &site.url(""), &target, "--json"]).done();
    assert_nothing_came_through(&site);
    assert_eq!(outcome.summary("copied") + outcome.summary("transferred"), 7);
    assert_eq!(other.keys(), site.bucket.keys());
    for key in site.bucket.keys() {
        let (from, to) = (site.bucket.head(&key).unwrap(), other.head(&key).unwrap());
        assert_eq!((from.size, &from.metadata), (to.size, &to.metadata), "{key:?}");
        assert_eq!(site.bucket.get(&key), other.get(&key), "{key:?}");
    }
    site.assert_sync_is_idle(&site.url(""), &target);
    site.haul(&["sync", &target, &site.at("down")]).done();
    tree::assert_same(&up, site.at("down"));
}

fn objects_of_300_mib_are_copied_in_parts(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "large", 300 << 20, 7);
    tree::generated(&up, "foreign", 300 << 20, 8);
    let foreign = site.at("up/foreign");
    site.haul(&["sync", &up, &site.url("from"), "--exclude", "foreign"]).done();
    site.bucket.put_multipart("from/foreign", foreign.as_ref(), 64 << 20);
    site.proxy.reset();
    site.haul(&["sync", &site.url("from"), &site.url("to")]).done();
    assert_nothing_came_through(&site);
    let head = |key| site.bucket.head(key).unwrap();
    for name in ["large", "foreign"] {
        let hash = tree::hash(site.at(&format!("up/{name}")).as_ref());
        assert_eq!(site.bucket.hash(&format!("to/{name}")), hash, "{name}");
    }
    assert_eq!(head("from/large").metadata, head("to/large").metadata);
    assert_eq!(head("to/foreign").content_type, "application/x-netcdf");
    assert_eq!(site.bucket.uploads(), [""; 0]);
    // What has no BLAKE3 can't be compared afterwards: SeaweedFS gives copied parts ETags of its
    // own.
    site.haul(&["check", &up, &site.url("to"), "--exclude", "foreign"]).done();
}

fn large_objects_are_copied_on_the_server(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "by-haul", 40 << 20, 1);
    site.haul(&["sync", &up, &site.url("from")]).done();
    tree::generated(&up, "by-another", 20 << 20, 2);
    let by_another = site.at("up/by-another");
    site.bucket.put_multipart("from/by-another", by_another.as_ref(), 8 << 20);
    site.proxy.reset();
    site.haul(&["sync", &site.url("from"), &site.url("to")]).done();
    assert_nothing_came_through(&site);
    for name in ["by-haul", "by-another"] {
        let hash = tree::hash(site.at(&format!("up/{name}")).as_ref());
        assert_eq!(site.bucket.hash(&format!("to/{name}")), hash, "{name}");
    }
    let head = |key| site.bucket.head(key).unwrap().metadata;
    assert_eq!(head("from/by-haul"), head("to/by-haul"));
    site.assert_sync_is_idle(&site.url("from"), &site.url("to"));
    let down = site.at("down");
    site.haul(&["sync", &site.url("to"), &down]).done();
    assert_eq!(
        tree::hash(site.at("down/by-haul").as_ref()),
        tree::hash(site.at("up/by-haul").as_ref())
    );
}

fn prefix_to_prefix_of_one_bucket_is_copied(server: &Server) {
    let site = Site::new(server);
    for key in ["run1/a", "run1/b/c", "run10/x", "copy/old"] {
        site.bucket.put(key, key.as_bytes());
    }
    site.haul(&["sync", &site.url("run1"), &site.url("copy")]).done();
    assert_nothing_came_through(&site);
    site.bucket.assert_keys(&["copy/a", "copy/b/c", "copy/old", "run1/a", "run1/b/c", "run10/x"]);
    assert_eq!(site.bucket.get("copy/b/c"), b"run1/b/c");
}

fn bucket_to_bucket_deletes_extras_when_told(server: &Server) {
    let site = Site::new(server);
    source_tree(&site);
    let other = site.another_bucket();
    let target = format!("s3://{}", other.name);
    other.put("d/extra", b"extra");
    other.put("a", b"differs");
    site.haul(&["sync", &site.url(""), &target, "--delete"]).done();
    assert_eq!(other.keys(), site.bucket.keys());
    assert_eq!(other.get("a"), b"a");
}

fn empty_source_bucket_is_refused(server: &Server) {
    let site = Site::new(server);
    let other = site.another_bucket();
    other.put("precious", b"precious");
    let target = format!("s3://{}", other.name);
    site.haul(&["sync", &site.url(""), &target, "--delete"]).exits(&[4]);
    assert_eq!(other.get("precious"), b"precious");
}
