//! Records as rows of the catalog's tables, and back.

use super::{Parts, Record, Side, Stamp};
use crate::entry::{Signature, Timestamp};
use crate::fingerprint::{Blake3, ETag};
use crate::hash::merge_parts;
use crate::key::Key;
use rusqlite::{Connection, OpenFlags, Row, params};
use std::path::Path;

pub(super) fn put(
    connection: &Connection,
    record: &Record,
    parts: Option<&Parts>,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO entry
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    let etag = |stamp: &Option<Stamp>| match stamp {
        Some(Stamp::Object(etag)) => Some(etag.to_string()),
        Some(Stamp::File { .. }) | None => None,
    };
    let file =
        [&record.source, &record.target].into_iter().flatten().find_map(|stamp| match stamp {
            Stamp::File { signature, mode } => Some((signature, *mode)),
            Stamp::Object(_) => None,
        });
    let signature = file.map(|(signature, _)| signature);
    let key = record.key.as_str().as_bytes();
    insert.execute(params![
        key,
        record.size.cast_signed(),
        record.blake3.as_ref().map(Blake3::as_bytes),
        etag(&record.source),
        etag(&record.target),
        signature.map(|s| s.modified.seconds),
        signature.map(|s| s.modified.nanoseconds),
        signature.map(|s| s.changed.seconds),
        signature.map(|s| s.changed.nanoseconds),
        signature.map(|s| s.inode.cast_signed()),
        signature.map(|s| s.device.cast_signed()),
        file.map(|(_, mode)| mode),
        record.drifted,
    ])?;
    let (Some(parts), Some(blake3)) = (parts, record.blake3) else {
        return Ok(());
    };
    let mut insert =
        // Who only compares does not know the MD5s, which are known already then.
        connection.prepare_cached(
            "INSERT INTO parts VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (key) DO UPDATE
             SET blake3 = ?2, part_bytes = ?3, hashes = ?4, md5s = ?5
             WHERE blake3 <> ?2 OR length(?5) > 0",
        )?;
    let (hashes, md5s) = (parts.hashes.concat(), parts.md5s.concat());
    insert.execute(params![
        key,
        blake3.as_bytes(),
        parts.part_bytes.cast_signed(),
        hashes,
        md5s
    ])?;
    Ok(())
}

pub(super) fn forget(connection: &Connection, key: &Key) -> rusqlite::Result<()> {
    for statement in ["DELETE FROM entry WHERE key = ?1", "DELETE FROM parts WHERE key = ?1"] {
        connection.prepare_cached(statement)?.execute([key.as_str().as_bytes()])?;
    }
    Ok(())
}

pub(super) fn read_record(row: &Row<'_>, files: Option<Side>) -> rusqlite::Result<Record> {
    let key = String::from_utf8(row.get(0)?).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(e))
    })?;
    let size = row.get::<_, i64>(1)?.cast_unsigned();
    let object = |column: usize| {
        let etag: Option<String> = row.get(column)?;
        Ok::<_, rusqlite::Error>(etag.map(|etag| Stamp::Object(ETag::parse(&etag))))
    };
    let (mut source, mut target) = (object(3)?, object(4)?);
    let file = read_file(row, size)?;
    match files {
        Some(Side::Source) => source = file,
        Some(Side::Target) => target = file,
        None => {}
    }
    Ok(Record {
        key: Key::new(key),
        size,
        blake3: row.get::<_, Option<[u8; 32]>>(2)?.map(Blake3::from),
        source,
        target,
        drifted: row.get(12)?,
    })
}

fn read_file(row: &Row<'_>, size: u64) -> rusqlite::Result<Option<Stamp>> {
    let Some(seconds) = row.get::<_, Option<i64>>(5)? else {
        return Ok(None);
    };
    let signature = Signature {
        size,
        modified: Timestamp { seconds, nanoseconds: row.get(6)? },
        changed: Timestamp { seconds: row.get(7)?, nanoseconds: row.get(8)? },
        inode: row.get::<_, i64>(9)?.cast_unsigned(),
        device: row.get::<_, i64>(10)?.cast_unsigned(),
    };
    Ok(Some(Stamp::File { signature, mode: row.get(11)? }))
}

/// Cuts bytes into pieces of one size; what is left over is not a piece.
pub(super) fn pieces<const N: usize>(bytes: &[u8]) -> Vec<[u8; N]> {
    bytes.as_chunks().0.to_vec()
}

/// The parts of an object, from the catalog at `path` of a pair that sends to where it is. Nothing
/// is locked or written; what is not there or can't be read is not known. A catalog in use may give
/// what is not so: only a hash of the whole proves what is made of it.
pub(crate) fn glance(path: &Path, key: &Key, etag: &ETag) -> Option<Parts> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let escaped: String = path.to_str()?.chars().map(escape).collect();
    let connection =
        Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).ok()?;
    let select = "SELECT blake3, part_bytes, hashes, md5s FROM entry JOIN parts USING (key, blake3)
                  WHERE key = ?1 AND target_etag = ?2";
    let row = params![key.as_str().as_bytes(), etag.to_string()];
    connection.query_row(select, row, read_parts).ok().flatten()
}

fn escape(c: char) -> String {
    match c {
        '%' | '?' | '#' => format!("%{:02X}", u32::from(c)),
        c => c.to_string(),
    }
}

/// A row of `blake3, part_bytes, hashes, md5s`; none where the parts' hashes are not those of that
/// content, which a disk that rots may make of them.
pub(super) fn read_parts(row: &Row<'_>) -> rusqlite::Result<Option<Parts>> {
    let blake3 = Blake3::from(row.get::<_, [u8; 32]>(0)?);
    let parts = Parts {
        part_bytes: row.get::<_, i64>(1)?.cast_unsigned(),
        hashes: pieces(&row.get::<_, Vec<u8>>(2)?),
        md5s: pieces(&row.get::<_, Vec<u8>>(3)?),
    };
    let are_whole = parts.hashes.len() >= 2 && merge_parts(&parts.hashes) == blake3;
    Ok(are_whole.then_some(parts))
}
