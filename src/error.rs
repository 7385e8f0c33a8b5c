//! The one error type: what was being done, to which thing, why it failed, and what kind of
//! failure that is for those who decide (retry, exit code).

use crate::key::printable;
use std::fmt;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Bad arguments or settings (exit 2).
    Usage,
    /// Nothing could be started: no credentials, no such bucket, unreachable (exit 6).
    Setup,
    /// A safety guard refused; nothing was deleted (exit 4).
    Guard,
    /// Another run of the same pair is under way (exit 5).
    Locked,
    /// The object or upload is not there.
    NotFound,
    /// The server does not allow it.
    Denied,
    /// The object is no longer the one that was seen.
    Precondition,
    /// The server is overloaded or failed (5xx, 429, `SlowDown`).
    Busy,
    /// The connection failed or broke.
    Network,
    /// Nothing moved for too long.
    Hung,
    /// Bytes do not hash to what they should.
    Corrupt,
    /// The local file changed while it was read.
    Changed,
    /// The local file could not be read.
    Unreadable,
    /// The name cannot exist at the target.
    Refused,
    /// The local target could not be written.
    Write,
    /// The reader of a stream has gone.
    Closed,
    /// The listing is not in key order.
    Unordered,
    /// The server answered something that is not S3.
    Protocol,
    /// The run was stopped.
    Interrupted,
}

/// A failure, told as `cannot open photos/a.jpg: permission denied`.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    cause: String,
}

/// The result of anything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`: `what` names the deed and the thing, `cause` says why it failed.
    pub fn new(kind: ErrorKind, what: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self { kind, what: what.into(), cause: cause.to_string() }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the server or the system said.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// True where the same request may well succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Busy | ErrorKind::Network)
    }

    /// The same failure as one that kept the run from starting.
    #[must_use]
    pub fn into_setup(self) -> Self {
        Self { kind: ErrorKind::Setup, ..self }
    }

    pub(crate) fn with_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A server's words and other people's names stay text, whatever they hold.
        write!(f, "{}: {}", printable(&self.what), printable(&self.cause))
    }
}

impl std::error::Error for Error {}

/// The causes of `error`, outermost first, in one line; a cause that repeats its wrapper goes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
