//! What is remembered of one key: what both sides looked like when their content was known.
//!
//! Pure values, for the plan to compare with.

use crate::entry::{Entry, EntryKind, Origin, Signature, Timestamp};
use crate::fingerprint::{Blake3, ETag, Md5Bytes};
use crate::key::Key;
use blake3::hazmat::ChainingValue;

/// How one side looked. As long as it looks the same, its content is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// A file or link.
    File {
        /// What `lstat` said.
        signature: Signature,
        /// `st_mode`, type bits included.
        mode: u32,
    },
    /// An object.
    Object(ETag),
}

impl Stamp {
    /// How `entry` looks. A server that gives no entity tag gives nothing to go by.
    #[must_use]
    pub fn of(entry: &Entry) -> Option<Self> {
        match &entry.origin {
            Origin::Local { signature, mode } => {
                Some(Self::File { signature: *signature, mode: *mode })
            }
            Origin::Remote { etag, .. } => Self::of_object(etag),
        }
    }

    /// How an object with this entity tag looks.
    #[must_use]
    pub fn of_object(etag: &ETag) -> Option<Self> {
        let is_empty = matches!(etag, ETag::Opaque(text) if text.is_empty());
        (!is_empty).then(|| Self::Object(etag.clone()))
    }

    fn fits(&self, entry: &Entry) -> bool {
        match (self, &entry.origin) {
            (
                Self::File { signature, mode },
                Origin::Local { signature: seen, mode: seen_mode },
            ) => seen.is_still(signature) && mode == seen_mode,
            (Self::Object(etag), Origin::Remote { etag: seen, .. }) => etag == seen,
            (Self::File { .. }, Origin::Remote { .. })
            | (Self::Object(_), Origin::Local { .. }) => false,
        }
    }
}

/// What is remembered of one key. Both sides held this content when they looked like this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// Bytes.
    pub size: u64,
    /// The hash of the content. Two buckets can be known to agree where it is not.
    pub blake3: Option<Blake3>,
    /// How the source looked; none where it may have changed unseen.
    pub source: Option<Stamp>,
    /// How the target looked; none where it may have changed unseen.
    pub target: Option<Stamp>,
    /// The object may not carry the file's mtime and mode.
    pub drifted: bool,
}

impl Record {
    /// True where the source's entry still has the content of the record.
    #[must_use]
    pub fn knows_source(&self, entry: &Entry) -> bool {
        knows(self.source.as_ref(), self.size, entry)
    }

    /// True where the target's entry still has the content of the record.
    #[must_use]
    pub fn knows_target(&self, entry: &Entry) -> bool {
        knows(self.target.as_ref(), self.size, entry)
    }

    /// The record of two entries that were found to have this content.
    #[must_use]
    pub fn of_same(source: &Entry, target: &Entry, blake3: Option<Blake3>) -> Self {
        Self {
            key: source.key.clone(),
            size: source.size,
            blake3,
            source: Stamp::of(source),
            target: Stamp::of(target),
            drifted: false,
        }
    }

    /// True where the file is remembered with this mtime and mode.
    #[must_use]
    pub fn is_of(&self, mtime: Timestamp, mode: u32) -> bool {
        [&self.source, &self.target].into_iter().flatten().any(|stamp| match stamp {
            Stamp::File { signature, mode: known } => signature.modified == mtime && *known == mode,
            Stamp::Object(_) => false,
        })
    }

    /// The type and permissions of the file, as far as they are remembered.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        [&self.source, &self.target].into_iter().flatten().find_map(|stamp| match stamp {
            Stamp::File { mode, .. } => Some(*mode),
            Stamp::Object(_) => None,
        })
    }
}

fn knows(stamp: Option<&Stamp>, size: u64, entry: &Entry) -> bool {
    let is_content = !matches!(entry.kind, EntryKind::Directory { .. });
    is_content && entry.size == size && stamp.is_some_and(|stamp| stamp.fits(entry))
}

/// The parts of a large content, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Bytes of all parts but the last: a power of two.
    pub part_bytes: u64,
    /// For each part the chaining value of its BLAKE3 subtree.
    pub hashes: Vec<ChainingValue>,
    /// For each part its MD5, which is its entity tag; none where the object was made otherwise.
    pub md5s: Vec<Md5Bytes>,
}
