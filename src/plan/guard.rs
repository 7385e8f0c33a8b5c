//! The last question before anything is deleted: can the whole run be believed?
//!
//! Pure. Each guard has an override of its own; there is no single "force".

use crate::error::{Error, ErrorKind, Result};
use std::str::FromStr;

/// Deletes up to this many are never too many by default.
const SMALL_DELETE: u64 = 1000;
/// The default share of the target that may go.
const DEFAULT_PERCENT: u64 = 50;

/// The most entries that one run may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MaxDelete {
    /// Half of the target, or 1,000 where that is more.
    #[default]
    Default,
    /// So many.
    Count(u64),
    /// So many percent of the target's entries.
    Percent(u64),
}

impl FromStr for MaxDelete {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<u64>().map_err(|_| "give a number (100) or a percentage (20%)".to_owned())
        };
        match text.strip_suffix('%') {
            None => Ok(Self::Count(number(text)?)),
            Some(text) => match number(text)? {
                percent @ 0..=100 => Ok(Self::Percent(percent)),
                _ => Err("a percentage is at most 100%".into()),
            },
        }
    }
}

impl MaxDelete {
    fn limit(self, target_entries: u64) -> u64 {
        match self {
            Self::Default => (target_entries * DEFAULT_PERCENT / 100).max(SMALL_DELETE),
            Self::Count(count) => count,
            Self::Percent(percent) => target_entries * percent / 100,
        }
    }
}

/// What is known when all but the deletes is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Entries that the source scan found, gaps included.
    pub source_entries: u64,
    /// Entries that the target scan found.
    pub target_entries: u64,
    /// Entries that are to go.
    pub deletes: u64,
    /// Transfers and copies that failed; among them files that could not be read and that the
    /// target does not have: they may be what a deleted name was renamed to.
    pub failed: u64,
    /// The source directory is on another file system than it was last time.
    pub source_moved: bool,
}

/// What the user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Allowed {
    /// How many.
    pub max_delete: MaxDelete,
    /// An empty source may empty the target.
    pub force_empty: bool,
    /// Delete though transfers failed.
    pub ignore_errors: bool,
}

/// What becomes of the deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They may run.
    Delete,
    /// They stay undone, because transfers failed; the run ends as failed anyway.
    Skip,
}

/// Decides whether the deletes may run.
///
/// # Errors
/// `Guard`, with the flag that would allow it.
pub fn guard(evidence: Evidence, allowed: Allowed) -> Result<Decision> {
    let refuse = |cause: String| Err(Error::new(ErrorKind::Guard, "refused to delete", cause));
    if evidence.deletes == 0 {
        return Ok(Decision::Delete);
    }
    if evidence.source_entries == 0 && !allowed.force_empty {
        return refuse(format!(
            "the source is empty and the target has {}; nothing was deleted (is it mounted? \
             --force-empty allows it)",
            entries(evidence.target_entries)
        ));
    }
    if evidence.source_moved {
        return refuse(
            "the source is on another file system than last time; nothing was deleted (is the right \
             one mounted? a run without --delete accepts it)"
                .to_owned(),
        );
    }
    let limit = allowed.max_delete.limit(evidence.target_entries);
    if evidence.deletes > limit {
        return refuse(format!(
            "{} of {} would go, over the limit of {limit}; nothing was deleted (--max-delete \
             allows more)",
            entries(evidence.deletes),
            evidence.target_entries
        ));
    }
    if evidence.failed > 0 && !allowed.ignore_errors {
        return Ok(Decision::Skip);
    }
    Ok(Decision::Delete)
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".into() } else { format!("{count} entries") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Evidence = Evidence {
        source_entries: 9,
        target_entries: 10,
        deletes: 1,
        failed: 0,
        source_moved: false,
    };

    #[test]
    fn an_empty_source_needs_an_override() {
        let empty = Evidence { source_entries: 0, ..FINE };
        assert_eq!(guard(empty, Allowed::default()).unwrap_err().kind(), ErrorKind::Guard);
        let allowed = Allowed { force_empty: true, ..Allowed::default() };
        assert_eq!(guard(empty, allowed).unwrap(), Decision::Delete);
        assert_eq!(
            guard(Evidence { deletes: 0, ..empty }, Allowed::default()).unwrap(),
            Decision::Delete
        );
    }

    #[test]
    fn too_many_deletes_are_refused() {
        let many = Evidence { target_entries: 3000, deletes: 1501, ..FINE };
        assert!(guard(many, Allowed::default()).is_err());
        assert!(guard(Evidence { deletes: 1500, ..many }, Allowed::default()).is_ok());
        assert!(
            guard(Evidence { target_entries: 900, deletes: 900, ..FINE }, Allowed::default())
                .is_ok()
        );
        let allowed =
            |text: &str| Allowed { max_delete: text.parse().unwrap(), ..Allowed::default() };
        assert!(guard(many, allowed("1501")).is_ok() && guard(many, allowed("1500")).is_err());
        assert!(guard(many, allowed("60%")).is_ok() && guard(many, allowed("50%")).is_err());
        assert!(guard(FINE, allowed("0")).is_err());
    }

    #[test]
    fn failed_transfers_stop_the_deletes() {
        let failed = Evidence { failed: 1, ..FINE };
        assert_eq!(guard(failed, Allowed::default()).unwrap(), Decision::Skip);
        let allowed = Allowed { ignore_errors: true, ..Allowed::default() };
        assert_eq!(guard(failed, allowed).unwrap(), Decision::Delete);
    }

    #[test]
    fn a_source_on_another_file_system_deletes_nothing() {
        let moved = Evidence { source_moved: true, ..FINE };
        let allowed = Allowed { force_empty: true, ignore_errors: true, ..Allowed::default() };
        assert_eq!(guard(moved, allowed).unwrap_err().kind(), ErrorKind::Guard);
        let nothing = Evidence { deletes: 0, ..moved };
        assert_eq!(guard(nothing, Allowed::default()).unwrap(), Decision::Delete);
    }

    #[test]
    fn limits_are_read() {
        assert_eq!("12".parse(), Ok(MaxDelete::Count(12)));
        assert_eq!("12%".parse(), Ok(MaxDelete::Percent(12)));
        for bad in ["", "%", "x", "-1", "101%"] {
            assert!(bad.parse::<MaxDelete>().is_err(), "{bad}");
        }
    }
}
