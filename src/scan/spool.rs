//! Entries on disk: a listing that came out of order and must be sorted, or the deletes that wait
//! until everything else is done.
//!
//! A SQLite file of its own in the temporary directory, without a journal, gone when it is dropped.
//! Memory is bounded by SQLite's page cache, whatever the number of entries.

use super::BATCH_ITEMS;
use crate::entry::{Entry, EntryKind, Origin, Signature, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::ETag;
use crate::key::Key;
use rusqlite::{Connection, Row, params};

/// Entries in key order on disk; a key that is put twice is held once.
#[derive(Debug)]
pub struct Spool {
    connection: Connection,
    count: u64,
}

const SCHEMA: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -16384;
    CREATE TABLE entry (
        key BLOB PRIMARY KEY, size INTEGER NOT NULL, etag TEXT, modified TEXT,
        mode INTEGER, mtime_s INTEGER, mtime_ns INTEGER, ctime_s INTEGER, ctime_ns INTEGER,
        inode INTEGER, device INTEGER
    ) WITHOUT ROWID;
    BEGIN;
";

impl Spool {
    /// An empty spool.
    ///
    /// # Errors
    /// `Setup`, where the temporary directory can't be written.
    pub fn new() -> Result<Self> {
        // An empty name is a private temporary database that SQLite deletes on close.
        let connection = Connection::open("").map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        Ok(Self { connection, count: 0 })
    }

    /// How many entries were put.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// True where none was put.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `Setup`, where the disk is full or broken.
    pub fn put(&mut self, entry: &Entry) -> Result<()> {
        let mut insert = self
            .connection
            .prepare_cached(
                "INSERT OR REPLACE INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )
            .map_err(failed)?;
        let key = entry.key.as_str().as_bytes();
        let size = entry.size.cast_signed();
        match &entry.origin {
            Origin::Remote { etag, modified } => {
                let none = None::<i64>;
                let etag = etag.to_string();
                insert.execute(params![
                    key, size, etag, modified, none, none, none, none, none, none, none
                ])
            }
            Origin::Local { signature, mode } => insert.execute(params![
                key,
                size,
                None::<String>,
                None::<String>,
                mode,
                signature.modified.seconds,
                signature.modified.nanoseconds,
                signature.changed.seconds,
                signature.changed.nanoseconds,
                signature.inode.cast_signed(),
                signature.device.cast_signed(),
            ]),
        }
        .map_err(failed)?;
        self.count += 1;
        Ok(())
    }

    /// The next entries in key order behind `after`, at most 512; empty at the end.
    ///
    /// # Errors
    /// `Setup`, where the disk is broken.
    pub fn batch_after(&self, after: Option<&Key>) -> Result<Vec<Entry>> {
        let after = after.map_or(&[][..], |key| key.as_str().as_bytes());
        self.batch("SELECT * FROM entry WHERE key > ?1 ORDER BY key LIMIT ?2", after)
    }

    /// As [`Spool::batch_after`], from the last key back to the first.
    ///
    /// # Errors
    /// `Setup`, where the disk is broken.
    pub fn batch_before(&self, before: Option<&Key>) -> Result<Vec<Entry>> {
        // No UTF-8 text has this byte.
        let before = before.map_or(&[0xff][..], |key| key.as_str().as_bytes());
        self.batch("SELECT * FROM entry WHERE key < ?1 ORDER BY key DESC LIMIT ?2", before)
    }

    fn batch(&self, query: &str, bound: &[u8]) -> Result<Vec<Entry>> {
        let mut select = self.connection.prepare_cached(query).map_err(failed)?;
        let limit = i64::try_from(BATCH_ITEMS).unwrap_or(i64::MAX);
        let rows = select.query_map(params![bound, limit], read_entry).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

fn read_entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let key: Vec<u8> = row.get(0)?;
    let key = Key::new(String::from_utf8(key).unwrap_or_default());
    let size = row.get::<_, i64>(1)?.cast_unsigned();
    let empty = true;
    let directory =
        if key.is_directory() { EntryKind::Directory { empty } } else { EntryKind::File };
    let kind = if size == 0 { directory } else { EntryKind::File };
    let etag: Option<String> = row.get(2)?;
    let origin = match etag {
        Some(etag) => {
            let modified: String = row.get(3)?;
            Origin::Remote { etag: ETag::parse(&etag), modified: modified.into() }
        }
        None => Origin::Local {
            mode: row.get(4)?,
            signature: Signature {
                size,
                modified: Timestamp { seconds: row.get(5)?, nanoseconds: row.get(6)? },
                changed: Timestamp { seconds: row.get(7)?, nanoseconds: row.get(8)? },
                inode: row.get::<_, i64>(9)?.cast_unsigned(),
                device: row.get::<_, i64>(10)?.cast_unsigned(),
            },
        },
    };
    Ok(Entry { key, kind, size, origin })
}

fn failed(error: rusqlite::Error) -> Error {
    let what = format!("cannot spool to {}", std::env::temp_dir().display());
    Error::new(ErrorKind::Setup, what, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(key: &str) -> Entry {
        let origin = Origin::Remote { etag: ETag::parse("abc"), modified: "2026".into() };
        Entry { key: Key::new(key), kind: EntryKind::File, size: 1, origin }
    }

    #[test]
    fn entries_come_back_in_byte_order_once_each() {
        let mut spool = Spool::new().unwrap();
        for key in ["p/a", "p/a/b", "p/a-1", "p/a.txt", "é", "p/a-1"] {
            spool.put(&remote(key)).unwrap();
        }
        let all = spool.batch_after(None).unwrap();
        let keys: Vec<&str> = all.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["p/a", "p/a-1", "p/a.txt", "p/a/b", "é"]);
        assert_eq!(all[0], remote("p/a"));
        assert_eq!(spool.batch_after(Some(&Key::new("p/a/b"))).unwrap().len(), 1);
    }

    #[test]
    fn entries_can_be_read_backwards() {
        let mut spool = Spool::new().unwrap();
        let signature = Signature {
            size: 0,
            modified: Timestamp { seconds: -1, nanoseconds: 5 },
            changed: Timestamp { seconds: 2, nanoseconds: 6 },
            inode: u64::MAX,
            device: 7,
        };
        let origin = Origin::Local { signature, mode: 0o40755 };
        let kind = EntryKind::Directory { empty: true };
        let directory = Entry { key: Key::new("d/"), kind, size: 0, origin };
        spool.put(&remote("a")).unwrap();
        spool.put(&directory).unwrap();
        assert_eq!(spool.batch_before(None).unwrap(), [directory, remote("a")]);
        assert_eq!(spool.batch_before(Some(&Key::new("d/"))).unwrap(), [remote("a")]);
        assert_eq!(spool.batch_before(Some(&Key::new("a"))).unwrap(), []);
    }
}
