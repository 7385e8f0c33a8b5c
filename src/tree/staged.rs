//! A file on its way to its name: written under a temporary one, given its attributes, renamed.

use super::Tree;
use crate::entry::{Signature, Timestamp};
use crate::error::{Error, Result};
use crate::hash::signature_of;
use crate::key::{Key, Refusal};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are copied at a time, so that a stop need not wait for the whole file.
const COPY_BYTES: u64 = 64 << 20;

/// A temporary file or link, deleted when it is dropped before it has landed.
#[derive(Debug)]
pub struct Staged {
    pub(super) slot: Slot,
    /// Open, and locked against other runs; none for a link.
    pub(super) file: Option<File>,
    /// Whose turn it is to write.
    pub(super) turn: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) tree: Arc<Tree>,
    pub(super) key: Key,
    pub(super) parent: Arc<OwnedFd>,
    pub(super) temporary: String,
    landed: bool,
    kept: AtomicBool,
}

impl Slot {
    pub(super) fn new(
        tree: &Arc<Tree>,
        key: &Key,
        parent: Arc<OwnedFd>,
        temporary: String,
    ) -> Self {
        let (tree, key, kept) = (Arc::clone(tree), key.clone(), AtomicBool::new(false));
        Self { tree, key, parent, temporary, landed: false, kept }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.landed && !self.kept.load(Ordering::Relaxed) {
            let _ = rustix::fs::unlinkat(&*self.parent, self.temporary.as_str(), AtFlags::empty());
        }
    }
}

impl Staged {
    /// Cuts or extends the file to `bytes`: what a run before left may be longer.
    ///
    /// # Errors
    /// `Write`.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        let resized = self.file.as_ref().map_or(Ok(()), |file| file.set_len(bytes));
        resized.map_err(|e| self.write_error(e))
    }

    /// Whether it stays where it is when it is dropped, for a run that will go on with it.
    pub fn keep(&self, keep: bool) {
        self.slot.kept.store(keep, Ordering::Relaxed);
    }

    /// What `read` makes of the file; none for a link, or where it can't be read.
    pub fn with_file<T>(&self, read: impl FnOnce(&File) -> std::io::Result<T>) -> Option<T> {
        self.file.as_ref().and_then(|file| read(file).ok())
    }

    /// Fills a range with the same range of `file`: shared blocks where the file system can, else a
    /// copy within the kernel, else one through memory.
    ///
    /// # Errors
    /// `Write`.
    pub fn copy_range(&self, file: &File, range: Range<u64>) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let Some(own) = &self.file else {
            return Ok(());
        };
        let (mut from, mut to) = (range.start, range.start);
        while to < range.end {
            let left = usize::try_from(range.end - to).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(file, Some(&mut from), own, Some(&mut to), left) {
                // It has become shorter, or can't be read: the hash will tell.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG)) => {
                    return Err(self.write_error(error.into()));
                }
                Err(_) => {
                    let mut piece = vec![0; left.min(1 << 20)];
                    if file.read_exact_at(&mut piece, to).is_err() {
                        return Ok(());
                    }
                    own.write_all_at(&piece, to).map_err(|e| self.write_error(e))?;
                    to += piece.len() as u64;
                    from = to;
                }
            }
        }
        Ok(())
    }

    /// Reserves `bytes` on the disk, so that a full one shows before the transfer.
    ///
    /// # Errors
    /// `Write`.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // Not every file system can; the length is all that is needed then.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                rustix::fs::ftruncate(file, bytes).map_err(|e| self.write_error(e.into()))
            }
            Err(error) => Err(self.write_error(error.into())),
        }
    }

    /// Writes `frames`, one after the other, from `offset` on.
    ///
    /// # Errors
    /// `Write`.
    pub fn write_at(&self, frames: &[bytes::Bytes], offset: u64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.file else {
            return Ok(());
        };
        // The kernel lets one writer into a file and the others spin: sleeping costs less.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut position = offset;
        for frame in frames {
            file.write_all_at(frame, position).map_err(|e| self.write_error(e))?;
            position += frame.len() as u64;
        }
        Ok(())
    }

    /// Fills it with the content of `file`: shared blocks where the file system can, else as
    /// [`Staged::copy_range`], in pieces, each of which `may_go_on`.
    ///
    /// # Errors
    /// `Write`, or the error of `may_go_on`.
    pub fn copy_from(
        &self,
        file: &File,
        bytes: u64,
        may_go_on: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let Some(own) = &self.file else {
            return Ok(());
        };
        if rustix::fs::ioctl_ficlone(own, file).is_ok() {
            return Ok(());
        }
        let mut position = 0;
        while position < bytes {
            may_go_on()?;
            let end = bytes.min(position + COPY_BYTES);
            self.copy_range(file, position..end)?;
            position = end;
        }
        Ok(())
    }

    /// Feeds what was written to `sink`, 256 KiB at a time.
    ///
    /// # Errors
    /// `Write`, or the error of `sink`.
    pub fn read_back(&self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        loop {
            let count = file.read_at(&mut buffer, offset).map_err(|e| self.write_error(e))?;
            if count == 0 {
                return Ok(());
            }
            sink(&buffer[..count])?;
            offset += count as u64;
        }
    }

    /// Sets permissions (without set-id bits, which an object must not grant; those of a new file
    /// where none are recorded) and mtime.
    ///
    /// # Errors
    /// `Write`.
    pub fn set_attributes(&self, mode: Option<u32>, mtime: Option<Timestamp>) -> Result<()> {
        if let Some(file) = &self.file {
            let mode = Mode::from_raw_mode(mode.unwrap_or(self.slot.tree.new_file_mode) & 0o777);
            rustix::fs::fchmod(file, mode).map_err(|e| self.write_error(e.into()))?;
        }
        let Some(mtime) = mtime else { return Ok(()) };
        let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) };
        let times = Timestamps { last_access: omit, last_modification: time };
        let slot = &self.slot;
        let set = match &self.file {
            Some(file) => rustix::fs::futimens(file, &times),
            None => rustix::fs::utimensat(
                &*slot.parent,
                slot.temporary.as_str(),
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            ),
        };
        set.map_err(|e| self.write_error(e.into()))
    }

    /// Gives it its name, in place of what had it. Answers how it looks then: its signature and
    /// `st_mode`; nothing where somebody has written to it at once.
    ///
    /// # Errors
    /// `Refused` where a directory has taken the name since, or `Write`.
    pub fn land(mut self) -> Result<Option<(Signature, u32)>> {
        let slot = &mut self.slot;
        let segments =
            slot.key.segments().map_err(|reason| slot.tree.refused(&slot.key, &reason))?;
        let name = segments.last().expect("a key has at least one segment");
        let before = self.file.as_ref().and_then(|file| rustix::fs::fstat(file).ok());
        let renamed =
            rustix::fs::renameat(&*slot.parent, slot.temporary.as_str(), &*slot.parent, *name);
        match renamed {
            Ok(()) => {
                slot.landed = true;
                let stat = match &self.file {
                    Some(file) => rustix::fs::fstat(file),
                    None => rustix::fs::statat(&*slot.parent, *name, AtFlags::SYMLINK_NOFOLLOW),
                };
                let looks = signature_of(&stat.map_err(|e| slot.tree.write_error(&slot.key, e))?);
                let untouched = before.is_none_or(|before| {
                    let before = signature_of(&before).0;
                    let now = looks.0;
                    (before.size, before.modified) == (now.size, now.modified)
                });
                Ok(untouched.then_some(looks))
            }
            Err(Errno::ISDIR) => Err(slot.tree.refused(&slot.key, &Refusal::DirectoryInTheWay)),
            Err(error) => Err(slot.tree.write_error(&slot.key, error)),
        }
    }

    fn write_error(&self, error: std::io::Error) -> Error {
        self.slot.tree.failed(&self.slot.key, error)
    }
}
