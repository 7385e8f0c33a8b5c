//! A tree goes up and comes back identical, and the second run of either sends nothing.

use crate::support::site::PART_BYTES;
use crate::support::{Kind, Server, Site, tree};

on_both_servers! {
    empty_tree_makes_no_objects,
    small_tree_comes_back_identical,
    files_around_the_part_size_come_back_identical,
    file_of_three_parts_comes_back_identical,
    file_of_300_mib_comes_back_identical,
    prefix_round_trip_maps_contents_to_contents,
    changed_tree_is_made_equal_again,
    download_replaces_what_differs_and_leaves_extras,
    read_only_files_and_directories_come_back,
}

fn empty_tree_makes_no_objects(server: &Server) {
    let site = Site::new(server);
    site.assert_round_trip(&site.directory("up"));
}

fn small_tree_comes_back_identical(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "zero", "");
    tree::file(&up, "one", "1");
    tree::file(&up, "runs/2024/output.nc", tree::noise(100_000, 1));
    tree::file(&up, "runs/2024/log.csv", "step,value\n1,2\n");
    tree::file(&up, "script.sh", "#!/bin/sh\n");
    tree::chmod(site.at("up/script.sh"), 0o755);
    tree::file(&up, "private", "for one's own eyes");
    tree::chmod(site.at("up/private"), 0o600);
    tree::file(&up, "epoch", "old");
    tree::touch(site.at("up/epoch"), 0);
    tree::link(&up, "latest", "runs/2024");
    tree::link(&up, "runs/dangling", "../no/such file");
    tree::directory(&up, "empty/within");
    tree::directory(&up, "hollow");
    site.assert_round_trip(&up);
}

fn files_around_the_part_size_come_back_identical(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "below", PART_BYTES - 1, 1);
    tree::generated(&up, "exact", PART_BYTES, 2);
    tree::generated(&up, "above", PART_BYTES + 1, 3);
    site.assert_round_trip(&up);
}

fn file_of_three_parts_comes_back_identical(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "d/40mib", 40 << 20, 4);
    site.haul(&["sync", &up, &site.url("")]).done();
    assert_eq!(site.proxy.count(Kind::Part), 3);
    site.assert_round_trip(&up);
}

fn file_of_300_mib_comes_back_identical(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::generated(&up, "300mib", 300 << 20, 5);
    site.assert_round_trip(&up);
}

fn prefix_round_trip_maps_contents_to_contents(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "a", "a");
    tree::file(&up, "sub/b", "b");
    let spelled = [site.url("deep/prefix"), site.url("deep/prefix/")];
    site.haul(&["sync", &format!("{up}/"), &spelled[0]]).done();
    site.assert_holds(&up, "deep/prefix/");
    site.assert_sync_is_idle(&up, &spelled[1]);
    for (url, name) in spelled.iter().zip(["down", "down-by-slash"]) {
        let down = site.at(name);
        site.haul(&["sync", url, &down]).done();
        tree::assert_same(&up, &down);
    }
}

fn changed_tree_is_made_equal_again(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "kept", "kept");
    tree::file(&up, "grown", "short");
    tree::file(&up, "d/rewritten", "one");
    site.haul(&["sync", &up, &site.url("")]).done();
    tree::file(&up, "grown", "longer than before");
    tree::file(&up, "d/rewritten", "two");
    tree::file(&up, "d/new", "new");
    site.proxy.reset();
    let outcome = site.haul(&["sync", &up, &site.url(""), "--json"]).done();
    assert_eq!(outcome.summary("transferred"), 3);
    assert_eq!(outcome.summary("failed"), 0);
    assert_eq!(site.proxy.count(Kind::Put), 3);
    site.assert_holds(&up, "");
    site.assert_sync_is_idle(&up, &site.url(""));
}

fn download_replaces_what_differs_and_leaves_extras(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "same", "same");
    tree::file(&up, "changed", "from the bucket");
    site.haul(&["sync", &up, &site.url("")]).done();
    let down = site.directory("down");
    tree::file(&down, "changed", "on the disk, and longer");
    tree::file(&down, "extra", "extra");
    site.haul(&["sync", &site.url(""), &down]).done();
    tree::file(&up, "extra", "extra");
    tree::assert_same(&up, &down);
    assert!(tree::temporary_files(&down).is_empty());
}

fn read_only_files_and_directories_come_back(server: &Server) {
    let site = Site::new(server);
    let up = site.directory("up");
    tree::file(&up, "d/read-only", "fixed");
    tree::chmod(site.at("up/d/read-only"), 0o444);
    site.assert_round_trip(&up);
    tree::chmod(site.at("up/d/read-only"), 0o644);
    tree::file(&up, "d/read-only", "changed");
    tree::chmod(site.at("up/d/read-only"), 0o444);
    site.haul(&["sync", &up, &site.url("")]).done();
    site.haul(&["sync", &site.url(""), &site.at("down")]).done();
    tree::assert_same(&up, site.at("down"));
}
