//! The lock of a pair: one run at a time, and who it is.
//!
//! A file beside the catalog, locked with `flock` while its run lives, so that no lock outlives its
//! run. It also holds who that run is. Where the file system has no locks, what is written there is
//! believed as long as that process lives.

use super::{Pair, make_state_directory};
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A process that runs, or ran, a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Process id on its host.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// When the kernel started the process, in its clock ticks: ids are used again.
    pub ticks: Option<u64>,
    /// When the run started, RFC 3339.
    pub started: String,
}

impl Runner {
    /// This process, now.
    #[must_use]
    pub fn this() -> Self {
        let pid = std::process::id();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self { pid, host, ticks: start_ticks(pid), started }
    }

    /// True where the process may still run: it does here, or it is on another host.
    #[must_use]
    pub fn may_live(&self) -> bool {
        let here = rustix::system::uname().nodename().to_string_lossy() == self.host.as_str();
        !here || start_ticks(self.pid).is_some_and(|ticks| Some(ticks) == self.ticks)
    }
}

/// When the kernel started a process: field 22 of `/proc/PID/stat` (proc(5)), counted from behind
/// the name, which may hold anything.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// The file system has locks.
    pub(super) is_real: bool,
}

impl Lock {
    /// Takes the lock of `pair` in the directory `state` at once.
    ///
    /// # Errors
    /// `Locked`, naming who holds it; `Setup` where the file can't be made.
    pub(crate) fn take(state: &Path, pair: &Pair) -> Result<Self> {
        make_state_directory(state)?;
        Self::at(&state.join(format!("{}.lock", pair.id())))
    }

    /// Gives the lock back, and its file with it: what it locked is gone.
    pub(super) fn remove(lock: Self, path: &Path) {
        let _ = std::fs::remove_file(path);
        drop(lock);
    }

    fn at(path: &Path) -> Result<Self> {
        let fail = |e| Error::new(ErrorKind::Setup, format!("cannot lock {}", path.display()), e);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let (mut file, locked_by_us) = loop {
            let file = options.open(path).map_err(fail)?;
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Its holder may have removed it between our open and our lock.
            let is_gone =
                file.metadata().is_ok_and(|now| std::os::unix::fs::MetadataExt::nlink(&now) == 0);
            if locked.is_err() || !is_gone {
                break (file, locked);
            }
        };
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        let holder: Option<Runner> = serde_json::from_str(&text).ok();
        match locked_by_us {
            Err(Errno::AGAIN) => return Err(locked(holder.as_ref(), None)),
            // A file system without locks.
            Err(_) if holder.as_ref().is_some_and(Runner::may_live) => {
                return Err(locked(holder.as_ref(), Some(path.to_owned())));
            }
            Ok(()) | Err(_) => {}
        }
        // Who it is can't be said on a full disk; the lock holds all the same.
        let text = serde_json::to_string(&Runner::this()).unwrap_or_default();
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = file.write_all(text.as_bytes());
        Ok(Self { file, is_real: locked_by_us.is_ok() })
    }
}

impl Drop for Lock {
    /// The file stays: one that another run has open already must not lose its name.
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

fn locked(holder: Option<&Runner>, by_hand: Option<PathBuf>) -> Error {
    let who = match holder {
        None => "another run of this source and target is under way".to_owned(),
        Some(Runner { pid, host, started, .. }) => format!(
            "another run of this source and target is under way: process {pid} on {host}, started {started}"
        ),
    };
    let cause = match by_hand {
        None => who,
        Some(path) => format!("{who}; if it has ended, remove {}", path.display()),
    };
    Error::new(ErrorKind::Locked, "cannot start", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = Lock::at(&path).unwrap();
        let error = Lock::at(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        let this = Runner::this();
        let text = error.to_string();
        assert!(text.contains(&format!("process {} on {}", this.pid, this.host)), "{text}");
        drop(first);
        Lock::at(&path).unwrap();
    }

    #[test]
    fn a_process_that_has_ended_does_not_live() {
        let this = Runner::this();
        assert!(this.may_live());
        assert!(!Runner { ticks: this.ticks.map(|ticks| ticks + 1), ..this.clone() }.may_live());
        assert!(Runner { host: "elsewhere".into(), ticks: None, ..this }.may_live());
    }
}
