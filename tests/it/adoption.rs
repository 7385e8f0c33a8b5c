//! Mirrors that other tools made are taken over as they are: nothing of them is sent again, each
//! object is asked about once at most, and later runs ask about none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde_json::json;

use crate::support::oracle::etag_of;
use crate::support::run::Outcome;
use crate::support::tree::Node;
use crate::support::{Kind, Peer, Server, Site, tree};

on_both_servers! {
    mirror_by_rclone_is_adopted,
    mirror_by_s3cmd_is_adopted,
    mirror_by_aws_is_adopted,
    mirror_by_s5cmd_is_adopted,
    mirror_by_s3sync_is_adopted,
    mirror_by_rclone_is_adopted_by_a_directory_that_holds_it,
    mirror_by_s3cmd_is_adopted_by_a_directory_that_holds_it,
    mirror_by_aws_is_adopted_by_a_directory_that_holds_it,
    mirror_by_s5cmd_is_adopted_by_a_directory_that_holds_it,
    mirror_by_s3sync_is_adopted_by_a_directory_that_holds_it,
    changes_in_an_adopted_tree_are_sent,
    changes_since_a_mirror_was_made_are_sent,
    changes_in_an_adopted_directory_are_fetched_again,
    part_sizes_in_whole_mib_are_found,
    part_size_that_nothing_tells_costs_one_upload,
    part_size_that_nothing_tells_costs_one_download,
    recorded_md5_decides_where_no_part_size_fits,
    full_object_checksum_decides_where_the_server_has_it,
    crc32_is_no_proof,
    mirror_by_rclone_restores_its_mtimes,
    mirror_by_s3cmd_restores_its_mtimes_and_modes,
    mirror_by_s3sync_restores_its_mtimes,
}

/// Of no tool's parts, and no whole number of KiB.
const ODD_PART_BYTES: u64 = 6_000_001;
/// The files of [`dataset`].
const FILES: usize = 6;

/// A tree with one file that goes in parts.
fn dataset(site: &Site) -> String {
    let up = site.directory("up");
    tree::file(&up, "empty", "");
    tree::file(&up, "readme.txt", "of no tool in particular\n");
    tree::file(&up, "run 1/caf\u{e9}.csv", "step,value\n1,2\n");
    tree::file(&up, "run 1/deep/series.bin", tree::noise(100_000, 1));
    tree::file(&up, "run 1/deep/short.bin", tree::noise(1000, 2));
    large(&up, "run 1/large.bin", 3);
    up
}

fn large(root: &str, path: &str, seed: u64) {
    tree::generated(root, path, 40 << 20, seed);
}

/// How a tool fills a prefix with a tree.
type Fill = fn(&Site, &str, &str);

fn rclone(site: &Site, up: &str, prefix: &str) {
    Peer::Rclone.mirror(site, up, prefix, &["--s3-upload-cutoff", "5M"]);
    assert_multipart(site, &format!("{prefix}/run 1/large.bin"), 8);
}

fn s3cmd(site: &Site, up: &str, prefix: &str) {
    Peer::S3cmd.mirror(site, up, prefix, &[]);
    assert_multipart(site, &format!("{prefix}/run 1/large.bin"), 3);
}

fn aws(site: &Site, up: &str, prefix: &str) {
    Peer::Aws.mirror(site, up, prefix, &[]);
    assert_multipart(site, &format!("{prefix}/run 1/large.bin"), 5);
}

fn s5cmd(site: &Site, up: &str, prefix: &str) {
    Peer::S5cmd.mirror(site, up, prefix, &["--part-size", "9"]);
    assert_multipart(site, &format!("{prefix}/run 1/large.bin"), 5);
}

/// What s3sync leaves with `--put-last-modified-metadata`, by the oracle: parts of 8 MiB from 8 MiB
/// on, the time in RFC 3339. Ceph 16 stores the name with `-` for `_`.
fn s3sync(site: &Site, up: &str, prefix: &str) {
    for (path, node) in tree::read(up) {
        let Node::File { size, .. } = node else { continue };
        let path = path.to_str().unwrap();
        let (key, file) = (format!("{prefix}/{path}"), Path::new(up).join(path));
        let metadata = json!({"s3sync_origin_last_modified": "2023-11-14T22:13:20+00:00"});
        if size >= 8 << 20 {
            let extra = json!({"metadata": metadata});
            site.bucket.put_multipart_with(&key, &file, 8 << 20, &extra);
        } else {
            site.bucket.put_file_with(&key, &file, &metadata);
        }
    }
}

#[track_caller]
fn assert_multipart(site: &Site, key: &str, parts: u32) {
    let etag = site.bucket.head(key).unwrap().etag;
    assert!(etag.ends_with(&format!("-{parts}")), "{key:?} has the ETag {etag}");
}

/// One sync, with what went before it left out of the proxy's record.
#[track_caller]
fn sync(site: &Site, source: &str, target: &str) -> Outcome {
    site.proxy.reset();
    site.haul(&["sync", source, target, "--json"]).done()
}

/// A first run that moves nothing and asks about each object once at most, and a second one that
/// only lists.
#[track_caller]
fn assert_adopted(site: &Site, source: &str, target: &str) {
    let outcome = sync(site, source, target);
    assert_eq!(outcome.summary("transferred"), 0, "{}", outcome.text());
    assert_nothing_moved(site);
    assert_asked_once_at_most(site);
    assert_only_lists(site, source, target);
}

/// No object's bytes went either way, and no request carried any.
#[track_caller]
fn assert_nothing_moved(site: &Site) {
    site.proxy.assert_no_transfers();
    let passed = site.proxy.passed();
    assert_eq!(passed.iter().map(|passed| passed.body_bytes).sum::<u64>(), 0, "{passed:#?}");
}

#[track_caller]
fn assert_asked_once_at_most(site: &Site) {
    let mut asked = BTreeMap::<String, usize>::new();
    for passed in site.proxy.passed().into_iter().filter(|passed| passed.kind == Kind::Head) {
        *asked.entry(passed.target).or_default() += 1;
    }
    let objects = site.bucket.list().len();
    assert!(asked.len() <= objects && asked.values().all(|count| *count == 1), "{asked:#?}");
}

/// What an earlier run has learnt is known: this one asks about no object.
#[track_caller]
fn assert_only_lists(site: &Site, source: &str, target: &str) {
    let outcome = sync(site, source, target);
    assert_eq!(outcome.summary("transferred"), 0);
    let passed = site.proxy.passed();
    assert!(!passed.is_empty(), "nothing was listed");
    assert!(passed.iter().all(|passed| passed.kind == Kind::List), "{passed:#?}");
}

#[track_caller]
fn assert_mirror_is_adopted(server: &Server, fill: Fill) {
    let site = Site::new(server);
    let up = dataset(&site);
    fill(&site, &up, "mirror");
    let filled = site.bucket.list();
    assert_eq!(filled.len(), FILES);
    assert_adopted(&site, &up, &site.url("mirror"));
    assert_eq!(site.bucket.list(), filled, "the objects are the tool's");
}

/// The directory's files have other mtimes than those that the mirror was made of.
#[track_caller]
fn assert_mirror_is_adopted_downward(server: &Server, fill: Fill) {
    let site = Site::new(server);
    let up = dataset(&site);
    fill(&site, &up, "mirror");
    tree::copy(&up, site.at("held"));
    let held = tree::read(site.at("held"));
    assert_eq!(held.len(), FILES);
    assert_adopted(&site, &site.url("mirror"), &site.at("held"));
    tree::assert_equal(&held, &tree::read(site.at("held")));
}

fn mirror_by_rclone_is_adopted(server: &Server) {
    assert_mirror_is_adopted(server, rclone);
}

fn mirror_by_s3cmd_is_adopted(server: &Server) {
    assert_mirror_is_adopted(server, s3cmd);
}

fn mirror_by_aws_is_adopted(server: &Server) {
    assert_mirror_is_adopted(server, aws);
}

fn mirror_by_s5cmd_is_adopted(server: &Server) {
    assert_mirror_is_adopted(server, s5cmd);
}

fn mirror_by_s3sync_is_adopted(server: &Server) {
    assert_mirror_is_adopted(server, s3sync);
}

fn mirror_by_rclone_is_adopted_by_a_directory_that_holds_it(server: &Server) {
    assert_mirror_is_adopted_downward(server, rclone);
}

fn mirror_by_s3cmd_is_adopted_by_a_directory_that_holds_it(server: &Server) {
    assert_mirror_is_adopted_downward(server, s3cmd);
}

fn mirror_by_aws_is_adopted_by_a_directory_that_holds_it(server: &Server) {
    assert_mirror_is_adopted_downward(server, aws);
}

fn mirror_by_s5cmd_is_adopted_by_a_directory_that_holds_it(server: &Server) {
    assert_mirror_is_adopted_downward(server, s5cmd);
}

fn mirror_by_s3sync_is_adopted_by_a_directory_that_holds_it(server: &Server) {
    assert_mirror_is_adopted_downward(server, s3sync);
}

/// Flips a bit of a small file and of the large one; sizes and mtimes stay.
fn change_two(root: &str) {
    tree::flip_bit(Path::new(root).join("run 1/deep/series.bin"), 50_000);
    tree::flip_bit(Path::new(root).join("run 1/large.bin"), 33 << 20);
}

fn changes_in_an_adopted_tree_are_sent(server: &Server) {
    for fill in [rclone as Fill, s3cmd, aws, s5cmd] {
        let site = Site::new(server);
        let up = dataset(&site);
        fill(&site, &up, "mirror");
        sync(&site, &up, &site.url("mirror"));
        assert_change_is_sent(&site, &up);
    }
}

/// Haul has never seen the mirror as it was.
fn changes_since_a_mirror_was_made_are_sent(server: &Server) {
    for fill in [rclone as Fill, s3cmd, aws, s5cmd] {
        let site = Site::new(server);
        let up = dataset(&site);
        fill(&site, &up, "mirror");
        assert_change_is_sent(&site, &up);
    }
}

#[track_caller]
fn assert_change_is_sent(site: &Site, up: &str) {
    let url = site.url("mirror");
    change_two(up);
    assert_eq!(sync(site, up, &url).summary("transferred"), 2);
    assert_eq!((site.proxy.count(Kind::Put), site.proxy.count(Kind::Begin)), (1, 1));
    assert_objects_are(site, up, "mirror/");
    assert_only_lists(site, up, &url);
}

/// The bytes of each file are those of its object.
#[track_caller]
fn assert_objects_are(site: &Site, root: &str, prefix: &str) {
    for (path, hash) in contents(root) {
        assert_eq!(site.bucket.hash(&format!("{prefix}{path}")), hash, "the bytes of {path:?}");
    }
}

fn changes_in_an_adopted_directory_are_fetched_again(server: &Server) {
    let site = Site::new(server);
    let up = dataset(&site);
    rclone(&site, &up, "mirror");
    let (url, held) = (site.url("mirror"), site.at("held"));
    tree::copy(&up, &held);
    sync(&site, &url, &held);
    change_two(&held);
    let outcome = sync(&site, &url, &held);
    assert_eq!(outcome.summary("transferred"), 2);
    assert_eq!(contents(&held), contents(&up));
    assert_only_lists(&site, &url, &held);
}

/// One fact of each file, by path.
fn each<T>(root: &str, fact: impl Fn(u32, String, String) -> T) -> BTreeMap<String, T> {
    let fact = |(path, node): (OsString, Node)| match node {
        Node::File { mode, mtime, hash, .. } => {
            (path.into_string().unwrap(), fact(mode, mtime, hash))
        }
        other => panic!("{} is {other:?}", path.display()),
    };
    tree::read(root).into_iter().map(fact).collect()
}

/// Hashes by path.
fn contents(root: &str) -> BTreeMap<String, String> {
    each(root, |_, _, hash| hash)
}

/// 7 MiB is the only size that makes six parts of 40 MiB; 13 MiB is one of four.
fn part_sizes_in_whole_mib_are_found(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    for mib in [7, 13] {
        let name = format!("by {mib} MiB");
        large(&up, &name, mib);
        site.bucket.put_multipart(&name, site.at(&format!("up/{name}")).as_ref(), mib << 20);
    }
    assert_adopted(&site, &up, &site.url(""));
    site.forget();
    assert_adopted(&site, &site.url(""), &up);
}

/// Objects whose parts have no size that haul could guess; one has a checksum of its parts'
/// checksums, which tells nothing of the whole.
fn objects_of_odd_parts(site: &Site) -> String {
    let up = site.directory("up");
    let composite = json!({"checksum": "CRC32", "checksum_type": "COMPOSITE"});
    for (name, seed, extra) in [("plain", 4, json!({})), ("composite", 5, composite)] {
        large(&up, name, seed);
        let path = site.at(&format!("up/{name}"));
        site.bucket.put_multipart_with(name, path.as_ref(), ODD_PART_BYTES, &extra);
    }
    up
}

/// Each was transferred for no better reason than that nothing is known of it, if it was.
#[track_caller]
fn assert_unknown_at_most(outcome: &Outcome) {
    assert!(outcome.summary("transferred") <= 2);
    assert_eq!(outcome.summary("unknown"), outcome.summary("transferred"));
}

fn part_size_that_nothing_tells_costs_one_upload(server: &Server) {
    let site = Site::new(server);
    let up = objects_of_odd_parts(&site);
    assert_unknown_at_most(&sync(&site, &up, &site.url("")));
    assert_only_lists(&site, &up, &site.url(""));
    assert_objects_are(&site, &up, "");
}

fn part_size_that_nothing_tells_costs_one_download(server: &Server) {
    let site = Site::new(server);
    let up = objects_of_odd_parts(&site);
    let held = site.at("held");
    tree::copy(&up, &held);
    assert_unknown_at_most(&sync(&site, &site.url(""), &held));
    assert_only_lists(&site, &site.url(""), &held);
    assert_eq!(contents(&held), contents(&up));
}

fn recorded_md5_decides_where_no_part_size_fits(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    large(&up, "rclone/large", 5);
    let chunks = format!("{ODD_PART_BYTES}b");
    let flags = ["--s3-upload-cutoff", "5M", "--s3-chunk-size", &chunks];
    Peer::Rclone.mirror(&site, &site.at("up/rclone"), "rclone", &flags);
    assert_multipart(&site, "rclone/large", 7);
    // s3cmd takes whole MiB alone, so that the oracle has to write what it would.
    large(&up, "s3cmd/large", 6);
    let path = site.at("up/s3cmd/large");
    let md5 = etag_of(path.as_ref(), None);
    let attributes = format!("gid:0/gname:root/md5:{md5}/mode:33188/mtime:1700000000/uid:0");
    let extra = json!({"metadata": {"s3cmd-attrs": attributes}});
    site.bucket.put_multipart_with("s3cmd/large", path.as_ref(), ODD_PART_BYTES, &extra);
    assert_adopted(&site, &up, &site.url(""));
    site.forget();
    assert_adopted(&site, &site.url(""), &up);
    tree::flip_bit(site.at("up/rclone/large"), 1);
    tree::flip_bit(site.at("up/s3cmd/large"), 39 << 20);
    site.forget();
    assert_eq!(sync(&site, &up, &site.url("")).summary("transferred"), 2);
    assert_objects_are(&site, &up, "");
}

/// Nothing else could: the parts are of no usual size. Where the server keeps no checksum, that
/// costs one transfer.
fn full_object_checksum_decides_where_the_server_has_it(server: &Server) {
    let site = Site::new(server);
    let (up, url, held) = with_checksum(&site, "CRC64NVME", server.keeps_checksums());
    if server.keeps_checksums() {
        assert_adopted(&site, &url, &held);
        site.forget();
        assert_adopted(&site, &up, &url);
    } else {
        assert_unknown_at_most(&sync(&site, &url, &held));
        assert_only_lists(&site, &url, &held);
    }
    assert_flipped_bit_is_noticed(&site, (&up, &url, &held));
}

/// Thirty-two bits are too few to tell contents apart.
fn crc32_is_no_proof(server: &Server) {
    let site = Site::new(server);
    let (up, url, held) = with_checksum(&site, "CRC32", server.keeps_checksums());
    assert_eq!(sync(&site, &url, &held).summary("unknown"), 1);
    assert_only_lists(&site, &url, &held);
    assert_flipped_bit_is_noticed(&site, (&up, &url, &held));
}

/// A directory, the URL of the object that it was sent as with a checksum of the whole, and a copy.
fn with_checksum(site: &Site, name: &str, kept: bool) -> (String, String, String) {
    let up = site.directory("up");
    large(&up, "large", 8);
    let extra = json!({"checksum": name, "checksum_type": "FULL_OBJECT"});
    let path = site.at("up/large");
    site.bucket.put_multipart_with("large", path.as_ref(), ODD_PART_BYTES, &extra);
    assert_eq!(site.bucket.checksums("large").contains_key(name), kept);
    let held = site.at("held");
    tree::copy(&up, &held);
    (up, site.url(""), held)
}

fn assert_flipped_bit_is_noticed(site: &Site, (up, url, held): (&str, &str, &str)) {
    tree::flip_bit(site.at("held/large"), 20 << 20);
    site.forget();
    assert_eq!(sync(site, url, held).summary("transferred"), 1);
    assert_eq!(contents(held), contents(up));
}

/// Restores a mirror of small files, and one of 6 MiB, into an empty directory.
fn restore(server: &Server, fill: impl Fn(&Site, &str)) -> (Site, String, String) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "d/small", "small");
    tree::file(&up, "empty", "");
    tree::file(&up, "epoch", "old");
    tree::touch(site.at("up/epoch"), 0);
    tree::generated(&up, "large", 6 << 20, 9);
    for (name, mode) in [("d/small", 0o600), ("epoch", 0o755), ("large", 0o640)] {
        tree::chmod(site.at(&format!("up/{name}")), mode);
    }
    fill(&site, &up);
    let down = site.at("down");
    sync(&site, &site.url("mirror"), &down);
    assert_eq!(contents(&down), contents(&up));
    assert_only_lists(&site, &site.url("mirror"), &down);
    (site, up, down)
}

fn mtimes(root: &str) -> BTreeMap<String, String> {
    each(root, |_, mtime, _| mtime)
}

fn modes(root: &str) -> BTreeMap<String, u32> {
    each(root, |mode, _, _| mode)
}

fn mirror_by_rclone_restores_its_mtimes(server: &Server) {
    let (_site, up, down) = restore(server, |site, up| {
        Peer::Rclone.mirror(site, up, "mirror", &["--s3-upload-cutoff", "5M"]);
        assert_multipart(site, "mirror/large", 2);
    });
    assert_eq!(mtimes(&down), mtimes(&up));
}

/// It records whole seconds.
fn mirror_by_s3cmd_restores_its_mtimes_and_modes(server: &Server) {
    let (_site, up, down) = restore(server, |site, up| {
        Peer::S3cmd.mirror(site, up, "mirror", &["--multipart-chunk-size-mb=5"]);
        assert_multipart(site, "mirror/large", 2);
    });
    let seconds = |mtime: String| format!("{}.000000000", mtime.split('.').next().unwrap());
    assert_eq!(mtimes(&down), each(&up, |_, mtime, _| seconds(mtime)));
    assert_eq!(modes(&down), modes(&up));
}

fn mirror_by_s3sync_restores_its_mtimes(server: &Server) {
    let (_site, _up, down) = restore(server, |site, up| s3sync(site, up, "mirror"));
    for (path, mtime) in mtimes(&down) {
        assert_eq!(mtime, "1700000000.000000000", "{path:?}");
    }
}
