//! Past runs: when, what, how much, and how they ended.
//!
//! One file for all pairs, opened for a moment at the start and at the end of a run, so that it can
//! be read while runs are under way. A run that was killed has a start and no end.

use super::database::{self, Locking, Shape};
use super::lock::Runner;
use super::{Catalog, Pair, Side, make_state_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Summary;
use rusqlite::{Connection, Row, params};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Two runs that end in the same moment wait for each other. Shorter commits than these do not need
/// the log that the catalog has, which works for one process only.
const SHAPE: Shape = Shape {
    settings: "PRAGMA busy_timeout = 2000; PRAGMA synchronous = NORMAL;",
    migrations: &["
        CREATE TABLE run (
            id INTEGER PRIMARY KEY, command TEXT NOT NULL,
            source TEXT NOT NULL, target TEXT NOT NULL, runner TEXT NOT NULL,
            started TEXT NOT NULL, ended TEXT, exit INTEGER, summary TEXT, errors TEXT
        );
    "],
};

/// Runs that are kept.
const KEPT: i64 = 10_000;

/// The runs that a state directory knows of.
#[derive(Clone, Debug)]
pub struct History {
    path: PathBuf,
}

/// A run, or what is known of it.
#[derive(Clone, Debug)]
pub struct PastRun {
    /// `sync`, `check`, …
    pub command: String,
    /// Where entries came from.
    pub source: String,
    /// Where they went.
    pub target: String,
    /// The process.
    pub runner: Runner,
    /// When it ended, RFC 3339; none where it has not, or was killed.
    pub ended: Option<String>,
    /// Its exit code.
    pub exit: Option<u8>,
    /// Its counts, as a JSON object.
    pub summary: serde_json::Value,
    /// The first of its errors.
    pub errors: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) struct Ending<'a> {
    pub exit: u8,
    pub summary: &'a Summary,
    pub errors: &'a [String],
}

impl History {
    /// The history in the directory `state`.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self { path: state.join("history.db") }
    }

    fn open(&self) -> Result<Connection> {
        let (connection, notice) = database::open(&self.path, &SHAPE, Locking::Own, |_| Ok(()))?;
        if let Some(notice) = notice {
            tracing::warn!("the history was lost: {notice}");
        }
        Ok(connection)
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> Error {
        let what = format!("cannot use {}", self.path.display());
        move |cause| Error::new(ErrorKind::Setup, what.clone(), cause)
    }

    /// Notes that a run starts; answers its number.
    pub(crate) fn begin(&self, command: &str, pair: &Pair) -> Result<i64> {
        self.path.parent().map_or(Ok(()), make_state_directory)?;
        let connection = self.open()?;
        let runner = Runner::this();
        let text = serde_json::to_string(&runner).unwrap_or_default();
        let insert = "INSERT INTO run (command, source, target, runner, started)
                      VALUES (?1, ?2, ?3, ?4, ?5)";
        connection
            .execute(insert, params![command, pair.source, pair.target, text, runner.started])
            .map_err(self.failed())?;
        let number = connection.last_insert_rowid();
        connection
            .execute("DELETE FROM run WHERE id <= ?1", [number - KEPT])
            .map_err(self.failed())?;
        Ok(number)
    }

    /// Notes how the run ended.
    pub(crate) fn end(&self, number: i64, ending: &Ending<'_>) -> Result<()> {
        let update =
            "UPDATE run SET ended = ?2, exit = ?3, summary = ?4, errors = ?5 WHERE id = ?1";
        let ended = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let summary = serde_json::to_string(ending.summary).unwrap_or_default();
        let errors = serde_json::to_string(ending.errors).unwrap_or_default();
        self.open()?
            .execute(update, params![number, ended, ending.exit, summary, errors])
            .map(drop)
            .map_err(self.failed())
    }

    /// The last `count` runs, the newest last; none where there is no history yet.
    ///
    /// # Errors
    /// `Setup`, where the file can't be read.
    pub fn last(&self, count: usize) -> Result<Vec<PastRun>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let connection = self.open()?;
        let select = "SELECT command, source, target, runner, ended, exit, summary, errors
                      FROM run ORDER BY id DESC LIMIT ?1";
        let mut select = connection.prepare(select).map_err(self.failed())?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let rows = select.query_map([count], read).map_err(self.failed())?;
        let mut runs = rows.collect::<Result<Vec<_>, _>>().map_err(self.failed())?;
        runs.reverse();
        Ok(runs)
    }
}

impl History {
    /// The pairs that have been run and have a place of this address at one end.
    pub(crate) fn pairs(&self, address: &str) -> Result<Vec<Pair>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let connection = self.open()?;
        let select = "SELECT DISTINCT source, target FROM run WHERE source = ?1 OR target = ?1";
        let mut select = connection.prepare(select).map_err(self.failed())?;
        let pair = |row: &Row<'_>| {
            let (source, target): (String, String) = (row.get(0)?, row.get(1)?);
            let files = match (source.starts_with('/'), target.starts_with('/')) {
                (true, _) => Some(Side::Source),
                (_, true) => Some(Side::Target),
                (false, false) => None,
            };
            Ok(Pair { source, target, files })
        };
        let rows = select.query_map([address], pair).map_err(self.failed())?;
        rows.collect::<Result<_, _>>().map_err(self.failed())
    }

    /// The catalogs of the pairs that have sent files to the place of this address.
    pub(crate) fn senders(&self, address: &str) -> Result<Vec<PathBuf>> {
        let state = self.path.parent().unwrap_or(Path::new("."));
        let sends = |pair: &Pair| pair.files == Some(Side::Source) && pair.target == address;
        let pairs = self.pairs(address)?.into_iter().filter(sends);
        Ok(pairs.map(|pair| Catalog::path(state, &pair)).filter(|path| path.exists()).collect())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<PastRun> {
    let text = |column: usize| {
        Ok::<_, rusqlite::Error>(row.get::<_, Option<String>>(column)?.unwrap_or_default())
    };
    let runner = Runner { pid: 0, host: String::new(), ticks: None, started: String::new() };
    Ok(PastRun {
        command: row.get(0)?,
        source: row.get(1)?,
        target: row.get(2)?,
        runner: serde_json::from_str(&text(3)?).unwrap_or(runner),
        ended: row.get(4)?,
        exit: row.get(5)?,
        summary: serde_json::from_str(&text(6)?).unwrap_or_default(),
        errors: serde_json::from_str(&text(7)?).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_remembered_with_their_end_or_without() {
        let state = tempfile::tempdir().unwrap();
        let history = History::of(&state.path().join("state"));
        assert!(history.last(5).unwrap().is_empty());
        let pair = Pair { source: "/a".into(), target: "https://s3/b/".into(), files: None };
        let first = history.begin("sync", &pair).unwrap();
        history.begin("check", &pair).unwrap();
        let summary = Summary { transferred: 3, ..Summary::default() };
        let errors = ["cannot read x".to_owned()];
        history.end(first, &Ending { exit: 1, summary: &summary, errors: &errors }).unwrap();
        let runs = history.last(5).unwrap();
        assert_eq!((runs[0].exit, runs[0].errors.as_slice()), (Some(1), errors.as_slice()));
        assert_eq!(runs[0].summary["transferred"], 3);
        assert!(runs[1].ended.is_none() && runs[1].runner.may_live());
        assert_eq!(history.last(1).unwrap()[0].command, "check");
    }
}
