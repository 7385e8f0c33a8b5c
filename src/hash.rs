//! Reading local files: the content, its hashes in the same read, and the proof that the file was
//! the same before and after.
//!
//! Everything here blocks; callers hop to a blocking thread, with many small files at once.

use crate::catalog::Parts;
use crate::entry::{Signature, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag, Md5Bytes, part_bytes};
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use rustix::fs::{Mode as FileMode, OFlags, Stat};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How much is read at a time: large enough for BLAKE3's wide lanes, small enough for the cache.
const READ_BYTES: usize = 256 << 10;

/// The signature and the mode (type bits included) in what `stat` said.
#[must_use]
pub fn signature_of(stat: &Stat) -> (Signature, u32) {
    let time = |seconds: i64, nanoseconds: u64| Timestamp {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    };
    let signature = Signature {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        changed: time(stat.st_ctime, stat.st_ctime_nsec),
        inode: stat.st_ino,
        device: stat.st_dev,
    };
    (signature, stat.st_mode)
}

/// The longest tick of a kernel's clock for file times, and some more.
const TICK: Duration = Duration::from_millis(20);
/// The same of a file system that keeps whole seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// How long until a change of the file would show in its signature: a second change in the same
/// tick of the clock does not. None where that can't be said (the file is from the future).
fn unsettled_for(signature: &Signature) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos();
    let age = i128::try_from(now).ok()? - nanoseconds(&signature.changed);
    let age = u64::try_from(age).ok()?;
    Some(tick_of(signature).saturating_sub(Duration::from_nanos(age)))
}

fn tick_of(signature: &Signature) -> Duration {
    if signature.changed.nanoseconds == 0 { COARSE_TICK } else { TICK }
}

fn nanoseconds(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

/// True where any change of the file from now on will show in its signature.
#[must_use]
pub fn is_settled(signature: &Signature) -> bool {
    unsettled_for(signature) == Some(Duration::ZERO)
}

/// As [`is_settled`], of a file that haul has just given its mtime and its name: a change of its
/// content shows by its mtime, which was set to the past.
#[must_use]
pub fn is_landed_settled(signature: &Signature) -> bool {
    let past = nanoseconds(&signature.changed) - nanoseconds(&signature.modified);
    let tick = i128::try_from(tick_of(signature).as_nanos()).unwrap_or(i128::MAX);
    past > tick || is_settled(signature)
}

/// As [`is_settled`], after a wait of a tick if that helps: before the reading, for what is read is
/// what the signature says only then. Blocks.
pub fn settle(signature: &Signature) -> bool {
    match unsettled_for(signature) {
        Some(wait) if wait <= TICK => {
            std::thread::sleep(wait);
            true
        }
        Some(_) | None => false,
    }
}

/// What the content of a file hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHash {
    /// The standard hash.
    pub blake3: Blake3,
    /// Of a file in parts, for each part the chaining value of its subtree.
    pub parts: Vec<ChainingValue>,
    /// Any change since the reading shows in the file's signature.
    pub settled: bool,
}

impl FileHash {
    /// What the catalog remembers of a content of `size` bytes that was hashed in parts of the
    /// usual size.
    #[must_use]
    pub fn parts_of(&self, size: u64) -> Option<Parts> {
        let (part_bytes, hashes) = (part_bytes(size), self.parts.clone());
        (!hashes.is_empty()).then_some(Parts { part_bytes, hashes, md5s: Vec::new() })
    }
}

/// A file opened for reading, that must stay what it was.
#[derive(Debug)]
pub struct Source {
    file: File,
    name: String,
    expected: Signature,
    settled: bool,
}

impl Source {
    /// Opens the regular file at `path`, whose scan saw `expected`. Neither a link nor a FIFO that
    /// has taken its place since is opened.
    ///
    /// # Errors
    /// `Unreadable`, or `Changed` where it is no longer the file that the scan saw.
    pub fn open(path: &Path, expected: Signature) -> Result<Self> {
        let name = path.display().to_string();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, FileMode::empty())
            .map_err(|e| unreadable(&name, std::io::Error::from(e)))?;
        let source = Self { file: file.into(), name, expected, settled: settle(&expected) };
        source.check_unchanged()?;
        Ok(source)
    }

    /// True where any change since the opening shows in the file's signature.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Fails where the file is not what it was when it was scanned.
    ///
    /// # Errors
    /// `Changed`, or `Unreadable` where even `fstat` fails.
    pub fn check_unchanged(&self) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|e| unreadable(&self.name, std::io::Error::from(e)))?;
        if signature_of(&stat).0 == self.expected {
            return Ok(());
        }
        Err(changed(&self.name))
    }

    /// Fills `buffer` from `offset`; a file that ends before is one that changed.
    ///
    /// # Errors
    /// `Changed` or `Unreadable`.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| self.failed(e))
    }

    /// Fills `content` from `offset`, and feeds it to `sink`, 256 KiB at a time, while it is in the
    /// cache.
    ///
    /// # Errors
    /// `Changed` or `Unreadable`.
    pub fn read_into(
        &self,
        content: &mut [u8],
        offset: u64,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut position = offset;
        for piece in content.chunks_mut(READ_BYTES) {
            self.read_at(piece, position)?;
            sink(piece);
            position += piece.len() as u64;
        }
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(&self.name),
            _ => unreadable(&self.name, error),
        }
    }

    fn feed(&self, range: Range<u64>, sink: impl FnMut(&[u8])) -> Result<()> {
        feed(&self.file, range, sink).map_err(|e| self.failed(e))
    }

    /// The chaining value of one part, to be merged by [`merge_parts`].
    ///
    /// # Errors
    /// `Changed` or `Unreadable`.
    pub fn hash_part(&self, range: Range<u64>) -> Result<ChainingValue> {
        let hashed = hash_range(&self.file, range).map_err(|e| self.failed(e))?;
        Ok(hashed.chaining_value())
    }

    /// The ETags that one part would have as an object made of pieces of these sizes; with none, of
    /// one piece.
    ///
    /// # Errors
    /// `Changed` or `Unreadable`.
    pub fn etags(&self, range: Range<u64>, pieces: &[u64]) -> Result<Vec<ETag>> {
        let mut hasher = ETagHasher::new(pieces);
        self.feed(range, |bytes| hasher.update(bytes))?;
        Ok(hasher.finish())
    }

    /// Fails where `part`, which starts at `offset`, is no longer what hashed to `expected`.
    ///
    /// # Errors
    /// `Changed`.
    pub fn check_part(&self, part: &[u8], offset: u64, expected: &ChainingValue) -> Result<()> {
        let mut hasher = PartHasher::new(offset);
        hasher.update(part);
        if hasher.chaining_value() == *expected { Ok(()) } else { Err(changed(&self.name)) }
    }

    /// The BLAKE3 of the whole file in one thread.
    ///
    /// # Errors
    /// `Changed` or `Unreadable`.
    pub fn blake3(&self) -> Result<Blake3> {
        let mut hasher = blake3::Hasher::new();
        self.read_through(|bytes| {
            hasher.update(bytes);
        })?;
        Ok(hasher.finalize().into())
    }

    /// Feeds the whole file to `sink`, 256 KiB at a time, and checks that it is what was scanned.
    ///
    /// # Errors
    /// `Changed` or `Unreadable`.
    pub fn read_through(&self, sink: impl FnMut(&[u8])) -> Result<()> {
        self.feed(0..self.expected.size, sink)?;
        self.check_unchanged()
    }
}

/// Feeds `range` of a file to `sink`, 256 KiB at a time.
fn feed(file: &File, range: Range<u64>, mut sink: impl FnMut(&[u8])) -> std::io::Result<()> {
    let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut buffer = vec![0; READ_BYTES.min(length(range.end - range.start))];
    let mut offset = range.start;
    while offset < range.end {
        let step = buffer.len().min(length(range.end - offset));
        file.read_exact_at(&mut buffer[..step], offset)?;
        sink(&buffer[..step]);
        offset += step as u64;
    }
    Ok(())
}

/// Hashes a range of a file as a part of its content.
///
/// # Errors
/// Those of reading; `UnexpectedEof` where the file ends before the range does.
pub fn hash_range(file: &File, range: Range<u64>) -> std::io::Result<PartHasher> {
    let mut hasher = PartHasher::new(range.start);
    feed(file, range, |bytes| hasher.update(bytes))?;
    Ok(hasher)
}

fn unreadable(name: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unreadable, format!("cannot read {name}"), cause)
}

fn changed(name: &str) -> Error {
    Error::new(ErrorKind::Changed, format!("cannot read {name}"), "it changed while it was read")
}

/// Reads the text of the symbolic link at `path`.
///
/// # Errors
/// `Unreadable`.
pub fn read_link(path: &Path) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    std::fs::read_link(path)
        .map(|text| text.into_os_string().into_vec())
        .map_err(|e| unreadable(&path.display().to_string(), e))
}

/// Hashes one part of a content; `offset` is where the part starts and must be a multiple of a
/// power of two that is no smaller than the part.
#[derive(Debug)]
pub struct PartHasher(blake3::Hasher);

impl PartHasher {
    /// A hasher for the part that starts at `offset`.
    #[must_use]
    pub fn new(offset: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        Self(hasher)
    }

    /// Takes the next bytes of the part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The subtree's chaining value.
    #[must_use]
    pub fn chaining_value(&self) -> ChainingValue {
        self.0.finalize_non_root()
    }
}

/// The standard BLAKE3 of a content from its parts' chaining values, in order. All parts but the
/// last have one size, a power of two; there are at least two (BLAKE3 paper, section 2.1).
///
/// # Panics
/// With fewer than two parts: a single part is hashed as a whole.
#[must_use]
pub fn merge_parts(parts: &[ChainingValue]) -> Blake3 {
    assert!(parts.len() >= 2, "a tree has a root above at least two subtrees");
    let (left, right) = parts.split_at(left_parts(parts.len()));
    merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).into()
}

fn merge(parts: &[ChainingValue]) -> ChainingValue {
    if let [only] = parts {
        return *only;
    }
    let (left, right) = parts.split_at(left_parts(parts.len()));
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}

/// The chaining values of parts that are each made of `group` of these, a power of two.
#[must_use]
pub fn group_parts(parts: &[ChainingValue], group: usize) -> Vec<ChainingValue> {
    parts.chunks(group).map(merge).collect()
}

/// The largest power of two below `count`: how many parts the left subtree has.
fn left_parts(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// Computes the ETags of one content for several part sizes at once; with none, its MD5.
#[derive(Debug)]
pub struct ETagHasher(Vec<PartDigest>);

#[derive(Debug)]
struct PartDigest {
    part_bytes: u64,
    filled: u64,
    current: md5::Md5,
    done: Vec<Md5Bytes>,
}

impl ETagHasher {
    /// A hasher for these part sizes (bytes).
    #[must_use]
    pub fn new(part_sizes: &[u64]) -> Self {
        let sizes = if part_sizes.is_empty() { &[u64::MAX] } else { part_sizes };
        let digest = |&part_bytes: &u64| PartDigest {
            part_bytes,
            filled: 0,
            current: md5::Md5::default(),
            done: Vec::new(),
        };
        Self(sizes.iter().map(digest).collect())
    }

    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        for digest in &mut self.0 {
            digest.update(bytes);
        }
    }

    /// The ETags, one for each part size.
    #[must_use]
    pub fn finish(self) -> Vec<ETag> {
        self.0.into_iter().map(PartDigest::finish).collect()
    }
}

impl PartDigest {
    fn update(&mut self, mut bytes: &[u8]) {
        use md5::Digest;
        while !bytes.is_empty() {
            if self.filled == self.part_bytes {
                self.done.push(self.current.finalize_reset().into());
                self.filled = 0;
            }
            let room = usize::try_from(self.part_bytes - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.update(now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    fn finish(mut self) -> ETag {
        use md5::Digest;
        let last = self.current.finalize().into();
        if self.part_bytes == u64::MAX {
            return ETag::Md5(last);
        }
        self.done.push(last);
        ETag::of_parts(&self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::md5;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
    }

    #[test]
    fn merged_parts_are_the_standard_hash() {
        let part = 1 << 12;
        for size in [part + 1, 2 * part, 3 * part, 5 * part + 7, 8 * part, 9 * part - 1] {
            let bytes = content(size);
            let values: Vec<ChainingValue> = bytes
                .chunks(part)
                .enumerate()
                .map(|(i, chunk)| {
                    let mut hasher = PartHasher::new((i * part) as u64);
                    hasher.update(chunk);
                    hasher.chaining_value()
                })
                .collect();
            assert_eq!(merge_parts(&values), Blake3::of(&bytes), "{size}");
            let grouped = group_parts(&values, 2);
            if grouped.len() > 1 {
                assert_eq!(merge_parts(&grouped), Blake3::of(&bytes), "{size} in pairs");
            }
        }
    }

    #[test]
    fn etags_follow_the_formula() {
        let bytes = content(1000);
        let mut hasher = ETagHasher::new(&[300, 1000]);
        for piece in bytes.chunks(7) {
            hasher.update(piece);
        }
        let expected: Vec<Md5Bytes> = bytes.chunks(300).map(md5).collect();
        assert_eq!(hasher.finish(), [ETag::of_parts(&expected), ETag::of_parts(&[md5(&bytes)])]);
        assert_eq!(ETagHasher::new(&[]).finish(), [ETag::Md5(md5(b""))]);
    }

    #[test]
    fn a_signature_counts_once_its_tick_is_over() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time = |seconds: i64, nanoseconds| Timestamp {
            seconds: now.as_secs().cast_signed() + seconds,
            nanoseconds,
        };
        let signature =
            |modified, changed| Signature { size: 1, modified, changed, inode: 1, device: 1 };
        let just_now = time(0, now.subsec_nanos().max(1));
        assert!(!is_settled(&signature(just_now, just_now)));
        assert!(settle(&signature(just_now, just_now)));
        let old = time(-9, 5);
        assert!(is_settled(&signature(old, old)));
        // Its mtime was set to the past: a change would show by that.
        let fresh = Timestamp { seconds: just_now.seconds + 5, ..just_now };
        assert!(is_landed_settled(&signature(old, fresh)) && !is_settled(&signature(old, fresh)));
        assert!(!is_landed_settled(&signature(fresh, fresh)));
        // Whole seconds: two changes within one look the same.
        let coarse = time(0, 0);
        assert!(!settle(&signature(coarse, coarse)));
        assert!(is_settled(&signature(time(-9, 0), time(-9, 0))));
        let future = time(3600, 5);
        assert!(!settle(&signature(future, future)));
    }

    #[test]
    fn a_file_that_changed_since_the_scan_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"one").unwrap();
        let signature = signature_of(&rustix::fs::stat(&path).unwrap()).0;
        let source = Source::open(&path, signature).unwrap();
        let mut content = [0; 3];
        let mut seen = Vec::new();
        source.read_into(&mut content, 0, |bytes| seen.extend_from_slice(bytes)).unwrap();
        assert_eq!((&content, &seen[..]), (b"one", &b"one"[..]));
        assert_eq!(source.blake3().unwrap(), Blake3::of(b"one"));
        std::fs::write(&path, b"two").unwrap();
        assert_eq!(source.check_unchanged().unwrap_err().kind(), ErrorKind::Changed);
        assert_eq!(Source::open(&path, signature).unwrap_err().kind(), ErrorKind::Changed);
    }
}
