//! Temporary files that runs have left behind.

use super::Tree;
use crate::error::Result;
use crate::fingerprint::MULTIPART_THRESHOLD;
use crate::key::{Key, is_temporary, temporary_name};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

impl Tree {
    /// Removes the temporary file beside `key` that a run before has left. None is fine.
    ///
    /// # Errors
    /// `Write`, also where a run is writing it.
    pub fn clear(&self, key: &Key) -> Result<()> {
        let Some((parent, name)) = self.existing_parent(key)? else { return Ok(()) };
        let temporary = temporary_name(name);
        match rustix::fs::statat(&*parent, temporary.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            _ => self.clear_stale(key, &parent, &temporary, Errno::PERM),
        }
    }

    /// Removes the temporary file at `path`, unless it is so large that a run may go on with it.
    ///
    /// # Errors
    /// As [`Tree::clear`].
    pub fn clear_temporary(&self, path: &str) -> Result<()> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !is_temporary(name) {
            return Ok(());
        }
        let beside = if directory.is_empty() { "x".into() } else { format!("{directory}/x") };
        let key = Key::new(beside);
        let Some((parent, _)) = self.existing_parent(&key)? else { return Ok(()) };
        let stat = rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW);
        match stat.map(|stat| u64::try_from(stat.st_size).unwrap_or(u64::MAX)) {
            Ok(bytes) if bytes <= MULTIPART_THRESHOLD => {
                self.clear_stale(&key, &parent, name, Errno::PERM)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes a temporary file that can't be opened for writing, unless a live run has it locked.
    /// Where there is none to remove, the `error` of the opening is the directory's own.
    pub(super) fn clear_stale(
        &self,
        key: &Key,
        parent: &OwnedFd,
        name: &str,
        error: Errno,
    ) -> Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |access| rustix::fs::openat(parent, name, flags | access, Mode::empty());
        // Some file systems lock only what is open for writing.
        let file = open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY));
        if let Ok(file) = &file {
            self.lock(key, file)?;
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())
            .map_err(|_| self.write_error(key, error))
    }
}

/// Lets the owner write a file again that could only be read, unless a run has it locked.
pub(super) fn make_writable(parent: &OwnedFd, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::openat(parent, name, flags, Mode::empty()) else { return false };
    let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    locked != Err(Errno::AGAIN) && rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).is_ok()
}
