//! What counts as the same: content, never age. SEMANTICS.md lists the rules; they stop at the
//! first that decides.

use super::{SameBy, Why};
use crate::entry::Entry;
use crate::fingerprint::{Blake3, ETag};

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CompareBy {
    /// Sizes, then hashes.
    #[default]
    Content,
    /// Sizes only.
    Size,
    /// Not at all: everything is transferred.
    Nothing,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same, known so.
    Same(SameBy),
    /// Not the same, or not known to be.
    Different(Why),
    /// Only hashes can tell.
    NeedsHash,
}

/// Compares what two scans saw.
#[must_use]
pub fn compare(source: &Entry, target: &Entry, by: CompareBy) -> Verdict {
    if by == CompareBy::Nothing {
        return Verdict::Different(Why::Asked);
    }
    if source.size != target.size {
        return Verdict::Different(Why::Size);
    }
    if by == CompareBy::Size {
        return Verdict::Same(SameBy::Size);
    }
    if source.size == 0 {
        return Verdict::Same(SameBy::Empty);
    }
    match (source.etag(), target.etag()) {
        (Some(a), Some(b)) if a == b && !matches!(a, ETag::Opaque(_)) => {
            Verdict::Same(SameBy::ETag)
        }
        _ => Verdict::NeedsHash,
    }
}

/// Compares hashes, either of which may not be known.
#[must_use]
pub fn compare_blake3(source: Option<Blake3>, target: Option<Blake3>) -> Verdict {
    match (source, target) {
        (Some(a), Some(b)) if a == b => Verdict::Same(SameBy::Blake3),
        (Some(_), Some(_)) => Verdict::Different(Why::Content),
        _ => Verdict::Different(Why::Unknown),
    }
}

/// Compares the multipart ETags that a content can have with the one that an object has. Where the
/// part size is only guessed, another ETag proves nothing.
#[must_use]
pub fn compare_etag(possible: &[ETag], actual: &ETag, part_size_is_known: bool) -> Verdict {
    if possible.contains(actual) {
        return Verdict::Same(SameBy::ETag);
    }
    Verdict::Different(if part_size_is_known { Why::Content } else { Why::Unknown })
}
