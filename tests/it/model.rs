//! Random changes on both sides, sync after sync, judged by a model of what a run may send; and
//! runs that are killed while they write down what they know.
//!
//! Each case is made from one number, which is printed with all that it did where it fails.
//! `HAUL_MODEL_CASES` asks for more cases, `HAUL_MODEL_SEED` for others: a case that failed is
//! repeated by its number and `HAUL_MODEL_CASES=1`.
//!
//! The law: content is sent only where it has to be. A run sends nothing for a name whose other
//! side holds the content already, whatever is remembered. For any other name it sends nothing
//! where the catalog knows another name of the target with that content, among the first three in
//! key order, that still is what the catalog knows, and that this run does not itself write to: a
//! twin that is overwritten may be gone before it is copied. Everything else may be sent once.

mod changes;
mod down;
mod killed;
mod up;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::support::tree;
use crate::support::{Kind, Site};

/// How many records with one content the catalog is asked for.
const TWINS: usize = 3;
/// Sizes of contents; few, so that many contents have one size.
const SIZES: [u64; 6] = [1, 9, 100, 5_000, 70_000, 1_200_000];
/// Made of parts.
const LARGE: u64 = (17 << 20) + 3;

/// Runs a test's cases: `usual` of them, unless the environment asks for others.
pub fn each_case(usual: u64, case: impl Fn(&Case, fastrand::Rng)) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("HAUL_MODEL_SEED").unwrap_or(0);
    for seed in first..first + number("HAUL_MODEL_CASES").unwrap_or(usual) {
        case(&Case { seed, done: RefCell::default() }, fastrand::Rng::with_seed(seed));
    }
}

/// What was done in one case so far, told where it fails.
pub struct Case {
    pub seed: u64,
    done: RefCell<Vec<String>>,
}

impl Case {
    pub fn note(&self, what: String) {
        self.done.borrow_mut().push(what);
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self { seed, done } = self;
            eprintln!("HAUL_MODEL_SEED={seed} HAUL_MODEL_CASES=1 did:");
            for line in done.borrow().iter() {
                eprintln!("  {line}");
            }
        }
    }
}

/// A content of the pool: two are equal if and only if size and seed are (those of one byte may
/// coincide).
#[derive(Clone, Copy, Debug)]
struct Content {
    size: u64,
    seed: u64,
}

impl Content {
    fn any(rng: &mut fastrand::Rng) -> Self {
        let size = match rng.u32(..200) {
            0 => LARGE,
            1..20 => 0,
            _ => SIZES[rng.usize(..SIZES.len())],
        };
        Self::of_size(rng, size)
    }

    fn of_size(rng: &mut fastrand::Rng, size: u64) -> Self {
        Self { size, seed: rng.u64(..4) }
    }

    /// The bytes of one that is not large.
    fn bytes(self) -> Vec<u8> {
        tree::noise(usize::try_from(self.size).unwrap(), self.seed ^ self.size)
    }

    /// Writes it to a file, with an mtime that depends on the path alone.
    fn write(self, root: &str, path: &str) {
        if self.size == LARGE {
            tree::generated(root, path, self.size, self.seed);
        } else {
            tree::file(root, path, self.bytes());
        }
    }
}

/// A file, link or empty directory by what a mirror keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    /// BLAKE3 in hex, of a link that of its text.
    hash: String,
    size: u64,
    is_link: bool,
    mode: u32,
    mtime: String,
}

impl Leaf {
    fn holds_the_same(&self, other: &Self) -> bool {
        (&self.hash, self.is_link) == (&other.hash, other.is_link)
    }
}

/// The leaves of a directory by their keys.
fn leaves(root: &str) -> BTreeMap<String, Leaf> {
    let mut leaves = BTreeMap::new();
    for (path, node) in tree::read(root) {
        let key = path.to_str().expect("UTF-8").to_owned();
        let metadata = fs::symlink_metadata(Path::new(root).join(&path)).unwrap();
        let mtime = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        let mode = metadata.mode();
        let (key, hash, size, is_link) = match node {
            tree::Node::File { hash, size, .. } => (key, hash, size, false),
            tree::Node::Symlink { text } => {
                let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
                (key, hash, text.len() as u64, true)
            }
            tree::Node::EmptyDirectory => {
                (key + "/", blake3::hash(b"").to_hex().to_string(), 0, false)
            }
        };
        leaves.insert(key, Leaf { hash, size, is_link, mode, mtime });
    }
    leaves
}

/// True where `key` is something inside of the directory `outer`.
fn is_inside(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer.trim_end_matches('/'))
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// True where no directory could hold an object of this key beside these.
fn clashes<'a>(mut keys: impl Iterator<Item = &'a String>, at: &str) -> bool {
    keys.any(|key| is_inside(key, at) || is_inside(at, key) || key.strip_suffix('/') == Some(at))
}

/// SeaweedFS keeps keys as paths: `a` and `a/` are one name there, and nothing can be put below an
/// object. What is to be a file and is a directory there, or the other way round, is removed by
/// another client, and its keys answered. Nothing is on other servers.
fn evict(site: &Site, files: &BTreeMap<String, Leaf>) -> Vec<String> {
    if site.server.stores_any_key() {
        return Vec::new();
    }
    let clash = |key: &str, file: &str| {
        let of_one_name = key.trim_end_matches('/') == file.trim_end_matches('/') && key != file;
        let above = |a: &str, b: &str| !a.ends_with('/') && is_inside(b, a);
        of_one_name || above(key, file) || above(file, key)
    };
    let mut keys: Vec<String> = site.bucket.keys().into_iter().collect();
    keys.retain(|key| files.keys().any(|file| clash(key, file)));
    for key in &keys {
        site.bucket.delete(key);
    }
    keys
}

/// Bytes of bodies that the server took.
fn sent(site: &Site) -> u64 {
    let passed = site.proxy.passed();
    let puts = passed.iter().filter(|passed| matches!(passed.kind, Kind::Put | Kind::Part));
    puts.filter(|passed| passed.status == 200).map(|passed| passed.body_bytes).sum()
}

/// Bytes of contents that the server gave.
fn fetched(site: &Site) -> u64 {
    let passed = site.proxy.passed();
    let gets = passed.iter().filter(|passed| passed.kind == Kind::Get);
    gets.filter(|passed| matches!(passed.status, 200 | 206)).map(|get| get.response_bytes).sum()
}

/// Runs once more with nothing changed: the server is asked for listings, and nothing else.
#[track_caller]
fn assert_only_lists(site: &Site, args: &[&str]) {
    site.proxy.reset();
    site.haul(args).done();
    let passed = site.proxy.passed();
    assert!(!passed.is_empty(), "no request came through");
    let others: Vec<_> = passed.iter().filter(|passed| passed.kind != Kind::List).collect();
    assert!(others.is_empty(), "asked although nothing changed: {others:#?}");
}

/// Loses what a run remembers, in one of many ways; answers how.
fn lose_memory(rng: &mut fastrand::Rng, state: &str) -> &'static str {
    let files = fs::read_dir(format!("{state}/haul")).or_else(|_| fs::read_dir(state)).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let path = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
        .find(|path| path.file_name().unwrap().len() > "history.db".len())
        .expect("a catalog");
    let mut bytes = fs::read(&path).unwrap();
    match rng.u32(..6) {
        0 => {
            fs::remove_dir_all(state).unwrap();
            return "state removed";
        }
        1 => {
            fs::remove_file(&path).unwrap();
            return "catalog removed";
        }
        2 => {
            fs::write(&path, b"").unwrap();
            return "catalog emptied";
        }
        3 => bytes.fill(0xa5),
        4 => bytes.truncate(bytes.len() / 2),
        _ => bytes[4096..].fill(0xa5),
    }
    fs::write(&path, bytes).unwrap();
    "catalog corrupted"
}
