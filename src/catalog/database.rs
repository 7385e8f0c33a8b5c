//! Opening a SQLite file of one's own: its schema brought up to date, or, where it can't be used, set
//! aside for a new one.

use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};

/// What a file of one kind looks like.
#[derive(Debug)]
pub(super) struct Shape {
    /// Set on each opening, before anything is read.
    pub settings: &'static str,
    /// `migrations[n]` brings version n to n + 1 (`PRAGMA user_version`); never changed, only added to.
    pub migrations: &'static [&'static str],
}

/// Opens the file at `path`, which is set aside where `check` does not find it right. Answers why, if
/// that was so.
///
/// # Errors
/// `Setup`, where not even a new file can be used.
pub(super) fn open(
    path: &Path,
    shape: &Shape,
    check: impl Fn(&Connection) -> Result<(), String>,
) -> Result<(Connection, Option<String>)> {
    let attempt = || {
        let connection = connect(path, shape).map_err(|e| Trouble::of(&e))?;
        check(&connection).map_err(Trouble::Unfit)?;
        Ok(connection)
    };
    match attempt() {
        Ok(connection) => Ok((connection, None)),
        Err(Trouble::Elsewhere(cause)) => Err(cannot_use(path, cause)),
        Err(Trouble::Unfit(cause)) => {
            let aside = set_aside(path)?;
            let why = format!(
                "{} cannot be used ({cause}); it is kept as {} and begun anew",
                path.display(),
                aside.display()
            );
            let connection = attempt().map_err(|trouble| match trouble {
                Trouble::Elsewhere(cause) | Trouble::Unfit(cause) => cannot_use(path, cause),
            })?;
            Ok((connection, Some(why)))
        }
    }
}

fn cannot_use(path: &Path, cause: String) -> Error {
    Error::new(ErrorKind::Setup, format!("cannot use {}", path.display()), cause)
}

/// What is wrong: with the file, or with what is around it (the disk, permissions).
enum Trouble {
    Unfit(String),
    Elsewhere(String),
}

impl Trouble {
    fn of(error: &rusqlite::Error) -> Self {
        if is_unfit(error) {
            return Self::Unfit(error.to_string());
        }
        Self::Elsewhere(error.to_string())
    }
}

/// True where the file itself is bad; a new one would do.
pub(super) fn is_unfit(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::SchemaChanged
                | ErrorCode::TypeMismatch
                | ErrorCode::ConstraintViolation
                | ErrorCode::Unknown
        ),
        // A column that is not what it should be, a table that is not there.
        _ => true,
    }
}

fn connect(path: &Path, shape: &Shape) -> rusqlite::Result<Connection> {
    match connect_with(path, shape, None) {
        // A file system without locks (ours holds two runs apart).
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.extended_code & 0xff == rusqlite::ffi::SQLITE_IOERR
                && is_lock_trouble(failure.extended_code) =>
        {
            connect_with(path, shape, Some("unix-none"))
        }
        other => other,
    }
}

fn is_lock_trouble(extended: i32) -> bool {
    use rusqlite::ffi::{
        SQLITE_IOERR_CHECKRESERVEDLOCK, SQLITE_IOERR_LOCK, SQLITE_IOERR_RDLOCK, SQLITE_IOERR_UNLOCK,
    };
    matches!(
        extended,
        SQLITE_IOERR_LOCK
            | SQLITE_IOERR_RDLOCK
            | SQLITE_IOERR_UNLOCK
            | SQLITE_IOERR_CHECKRESERVEDLOCK
    )
}

fn connect_with(path: &Path, shape: &Shape, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = match vfs {
        None => Connection::open_with_flags(path, flags)?,
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
    };
    connection.execute_batch(shape.settings)?;
    migrate(&mut connection, shape.migrations)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if version > known {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "version {version} is of a newer haul"
        )));
    }
    for (number, migration) in (1..=known).zip(migrations).filter(|(number, _)| *number > version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Renames a database, which nothing has open, and what belongs to it. One is kept; the one before
/// it goes.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let aside = with(".unusable");
    let fail = |e| Error::new(ErrorKind::Setup, format!("cannot set {} aside", path.display()), e);
    std::fs::rename(path, &aside).map_err(fail)?;
    for ending in ["-wal", "-journal", "-shm"] {
        match std::fs::remove_file(with(ending)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Shape = Shape { settings: "", migrations: &["CREATE TABLE a (x)"] };
    const NEW: Shape = Shape {
        settings: "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;",
        migrations: &["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y DEFAULT 7"],
    };

    fn fine(connection: &Connection) -> Result<(), String> {
        connection.execute_batch("SELECT x FROM a").map_err(|e| e.to_string())
    }

    #[test]
    fn an_old_file_is_brought_up_to_date_and_keeps_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.db");
        let (old, _) = open(&path, &OLD, fine).unwrap();
        old.execute_batch("INSERT INTO a VALUES (1)").unwrap();
        drop(old);
        let (new, notice) = open(&path, &NEW, fine).unwrap();
        assert_eq!(notice, None);
        let row: (i64, i64) =
            new.query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(row, (1, 7));
    }

    #[test]
    fn what_cannot_be_used_is_set_aside_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.db");
        // From a newer version; no database at all; one that the check does not like.
        drop(open(&path, &NEW, fine).unwrap());
        let (_, notice) = open(&path, &OLD, fine).unwrap();
        assert!(notice.unwrap().contains("newer haul"));
        std::fs::write(&path, b"this is no database, and longer than a header of one hundred bytes is, so that nobody takes it for a short file").unwrap();
        let (_, notice) = open(&path, &OLD, fine).unwrap();
        assert!(notice.unwrap().contains("not a database"));
        let aside = directory.path().join("c.db.unusable");
        assert!(std::fs::read(&aside).unwrap().starts_with(b"this is no database"));
        let unfit = std::cell::Cell::new(true);
        let once =
            |_: &Connection| if unfit.replace(false) { Err("foreign".into()) } else { Ok(()) };
        assert!(open(&path, &OLD, once).unwrap().1.unwrap().contains("foreign"));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_and_nothing_is_moved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/c.db");
        assert_eq!(open(&path, &OLD, fine).unwrap_err().kind(), ErrorKind::Setup);
    }
}
