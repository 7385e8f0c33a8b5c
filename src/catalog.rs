//! The catalog: what both sides of a job held when their contents were last known.
//!
//! One SQLite file per pair of places, read in key order as a third input of the merge, written in
//! batches as outcomes arrive. It is a memory, not a truth: each record counts only as long as both
//! sides still look as it says, so that to lose it costs time and nothing else. A file that can't
//! be used is set aside, and begun anew.
//!
//! Everything here blocks. Knows nothing of transfers.

mod database;
mod history;
mod lock;
mod places;
mod record;
mod rows;
mod unfinished;

pub(crate) use history::Ending;
pub use history::{History, PastRun};
pub(crate) use lock::Lock;
pub use lock::Runner;
pub use record::{Parts, Record, Stamp};
pub(crate) use unfinished::{FetchedRange, OpenUpload, SentContent, SentFile};

use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::{Blake3, ETag};
use crate::key::Key;
use database::{Locking, Shape, Trouble};
pub(crate) use rows::glance;
use rows::{forget, put, read_parts, read_record};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Records that are read at a time.
pub(crate) const BATCH_RECORDS: usize = 1024;
/// How many records with one content are worth a try.
const TWINS: usize = 3;

/// Exclusive: no shared memory, which network file systems do not have. WAL: a commit is one
/// append, and a killed process leaves either all of it or nothing.
const SHAPE: Shape = Shape {
    settings: "
        PRAGMA locking_mode = EXCLUSIVE;
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = NORMAL;
        PRAGMA cache_size = -8192;
    ",
    migrations: &[
        "
        CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE entry (
            key BLOB PRIMARY KEY, size INTEGER NOT NULL, blake3 BLOB,
            source_etag TEXT, target_etag TEXT,
            mtime_s INTEGER, mtime_ns INTEGER, ctime_s INTEGER, ctime_ns INTEGER,
            inode INTEGER, device INTEGER, mode INTEGER,
            drifted INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE parts (
            key BLOB PRIMARY KEY, blake3 BLOB NOT NULL, part_bytes INTEGER NOT NULL,
            hashes BLOB NOT NULL, md5s BLOB NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX by_content ON entry (blake3) WHERE size > 0;
    ",
        unfinished::TABLES,
    ],
};

/// Two places, as they are called for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Where entries come from: an absolute path, or a URL with the endpoint in it.
    pub source: String,
    /// Where they go.
    pub target: String,
    /// Which side is a directory.
    pub files: Option<Side>,
}

impl Pair {
    /// The name of the pair's files: 32 hex digits of the BLAKE3 of both places.
    fn id(&self) -> String {
        let mut text =
            Blake3::of(format!("{}\n{}", self.source, self.target).as_bytes()).to_string();
        text.truncate(32);
        text
    }
}

/// Something to be remembered, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This is known of the key now; of a large content, its parts, too.
    Put(Box<Record>, Option<Parts>),
    /// The key is gone on both sides.
    Forget(Key),
}

/// The memory of one pair.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    pair: Pair,
    locking: Locking,
    connection: Mutex<Option<Connection>>,
    /// The disk is full or broken: what is remembered still serves.
    is_read_only: AtomicBool,
}

impl Catalog {
    /// Opens the catalog of `pair` in the directory `state`, whose lock is held. Answers what
    /// people should know, too.
    ///
    /// # Errors
    /// `Setup` where nothing can be kept there.
    pub(crate) fn open(state: &Path, pair: Pair, lock: &Lock) -> Result<(Self, Option<String>)> {
        let path = Self::path(state, &pair);
        let locking = if lock.is_real { Locking::Own } else { Locking::None };
        let (connection, notice) = open_file(&path, &pair, locking)?;
        let connection = Mutex::new(Some(connection));
        let is_read_only = AtomicBool::new(false);
        Ok((Self { path, pair, locking, connection, is_read_only }, notice))
    }

    /// Where the catalog of `pair` is, if there is one.
    pub(crate) fn path(state: &Path, pair: &Pair) -> PathBuf {
        state.join(format!("{}.db", pair.id()))
    }

    /// Ends it, though a thread may still hold it: nothing is found or remembered from here on.
    pub fn close(&self) {
        drop(self.connection().take());
    }

    /// Ends it for good: its file goes, and that of its lock.
    pub(crate) fn discard(&self, lock: Lock) {
        self.close();
        for ending in ["", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(ending);
            let _ = std::fs::remove_file(path);
        }
        Lock::remove(lock, &self.path.with_extension("lock"));
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the database. Where that fails because the file is bad, it is set aside and a
    /// new one takes its place; where the disk fails, nothing more is written. Either is told once:
    /// later calls find nothing, and are no errors.
    fn with<T: Default>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut guard = self.connection();
        let Some(connection) = guard.as_mut() else {
            return Ok(T::default());
        };
        let error = match work(connection) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let cause = match database::is_unfit(&error) {
            true => {
                *guard = None;
                self.begin_anew(&mut guard, &error)
            }
            false if self.is_read_only.swap(true, Ordering::Relaxed) => return Ok(T::default()),
            false => format!("{error}; nothing more is remembered in this run"),
        };
        Err(Error::new(ErrorKind::Setup, "the catalog failed", cause))
    }

    /// As [`Catalog::with`], for what writes: nothing where the disk has failed.
    fn note<T: Default>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        if self.is_read_only.load(Ordering::Relaxed) {
            return Ok(T::default());
        }
        self.with(work)
    }

    /// Sets a bad file aside, and opens a new one; answers what people should know.
    fn begin_anew(&self, place: &mut Option<Connection>, error: &rusqlite::Error) -> String {
        // The check fails once, so that the file is set aside.
        let first = std::cell::Cell::new(true);
        let check = |connection: &Connection| match first.replace(false) {
            true => Err(Trouble::Unfit(error.to_string())),
            false => Ok(describe(connection, &self.pair)?),
        };
        match database::open(&self.path, &SHAPE, self.locking, check) {
            Ok((fresh, why)) => {
                *place = Some(fresh);
                why.unwrap_or_default()
            }
            Err(other) => format!("{error}; {other}; nothing is remembered in this run"),
        }
    }

    /// The records behind `after` in key order, at most 1,024; empty at the end.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn batch_after(&self, after: &str) -> Result<Vec<Record>> {
        self.with(|connection| {
            let mut select = connection
                .prepare_cached("SELECT * FROM entry WHERE key > ?1 ORDER BY key LIMIT ?2")?;
            let limit = i64::try_from(BATCH_RECORDS).unwrap_or(i64::MAX);
            let rows = select.query_map(params![after.as_bytes(), limit], |row| {
                read_record(row, self.pair.files)
            })?;
            rows.collect()
        })
    }

    /// What is remembered of one key.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn record(&self, key: &Key) -> Result<Option<Record>> {
        self.with(|connection| {
            let mut select = connection.prepare_cached("SELECT * FROM entry WHERE key = ?1")?;
            let read = |row: &Row<'_>| read_record(row, self.pair.files);
            select.query_row([key.as_str().as_bytes()], read).optional()
        })
    }

    /// Records with this content that the target may hold, at most three.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn twins(&self, blake3: Blake3, size: u64) -> Result<Vec<Record>> {
        self.twins_where("blake3 = ?1", &blake3.as_bytes(), size)
    }

    /// Records whose object at the source had this entity tag, at most three.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn twins_by_etag(&self, etag: &ETag, size: u64) -> Result<Vec<Record>> {
        self.twins_where("source_etag = ?1", &etag.to_string(), size)
    }

    fn twins_where(
        &self,
        condition: &str,
        value: &dyn rusqlite::ToSql,
        size: u64,
    ) -> Result<Vec<Record>> {
        self.with(|connection| {
            // `size > 0` stands for the partial indexes.
            let mut select = connection.prepare_cached(&format!(
                "SELECT * FROM entry WHERE {condition} AND size = ?2 AND size > 0 LIMIT {TWINS}"
            ))?;
            let read = |row: &Row<'_>| read_record(row, self.pair.files);
            select.query_map(params![value, size.cast_signed()], read)?.collect()
        })
    }

    /// The parts of the content `blake3` of `key`.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn parts(&self, key: &Key, blake3: Blake3) -> Result<Option<Parts>> {
        self.with(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT blake3, part_bytes, hashes, md5s FROM parts WHERE key = ?1 AND blake3 = ?2",
            )?;
            let row = params![key.as_str().as_bytes(), blake3.as_bytes()];
            select.query_row(row, read_parts).optional().map(Option::flatten)
        })
    }

    /// Writes `changes` in one transaction: all of them, or after a crash none.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn write(&self, changes: &[Change]) -> Result<()> {
        self.note(|connection| {
            let transaction = connection.transaction()?;
            for change in changes {
                match change {
                    Change::Put(record, parts) => put(&transaction, record, parts.as_ref())?,
                    Change::Forget(key) => forget(&transaction, key)?,
                }
            }
            transaction.commit()
        })
    }
}

/// One of the two places of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where entries come from.
    Source,
    /// Where they go.
    Target,
}

pub(crate) fn make_state_directory(state: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.map_err(|e| Error::new(ErrorKind::Setup, format!("cannot make {}", state.display()), e))
}

fn open_file(path: &Path, pair: &Pair, locking: Locking) -> Result<(Connection, Option<String>)> {
    let check = |connection: &Connection| {
        let stored = |name: &str| {
            let select = "SELECT value FROM meta WHERE name = ?1";
            connection.query_row(select, [name], |row| row.get::<_, String>(0)).optional()
        };
        match (stored("source")?, stored("target")?) {
            (None, None) => Ok(describe(connection, pair)?),
            (Some(source), Some(target)) if source == pair.source && target == pair.target => {
                Ok(())
            }
            (source, target) => Err(Trouble::Unfit(format!(
                "it is the memory of {} -> {}",
                source.unwrap_or_default(),
                target.unwrap_or_default()
            ))),
        }
    };
    database::open(path, &SHAPE, locking, check)
}

/// Writes down whose catalog it is, and makes what only this direction needs.
fn describe(connection: &Connection, pair: &Pair) -> rusqlite::Result<()> {
    // All of it or nothing: half a description is that of another pair.
    let transaction = connection.unchecked_transaction()?;
    if pair.files == Some(Side::Target) {
        connection.execute_batch(
            "CREATE INDEX IF NOT EXISTS by_etag ON entry (source_etag) WHERE size > 0",
        )?;
    }
    set_meta(connection, "source", &pair.source)?;
    set_meta(connection, "target", &pair.target)?;
    transaction.commit()
}

fn set_meta(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", [name, value]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Signature, Timestamp};

    fn pair() -> Pair {
        let (source, target) = ("/data".to_owned(), "https://s3/b/p/".to_owned());
        Pair { source, target, files: Some(Side::Source) }
    }

    fn record(key: &str, content: &[u8]) -> Record {
        let time = |nanoseconds| Timestamp { seconds: -5, nanoseconds };
        let size = content.len() as u64;
        let signature =
            Signature { size, modified: time(1), changed: time(2), inode: u64::MAX, device: 3 };
        Record {
            key: Key::new(key),
            size,
            blake3: Some(Blake3::of(content)),
            source: Some(Stamp::File { signature, mode: 0o100_600 }),
            target: Stamp::of_object(&ETag::Md5(crate::fingerprint::md5(content))),
            drifted: true,
        }
    }

    fn open(state: &Path, pair: &Pair) -> (Catalog, Option<String>) {
        Catalog::open(state, pair.clone(), &Lock::take(state, pair).unwrap()).unwrap()
    }

    fn put(catalog: &Catalog, record: &Record) {
        catalog.write(&[Change::Put(Box::new(record.clone()), None)]).unwrap();
    }

    #[test]
    fn what_is_written_is_read_in_key_order_by_a_later_run() {
        let state = tempfile::tempdir().unwrap();
        let (catalog, notice) = open(&state.path().join("deep/er"), &pair());
        assert_eq!(notice, None);
        let records = ["a", "a-b", "a/b", "é"].map(|key| record(key, key.as_bytes()));
        for record in records.iter().rev() {
            put(&catalog, record);
        }
        put(&catalog, &record("gone", b"x"));
        catalog.write(&[Change::Forget(Key::new("gone"))]).unwrap();
        drop(catalog);
        let (catalog, _) = open(&state.path().join("deep/er"), &pair());
        assert_eq!(catalog.batch_after("").unwrap(), records);
        assert_eq!(catalog.batch_after("a-b").unwrap(), records[2..]);
        assert_eq!(catalog.record(&Key::new("a/b")).unwrap(), Some(records[2].clone()));
        assert_eq!(catalog.twins(Blake3::of(b"a"), 1).unwrap(), records[..1]);
        assert_eq!(catalog.twins(Blake3::of(b"a"), 2).unwrap(), []);
    }

    #[test]
    fn parts_belong_to_one_content() {
        let state = tempfile::tempdir().unwrap();
        let (catalog, _) = open(state.path(), &pair());
        let parts =
            Parts { part_bytes: 1 << 24, hashes: vec![[1; 32], [2; 32]], md5s: vec![[3; 16]] };
        let blake3 = crate::hash::merge_parts(&parts.hashes);
        let record = Record { blake3: Some(blake3), ..record("large", b"content") };
        let put = |parts: &Parts| {
            catalog.write(&[Change::Put(Box::new(record.clone()), Some(parts.clone()))]).unwrap();
            catalog.parts(&record.key, blake3).unwrap()
        };
        assert_eq!(put(&parts), Some(parts.clone()));
        assert_eq!(catalog.parts(&record.key, Blake3::of(b"other")).unwrap(), None);
        for hashes in [vec![[1; 32], [3; 32]], vec![[1; 32]], Vec::new()] {
            assert_eq!(put(&Parts { hashes, ..parts.clone() }), None, "not its own");
        }
    }

    #[test]
    fn two_runs_of_a_pair_exclude_each_other_and_those_of_another_do_not() {
        let state = tempfile::tempdir().unwrap();
        let first = Lock::take(state.path(), &pair()).unwrap();
        assert_eq!(Lock::take(state.path(), &pair()).unwrap_err().kind(), ErrorKind::Locked);
        let other = Pair { target: "https://s3/b/q/".into(), ..pair() };
        Lock::take(state.path(), &other).unwrap();
        drop(first);
        Lock::take(state.path(), &pair()).unwrap();
    }

    #[test]
    fn the_catalog_of_another_pair_is_set_aside() {
        let state = tempfile::tempdir().unwrap();
        let other = Pair { target: "https://s3/b/q/".into(), ..pair() };
        let (catalog, _) = open(state.path(), &other);
        put(&catalog, &record("a", b"a"));
        let from = catalog.path.clone();
        drop(catalog);
        std::fs::copy(&from, state.path().join(format!("{}.db", pair().id()))).unwrap();
        let (catalog, notice) = open(state.path(), &pair());
        assert!(notice.unwrap().contains("https://s3/b/q/"));
        assert_eq!(catalog.batch_after("").unwrap(), []);
    }

    #[test]
    fn a_catalog_that_breaks_in_use_is_told_once_and_begun_anew() {
        let state = tempfile::tempdir().unwrap();
        let (catalog, _) = open(state.path(), &pair());
        for number in 0..5000 {
            put(&catalog, &record(&format!("key/{number}"), &[1, 2]));
        }
        let path = catalog.path.clone();
        drop(catalog);
        // The first page, with the schema, is left as it is.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8192..].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        let (catalog, _) = open(state.path(), &pair());
        let mut told = 0;
        for _ in 0..3 {
            told += u32::from(catalog.batch_after("").is_err());
        }
        assert_eq!(told, 1);
        put(&catalog, &record("a", b"a"));
        drop(catalog);
        let (catalog, notice) = open(state.path(), &pair());
        assert_eq!((notice, catalog.batch_after("").unwrap()), (None, vec![record("a", b"a")]));
    }
}
