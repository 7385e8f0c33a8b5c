//! The directory that a download writes into, and out of which nothing leads.
//!
//! Every directory on the way to a file is opened by its handle, one name at a time, without
//! following links, so that neither a hostile key nor a link swapped in during the run leads
//! outside. Files are staged beside their target under a temporary name and land by a rename.
//! Everything here blocks.

mod staged;
mod stale;

pub use staged::Staged;

use crate::entry::Signature;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::signature_of;
use crate::key::{Key, Refusal, temporary_name};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use staged::Slot;
use stale::make_writable;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A directory to write into.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    handle: Arc<OwnedFd>,
    /// The mode that the user's umask gives a new file.
    new_file_mode: u32,
    /// The directory used last, and its key: entries come in key order.
    recent: Mutex<Option<(String, Arc<OwnedFd>)>>,
    /// Files with several names of which one was removed (device, inode): their ctime has moved.
    unlinked: Mutex<HashSet<(u64, u64)>>,
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Fail,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree {
    /// Opens the directory at `root`, which is made where it is missing.
    ///
    /// # Errors
    /// `Setup`.
    pub fn open(root: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| {
            Error::new(ErrorKind::Setup, format!("cannot write to {}", root.display()), e)
        };
        if root.exists() && !root.is_dir() {
            return Err(fail(std::io::Error::other("it is a file, not a directory")));
        }
        std::fs::create_dir_all(root).map_err(fail)?;
        // The root itself may well be a link: the user named it.
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let handle = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        let new_file_mode = 0o666 & !umask();
        let handle = Arc::new(handle);
        let (root, recent, unlinked) = (root.to_owned(), Mutex::default(), Mutex::default());
        Ok(Self { root, handle, new_file_mode, recent, unlinked })
    }

    fn failed(&self, key: &Key, cause: impl std::fmt::Display) -> Error {
        let what = format!("cannot write {}", self.shown(key));
        Error::new(ErrorKind::Write, what, cause)
    }

    fn refused(&self, key: &Key, reason: &Refusal) -> Error {
        Error::new(ErrorKind::Refused, format!("cannot write {}", self.shown(key)), reason)
    }

    fn shown(&self, key: &Key) -> String {
        format!("{}/{key}", self.root.display())
    }

    /// The directory that `segments` lead to.
    fn directory(&self, key: &Key, segments: &[&str], missing: Missing) -> Result<Arc<OwnedFd>> {
        let name = segments.join("/");
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, handle)) = &*recent()
            && *known == name
        {
            return Ok(Arc::clone(handle));
        }
        let mut handle = Arc::clone(&self.handle);
        for depth in 0..segments.len() {
            handle = Arc::new(self.enter(key, &handle, &segments[..=depth], missing)?);
        }
        *recent() = Some((name, Arc::clone(&handle)));
        Ok(handle)
    }

    /// Opens the last directory of `path`, whose parent is open.
    fn enter(
        &self,
        key: &Key,
        parent: &OwnedFd,
        path: &[&str],
        missing: Missing,
    ) -> Result<OwnedFd> {
        let name = *path.last().expect("a path has at least one segment");
        let open = || rustix::fs::openat(parent, name, DIRECTORY, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) if missing == Missing::Make => {
                match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        opened.map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => self.refused(key, &in_the_way(parent, name, path)),
            Errno::NAMETOOLONG => self.refused(key, &Refusal::NameTooLong),
            Errno::NOENT => {
                self.failed(key, std::io::Error::from(Errno::NOENT)).with_kind(ErrorKind::NotFound)
            }
            error => self.failed(key, std::io::Error::from(error)),
        })
    }

    /// The directory of the file `key`, and the file's name in it.
    fn parent<'k>(&self, key: &'k Key, missing: Missing) -> Result<(Arc<OwnedFd>, &'k str)> {
        let segments = key.segments().map_err(|reason| self.refused(key, &reason))?;
        let (name, directories) = segments.split_last().expect("a key has at least one segment");
        Ok((self.directory(key, directories, missing)?, name))
    }

    /// As [`Tree::parent`]; none where it is gone.
    fn existing_parent<'k>(&self, key: &'k Key) -> Result<Option<(Arc<OwnedFd>, &'k str)>> {
        match self.parent(key, Missing::Fail) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Makes the directory `key`.
    ///
    /// # Errors
    /// `Refused` or `Write`.
    pub fn make_directory(&self, key: &Key) -> Result<()> {
        let segments = key.segments().map_err(|reason| self.refused(key, &reason))?;
        self.directory(key, &segments, Missing::Make).map(drop)
    }

    /// A temporary file beside the file `key`, empty, that no other process is writing. One that
    /// a killed run left is taken over. Only the owner can read it until its attributes are set.
    ///
    /// # Errors
    /// `Refused` or `Write`.
    pub fn stage(self: &Arc<Self>, key: &Key) -> Result<Staged> {
        let staged = self.stage_again(key)?;
        if let Some(file) = &staged.file {
            file.set_len(0).map_err(|e| self.failed(key, e))?;
        }
        Ok(staged)
    }

    /// As [`Tree::stage`], with what a run before has left in it.
    ///
    /// # Errors
    /// `Refused` or `Write`.
    pub fn stage_again(self: &Arc<Self>, key: &Key) -> Result<Staged> {
        let (parent, name) = self.parent(key, Missing::Make)?;
        self.check_free(key, &parent, name)?;
        let temporary = temporary_name(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o600);
        let mut tried = false;
        let file = loop {
            match rustix::fs::openat(&*parent, temporary.as_str(), flags, mode) {
                // A killed run has given it its mode already.
                Err(Errno::ACCESS) if !tried && make_writable(&parent, &temporary) => tried = true,
                Err(error @ (Errno::ACCESS | Errno::LOOP)) => {
                    self.clear_stale(key, &parent, &temporary, error)?;
                }
                Err(error) => return Err(self.write_error(key, error)),
                Ok(file) => {
                    self.lock(key, &file)?;
                    if let Some(stat) = named_so(&file, &parent, &temporary) {
                        if stat.st_mode & 0o077 != 0 {
                            let _ = rustix::fs::fchmod(&file, mode);
                        }
                        break file;
                    }
                    // Its writer has renamed it between our open and our lock: it is no longer
                    // ours.
                }
            }
        };
        let slot = Slot::new(self, key, parent, temporary);
        Ok(Staged { slot, file: Some(file.into()), turn: Mutex::default() })
    }

    fn lock(&self, key: &Key, file: &OwnedFd) -> Result<()> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) => Err(self.failed(key, "another run is writing it")),
            // A file system without locks: two runs at once are the user's care there.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A symbolic link with this text, staged beside the link `key`.
    ///
    /// # Errors
    /// `Refused` or `Write`.
    pub fn stage_symlink(self: &Arc<Self>, key: &Key, text: &[u8]) -> Result<Staged> {
        let (parent, name) = self.parent(key, Missing::Make)?;
        self.check_free(key, &parent, name)?;
        let temporary = temporary_name(name);
        match rustix::fs::unlinkat(&*parent, temporary.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.write_error(key, error)),
        }
        rustix::fs::symlinkat(text, &*parent, temporary.as_str())
            .map_err(|e| self.write_error(key, e))?;
        let slot = Slot::new(self, key, parent, temporary);
        Ok(Staged { slot, file: None, turn: Mutex::default() })
    }

    /// Opens the file `key` for reading, if it still looks as it was `remembered`.
    #[must_use]
    pub fn open_unchanged(&self, key: &Key, remembered: &Signature) -> Option<File> {
        let file = self.open_file(key)?;
        let stat = rustix::fs::fstat(&file).ok()?;
        signature_of(&stat).0.is_still(remembered).then_some(file)
    }

    /// Opens the regular file `key` for reading, if there is one.
    #[must_use]
    pub fn open_file(&self, key: &Key) -> Option<File> {
        let (parent, name) = self.existing_parent(key).ok()??;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&*parent, name, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_file.then(|| file.into())
    }

    /// A directory or a device of that name would not be replaced by the rename, or should not.
    fn check_free(&self, key: &Key, parent: &OwnedFd, name: &str) -> Result<()> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.write_error(key, error)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile | FileType::Symlink => Ok(()),
                FileType::Directory => Err(self.refused(key, &Refusal::DirectoryInTheWay)),
                _ => Err(self.refused(key, &Refusal::SpecialInTheWay("a special file".into()))),
            },
        }
    }

    fn write_error(&self, key: &Key, error: Errno) -> Error {
        match error {
            Errno::NAMETOOLONG => self.refused(key, &Refusal::NameTooLong),
            error => self.failed(key, std::io::Error::from(error)),
        }
    }

    /// Makes everything written so far durable: data, names and all, in one call.
    ///
    /// # Errors
    /// `Write`: the disk failed, and nothing written since the last call can be trusted.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&*self.handle).map_err(|e| {
            let what = format!("cannot make {} durable", self.root.display());
            Error::new(ErrorKind::Write, what, std::io::Error::from(e))
        })
    }

    /// Removes the file or link `key` if it is still the one with this signature, or the
    /// directory `key` if it is empty. One that is gone already is fine.
    ///
    /// # Errors
    /// `Precondition` where it has changed since, `Write` where the system refuses.
    pub fn remove(&self, key: &Key, expected: Option<Signature>) -> Result<()> {
        let Some((parent, name)) = self.existing_parent(key)? else { return Ok(()) };
        let flags = if key.is_directory() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        if let Some(expected) = expected.filter(|_| !key.is_directory()) {
            match rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(()),
                Ok(stat) if self.is_as_scanned(&stat, expected) => {}
                Ok(_) => {
                    let what = format!("cannot delete {}", self.shown(key));
                    let cause = "it has changed since it was scanned";
                    return Err(Error::new(ErrorKind::Precondition, what, cause));
                }
                Err(error) => return Err(self.write_error(key, error)),
            }
        }
        match rustix::fs::unlinkat(&*parent, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Something in it was spared or excluded, so it is still needed.
            Err(Errno::NOTEMPTY | Errno::EXIST) if key.is_directory() => Ok(()),
            Err(error) => {
                let what = format!("cannot delete {}", self.shown(key));
                Err(Error::new(ErrorKind::Write, what, std::io::Error::from(error)))
            }
        }
    }
}

impl Tree {
    /// True where the file is what was scanned. To remove one name of a file changes the ctime of
    /// the others.
    fn is_as_scanned(&self, stat: &Stat, expected: Signature) -> bool {
        let seen = signature_of(stat).0;
        let file = (seen.device, seen.inode);
        let mut unlinked = self.unlinked.lock().unwrap_or_else(PoisonError::into_inner);
        let own_doing = unlinked.contains(&file);
        let changed = if own_doing { seen.changed } else { expected.changed };
        let is_same = seen == Signature { changed, ..expected };
        if is_same && stat.st_nlink > 1 {
            unlinked.insert(file);
        }
        is_same
    }
}

/// What an open file is like, if it has this name.
fn named_so(file: &OwnedFd, parent: &OwnedFd, name: &str) -> Option<Stat> {
    let named = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let open = rustix::fs::fstat(file).ok()?;
    ((open.st_ino, open.st_dev) == (named.st_ino, named.st_dev)).then_some(open)
}

/// The process's umask, read without setting it: other threads make files meanwhile.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}

fn in_the_way(parent: &OwnedFd, name: &str, path: &[&str]) -> Refusal {
    let shown = crate::key::printable(&path.join("/")).into_owned();
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Symlink) => Refusal::ThroughSymlink(shown),
        _ => Refusal::FileInTheWay(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Timestamp;
    use bytes::Bytes;

    fn tree() -> (tempfile::TempDir, Arc<Tree>) {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(&directory.path().join("target")).unwrap();
        (directory, Arc::new(tree))
    }

    fn write(tree: &Arc<Tree>, key: &str, content: &'static [u8]) -> Result<()> {
        let staged = tree.stage(&Key::new(key))?;
        staged.write_at(&[Bytes::from_static(content)], 0)?;
        staged.land().map(drop)
    }

    #[test]
    fn files_land_whole_with_their_attributes() {
        let (directory, tree) = tree();
        let staged = tree.stage(&Key::new("a/b/f")).unwrap();
        staged.write_at(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")], 0).unwrap();
        let mtime = Timestamp { seconds: 1_000_000_000, nanoseconds: 123_456_789 };
        staged.set_attributes(Some(0o104_751), Some(mtime)).unwrap();
        let path = directory.path().join("target/a/b/f");
        assert!(!path.exists());
        staged.land().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
        let (signature, mode) = signature_of(&rustix::fs::stat(&path).unwrap());
        assert_eq!((signature.modified, mode), (mtime, 0o100_751));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        tree.sync().unwrap();
    }

    #[test]
    fn a_dropped_stage_leaves_nothing_and_the_old_file() {
        let (directory, tree) = tree();
        write(&tree, "f", b"old").unwrap();
        let staged = tree.stage(&Key::new("f")).unwrap();
        staged.write_at(&[Bytes::from_static(b"new")], 0).unwrap();
        assert!(tree.stage(&Key::new("f")).is_err(), "two writers of one file");
        drop(staged);
        let root = directory.path().join("target");
        assert_eq!(std::fs::read(root.join("f")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_over() {
        let (directory, tree) = tree();
        let root = directory.path().join("target");
        std::fs::write(root.join(temporary_name("f")), b"half of something long").unwrap();
        write(&tree, "f", b"whole").unwrap();
        assert_eq!(std::fs::read(root.join("f")).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 1);
    }

    #[test]
    fn no_link_leads_outside() {
        let (directory, tree) = tree();
        let outside = directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("f"), b"mine").unwrap();
        let root = directory.path().join("target");
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.join("f"), root.join("file")).unwrap();
        let error = write(&tree, "link/f", b"evil").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("symbolic link link"), "{error}");
        write(&tree, "file", b"replaces the link").unwrap();
        assert_eq!(std::fs::read(outside.join("f")).unwrap(), b"mine");
        assert_eq!(tree.remove(&Key::new("link/f"), None).unwrap_err().kind(), ErrorKind::Refused);
        for key in ["../f", "a/../../f", "/f"] {
            assert_eq!(write(&tree, key, b"evil").unwrap_err().kind(), ErrorKind::Refused, "{key}");
        }
    }

    #[test]
    fn files_and_directories_in_the_way_are_named() {
        let (_directory, tree) = tree();
        write(&tree, "a", b"file").unwrap();
        write(&tree, "d/f", b"file").unwrap();
        for (key, part) in [("a/b", "a is a file"), ("d", "a directory of that name")] {
            let error = write(&tree, key, b"x").unwrap_err();
            assert!(error.to_string().contains(part), "{key}: {error}");
        }
        let long = write(&tree, &"x".repeat(256), b"x").unwrap_err();
        assert_eq!(long.kind(), ErrorKind::Refused);
    }

    #[test]
    fn only_the_file_that_was_scanned_is_removed() {
        let (directory, tree) = tree();
        write(&tree, "f", b"one").unwrap();
        let path = directory.path().join("target/f");
        let seen = signature_of(&rustix::fs::lstat(&path).unwrap()).0;
        std::fs::write(&path, b"two!").unwrap();
        let error = tree.remove(&Key::new("f"), Some(seen)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        let now = signature_of(&rustix::fs::lstat(&path).unwrap()).0;
        tree.remove(&Key::new("f"), Some(now)).unwrap();
        assert!(!path.exists());
        tree.remove(&Key::new("f"), Some(now)).unwrap();
    }

    #[test]
    fn links_are_restored_as_links() {
        let (directory, tree) = tree();
        let staged = tree.stage_symlink(&Key::new("l"), b"../elsewhere").unwrap();
        staged.set_attributes(None, Some(Timestamp { seconds: 5, nanoseconds: 6 })).unwrap();
        staged.land().unwrap();
        let path = directory.path().join("target/l");
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("../elsewhere"));
        assert_eq!(rustix::fs::lstat(&path).unwrap().st_mtime, 5);
    }
}
