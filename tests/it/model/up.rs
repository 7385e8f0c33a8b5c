//! A directory that changes, and its mirror in a bucket that others write to.

use std::collections::BTreeMap;
use std::fs;

use super::changes::{KEPT, any_path, change};
use super::{
    Case, Content, LARGE, Leaf, TWINS, assert_only_lists, clashes, each_case, evict, is_inside,
    leaves, lose_memory, sent,
};
use crate::support::oracle::Listed;
use crate::support::{Server, Site, tree};

on_both_servers! {
    bucket_follows_a_directory_and_nothing_is_sent_that_it_holds,
    a_link_and_a_file_of_its_text_are_not_taken_for_each_other,
    renamed_file_that_another_client_sent_in_parts_is_copied,
}

/// A site, its directory, and what its bucket should hold.
pub struct Mirror {
    pub site: Site,
    pub root: String,
    pub state: String,
    /// Of objects the mode and mtime are not looked at.
    objects: BTreeMap<String, Leaf>,
    /// What the catalog knows at least: content and entity tag by key; none where it was lost.
    known: Option<BTreeMap<String, (String, String)>>,
}

impl Mirror {
    pub fn new(server: &Server) -> Self {
        let site = Site::new(server);
        let (root, state) = (site.directory("up"), site.at("state"));
        tree::file(&root, KEPT, "always here");
        Self { site, root, state, objects: BTreeMap::new(), known: None }
    }

    pub fn run<'a>(&'a self, url: &'a str) -> [&'a str; 6] {
        ["sync", "--delete", "--state-dir", &self.state, &self.root, url]
    }

    /// Syncs, and checks what came of it and what was sent for it.
    #[track_caller]
    pub fn sync(&mut self, case: &Case) {
        self.evict();
        let before = self.site.bucket.list();
        let files = leaves(&self.root);
        let due: BTreeMap<&String, &Leaf> = files
            .iter()
            .filter(|(key, leaf)| !self.objects.get(*key).is_some_and(|o| o.holds_the_same(leaf)))
            .collect();
        let must_go: Vec<_> =
            due.iter().filter(|(key, leaf)| !self.has_twin(key, leaf, &due, &before)).collect();
        let allowed: u64 = must_go.iter().map(|(_, leaf)| leaf.size).sum();
        self.site.proxy.reset();
        let outcome = self.site.haul(&self.run(&self.site.url(""))).done();
        case.note(format!("sync, {} due, at most {allowed} bytes", due.len()));
        let sent = sent(&self.site);
        assert!(
            sent <= allowed,
            "sent {sent} bytes, of these in need: {must_go:#?}\nof {due:#?}\nknown {:#?}\n{:#?}\n{}",
            self.known,
            self.site.proxy.passed(),
            outcome.output(),
        );
        let after = self.site.bucket.list();
        self.assert_holds(&files, &due, &after);
        let etag = |key: &String| after[key].etag.clone();
        let contents = files.iter().filter(|(key, _)| !key.ends_with('/'));
        let known = contents.map(|(key, leaf)| (key.clone(), (leaf.hash.clone(), etag(key))));
        self.known = Some(known.collect());
        let markers = self.objects.iter().filter(|(key, _)| after.contains_key(*key));
        let markers = markers.map(|(key, leaf)| (key.clone(), leaf.clone()));
        self.objects = markers.chain(files.clone()).collect();
    }

    /// See [`evict`].
    pub fn evict(&mut self) {
        for key in evict(&self.site, &leaves(&self.root)) {
            self.objects.remove(&key);
        }
    }

    /// True where the server must have copied this content from another key.
    fn has_twin(
        &self,
        key: &str,
        leaf: &Leaf,
        due: &BTreeMap<&String, &Leaf>,
        before: &BTreeMap<String, Listed>,
    ) -> bool {
        let known = self.known.iter().flatten();
        let twins = known.filter(|(_, (hash, _))| *hash == leaf.hash).take(TWINS);
        let mut others = twins.filter(|(twin, _)| *twin != key && !due.contains_key(twin));
        others.any(|(twin, (_, etag))| before.get(twin).is_some_and(|now| now.etag == *etag))
    }

    #[track_caller]
    fn assert_holds(
        &self,
        files: &BTreeMap<String, Leaf>,
        due: &BTreeMap<&String, &Leaf>,
        listed: &BTreeMap<String, Listed>,
    ) {
        for (key, leaf) in files {
            let head = self.site.bucket.head(key).unwrap_or_else(|| panic!("no object {key}"));
            assert_eq!(head.size, leaf.size, "the size of {key}");
            assert_eq!(self.site.bucket.hash(key), leaf.hash, "the bytes of {key}");
            let recorded = |name: &str| head.metadata.get(name).map(String::as_str);
            if let Some(mode) = recorded("mode") {
                assert_eq!(mode.starts_with("12"), leaf.is_link, "the mode {mode} of {key}");
            }
            if let (Some(part), Some((_, parts))) =
                (recorded("part-size"), head.etag.split_once('-'))
            {
                let part: u64 = part.parse().unwrap();
                assert_eq!(leaf.size.div_ceil(part).to_string(), parts, "the parts of {key}");
            }
            if key.ends_with('/') {
                continue;
            }
            if due.contains_key(key) {
                assert_eq!(recorded("blake3"), Some(&*leaf.hash), "the hash with {key}");
                assert_eq!(recorded("mtime"), Some(&*leaf.mtime), "the mtime with {key}");
                assert_eq!(recorded("mode"), Some(&*format!("{:o}", leaf.mode)), "of {key}");
            }
            // What another client has sent bears no hash, though it may be the same.
            if let Some(recorded) = recorded("blake3") {
                assert_eq!(recorded, leaf.hash, "the hash with {key}");
            }
        }
        // The object of an empty directory may stay when something comes into it.
        let is_needed = |key: &str| files.keys().any(|file| is_inside(file, key));
        let stray = |key: &&String| {
            let is_expected = files.contains_key(*key);
            !is_expected && (!key.ends_with('/') || !is_needed(key.as_str()))
        };
        let strays: Vec<&String> = listed.keys().filter(stray).collect();
        assert!(strays.is_empty(), "should be gone: {strays:?}");
    }

    #[track_caller]
    pub fn assert_idle(&self) {
        assert_only_lists(&self.site, &self.run(&self.site.url("")));
    }

    /// Looks at what the bucket holds, after a run of which nothing can be said.
    pub fn look(&mut self) {
        let bucket = &self.site.bucket;
        let leaf = |key: String| {
            let head = bucket.head(&key).unwrap();
            let is_link = head.metadata.get("mode").is_some_and(|mode| mode.starts_with("12"));
            let (hash, size, mtime) = (bucket.hash(&key), head.size, String::new());
            (key, Leaf { hash, size, is_link, mode: 0, mtime })
        };
        self.objects = bucket.keys().into_iter().map(leaf).collect();
    }

    pub fn forget(&mut self) {
        self.known = None;
    }

    /// What another client does to the bucket.
    fn interfere(&mut self, case: &Case, rng: &mut fastrand::Rng) {
        let keys: Vec<&String> = self.objects.keys().filter(|key| !key.ends_with('/')).collect();
        let key = (*rng.choice(&keys).expect("one is always there")).clone();
        let other = match rng.bool() {
            true => any_path(rng),
            false => (*rng.choice(&keys).expect("one is always there")).clone(),
        };
        let in_the_way = |at: &String| clashes(self.objects.keys(), at);
        let bucket = &self.site.bucket;
        let done = match rng.u32(..5) {
            0 if !in_the_way(&other) => {
                let content = Content::any(rng);
                self.store(&other, content);
                format!("another puts {other} {content:?}")
            }
            1 if self.objects[&key].size > 0 => {
                let content = Content::of_size(rng, self.objects[&key].size);
                self.store(&key, content);
                format!("another puts {key} {content:?}")
            }
            2 if !in_the_way(&other) && key != other => {
                bucket.copy(&key, &other);
                self.objects.insert(other.clone(), self.objects[&key].clone());
                format!("another copies {key} to {other}")
            }
            3 if key != KEPT => {
                bucket.delete(&key);
                self.objects.remove(&key);
                format!("another deletes {key}")
            }
            _ => "another does nothing".into(),
        };
        case.note(done);
    }

    /// Stores a content without the metadata that haul would give it, and perhaps in other parts.
    fn store(&mut self, key: &str, content: Content) {
        let Content { size, seed } = content;
        content.write(&self.site.at("stored"), "file");
        let (path, bucket) = (self.site.at("stored/file"), &self.site.bucket);
        match size {
            LARGE if seed > 1 => bucket.put_multipart(key, path.as_ref(), 8 << 20),
            _ => bucket.put_file(key, path.as_ref()),
        }
        let hash = tree::hash(path.as_ref());
        let (mode, mtime) = (0, String::new());
        let leaf = Leaf { hash, size, is_link: false, mode, mtime };
        self.objects.insert(key.to_owned(), leaf);
    }
}

fn bucket_follows_a_directory_and_nothing_is_sent_that_it_holds(server: &Server) {
    each_case(10, |case, mut rng| {
        let mut mirror = Mirror::new(server);
        for _ in 0..rng.u32(3..12) {
            change(case, &mut rng, &mirror.root);
        }
        mirror.sync(case);
        for _ in 0..rng.u32(2..6) {
            for _ in 0..rng.u32(0..6) {
                change(case, &mut rng, &mirror.root);
            }
            for _ in 0..rng.u32(0..3) {
                mirror.interfere(case, &mut rng);
            }
            let mut is_whole = true;
            if rng.u32(..6) == 0 {
                let how = lose_memory(&mut rng, &mirror.state);
                case.note(how.into());
                mirror.forget();
                // A catalog that breaks in the middle of a run is not begun anew from its start.
                is_whole = how != "catalog corrupted";
            }
            mirror.sync(case);
            match is_whole {
                true => mirror.assert_idle(),
                false => mirror.forget(),
            }
        }
        assert_eq!(mirror.site.bucket.uploads(), [""; 0]);
    });
}

/// The bytes are the same, and so are the size and the `ETag`: only the mode of the object tells.
fn a_link_and_a_file_of_its_text_are_not_taken_for_each_other(server: &Server) {
    let case = Case { seed: 0, done: std::cell::RefCell::default() };
    for is_remembered in [true, false] {
        let mut mirror = Mirror::new(server);
        let root = mirror.root.clone();
        tree::link(&root, "link", "text");
        tree::file(&root, "file", "text");
        mirror.sync(&case);
        for name in ["link", "file"] {
            fs::remove_file(format!("{root}/{name}")).unwrap();
        }
        tree::file(&root, "link", "text");
        tree::link(&root, "file", "text");
        if !is_remembered {
            fs::remove_dir_all(&mirror.state).unwrap();
            mirror.forget();
        }
        mirror.sync(&case);
    }
}

/// In parts of another size than haul's, and with none of its metadata: what is then recorded with
/// the copy has to be true of the copy.
fn renamed_file_that_another_client_sent_in_parts_is_copied(server: &Server) {
    let case = Case { seed: 0, done: std::cell::RefCell::default() };
    let mut mirror = Mirror::new(server);
    let (before, after) = (mirror.site.at("up/before"), mirror.site.at("up/after"));
    tree::generated(&mirror.root, "before", LARGE, 1);
    mirror.site.bucket.put_multipart("before", before.as_ref(), 8 << 20);
    mirror.look();
    mirror.sync(&case);
    fs::rename(before, after).unwrap();
    mirror.sync(&case);
    mirror.assert_idle();
}
