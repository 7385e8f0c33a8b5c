//! What is fetched on its way to a name: staged, verified, made durable in groups, renamed.

use super::proof::Finding;
use super::{Ended, blocking, go_on};
use crate::bucket::{Metadata, ObjectInfo};
use crate::catalog::{Change, Parts, Record, Stamp};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Outcome};
use crate::fingerprint::Blake3;
use crate::hash::is_landed_settled;
use crate::key::Key;
use crate::stop::Stop;
use crate::tree::{Staged, Tree};
use bytes::Bytes;
use std::sync::Arc;

/// A file that is written and verified, but has not got its name yet.
pub(crate) struct Landing {
    pub(super) fetched: Fetched,
    pub entry: Entry,
}

/// A content on its way to a name.
pub(super) struct Fetched {
    /// None for a directory.
    pub(super) staged: Option<Staged>,
    /// Fetched, or copied from another file here.
    pub(super) deed: Deed,
    /// How many were fetched.
    pub(super) bytes: u64,
    pub(super) blake3: Option<Blake3>,
    pub(super) parts: Option<Parts>,
    pub(super) finding: Finding,
}

/// Stages the content of another file of the directory, if that is what the object holds.
pub(super) fn copy_local(
    tree: &Arc<Tree>,
    key: &Key,
    twin: &Record,
    (info, expected): (&ObjectInfo, Blake3),
    stop: &Stop,
) -> Result<Option<Fetched>> {
    let Some(Stamp::File { signature, .. }) = &twin.target else {
        return Ok(None);
    };
    let Some(file) = tree.open_unchanged(&twin.key, signature) else {
        return Ok(None);
    };
    let staged = tree.stage(key)?;
    staged.copy_from(&file, info.size, || go_on(stop))?;
    let mut hasher = blake3::Hasher::new();
    staged.read_back(|bytes| {
        hasher.update(bytes);
        go_on(stop)
    })?;
    if Blake3::from(hasher.finalize()) != expected {
        return Ok(None);
    }
    staged.set_attributes(info.metadata.mode(), info.metadata.mtime())?;
    let (deed, finding, parts) = (Deed::Copy, Finding::Proven, None);
    let staged = Some(staged);
    Ok(Some(Fetched { staged, deed, bytes: info.size, blake3: Some(expected), parts, finding }))
}

/// Stages a whole content, or the link that it is the text of, with its attributes.
pub(super) fn write_whole(
    tree: &Arc<Tree>,
    key: &Key,
    metadata: &Metadata,
    frames: &[Bytes],
) -> Result<Staged> {
    if metadata.is_symlink() {
        let staged = tree.stage_symlink(key, &frames.concat())?;
        staged.set_attributes(None, metadata.mtime())?;
        return Ok(staged);
    }
    let staged = tree.stage(key)?;
    staged.write_at(frames, 0)?;
    staged.set_attributes(metadata.mode(), metadata.mtime())?;
    Ok(staged)
}

/// Makes a group of files durable and gives them their names. Where the disk fails, none of them is
/// said to be done.
pub(crate) async fn commit(tree: Arc<Tree>, group: Vec<Landing>) -> Vec<Ended> {
    blocking(move || {
        let synced = tree.sync();
        group.into_iter().map(|landing| land(landing, synced.as_ref())).collect()
    })
    .await
}

fn land(landing: Landing, synced: Result<&(), &Error>) -> Ended {
    let Landing { fetched, entry } = landing;
    let Fetched { staged, deed, bytes, blake3, parts, finding } = fetched;
    let landed = match (synced, staged) {
        (Err(error), staged) => {
            // What is in the cache proves nothing any more.
            if let Some(staged) = &staged {
                staged.keep(false);
            }
            let what = format!("cannot write {}", entry.key);
            Err(Error::new(ErrorKind::Write, what, error.cause()))
        }
        (Ok(()), None) => Ok(None),
        (Ok(()), Some(staged)) => staged.land(),
    };
    let (result, looks) = match landed {
        Ok(looks) => (Ok(bytes), looks),
        Err(error) => (Err(error), None),
    };
    let change = looks.map(|(signature, mode)| {
        let record = Record {
            key: entry.key.clone(),
            size: entry.size,
            blake3,
            source: Stamp::of(&entry),
            target: is_landed_settled(&signature).then_some(Stamp::File { signature, mode }),
            drifted: false,
        };
        Change::Put(Box::new(record), parts)
    });
    let unverified = finding == Finding::Unproven;
    Ended { outcome: Outcome { key: entry.key, deed, result, unverified }, change }
}
