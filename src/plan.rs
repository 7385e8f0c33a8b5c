//! The plan: a merge join of two ordered scans into actions, each with its reason.
//!
//! Pure: values in, values out. It does not know in which direction bytes go, only what kind of
//! names the target takes. Deletes are decided here as far as the two scans prove them; what must
//! be known of the whole run is for [`guard`].

pub mod compare;
pub mod guard;

use crate::catalog::Record;
use crate::entry::{Entry, EntryKind, Gap, Scanned};
use crate::key::{Key, MAX_KEY_BYTES, Refusal};
use compare::{CompareBy, Verdict, compare};
use std::cmp::Ordering;
use std::fmt;

/// What names the target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Safe relative paths.
    Paths,
    /// Object keys below a prefix of this many bytes.
    Keys {
        /// Bytes that the prefix takes of a key's 1,024.
        prefix_bytes: usize,
    },
}

/// How to decide.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What is only at the target is to go.
    pub delete: bool,
    /// What counts as the same.
    pub compare: CompareBy,
    /// What names the target takes.
    pub names: Names,
    /// Source and target share an endpoint: the server copies by itself.
    pub server_side: bool,
    /// Bring the metadata of objects up to date with their files.
    pub update_metadata: bool,
}

/// Why something is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The target does not have it.
    Missing,
    /// The sizes differ.
    Size,
    /// The hashes differ.
    Content,
    /// No hash of the target is known that could be compared.
    Unknown,
    /// The user asked for everything.
    Asked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing at the target",
            Self::Size => "sizes differ",
            Self::Content => "contents differ",
            Self::Unknown => "no comparable hash is known",
            Self::Asked => "asked to transfer everything",
        })
    }
}

/// How it is known that something is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameBy {
    /// Sizes are equal, and more was not asked for.
    Size,
    /// Both look as they did when they were found to be the same.
    Catalog,
    /// Both are empty, or directories.
    Empty,
    /// The ETag is that of the content.
    ETag,
    /// A checksum that the server or another tool keeps is that of the content.
    Checksum,
    /// The recorded BLAKE3 is that of the content.
    Blake3,
}

impl fmt::Display for SameBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "same size",
            Self::Catalog => "unchanged",
            Self::Empty => "same, empty",
            Self::ETag => "same ETag",
            Self::Checksum => "same checksum",
            Self::Blake3 => "same BLAKE3",
        })
    }
}

/// What is to be done about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bytes go from source to target.
    Transfer {
        /// What goes.
        source: Entry,
        /// What it replaces.
        replaces: Option<Entry>,
        /// The reason.
        why: Why,
    },
    /// The server copies from source to target.
    Copy {
        /// What is copied.
        source: Entry,
        /// What it replaces.
        replaces: Option<Entry>,
        /// The reason.
        why: Why,
    },
    /// The content is the same; the object's metadata is to say what the file's now is.
    Update {
        /// The file.
        source: Entry,
        /// The object.
        target: Entry,
        /// What is remembered of both.
        record: Box<Record>,
    },
    /// The target's entry goes, once everything else is done and the guards agree.
    Delete {
        /// What goes.
        target: Entry,
    },
    /// Nothing: it is the same.
    Keep {
        /// Its key.
        key: Key,
        /// How that is known.
        by: SameBy,
    },
    /// The target's entry stays, though no source entry was seen: it may only have been unreadable.
    Spare {
        /// What stays.
        target: Entry,
        /// Why the source could not be read there.
        cause: String,
    },
    /// The name cannot exist at the target.
    Refuse {
        /// The name as far as it can be shown.
        name: String,
        /// Why not.
        reason: Refusal,
    },
}

/// One result of planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Decided.
    Act(Action),
    /// Sizes agree; the hashes must be asked for.
    Compare(Pair),
    /// A directory of the target that the source does not have: it goes if the deletes leave it
    /// empty.
    Prune(Entry),
    /// One side could not be read here.
    Unread(Gap),
}

/// An entry on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// At the source.
    pub source: Entry,
    /// At the target.
    pub target: Entry,
    /// What is remembered of either.
    pub record: Option<Box<Record>>,
}

/// What there is of one name.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the source's scan saw.
    pub source: Option<Scanned>,
    /// What the target's scan saw.
    pub target: Option<Scanned>,
    /// What is remembered.
    pub record: Option<Box<Record>>,
}

/// From which side the next step takes its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the source.
    Source,
    /// From the target.
    Target,
    /// From both, which are at the same name.
    Both,
}

/// Which of the two heads comes first in key order; none where both sides are at their end.
#[must_use]
pub fn next_side(source: Option<&Scanned>, target: Option<&Scanned>) -> Option<Side> {
    match (source, target) {
        (None, None) => None,
        (Some(_), None) => Some(Side::Source),
        (None, Some(_)) => Some(Side::Target),
        (Some(source), Some(target)) => Some(match (source.position(), target.position()) {
            (None, _) => Side::Source,
            (Some(_), None) => Side::Target,
            (Some(a), Some(b)) => match a.cmp(b) {
                Ordering::Less => Side::Source,
                Ordering::Greater => Side::Target,
                Ordering::Equal => Side::Both,
            },
        }),
    }
}

/// The merge join. Its only state is the source directory that could not be read, if the join is
/// inside one.
#[derive(Clone, Debug)]
pub struct Plan {
    rules: Rules,
    unread: Option<Gap>,
}

impl Plan {
    /// A join that has seen nothing yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, unread: None }
    }

    /// Decides about the items that [`next_side`] chose: those of one name, from one side or both.
    /// `ahead` is the source's next item behind them.
    pub fn step(&mut self, found: Found, ahead: Option<&Scanned>, out: &mut Vec<Step>) {
        let (source, source_gap) = self.source_entry(found.source, out);
        let (target, target_gap) = target_entry(found.target, out);
        let record = found.record;
        match (source, target) {
            (Some(source), Some(target)) => out.push(self.both(Pair { source, target, record })),
            (Some(source), None) => out.extend(self.source_only(source, target_gap.as_ref())),
            (None, Some(target)) => {
                out.extend(self.target_only(target, source_gap.as_ref(), ahead));
            }
            (None, None) => {}
        }
    }

    /// Splits the source's item into an entry or a gap; reports gaps and refused names.
    fn source_entry(
        &mut self,
        item: Option<Scanned>,
        out: &mut Vec<Step>,
    ) -> (Option<Entry>, Option<Gap>) {
        match item {
            None => (None, None),
            Some(Scanned::Entry(entry)) => (Some(entry), None),
            Some(Scanned::Gap(gap)) => {
                out.push(Step::Unread(gap.clone()));
                self.enter(&gap);
                (None, Some(gap))
            }
            Some(Scanned::Unnamed { name, reason }) => {
                out.push(Step::Act(Action::Refuse { name, reason }));
                (None, None)
            }
        }
    }

    /// Remembers an unread subtree; an outer one includes the inner.
    fn enter(&mut self, gap: &Gap) {
        let is_inner =
            self.unread.as_ref().is_some_and(|outer| gap.name().starts_with(outer.name()));
        if matches!(gap, Gap::Subtree { .. }) && !is_inner {
            self.unread = Some(gap.clone());
        }
    }

    fn source_only(&self, source: Entry, target_gap: Option<&Gap>) -> Option<Step> {
        if source.kind == (EntryKind::Directory { empty: false }) {
            return None;
        }
        if let Some(reason) = self.refusal(&source) {
            return Some(refuse(&source, reason));
        }
        if let Some(Gap::Object { cause, .. }) = target_gap {
            return Some(refuse(&source, Refusal::SpecialInTheWay(cause.clone())));
        }
        Some(Step::Act(self.transfer(source, None, Why::Missing)))
    }

    fn target_only(
        &self,
        target: Entry,
        source_gap: Option<&Gap>,
        ahead: Option<&Scanned>,
    ) -> Option<Step> {
        let unread = source_gap.into_iter().chain(&self.unread).find(|gap| gap.covers(&target.key));
        if let Some(gap) = unread {
            if target.is_directory() {
                return None;
            }
            let cause = gap.cause().to_owned();
            return Some(Step::Act(Action::Spare { target, cause }));
        }
        if !self.rules.delete {
            return None;
        }
        if target.kind != (EntryKind::Directory { empty: false }) {
            return Some(Step::Act(Action::Delete { target }));
        }
        // A directory that the source needs has no entry there, but what is in it follows.
        let next = ahead.and_then(Scanned::position);
        let is_needed = next.is_some_and(|next| next.starts_with(target.key.as_str()));
        (!is_needed).then_some(Step::Prune(target))
    }

    fn both(&self, pair: Pair) -> Step {
        let Pair { source, target, record } = pair;
        if source.is_directory() && target.is_directory() {
            return Step::Act(Action::Keep { key: source.key, by: SameBy::Empty });
        }
        if let Some(reason) = self.refusal(&source) {
            return refuse(&source, reason);
        }
        match compare(&source, &target, record.as_deref(), self.rules.compare) {
            Verdict::Same(SameBy::Catalog) => {
                Step::Act(self.keep(Pair { source, target, record }, SameBy::Catalog))
            }
            // An empty file is to be remembered, too: its mtime and mode may change.
            Verdict::Same(SameBy::Empty) if source.signature().or(target.signature()).is_some() => {
                Step::Compare(Pair { source, target, record })
            }
            Verdict::Same(by) => Step::Act(Action::Keep { key: source.key, by }),
            Verdict::Different(why) => Step::Act(self.transfer(source, Some(target), why)),
            Verdict::NeedsHash => Step::Compare(Pair { source, target, record }),
        }
    }

    /// What is to be done about contents that are the same.
    #[must_use]
    pub fn keep(&self, pair: Pair, by: SameBy) -> Action {
        match pair.record {
            Some(record) if record.drifted && self.rules.update_metadata => {
                Action::Update { source: pair.source, target: pair.target, record }
            }
            _ => Action::Keep { key: pair.source.key, by },
        }
    }

    /// The action that brings `source` to the target.
    #[must_use]
    pub fn transfer(&self, source: Entry, replaces: Option<Entry>, why: Why) -> Action {
        if self.rules.server_side {
            return Action::Copy { source, replaces, why };
        }
        Action::Transfer { source, replaces, why }
    }

    fn refusal(&self, source: &Entry) -> Option<Refusal> {
        match self.rules.names {
            Names::Paths => match source.key.segments() {
                Err(reason) => Some(reason),
                Ok(_) if source.key.is_directory() && !source.is_directory() => {
                    Some(Refusal::DirectoryWithContent)
                }
                Ok(_) => None,
            },
            Names::Keys { prefix_bytes } => {
                let bytes = prefix_bytes + source.key.as_str().len();
                if bytes > MAX_KEY_BYTES {
                    return Some(Refusal::KeyTooLong(bytes));
                }
                let is_dot = |segment: &str| matches!(segment, "." | "..");
                source.key.as_str().split('/').any(is_dot).then_some(Refusal::DotSegment)
            }
        }
    }
}

fn refuse(source: &Entry, reason: Refusal) -> Step {
    Step::Act(Action::Refuse { name: source.key.to_string(), reason })
}

/// A target's gap is reported; a target's name without a key is nobody's business: it can't be
/// compared, and is never deleted.
fn target_entry(item: Option<Scanned>, out: &mut Vec<Step>) -> (Option<Entry>, Option<Gap>) {
    match item {
        None | Some(Scanned::Unnamed { .. }) => (None, None),
        Some(Scanned::Entry(entry)) => (Some(entry), None),
        Some(Scanned::Gap(gap)) => {
            out.push(Step::Unread(gap.clone()));
            (None, Some(gap))
        }
    }
}

#[cfg(test)]
mod tests;
