//! Opening a SQLite file of one's own: its schema brought up to date, or, where it can't be used,
//! set aside for a new one.

use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};

/// What a file of one kind looks like.
#[derive(Debug)]
pub(super) struct Shape {
    /// Set on each opening, before anything is read.
    pub settings: &'static str,
    /// `migrations[n]` brings version n to n + 1 (`PRAGMA user_version`); never changed, only added
    /// to.
    pub migrations: &'static [&'static str],
}

/// Whether SQLite is to lock the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locking {
    /// As it does.
    Own,
    /// Not at all: the file system has no locks, or they hang.
    None,
}

/// Opens the file at `path`, which is set aside where `check` does not find it right. Answers why,
/// if that was so.
///
/// # Errors
/// `Setup`, where not even a new file can be used, or the file is of a newer haul, which will want it
/// back.
pub(super) fn open(
    path: &Path,
    shape: &Shape,
    locking: Locking,
    check: impl Fn(&Connection) -> Result<(), Trouble>,
) -> Result<(Connection, Option<String>)> {
    let attempt = || {
        let connection = connect(path, shape, locking)?;
        check(&connection)?;
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

/// What is wrong: with the file, or with what is around it (the disk, permissions, versions).
#[derive(Debug)]
pub(super) enum Trouble {
    Unfit(String),
    Elsewhere(String),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        if is_unfit(&error) {
            Self::Unfit(error.to_string())
        } else {
            Self::Elsewhere(error.to_string())
        }
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

fn connect(path: &Path, shape: &Shape, locking: Locking) -> Result<Connection, Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = match locking {
        Locking::Own => Connection::open_with_flags(path, flags)?,
        Locking::None => Connection::open_with_flags_and_vfs(path, flags, "unix-none")?,
    };
    connection.execute_batch(shape.settings)?;
    migrate(&mut connection, shape.migrations)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Trouble> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if version > known {
        let cause = format!("it is of a newer haul (version {version}, this one knows {known})");
        return Err(Trouble::Elsewhere(cause));
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
    // First what a new file of that name would take for its own.
    for ending in ["-wal", "-journal", "-shm"] {
        match std::fs::remove_file(with(ending)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::rename(path, &aside).map_err(fail)?;
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

    fn fine(connection: &Connection) -> Result<(), Trouble> {
        Ok(connection.execute_batch("SELECT x FROM a")?)
    }

    #[test]
    fn an_old_file_is_brought_up_to_date_and_keeps_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.db");
        let (old, _) = open(&path, &OLD, Locking::Own, fine).unwrap();
        old.execute_batch("INSERT INTO a VALUES (1)").unwrap();
        drop(old);
        let (new, notice) = open(&path, &NEW, Locking::None, fine).unwrap();
        assert_eq!(notice, None);
        let row: (i64, i64) =
            new.query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(row, (1, 7));
    }

    #[test]
    fn what_cannot_be_used_is_set_aside_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.db");
        // No database at all; one that the check does not like.
        std::fs::write(&path, b"this is no database, and longer than a header of one hundred bytes is, so that nobody takes it for a short file").unwrap();
        let (_, notice) = open(&path, &OLD, Locking::Own, fine).unwrap();
        assert!(notice.unwrap().contains("not a database"));
        let aside = directory.path().join("c.db.unusable");
        assert!(std::fs::read(&aside).unwrap().starts_with(b"this is no database"));
        let unfit = std::cell::Cell::new(true);
        let once = |_: &Connection| match unfit.replace(false) {
            true => Err(Trouble::Unfit("foreign".into())),
            false => Ok(()),
        };
        assert!(open(&path, &OLD, Locking::Own, once).unwrap().1.unwrap().contains("foreign"));
    }

    #[test]
    fn the_file_of_a_newer_haul_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.db");
        drop(open(&path, &NEW, Locking::Own, fine).unwrap());
        let before = std::fs::read(&path).unwrap();
        let error = open(&path, &OLD, Locking::Own, fine).unwrap_err();
        assert!(error.to_string().contains("newer haul"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_and_nothing_is_moved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/c.db");
        assert_eq!(open(&path, &OLD, Locking::Own, fine).unwrap_err().kind(), ErrorKind::Setup);
    }
}
