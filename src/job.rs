//! A job: what to bring where, and how; validated, and ready to run.

use crate::bucket::Bucket;
use crate::catalog::{Pair, Side};
use crate::location::directory_prefix;
use crate::plan::compare::CompareBy;
use crate::plan::guard::Allowed;
use crate::scan::Filter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One end of a job.
#[derive(Clone, Debug)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A bucket below a prefix.
    Bucket {
        /// The bucket.
        bucket: Arc<dyn Bucket>,
        /// Empty, or with its `/` at the end.
        prefix: String,
    },
}

impl Place {
    /// The directory at `path`.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::Directory(path.into())
    }

    /// The objects of `bucket` below the directory `path` (`run1` is `run1/`; empty for all).
    pub fn bucket(bucket: Arc<dyn Bucket>, path: &str) -> Self {
        Self::Bucket { bucket, prefix: directory_prefix(path) }
    }

    /// What it is called for good: an absolute path, or a URL with the endpoint in it.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Directory(root) => resolved(root).to_string_lossy().into_owned(),
            Self::Bucket { bucket, prefix } => format!("{}/{prefix}", bucket.address()),
        }
    }

    /// How `key` is called there, for people.
    #[must_use]
    pub fn name(&self, key: &str) -> String {
        match self {
            Self::Directory(root) => {
                crate::key::printable(&root.join(key).to_string_lossy()).into_owned()
            }
            Self::Bucket { bucket, prefix } => {
                format!("{}/{prefix}{}", bucket.url(), crate::key::printable(key))
            }
        }
    }
}

/// The path without links, as far as it exists.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(found) = existing.canonicalize() {
            return missing.iter().rev().fold(found, |path, name| path.join(name));
        }
        let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
            return absolute;
        };
        missing.push(name);
        existing = parent;
    }
}

/// Whether a run changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Do what was planned.
    Apply,
    /// Only plan.
    Plan,
    /// Only say what differs.
    Check,
}

/// What becomes of the source of a transfer that is done and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It stays.
    KeepSource,
    /// It is removed, if it is still what was transferred.
    RemoveSource,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where the entries come from.
    pub source: Place,
    /// Where they go.
    pub target: Place,
    /// Remove from the target what the source does not have.
    pub delete: bool,
    /// How many deletes are allowed, and after what.
    pub allowed: Allowed,
    /// What counts as the same.
    pub compare: CompareBy,
    /// Which keys take part.
    pub filter: Filter,
    /// Delete excluded entries at the target, too.
    pub delete_excluded: bool,
    /// Change anything?
    pub effect: Effect,
    /// Move instead of copy?
    pub afterwards: Afterwards,
    /// Transfers under way at once, in files; parts of one file count once.
    pub transfers: usize,
    /// Bytes that buffers may hold at once.
    pub memory_bytes: u64,
    /// Write a file's new mtime and mode to its object, where only they have changed.
    pub update_metadata: bool,
    /// What the history calls the run.
    pub command: &'static str,
    /// The directory where runs are remembered, for the next run of the same pair; none remembers
    /// nothing, and holds no lock.
    pub state: Option<PathBuf>,
}

impl Job {
    /// A job with the default settings: compare contents, delete nothing, 128 transfers, 96 MiB,
    /// remember nothing.
    #[must_use]
    pub fn new(source: Place, target: Place) -> Self {
        Self {
            source,
            target,
            delete: false,
            allowed: Allowed::default(),
            compare: CompareBy::Content,
            filter: Filter::default(),
            delete_excluded: false,
            effect: Effect::Apply,
            afterwards: Afterwards::KeepSource,
            transfers: 128,
            memory_bytes: crate::execute::DEFAULT_BYTES,
            update_metadata: false,
            command: "sync",
            state: None,
        }
    }

    /// What the pair of places is called for good.
    #[must_use]
    pub fn pair(&self) -> Pair {
        let files = match (&self.source, &self.target) {
            (Place::Directory(_), _) => Some(Side::Source),
            (_, Place::Directory(_)) => Some(Side::Target),
            (Place::Bucket { .. }, Place::Bucket { .. }) => None,
        };
        Pair { source: self.source.address(), target: self.target.address(), files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_name_whether_it_exists_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        for name in ["missing/deep", "link/missing/deep", "./missing//deep/"] {
            let place = Place::directory(real.join(name));
            assert_eq!(place.address(), format!("{}/missing/deep", real.display()), "{name}");
        }
    }
}
