//! Directory trees: making them, reading them, and telling where two differ.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a mirror has to keep of one path. Only empty directories count as themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File { mode: u32, mtime: String, size: u64, hash: String },
    Symlink { text: OsString },
    EmptyDirectory,
}

/// Leaves by path relative to the root.
pub type Tree = BTreeMap<OsString, Node>;

/// The tree under `root`; an absent root is an empty tree.
pub fn read(root: impl AsRef<Path>) -> Tree {
    let root = root.as_ref();
    let mut tree = Tree::new();
    if root.exists() {
        for found in walkdir::WalkDir::new(root).min_depth(1) {
            let found = found.unwrap();
            if let Some(node) = node(found.path()) {
                let path = found.path().strip_prefix(root).unwrap();
                tree.insert(path.as_os_str().to_owned(), node);
            }
        }
    }
    tree
}

fn node(path: &Path) -> Option<Node> {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        return Some(Node::Symlink { text: fs::read_link(path).unwrap().into_os_string() });
    }
    if metadata.is_dir() {
        let empty = fs::read_dir(path).unwrap().next().is_none();
        return empty.then_some(Node::EmptyDirectory);
    }
    Some(Node::File {
        mode: metadata.mode(),
        mtime: format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
        size: metadata.len(),
        hash: hash(path),
    })
}

/// BLAKE3 of a file's bytes, in hex.
pub fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize().to_hex().to_string()
}

#[track_caller]
pub fn assert_same(expected: impl AsRef<Path>, found: impl AsRef<Path>) {
    assert_equal(&read(expected), &read(found));
}

/// Fails naming only the paths that differ.
#[track_caller]
pub fn assert_equal(expected: &Tree, found: &Tree) {
    for (path, node) in expected {
        assert_eq!(Some(node), found.get(path), "at {}", show(path));
    }
    let extra: Vec<String> =
        found.keys().filter(|path| !expected.contains_key(*path)).map(show).collect();
    assert!(extra.is_empty(), "unexpected: {extra:?}");
}

fn show(path: &OsString) -> String {
    path.as_bytes().escape_ascii().to_string()
}

/// Writes a file, and the directories above it, with an mtime that has nanoseconds.
pub fn file(root: impl AsRef<Path>, path: impl AsRef<Path>, body: impl AsRef<[u8]>) {
    write(root.as_ref(), path.as_ref(), |file| {
        file.write_all(body.as_ref()).unwrap();
    });
}

/// Writes `size` bytes that depend on the path and on `seed`, and compress no better than noise.
pub fn generated(root: impl AsRef<Path>, path: impl AsRef<Path>, size: u64, seed: u64) {
    let mut block = noise(1 << 20, seed);
    write(root.as_ref(), path.as_ref(), |file| {
        let mut left = size;
        for number in 0_u64.. {
            block[..8].copy_from_slice(&number.to_le_bytes());
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            file.write_all(&block[..length]).unwrap();
            left -= length as u64;
            if left == 0 {
                break;
            }
        }
    });
}

/// `size` pseudo-random bytes (splitmix64).
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    };
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(&mut next).take(size / 8 + 1).flatten().collect();
    bytes.truncate(size);
    bytes
}

fn write(root: &Path, path: &Path, write_body: impl FnOnce(&mut File)) {
    let full = root.join(path);
    fs::create_dir_all(full.parent().unwrap()).unwrap();
    let mut file = File::create(&full).unwrap();
    write_body(&mut file);
    let nanoseconds = path.as_os_str().as_bytes().iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let mtime = Duration::new(1_700_000_000, 123_000_000 + nanoseconds);
    file.set_modified(SystemTime::UNIX_EPOCH + mtime).unwrap();
}

pub fn link(root: impl AsRef<Path>, path: &str, text: &str) {
    let full = root.as_ref().join(path);
    fs::create_dir_all(full.parent().unwrap()).unwrap();
    symlink(text, full).unwrap();
}

pub fn directory(root: impl AsRef<Path>, path: &str) {
    fs::create_dir_all(root.as_ref().join(path)).unwrap();
}

pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets the mtime to one second, whatever it was.
pub fn touch(path: impl AsRef<Path>, seconds: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

/// Flips one bit of a file in place: its size stays, and its mtime is set back.
pub fn flip_bit(path: impl AsRef<Path>, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_modified(mtime).unwrap();
}

/// Copies a tree's files, which get other mtimes.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    for path in read(&from).keys() {
        let (source, target) = (from.as_ref().join(path), to.as_ref().join(path));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(source, target).unwrap();
    }
}

/// Names of temporary files that a download left behind.
pub fn temporary_files(root: impl AsRef<Path>) -> Vec<String> {
    let found = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok);
    found
        .map(|found| found.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".haul-"))
        .collect()
}
