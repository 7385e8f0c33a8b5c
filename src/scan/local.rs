//! The walk of a directory in bucket key order.
//!
//! walkdir on a thread of its own, names sorted as if directories ended in `/`. What can't be read
//! becomes a gap in its place; what can't have a key, an unnamed item. Nothing is opened: files are
//! only looked at with `lstat`.

use super::{BATCH_ITEMS, BATCHES_AHEAD, Filter, Scan, Seen};
use crate::entry::{Entry, EntryKind, Gap, Origin, Scanned};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::signature_of;
use crate::key::{Key, Refusal, is_temporary};
use futures::StreamExt;
use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use walkdir::{DirEntry, IntoIter, WalkDir};

/// Fails where `root` is not a directory that can be opened.
///
/// # Errors
/// `Setup`.
pub fn check_directory(root: &Path) -> Result<()> {
    let what = || format!("cannot read {}", root.display());
    let metadata = std::fs::metadata(root).map_err(|e| Error::new(ErrorKind::Setup, what(), e))?;
    if !metadata.is_dir() {
        let cause = "it is not a directory (`haul cp` takes single files)";
        return Err(Error::new(ErrorKind::Setup, what(), cause));
    }
    Ok(())
}

/// Scans the directory `root`. A root that is missing is an empty scan where `may_be_missing`.
#[must_use]
pub fn scan_local(root: PathBuf, filter: Filter, seen: Seen, may_be_missing: bool) -> Scan {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    if may_be_missing && std::fs::symlink_metadata(&root).is_err_and(is_missing) {
        return Scan::new(futures::stream::empty().boxed());
    }
    // The thread ends by itself when the receiver is gone.
    tokio::task::spawn_blocking(move || {
        let outcome =
            check_directory(&root).map(|()| Walk::new(&root, filter, seen, sender.clone()).run());
        if let Err(error) = outcome {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let batches = futures::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    Scan::new(batches.boxed())
}

#[expect(clippy::needless_pass_by_value, reason = "it is used as a predicate on an owned error")]
fn is_missing(error: std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

type Batches = mpsc::Sender<Result<Vec<Scanned>>>;

/// The consumer has gone: the walk stops.
struct Gone;

struct Walk<'a> {
    root: &'a Path,
    filter: Filter,
    seen: Seen,
    sender: Batches,
    batch: Vec<Scanned>,
    /// The directory that was entered last, until it is known whether anything is in it.
    pending: Option<Pending>,
    /// The directories that lead to the current place; the root's key is empty.
    stack: Vec<String>,
    /// The directory that the last gap stands for: several errors in one make one gap.
    last_gap: Option<String>,
}

struct Pending {
    entry: Entry,
    depth: usize,
    admitted: bool,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, filter: Filter, seen: Seen, sender: Batches) -> Self {
        let stack = vec![String::new()];
        Self { root, filter, seen, sender, batch: Vec::new(), pending: None, stack, last_gap: None }
    }

    fn run(mut self) {
        let mut walk = WalkDir::new(self.root).min_depth(1).sort_by(bucket_order).into_iter();
        while let Some(item) = walk.next() {
            let step = match item {
                Ok(found) => self.visit(&found, &mut walk),
                Err(error) => self.fail(&error),
            };
            if step.is_err() {
                return;
            }
        }
        let _ = self.settle(None).and_then(|()| self.flush());
    }

    fn visit(&mut self, found: &DirEntry, walk: &mut IntoIter) -> Result<(), Gone> {
        self.settle(Some(found.depth()))?;
        self.stack.truncate(found.depth());
        let file_type = found.file_type();
        let relative = found.path().strip_prefix(self.root).unwrap_or(found.path());
        let mut name = match Key::from_path(relative) {
            Ok(key) => key.as_str().to_owned(),
            Err(reason) => {
                if file_type.is_dir() {
                    walk.skip_current_dir();
                }
                let name = relative.to_string_lossy().into_owned();
                return self.push(Scanned::Unnamed { name, reason });
            }
        };
        if file_type.is_dir() {
            name.push('/');
            return self.enter(name, found, walk);
        }
        if found.file_name().to_str().is_some_and(is_temporary) {
            self.seen.temporary(name);
            return Ok(());
        }
        if !self.filter.admits(&name) {
            self.seen.excluded();
            return Ok(());
        }
        self.seen.admitted();
        let item = look_at(Key::new(name), found);
        self.push(item)
    }

    /// A directory: remembered until its first item tells whether it is empty.
    fn enter(&mut self, name: String, found: &DirEntry, walk: &mut IntoIter) -> Result<(), Gone> {
        let admitted = self.filter.admits(&name);
        if self.filter.prunes(&name) {
            self.seen.excluded();
            walk.skip_current_dir();
            return Ok(());
        }
        self.stack.push(name.clone());
        match look_at(Key::new(name), found) {
            Scanned::Entry(entry) => {
                self.pending = Some(Pending { entry, depth: found.depth(), admitted });
                Ok(())
            }
            other @ (Scanned::Gap(_) | Scanned::Unnamed { .. }) => {
                // walkdir has an error of its own for it waiting: one gap is enough.
                walk.skip_current_dir();
                self.seen.admitted();
                self.push(other)
            }
        }
    }

    /// What could not be read makes a gap of the directory that it is in, which was entered just
    /// before: walkdir gives a directory's errors ahead of its entries.
    fn fail(&mut self, error: &walkdir::Error) -> Result<(), Gone> {
        let cause = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
        if error.depth() == 0 {
            let what = format!("cannot read {}", self.root.display());
            let error = Error::new(ErrorKind::Setup, what, cause);
            return self.sender.blocking_send(Err(error)).map_err(|_| Gone);
        }
        let prefix = self.directory_of(error);
        self.stack.truncate(prefix.matches('/').count() + 1);
        self.pending = None;
        self.seen.admitted();
        if self.last_gap.as_ref() == Some(&prefix) {
            return Ok(());
        }
        self.last_gap = Some(prefix.clone());
        self.push(Scanned::Gap(Gap::Subtree { prefix, cause }))
    }

    fn directory_of(&self, error: &walkdir::Error) -> String {
        let innermost = self.stack.last().cloned().unwrap_or_default();
        let Some(path) = error.path() else {
            return self.stack.get(error.depth() - 1).cloned().unwrap_or(innermost);
        };
        let own = self.root.join(innermost.trim_end_matches('/'));
        if path == own {
            return innermost;
        }
        self.stack.get(error.depth().saturating_sub(1)).cloned().unwrap_or(innermost)
    }

    /// Emits the pending directory, now that the next item's depth is known.
    fn settle(&mut self, next_depth: Option<usize>) -> Result<(), Gone> {
        let Some(mut pending) = self.pending.take() else {
            return Ok(());
        };
        let empty = next_depth.is_none_or(|depth| depth <= pending.depth);
        pending.entry.kind = EntryKind::Directory { empty };
        if !pending.admitted {
            return Ok(());
        }
        self.push(Scanned::Entry(pending.entry))
    }

    fn push(&mut self, item: Scanned) -> Result<(), Gone> {
        self.batch.push(item);
        if self.batch.len() >= BATCH_ITEMS {
            return self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_ITEMS));
        self.sender.blocking_send(Ok(full)).map_err(|_| Gone)
    }
}

/// `lstat`, and what it means. A thing that vanished since it was listed is a gap like any other.
fn look_at(key: Key, found: &DirEntry) -> Scanned {
    let file_type = found.file_type();
    let kind = if file_type.is_file() {
        EntryKind::File
    } else if file_type.is_symlink() {
        EntryKind::Symlink
    } else if file_type.is_dir() {
        EntryKind::Directory { empty: false }
    } else {
        let special = Refusal::Special(special_name(file_type));
        return Scanned::Gap(Gap::Object { key, cause: special.to_string() });
    };
    match rustix::fs::lstat(found.path()) {
        Ok(stat) => {
            let (signature, mode) = signature_of(&stat);
            let size = if file_type.is_dir() { 0 } else { signature.size };
            Scanned::Entry(Entry { key, kind, size, origin: Origin::Local { signature, mode } })
        }
        Err(error) => {
            let cause = std::io::Error::from(error).to_string();
            if key.is_directory() {
                return Scanned::Gap(Gap::Subtree { prefix: key.as_str().to_owned(), cause });
            }
            Scanned::Gap(Gap::Object { key, cause })
        }
    }
}

fn special_name(file_type: std::fs::FileType) -> &'static str {
    if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Byte order of names, a directory's name ending in `/`, as its contents' keys have it.
fn bucket_order(a: &DirEntry, b: &DirEntry) -> Ordering {
    fn bytes(entry: &DirEntry) -> impl Iterator<Item = u8> {
        let slash = entry.file_type().is_dir().then_some(b'/');
        entry.file_name().as_bytes().iter().copied().chain(slash)
    }
    let (name_a, name_b) = (a.file_name().as_bytes(), b.file_name().as_bytes());
    let common = name_a.len().min(name_b.len());
    match name_a[..common].cmp(&name_b[..common]) {
        Ordering::Equal => bytes(a).skip(common).cmp(bytes(b).skip(common)),
        decided => decided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::FilterBuilder;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            if file.ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
                continue;
            }
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        root
    }

    fn scan(root: &Path, filter: Filter) -> Vec<Scanned> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut scan = scan_local(root.to_owned(), filter, Seen::default(), false);
            let mut all = Vec::new();
            while scan.fill().await.unwrap() {
                all.extend(std::iter::from_fn(|| scan.pop()));
            }
            all
        })
    }

    fn names(items: &[Scanned]) -> Vec<String> {
        items.iter().filter_map(|item| item.position().map(str::to_owned)).collect()
    }

    #[test]
    fn files_come_in_bucket_order() {
        let root = tree(&["foo/x", "foo.txt", "foo-bar", "foo!", "foo0", "foo/a-b/c", "foo/a/c"]);
        let found = names(&scan(root.path(), Filter::default()));
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(found, sorted);
        assert_eq!(
            found,
            [
                "foo!",
                "foo-bar",
                "foo.txt",
                "foo/",
                "foo/a-b/",
                "foo/a-b/c",
                "foo/a/",
                "foo/a/c",
                "foo/x",
                "foo0"
            ]
        );
    }

    #[test]
    fn only_empty_directories_say_that_they_are() {
        let root = tree(&["a/", "b/c/", "d/f", "z"]);
        let empty: Vec<String> = scan(root.path(), Filter::default())
            .iter()
            .filter_map(|item| match item {
                Scanned::Entry(Entry {
                    key, kind: EntryKind::Directory { empty: true }, ..
                }) => Some(key.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(empty, ["a/", "b/c/"]);
    }

    #[test]
    fn names_without_a_key_and_special_files_do_not_vanish() {
        let root = tree(&["a", "c"]);
        let odd = root.path().join(std::ffi::OsStr::from_bytes(b"b\xff"));
        std::fs::write(odd, b"x").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        let items = scan(root.path(), Filter::default());
        assert_eq!(names(&items), ["a", "c", "fifo"]);
        assert!(
            items
                .iter()
                .any(|item| matches!(item, Scanned::Unnamed { reason: Refusal::NotUtf8, .. }))
        );
        assert!(
            matches!(&items[3], Scanned::Gap(Gap::Object { cause, .. }) if cause.contains("FIFO"))
        );
    }

    #[test]
    fn temporary_files_and_excluded_ones_are_left_out() {
        let root = tree(&["a.log", "b.txt", "cache/x", &crate::key::temporary_name("b.txt")]);
        let filter = FilterBuilder::default().exclude("*.log").exclude("cache").build().unwrap();
        assert_eq!(names(&scan(root.path(), filter)), ["b.txt"]);
    }

    #[test]
    fn a_missing_root_is_an_error_or_empty_as_asked() {
        let missing = PathBuf::from("/nonexistent/haul");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut scan = scan_local(missing.clone(), Filter::default(), Seen::default(), false);
            assert_eq!(scan.fill().await.unwrap_err().kind(), ErrorKind::Setup);
            let mut scan = scan_local(missing, Filter::default(), Seen::default(), true);
            assert!(!scan.fill().await.unwrap());
        });
    }
}
