//! What is on its way: uploads in parts and downloads in ranges, as far as they have come. What a
//! run leaves unfinished, the next one goes on with.
//!
//! Written as it happens, not in batches: a killed run loses only what was under way.

use super::Catalog;
use super::rows::pieces;
use crate::bucket::PartTag;
use crate::entry::Signature;
use crate::error::Result;
use crate::fingerprint::{Blake3, ETag};
use crate::key::Key;
use blake3::hazmat::ChainingValue;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// An upload that was begun and not completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// Its id.
    pub id: String,
    /// The key of the entry.
    pub key: Key,
    /// The whole key of the object.
    pub object_key: String,
    /// What is sent; none where it can't be gone on with.
    pub content: Option<SentContent>,
}

/// The content that an upload is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentContent {
    /// The file, when it was hashed.
    pub file: SentFile,
    /// Its hash, which the upload's metadata names.
    pub blake3: Blake3,
    /// Bytes of all parts but the last.
    pub part_bytes: u64,
    /// For each part the chaining value of its BLAKE3 subtree.
    pub hashes: Vec<ChainingValue>,
}

/// A file that is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentFile {
    /// What `lstat` said.
    pub signature: Signature,
    /// `st_mode`.
    pub mode: u32,
    /// Any change since the hashing shows in the signature.
    pub settled: bool,
    /// Some parts are copied by the server ([`PartOrigin::Mixed`](crate::bucket::PartOrigin)).
    pub is_mixed: bool,
}

/// A download that was begun and has not landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDownload {
    /// The object.
    pub etag: ETag,
    /// Its bytes.
    pub size: u64,
    /// What is in the temporary file of each range.
    pub ranges: Vec<FetchedRange>,
}

/// The beginning of a range, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedRange {
    /// Where the range begins in the object.
    pub start: u64,
    /// Bytes from there that are in the temporary file.
    pub bytes: u64,
    /// The chaining value of their BLAKE3 subtree.
    pub hash: ChainingValue,
}

pub(super) const TABLES: &str = "
    CREATE TABLE upload (
        id TEXT PRIMARY KEY, key BLOB NOT NULL, object_key TEXT NOT NULL,
        file TEXT, blake3 BLOB, part_bytes INTEGER, hashes BLOB
    );
    CREATE INDEX upload_of ON upload (key);
    CREATE TABLE sent_part (
        upload TEXT, number INTEGER, etag TEXT NOT NULL, sha256 BLOB, PRIMARY KEY (upload, number)
    ) WITHOUT ROWID;
    CREATE TABLE download (
        key BLOB PRIMARY KEY, etag TEXT NOT NULL, size INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE fetched_range (
        key BLOB, start INTEGER, bytes INTEGER NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (key, start)
    ) WITHOUT ROWID;
";

/// Every method writes or reads at once.
///
/// # Errors
/// `Setup`, once; later calls do and find nothing.
impl Catalog {
    /// Notes an upload that the server has begun; durable when this returns. False where nothing
    /// can be remembered.
    pub(crate) fn open_upload(&self, upload: &OpenUpload) -> Result<bool> {
        let content = upload.content.as_ref();
        self.note(|connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let insert = "INSERT OR REPLACE INTO upload VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let inserted = connection.prepare_cached(insert)?.execute(params![
                upload.id,
                upload.key.as_str().as_bytes(),
                upload.object_key,
                content.map(|c| serde_json::to_string(&c.file).unwrap_or_default()),
                content.map(|c| *c.blake3.as_bytes()),
                content.map(|c| c.part_bytes.cast_signed()),
                content.map(|c| c.hashes.concat()),
            ]);
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            inserted.map(|_| true)
        })
    }

    /// Notes a part that the server has.
    pub(crate) fn sent_part(&self, upload: &str, part: &PartTag) -> Result<()> {
        self.note(|connection| {
            let insert = "INSERT OR REPLACE INTO sent_part VALUES (?1, ?2, ?3, ?4)";
            let sha256 = part.sha256.as_ref().map(<[u8; 32]>::as_slice);
            let row = params![upload, part.number, part.etag, sha256];
            connection.prepare_cached(insert)?.execute(row).map(drop)
        })
    }

    /// The open uploads of a key, the newest first.
    pub(crate) fn uploads_of(&self, key: &Key) -> Result<Vec<OpenUpload>> {
        self.with(|connection| {
            let select = "SELECT * FROM upload WHERE key = ?1 ORDER BY rowid DESC";
            let mut select = connection.prepare_cached(select)?;
            select.query_map([key.as_str().as_bytes()], read_upload)?.collect()
        })
    }

    /// All open uploads.
    pub(crate) fn uploads(&self) -> Result<Vec<OpenUpload>> {
        self.with(|connection| {
            let mut select = connection.prepare_cached("SELECT * FROM upload ORDER BY rowid")?;
            select.query_map([], read_upload)?.collect()
        })
    }

    /// The parts that were sent for an upload, in order.
    pub(crate) fn sent_parts(&self, upload: &str) -> Result<Vec<PartTag>> {
        self.with(|connection| {
            let select =
                "SELECT number, etag, sha256 FROM sent_part WHERE upload = ?1 ORDER BY number";
            let mut select = connection.prepare_cached(select)?;
            let part = |row: &Row<'_>| {
                Ok(PartTag { number: row.get(0)?, etag: row.get(1)?, sha256: row.get(2)? })
            };
            select.query_map([upload], part)?.collect()
        })
    }

    /// Notes that an upload is not to be gone on with, only to be aborted.
    pub(crate) fn condemn_upload(&self, upload: &str) -> Result<()> {
        self.note(|connection| {
            let update = "UPDATE upload SET file = NULL WHERE id = ?1";
            connection.prepare_cached(update)?.execute([upload]).map(drop)
        })
    }

    /// Forgets an upload that is complete, or gone.
    pub(crate) fn close_upload(&self, upload: &str) -> Result<()> {
        self.note(|connection| {
            let transaction = connection.transaction()?;
            for delete in
                ["DELETE FROM upload WHERE id = ?1", "DELETE FROM sent_part WHERE upload = ?1"]
            {
                transaction.prepare_cached(delete)?.execute([upload])?;
            }
            transaction.commit()
        })
    }

    /// Notes a download that begins: nothing of it is there. False where nothing can be remembered.
    pub(crate) fn open_download(&self, key: &Key, etag: &ETag, size: u64) -> Result<bool> {
        self.note(|connection| {
            let transaction = connection.transaction()?;
            forget_download(&transaction, key)?;
            let insert = "INSERT INTO download VALUES (?1, ?2, ?3)";
            let row = params![key.as_str().as_bytes(), etag.to_string(), size.cast_signed()];
            transaction.prepare_cached(insert)?.execute(row)?;
            transaction.commit().map(|()| true)
        })
    }

    /// Notes how much of a range is in the temporary file.
    pub(crate) fn fetched_range(&self, key: &Key, range: &FetchedRange) -> Result<()> {
        self.note(|connection| {
            let insert = "INSERT OR REPLACE INTO fetched_range VALUES (?1, ?2, ?3, ?4)";
            let (start, bytes) = (range.start.cast_signed(), range.bytes.cast_signed());
            let row = params![key.as_str().as_bytes(), start, bytes, range.hash];
            connection.prepare_cached(insert)?.execute(row).map(drop)
        })
    }

    /// What is known of a download that has not landed.
    pub(crate) fn download(&self, key: &Key) -> Result<Option<OpenDownload>> {
        let key = key.as_str().as_bytes();
        self.with(|connection| {
            let mut select =
                connection.prepare_cached("SELECT etag, size FROM download WHERE key = ?1")?;
            let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
            let Some((etag, size)) = select.query_row([key], read).optional()? else {
                return Ok(None);
            };
            let select = "SELECT start, bytes, hash FROM fetched_range WHERE key = ?1";
            let mut select = connection.prepare_cached(select)?;
            let range = |row: &Row<'_>| {
                let (start, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
                let (start, bytes) = (start.cast_unsigned(), bytes.cast_unsigned());
                Ok(FetchedRange { start, bytes, hash: row.get(2)? })
            };
            let ranges = select.query_map([key], range)?.collect::<rusqlite::Result<_>>()?;
            Ok(Some(OpenDownload { etag: ETag::parse(&etag), size: size.cast_unsigned(), ranges }))
        })
    }

    /// The keys of all downloads that have not landed.
    pub(crate) fn downloads(&self) -> Result<Vec<Key>> {
        self.with(|connection| {
            let mut select =
                connection.prepare_cached("SELECT CAST(key AS TEXT) FROM download ORDER BY key")?;
            select.query_map([], |row| row.get::<_, String>(0).map(Key::new))?.collect()
        })
    }

    /// Forgets a download that has landed, or was given up.
    pub(crate) fn close_download(&self, key: &Key) -> Result<()> {
        self.note(|connection| {
            let transaction = connection.transaction()?;
            forget_download(&transaction, key)?;
            transaction.commit()
        })
    }
}

fn forget_download(connection: &Connection, key: &Key) -> rusqlite::Result<()> {
    for delete in
        ["DELETE FROM download WHERE key = ?1", "DELETE FROM fetched_range WHERE key = ?1"]
    {
        connection.prepare_cached(delete)?.execute([key.as_str().as_bytes()])?;
    }
    Ok(())
}

fn read_upload(row: &Row<'_>) -> rusqlite::Result<OpenUpload> {
    let key = String::from_utf8_lossy(&row.get::<_, Vec<u8>>(1)?).into_owned();
    let file: Option<String> = row.get(3)?;
    // What can't be read is only an upload to be aborted.
    let file = file.and_then(|text| serde_json::from_str(&text).ok());
    let (blake3, part_bytes): (Option<[u8; 32]>, Option<i64>) = (row.get(4)?, row.get(5)?);
    let content = match (file, blake3, part_bytes) {
        (Some(file), Some(blake3), Some(part_bytes)) => Some(SentContent {
            file,
            blake3: blake3.into(),
            part_bytes: part_bytes.cast_unsigned(),
            hashes: pieces(&row.get::<_, Vec<u8>>(6)?),
        }),
        _ => None,
    };
    Ok(OpenUpload { id: row.get(0)?, key: Key::new(key), object_key: row.get(2)?, content })
}
