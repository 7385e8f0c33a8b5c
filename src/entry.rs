//! What a scan finds: entries, and the gaps where it could not look.
//!
//! Plain values in key order. Nothing here knows where an entry came from.

use crate::fingerprint::ETag;
use crate::key::{Key, Refusal};
use std::fmt;

/// A moment, in seconds and nanoseconds since 1970 (UTC), as file systems keep it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds, rounded down: negative before 1970.
    pub seconds: i64,
    /// Nanoseconds to add, 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl fmt::Display for Timestamp {
    /// A decimal number of seconds with nine digits behind the point, as rclone writes `mtime`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.seconds < 0 && self.nanoseconds > 0 {
            let below = 1_000_000_000 - self.nanoseconds;
            return write!(f, "-{}.{below:09}", -(self.seconds + 1));
        }
        write!(f, "{}.{:09}", self.seconds, self.nanoseconds)
    }
}

impl Timestamp {
    /// Reads what `Display` writes, with fewer digits or none behind the point too.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let magnitude: i64 = whole.trim_start_matches('-').parse().ok()?;
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanoseconds: u32 = digits.parse().ok()?;
        Some(match (whole.starts_with('-'), nanoseconds) {
            (false, _) => Self { seconds: magnitude, nanoseconds },
            (true, 0) => Self { seconds: -magnitude, nanoseconds },
            (true, _) => Self { seconds: -magnitude - 1, nanoseconds: 1_000_000_000 - nanoseconds },
        })
    }
}

/// What kind of thing an entry is. A bucket's listing cannot tell a link from a file: both are
/// [`EntryKind::File`] there, and the object's `mode` tells when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, or an object.
    File,
    /// A symbolic link; its size is that of its text.
    Symlink,
    /// A directory, or a zero-byte object whose key ends in `/`. Only an empty one needs an object
    /// of its own: what is in it implies the others.
    Directory {
        /// Nothing at all is inside, not even what a filter hides.
        empty: bool,
    },
}

/// The identity of a file's content as far as `stat` can tell: two equal signatures, no change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Signature {
    /// Bytes.
    pub size: u64,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last change of content or inode; a program can't set it back.
    pub changed: Timestamp,
    /// Inode number.
    pub inode: u64,
    /// The device that the inode is on. It may change with every mount, so that it counts within a
    /// run only.
    pub device: u64,
}

impl Signature {
    /// True where this is the file that was `remembered`, unchanged. The device is left out:
    /// network file systems get another number with each mount.
    #[must_use]
    pub fn is_still(&self, remembered: &Self) -> bool {
        Self { device: remembered.device, ..*self } == *remembered
    }
}

/// One file, link, directory or object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name below the root.
    pub key: Key,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes; of a link, those of its text; of a directory, 0.
    pub size: u64,
    /// A file's mtime, or an object's `LastModified` as the server spells it.
    pub origin: Origin,
}

/// What only one side's entries have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a directory.
    Local {
        /// What `lstat` said.
        signature: Signature,
        /// `st_mode`, type bits included.
        mode: u32,
    },
    /// From a listing.
    Remote {
        /// The entity tag.
        etag: ETag,
        /// `LastModified`, ISO 8601, as sent.
        modified: Box<str>,
    },
}

impl Entry {
    /// The entity tag of an object; none for a file.
    #[must_use]
    pub fn etag(&self) -> Option<&ETag> {
        match &self.origin {
            Origin::Local { .. } => None,
            Origin::Remote { etag, .. } => Some(etag),
        }
    }

    /// The signature of a file; none for an object.
    #[must_use]
    pub fn signature(&self) -> Option<Signature> {
        match &self.origin {
            Origin::Local { signature, .. } => Some(*signature),
            Origin::Remote { .. } => None,
        }
    }

    /// True for a directory, whichever kind.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory { .. })
    }
}

/// A place where a scan could not look. It stands in the stream in key order, so that what the
/// other side has there is spared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Everything whose key starts with `prefix` (`dir/`, or empty for the root) may be missing.
    Subtree {
        /// The directory's key, with its `/`.
        prefix: String,
        /// What the system said.
        cause: String,
    },
    /// This one name could not be looked at.
    Object {
        /// Its key.
        key: Key,
        /// What the system said.
        cause: String,
    },
}

impl Gap {
    /// Where the gap stands in key order.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Subtree { prefix, .. } => prefix,
            Self::Object { key, .. } => key.as_str(),
        }
    }

    /// Why there is a gap.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::Subtree { cause, .. } | Self::Object { cause, .. } => cause,
        }
    }

    /// True where the gap may hide `key`.
    #[must_use]
    pub fn covers(&self, key: &Key) -> bool {
        match self {
            Self::Subtree { prefix, .. } => key.as_str().starts_with(prefix),
            Self::Object { key: own, .. } => own == key,
        }
    }
}

/// One item of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// Something that is there.
    Entry(Entry),
    /// Somewhere that could not be read.
    Gap(Gap),
    /// A name that can have no key at all. It stands anywhere in the stream.
    Unnamed {
        /// The name as far as it can be shown.
        name: String,
        /// Why it has no key.
        reason: Refusal,
    },
}

impl Scanned {
    /// Where the item stands in key order; none for what has no key.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        match self {
            Self::Entry(entry) => Some(entry.key.as_str()),
            Self::Gap(gap) => Some(gap.name()),
            Self::Unnamed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_survive_their_text() {
        for (seconds, nanoseconds, text) in [
            (1_700_000_000, 123_456_789, "1700000000.123456789"),
            (0, 0, "0.000000000"),
            (-1, 500_000_000, "-0.500000000"),
            (-2, 0, "-2.000000000"),
            (-2, 1, "-1.999999999"),
        ] {
            let time = Timestamp { seconds, nanoseconds };
            assert_eq!(time.to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(time));
        }
        assert_eq!(
            Timestamp::parse("12.5"),
            Some(Timestamp { seconds: 12, nanoseconds: 500_000_000 })
        );
        assert_eq!(Timestamp::parse("1e9"), None);
        assert_eq!(Timestamp::parse("1.x"), None);
    }

    #[test]
    fn a_subtree_covers_what_is_below_it_only() {
        let gap = Gap::Subtree { prefix: "b/".into(), cause: String::new() };
        assert!(gap.covers(&Key::new("b/x")) && !gap.covers(&Key::new("b")));
        let root = Gap::Subtree { prefix: String::new(), cause: String::new() };
        assert!(root.covers(&Key::new("anything")));
    }
}
