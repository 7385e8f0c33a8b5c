//! What a run tells while it goes on, and what it says at the end.
//!
//! The engine knows only [`Observer`]; bars, lines and JSON are the caller's.

use crate::entry::Gap;
use crate::error::{Error, ErrorKind};
use crate::job::Effect;
use crate::key::Key;
use crate::plan::Action;
use crate::stop::Stop;
use std::path::PathBuf;

/// Something that happened. Borrowed: an observer copies what it wants to keep, and returns fast.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An action was decided.
    Planned(&'a Action),
    /// Something could not be read; what the target has there is spared.
    Unread(&'a Gap),
    /// Everything is decided: the totals are known.
    PlanComplete,
    /// The listing turned out to be unordered; planning begins again, sorted on disk. Actions that
    /// were planned before are planned again.
    Restarted,
    /// Bytes of this entry begin to move.
    Started {
        /// Its key.
        key: &'a Key,
        /// Its size.
        bytes: u64,
    },
    /// So many more bytes of it have moved.
    Moved {
        /// Its key.
        key: &'a Key,
        /// Bytes since the last event.
        bytes: u64,
    },
    /// So many bytes of it need not move: they are there already, or the server copies them.
    Skipped {
        /// Its key.
        key: &'a Key,
        /// Bytes since the last event.
        bytes: u64,
    },
    /// So many more bytes were read to be compared or hashed.
    Read {
        /// Bytes since the last event.
        bytes: u64,
    },
    /// Something does not agree with its own bytes.
    Disagreement {
        /// Its key.
        key: &'a Key,
        /// What was read, and what should have been.
        what: &'a str,
    },
    /// An action has ended.
    Finished(&'a Outcome),
    /// Something that people should know.
    Notice(&'a str),
    /// How an entry is transferred, for those who want to know more.
    Remark {
        /// Its key.
        key: &'a Key,
        /// How, and why.
        text: &'a str,
    },
}

/// Watches a run. Called inline, from one thread at a time.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: &Event<'_>);
}

/// Who watches a run, and who may stop it.
///
/// ```
/// let unwatched = haul::Control::default();
/// assert!(!unwatched.stop.is_requested());
/// ```
#[derive(Clone)]
pub struct Control<'a> {
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// Who may stop it.
    pub stop: Stop,
    /// The directory where a single transfer is remembered as long as it is not complete, so that
    /// the next call goes on with it; none begins anew. A [`Job`](crate::Job) names its own.
    pub state: Option<PathBuf>,
}

impl std::fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Control");
        shown.field("stop", &self.stop).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Control<'_> {
    /// Nobody watches, and nobody stops it.
    fn default() -> Self {
        Self { observer: &Silent, stop: Stop::new(), state: None }
    }
}

struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event<'_>) {}
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Sent to a bucket.
    Upload,
    /// Fetched to a directory.
    Download,
    /// Copied within the target, by the server or here: nothing was sent.
    Copy,
    /// Given its file's new mtime and mode.
    Update,
    /// Deleted at the target.
    Delete,
}

impl Deed {
    /// Its name: `upload`, `download`, `copy`, `update`, `delete`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Copy => "copy",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// How an action ended.
#[derive(Debug)]
pub struct Outcome {
    /// The entry's key.
    pub key: Key,
    /// What was to be done.
    pub deed: Deed,
    /// Bytes that were sent, fetched or copied, or why it failed.
    pub result: Result<u64, Error>,
    /// A download of which no hash is known: its length is right, more can't be said.
    pub unverified: bool,
}

/// Counts of a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Files and objects that were sent or fetched.
    pub transferred: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Contents that were copied within the target, by the server or here.
    pub copied: u64,
    /// Objects that were given their file's new mtime and mode.
    pub updated: u64,
    /// Entries that were the same.
    pub kept: u64,
    /// Entries that were transferred because nothing comparable was known.
    pub unknown: u64,
    /// Entries deleted at the target.
    pub deleted: u64,
    /// Entries that stayed because the source could not be read there.
    pub spared: u64,
    /// Names that cannot exist at the target.
    pub refused: u64,
    /// Source files that changed while they were read.
    pub changed: u64,
    /// Places that could not be read.
    pub unreadable: u64,
    /// Bytes that are not what the catalog or their own metadata say.
    pub disagreements: u64,
    /// Actions that failed.
    pub failed: u64,
    /// Deletes that were not made because transfers failed.
    pub undeleted: u64,
    /// Downloads of which no hash is known.
    pub unverified: u64,
    /// The plan only: what would be transferred or copied.
    pub to_transfer: u64,
    /// The plan only: its bytes.
    pub to_transfer_bytes: u64,
    /// The plan only: what would be deleted.
    pub to_delete: u64,
    /// The plan only: objects whose metadata would be updated.
    pub to_update: u64,
    /// Why the deletes were refused, and what would allow them.
    pub guard: Option<String>,
    /// Why the run was given up before its end.
    pub gave_up: Option<String>,
    /// The run was stopped before its end.
    pub interrupted: bool,
}

impl Summary {
    /// The exit code that these counts deserve: 130 where it was stopped, 4 where a guard refused,
    /// 1 where something failed, 3 where source entries could not be read, changed, or cannot exist
    /// at the target, else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.interrupted {
            return 130;
        }
        if self.guard.is_some() {
            return 4;
        }
        if self.failed > 0 || self.undeleted > 0 || self.gave_up.is_some() {
            return 1;
        }
        if self.refused + self.changed + self.unreadable > 0 { 3 } else { 0 }
    }

    /// As [`Summary::exit_code`], but where a check found differences, 1.
    #[must_use]
    pub fn exit_code_of(&self, effect: Effect) -> u8 {
        let differs = self.to_transfer + self.to_delete + self.disagreements > 0;
        match (effect, self.exit_code()) {
            (Effect::Check, 0 | 3) if differs => 1,
            (_, code) => code,
        }
    }

    /// True where a check or plan found nothing to do.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.to_transfer + self.to_delete + self.spared == 0 && self.exit_code() == 0
    }

    pub(crate) fn count(&mut self, outcome: &Outcome) {
        self.unverified += u64::from(outcome.unverified);
        match (&outcome.result, outcome.deed) {
            (Ok(bytes), Deed::Upload | Deed::Download) => {
                self.transferred += 1;
                self.bytes += bytes;
            }
            (Ok(_), Deed::Copy) => self.copied += 1,
            (Ok(_), Deed::Update) => self.updated += 1,
            (Ok(_), Deed::Delete) => self.deleted += 1,
            (Err(error), _) => match error.kind() {
                ErrorKind::Unreadable => self.unreadable += 1,
                ErrorKind::Changed => self.changed += 1,
                ErrorKind::Refused => self.refused += 1,
                _ => self.failed += 1,
            },
        }
    }
}

impl ErrorKind {
    /// The exit code of a command that ends with an error of this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Unreadable | Self::Changed | Self::Refused => 3,
            Self::Guard => 4,
            Self::Locked => 5,
            Self::Setup => 6,
            Self::Interrupted => 130,
            Self::NotFound
            | Self::Denied
            | Self::Precondition
            | Self::Busy
            | Self::Network
            | Self::Hung
            | Self::Corrupt
            | Self::Write
            | Self::Closed
            | Self::Unordered
            | Self::Protocol => 1,
        }
    }
}
