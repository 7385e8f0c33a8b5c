//! What counts as the same: content, never age. SEMANTICS.md lists the rules; they stop at the
//! first that decides.

use super::{SameBy, Why};
use crate::catalog::Record;
use crate::entry::{Entry, Origin};
use crate::fingerprint::{Blake3, ETag};

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CompareBy {
    /// Sizes, then what is remembered, then hashes.
    #[default]
    Content,
    /// Sizes, then hashes, whatever is remembered.
    Anew,
    /// Every byte of both sides, whatever is remembered or recorded.
    Bytes,
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

/// Compares what two scans saw, by what is remembered of it.
#[must_use]
pub fn compare(source: &Entry, target: &Entry, record: Option<&Record>, by: CompareBy) -> Verdict {
    if by == CompareBy::Nothing {
        return Verdict::Different(Why::Asked);
    }
    if source.size != target.size {
        return Verdict::Different(Why::Size);
    }
    if by == CompareBy::Size {
        return Verdict::Same(SameBy::Size);
    }
    let record = record.filter(|_| by == CompareBy::Content);
    if record.is_some_and(|record| record.knows_source(source) && record.knows_target(target)) {
        return Verdict::Same(SameBy::Catalog);
    }
    if by == CompareBy::Bytes {
        return Verdict::NeedsHash;
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

/// True unless the file is one thing (a link, say) and the object is known to be another, whose
/// content may be the same. Modes are `st_mode`.
#[must_use]
pub fn is_same_type(file: &Entry, object_mode: Option<u32>) -> bool {
    const TYPE: u32 = 0o170_000;
    match (&file.origin, object_mode) {
        (Origin::Local { mode, .. }, Some(object_mode)) => {
            object_mode & TYPE == 0 || mode & TYPE == object_mode & TYPE
        }
        (Origin::Local { .. }, None) | (Origin::Remote { .. }, _) => true,
    }
}
