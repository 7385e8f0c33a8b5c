//! One test's place: a bucket of its own, a proxy in front of its server, a directory, and `haul`
//! pointed at them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::oracle::{OwnBucket, etag_of};
use super::proxy::Proxy;
use super::run::{self, NOBODY, Outcome, Run};
use super::server::{self, Server};
use super::tree::{self, Node, Tree};
use super::watch::Watch;

/// The size of a part, and the largest file that is sent as one.
pub const PART_BYTES: u64 = 16 << 20;

pub struct Site {
    pub server: Server,
    pub bucket: OwnBucket,
    pub proxy: Proxy,
    directory: TempDir,
}

impl Site {
    pub fn new(server: &Server) -> Self {
        Self {
            server: server.clone(),
            bucket: OwnBucket::create(server, &unique_name()),
            proxy: Proxy::start(server),
            directory: TempDir::new().unwrap(),
        }
    }

    /// A path of this name in the test's directory. Nothing is created.
    pub fn at(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.to_str().expect("test directories have UTF-8 names").to_owned()
    }

    /// A directory of this name, which is made.
    pub fn directory(&self, name: &str) -> String {
        fs::create_dir_all(self.at(name)).unwrap();
        self.at(name)
    }

    pub fn url(&self, prefix: &str) -> String {
        match prefix {
            "" => format!("s3://{}", self.bucket.name),
            _ => format!("s3://{}/{prefix}", self.bucket.name),
        }
    }

    /// Where this test's runs keep what they remember; no other test's do.
    pub fn state_directory(&self) -> PathBuf {
        run::state_directory(&self.at(""))
    }

    /// Makes the next run the first one: nothing is remembered.
    pub fn forget(&self) {
        if self.state_directory().exists() {
            fs::remove_dir_all(self.state_directory()).unwrap();
        }
    }

    /// A bucket that does not exist yet, removed at the end of the test.
    pub fn absent_bucket(&self) -> OwnBucket {
        OwnBucket::absent(&self.server, &unique_name())
    }

    pub fn another_bucket(&self) -> OwnBucket {
        OwnBucket::create(&self.server, &unique_name())
    }

    /// `haul` with this test's keys, through the proxy.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::bare(&self.at(""))
            .keys(&self.server.access_key, &self.server.secret_key)
            .env("AWS_ENDPOINT_URL", &self.proxy.url())
            .env("AWS_REGION", "us-east-1")
            .args(args)
    }

    #[track_caller]
    pub fn haul(&self, args: &[&str]) -> Outcome {
        self.run(args).finish()
    }

    /// As [`Site::haul`], with flags after the arguments.
    #[track_caller]
    pub fn haul_with(&self, args: &[&str], flags: &[&str]) -> Outcome {
        self.run(args).args(flags).finish()
    }

    /// `haul` as a user whom file modes bind: the one who runs the tests, or nobody where that is
    /// root.
    #[track_caller]
    pub fn haul_unprivileged(&self, args: &[&str]) -> Outcome {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return self.haul(args);
        }
        let binary = self.at("haul-for-nobody");
        fs::copy(env!("CARGO_BIN_EXE_haul"), &binary).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        for found in walkdir::WalkDir::new(self.directory.path()) {
            chown_link(found.unwrap().path());
        }
        let outcome = self.run(args).by_nobody(&binary).finish();
        fs::remove_file(&binary).unwrap();
        outcome
    }

    /// Runs the same sync once more and fails where it moves any bytes.
    #[track_caller]
    pub fn assert_sync_is_idle(&self, source: &str, target: &str) {
        self.proxy.reset();
        let outcome = self.haul(&["sync", source, target, "--json"]).done();
        self.proxy.assert_no_transfers();
        assert_eq!(outcome.summary("transferred"), 0);
        assert_eq!(outcome.summary("copied"), 0);
    }

    /// Fails unless the bucket holds exactly this tree: keys, bytes, metadata, `ETags`.
    #[track_caller]
    pub fn assert_holds(&self, root: &str, prefix: &str) {
        let tree = tree::read(root);
        let expected: BTreeSet<String> =
            tree.iter().map(|(path, node)| format!("{prefix}{}", key(path, node))).collect();
        assert_eq!(self.bucket.keys(), expected, "the keys in the bucket");
        self.assert_objects(root, &tree, prefix);
    }

    /// Syncs a tree up, then down into an empty directory, and checks every step of the way.
    #[track_caller]
    pub fn assert_round_trip(&self, up: &str) {
        self.haul(&["sync", up, &self.url("")]).done();
        self.assert_holds(up, "");
        self.assert_sync_is_idle(up, &self.url(""));
        let down = self.directory("down");
        self.haul(&["sync", &self.url(""), &down]).done();
        tree::assert_same(up, &down);
        self.assert_sync_is_idle(&self.url(""), &down);
        tree::assert_same(up, &down);
        assert!(self.bucket.uploads().is_empty(), "an upload was left open");
    }

    /// Runs the same sync once more and fails unless it asks for so many pages, and for nothing
    /// else, and opens no file.
    #[track_caller]
    pub fn assert_sync_only_lists(&self, source: &str, target: &str, pages: usize) {
        self.proxy.reset();
        let watch = Watch::over([source, target]);
        let outcome = self.haul(&["sync", source, target, "--json"]).done();
        assert_eq!(watch.opened(), [""; 0], "files were opened");
        self.proxy.assert_only_lists(pages);
        assert_eq!(outcome.summary("transferred") + outcome.summary("copied"), 0);
    }

    /// The catalogs that haul has made for this test; none before its first run.
    pub fn catalogs(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(self.state_directory()).into_iter().flatten();
        let is_catalog = |path: &PathBuf| {
            path.extension().is_some_and(|ending| ending == "db")
                && path.file_stem().is_some_and(|name| name != "history")
        };
        found.map(|found| found.unwrap().path()).filter(is_catalog).collect()
    }

    /// The catalog of the only pair that was synced.
    #[track_caller]
    pub fn catalog(&self) -> PathBuf {
        let mut catalogs = self.catalogs();
        assert_eq!(catalogs.len(), 1, "catalogs");
        catalogs.remove(0)
    }

    #[track_caller]
    fn assert_objects(&self, root: &str, tree: &Tree, prefix: &str) {
        for (path, node) in tree {
            let key = format!("{prefix}{}", key(path, node));
            match node {
                Node::File { mode, mtime, size, hash } => {
                    self.assert_file_object(&key, &Path::new(root).join(path), *size, hash);
                    self.assert_metadata(&key, "blake3", hash);
                    self.assert_metadata(&key, "mtime", mtime);
                    self.assert_metadata(&key, "mode", &format!("{mode:o}"));
                }
                Node::Symlink { text } => {
                    assert_eq!(self.bucket.get(&key), text.as_encoded_bytes(), "{key:?}");
                    self.assert_metadata(&key, "mode", "120777");
                }
                Node::EmptyDirectory => {
                    assert_eq!(self.bucket.head(&key).map(|head| head.size), Some(0), "{key:?}");
                }
            }
        }
    }

    #[track_caller]
    fn assert_file_object(&self, key: &str, path: &Path, size: u64, hash: &str) {
        let head = self.bucket.head(key).unwrap_or_else(|| panic!("no object {key:?}"));
        let part_bytes = (size > PART_BYTES).then_some(PART_BYTES);
        assert_eq!(head.size, size, "the size of {key:?}");
        assert_eq!(self.bucket.hash(key), hash, "the bytes of {key:?}");
        // SeaweedFS has a formula of its own where parts were copied.
        if part_bytes.is_none() || self.server.kind == server::Kind::Rgw {
            assert_eq!(head.etag, etag_of(path, part_bytes), "the ETag of {key:?}");
        }
        let expected = part_bytes.map(|bytes| bytes.to_string());
        assert_eq!(head.metadata.get("part-size"), expected.as_ref(), "part-size of {key:?}");
    }

    #[track_caller]
    pub fn assert_metadata(&self, key: &str, name: &str, expected: &str) {
        let head = self.bucket.head(key).unwrap_or_else(|| panic!("no object {key:?}"));
        let found = head.metadata.get(name).map(String::as_str);
        assert_eq!(found, Some(expected), "{name} of {key:?}");
    }
}

/// The key of a leaf: an empty directory's ends in a slash.
fn key(path: &OsStr, node: &Node) -> String {
    let key = path.to_str().expect("keys are UTF-8");
    match node {
        Node::EmptyDirectory => format!("{key}/"),
        Node::File { .. } | Node::Symlink { .. } => key.to_owned(),
    }
}

fn chown_link(path: &Path) {
    if !path.is_symlink() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// A bucket name that no other test of this run, or of another, has.
fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // No word in it: a test that looks for one in a message must not find it here.
    format!("haul-{}-{number}", process::id())
}
