//! A bucket that changes, and its mirror in a directory that is tampered with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::changes::{KEPT, any_path, change};
use super::{
    Case, Content, LARGE, Leaf, TWINS, assert_only_lists, clashes, each_case, evict, fetched,
    is_inside, leaves, lose_memory,
};
use crate::support::site::PART_BYTES;
use crate::support::{Server, Site, tree};

on_both_servers! {
    directory_follows_a_bucket_and_nothing_is_fetched_that_it_holds,
    all_names_of_one_file_are_deleted_at_once,
}

/// An object as the server tells of it.
#[derive(Clone, Debug)]
struct Object {
    hash: String,
    size: u64,
    etag: String,
    metadata: BTreeMap<String, String>,
}

impl Object {
    fn is_link(&self) -> bool {
        self.metadata.get("mode").is_some_and(|mode| mode.starts_with("12"))
    }

    fn is_held_by(&self, leaf: &Leaf) -> bool {
        (&self.hash, self.is_link()) == (&leaf.hash, leaf.is_link)
    }
}

/// What the catalog knows of one file.
#[derive(Clone, Debug)]
struct Known {
    hash: String,
    etag: String,
    /// What `lstat` said; none where the file was too young for that to prove anything.
    looks: Option<String>,
}

/// All that `lstat` tells of a regular file; none of anything else.
fn looks(root: &str, key: &str) -> Option<String> {
    let found = fs::symlink_metadata(Path::new(root).join(key)).ok()?;
    let changed = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
    let looks = format!("{changed:?} {} {} {}", found.ino(), found.mode(), found.size());
    found.is_file().then_some(looks)
}

struct Mirror {
    site: Site,
    origin: String,
    root: String,
    state: String,
    /// What the catalog knows at least; none where it was lost.
    known: Option<BTreeMap<String, Known>>,
}

type Objects = BTreeMap<String, Object>;

impl Mirror {
    fn new(server: &Server) -> Self {
        let site = Site::new(server);
        let (origin, root) = (site.directory("origin"), site.directory("down"));
        tree::file(&origin, KEPT, "always here");
        let state = site.at("state");
        Self { site, origin, root, state, known: None }
    }

    fn run<'a>(&'a self, url: &'a str) -> [&'a str; 6] {
        ["sync", "--delete", "--state-dir", &self.state, url, &self.root]
    }

    /// Brings the bucket to what the origin is.
    #[track_caller]
    fn publish(&self, case: &Case) {
        case.note("publish".into());
        evict(&self.site, &leaves(&self.origin));
        self.site.haul(&["sync", "--delete", &self.origin, &self.site.url("")]).done();
    }

    fn objects(&self) -> Objects {
        let bucket = &self.site.bucket;
        let read = |key: String| {
            let head = bucket.head(&key).unwrap();
            let (hash, metadata) = (bucket.hash(&key), head.metadata);
            (key, Object { hash, size: head.size, etag: head.etag, metadata })
        };
        bucket.keys().into_iter().map(read).collect()
    }

    /// What stands where an object's file or directory is to be, and is of another kind.
    fn in_the_way(&self, objects: &Objects) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for key in objects.keys() {
            for (end, _) in key.match_indices('/') {
                let kind = fs::symlink_metadata(Path::new(&self.root).join(&key[..end]));
                if kind.is_ok_and(|kind| !kind.is_dir()) {
                    found.insert(key[..end].to_owned());
                }
            }
            let kind = fs::symlink_metadata(Path::new(&self.root).join(key));
            if !key.ends_with('/') && kind.is_ok_and(|kind| kind.is_dir()) {
                found.insert(key.clone());
            }
        }
        found
    }

    /// A file is never replaced by a directory, nor the other way round: such names are told, and
    /// it is for people to remove what is in the way.
    fn clear_the_way(&mut self, case: &Case, objects: &Objects) {
        let in_the_way = self.in_the_way(objects);
        if in_the_way.is_empty() {
            return;
        }
        let outcome = self.site.haul(&self.run(&self.site.url(""))).exits(&[0, 1, 3]);
        case.note(format!("sync, {in_the_way:?} in the way, exit {:?}", outcome.code));
        if outcome.code == Some(0) {
            assert!(self.in_the_way(objects).is_empty(), "{in_the_way:?} is still there");
        }
        for path in self.in_the_way(objects) {
            let path = Path::new(&self.root).join(path);
            match fs::symlink_metadata(&path) {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path).unwrap(),
                Ok(_) => fs::remove_file(&path).unwrap(),
                Err(_) => {}
            }
        }
        self.known = None;
    }

    /// Syncs, and checks what came of it and what was fetched for it.
    #[track_caller]
    fn sync(&mut self, case: &Case) {
        let objects = self.objects();
        self.clear_the_way(case, &objects);
        let before = leaves(&self.root);
        let due: BTreeMap<&String, &Object> = objects
            .iter()
            .filter(|(key, object)| !before.get(*key).is_some_and(|leaf| object.is_held_by(leaf)))
            .filter(|(key, _)| !key.ends_with('/'))
            .collect();
        let must_come: Vec<_> =
            due.iter().filter(|(key, object)| !self.has_twin(key, object, &due)).collect();
        let allowed: u64 = must_come.iter().map(|(_, object)| object.size).sum();
        self.site.proxy.reset();
        let outcome = self.site.haul(&self.run(&self.site.url(""))).done();
        case.note(format!("sync, {} due, at most {allowed} bytes", due.len()));
        let fetched = fetched(&self.site);
        assert!(
            fetched <= allowed,
            "fetched {fetched} bytes, of these in need: {must_come:#?}\nof {due:#?}\nknown {:#?}\n{:#?}\n{}",
            self.known,
            self.site.proxy.passed(),
            outcome.output(),
        );
        self.assert_equals(&objects, &before, &due);
        let knows = |(key, object): (&String, &Object)| {
            let settled = !due.contains_key(key) || object.metadata.contains_key("mtime");
            let looks = looks(&self.root, key).filter(|_| settled);
            let Object { hash, etag, .. } = object.clone();
            (key.clone(), Known { hash, etag, looks })
        };
        let contents = objects.iter().filter(|(key, _)| !key.ends_with('/'));
        self.known = Some(contents.map(knows).collect());
    }

    /// True where the content must have been copied from another file of the directory.
    fn has_twin(&self, key: &str, object: &Object, due: &BTreeMap<&String, &Object>) -> bool {
        let Some(known) = &self.known else { return false };
        if object.is_link() || object.size == 0 {
            return false;
        }
        let by_etag = known.iter().filter(|(_, known)| known.etag == object.etag).take(TWINS);
        let mut twins: Vec<_> = by_etag.collect();
        if twins.is_empty() && object.size > PART_BYTES && object.metadata.contains_key("blake3") {
            let by_hash = known.iter().filter(|(_, known)| known.hash == object.hash);
            twins = by_hash.take(TWINS).collect();
        }
        twins.into_iter().any(|(twin, known)| {
            let is_still = known.looks.is_some() && known.looks == looks(&self.root, twin);
            is_still && twin != key && !due.contains_key(twin)
        })
    }

    #[track_caller]
    fn assert_equals(
        &self,
        objects: &Objects,
        before: &BTreeMap<String, Leaf>,
        due: &BTreeMap<&String, &Object>,
    ) {
        let found = leaves(&self.root);
        let is_leaf = |key: &&String| !objects.keys().any(|other| is_inside(other, key));
        let expected: BTreeSet<&String> =
            objects.keys().filter(|key| !key.ends_with('/') || is_leaf(key)).collect();
        assert_eq!(found.keys().collect::<BTreeSet<_>>(), expected, "what there is");
        for (key, leaf) in found.iter().filter(|(key, _)| !key.ends_with('/')) {
            let object = &objects[key];
            assert_eq!(leaf.hash, object.hash, "the bytes of {key}");
            assert_eq!(leaf.is_link, object.is_link(), "the kind of {key}");
            let recorded = |name: &str| object.metadata.get(name);
            if !due.contains_key(key) {
                // What is the same is not touched, whatever its mtime.
                assert_eq!(before.get(key), Some(leaf), "{key}, which was the same");
                continue;
            }
            if let Some(mtime) = recorded("mtime") {
                assert_eq!(&leaf.mtime, mtime, "the mtime of {key}");
            }
            if let Some(mode) = recorded("mode").filter(|_| !leaf.is_link) {
                let mode = u32::from_str_radix(mode, 8).unwrap();
                assert_eq!(leaf.mode & 0o777, mode & 0o777, "the mode of {key}");
            }
        }
    }

    /// What another client does to the bucket.
    fn interfere(&self, case: &Case, rng: &mut fastrand::Rng) {
        let bucket = &self.site.bucket;
        let listed = bucket.list();
        let keys: Vec<&String> = listed.keys().filter(|key| !key.ends_with('/')).collect();
        let key = (*rng.choice(&keys).expect("one is always there")).clone();
        let other = match rng.bool() {
            true => any_path(rng),
            false => (*rng.choice(&keys).expect("one is always there")).clone(),
        };
        let in_the_way = |at: &String| clashes(listed.keys(), at);
        let done = match rng.u32(..5) {
            0 if !in_the_way(&other) => {
                let content = Content::any(rng);
                self.store(rng, &other, content);
                format!("another puts {other} {content:?}")
            }
            1 if listed[&key].size > 0 => {
                let content = Content::of_size(rng, listed[&key].size);
                self.store(rng, &key, content);
                format!("another puts {key} {content:?}")
            }
            2 | 3 if !in_the_way(&other) && key != other => {
                bucket.copy(&key, &other);
                format!("another copies {key} to {other}")
            }
            4 if key != KEPT => {
                bucket.delete(&key);
                format!("another deletes {key}")
            }
            _ => "another does nothing".into(),
        };
        case.note(done);
    }

    fn store(&self, rng: &mut fastrand::Rng, key: &str, content: Content) {
        let bucket = &self.site.bucket;
        if content.size == LARGE {
            content.write(&self.site.at("stored"), "file");
            let path = self.site.at("stored/file");
            return match content.seed {
                0 | 1 => bucket.put_file(key, path.as_ref()),
                _ => bucket.put_multipart(key, path.as_ref(), 8 << 20),
            };
        }
        let bytes = content.bytes();
        let mut metadata = BTreeMap::new();
        if rng.bool() {
            metadata.insert("blake3".into(), blake3::hash(&bytes).to_hex().to_string());
        }
        if rng.bool() {
            metadata.insert("mtime".into(), format!("{}.000000001", rng.u64(1..1 << 30)));
        }
        bucket.put_with(key, &bytes, &metadata);
    }
}

fn directory_follows_a_bucket_and_nothing_is_fetched_that_it_holds(server: &Server) {
    each_case(10, |case, mut rng| {
        let mut mirror = Mirror::new(server);
        for _ in 0..rng.u32(3..12) {
            change(case, &mut rng, &mirror.origin);
        }
        mirror.publish(case);
        mirror.sync(case);
        for _ in 0..rng.u32(2..6) {
            if rng.u32(..3) > 0 {
                for _ in 0..rng.u32(0..6) {
                    change(case, &mut rng, &mirror.origin);
                }
                mirror.publish(case);
            }
            for _ in 0..rng.u32(0..3) {
                mirror.interfere(case, &mut rng);
            }
            for _ in 0..rng.u32(0..5).saturating_sub(2) {
                case.note("at the target:".into());
                change(case, &mut rng, &mirror.root);
            }
            let mut is_whole = true;
            if rng.u32(..6) == 0 {
                let how = lose_memory(&mut rng, &mirror.state);
                case.note(how.into());
                mirror.known = None;
                is_whole = how != "catalog corrupted";
            }
            mirror.sync(case);
            match is_whole {
                true => assert_only_lists(&mirror.site, &mirror.run(&mirror.site.url(""))),
                false => mirror.known = None,
            }
        }
    });
}

/// Each name that goes changes the `ctime` of the others.
fn all_names_of_one_file_are_deleted_at_once(server: &Server) {
    let case = Case { seed: 0, done: std::cell::RefCell::default() };
    let mut mirror = Mirror::new(server);
    mirror.publish(&case);
    mirror.sync(&case);
    tree::file(&mirror.root, "one", "one file");
    fs::hard_link(mirror.site.at("down/one"), mirror.site.at("down/other")).unwrap();
    mirror.sync(&case);
}
