//! Deletes: each one looked at again first, so that only what the plan saw goes.

use super::blocking;
use crate::bucket::Bucket;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Deed, Outcome};
use crate::tree::Tree;
use futures::{StreamExt, stream};
use std::collections::HashMap;
use std::sync::Arc;

/// HEADs at once; the requests in flight are bounded below.
const LOOKS: usize = 64;

/// Deletes objects (at most [`crate::bucket::MAX_BATCH_KEYS`]) that still have the ETag that was
/// listed. Only Ceph 20 and SeaweedFS know a conditional delete, so that each is asked first.
pub(crate) async fn delete_objects(
    bucket: &Arc<dyn Bucket>,
    prefix: &str,
    entries: Vec<Entry>,
) -> Vec<Outcome> {
    let looked: Vec<(Entry, Result<Look>)> = stream::iter(entries)
        .map(|entry| async move {
            let look = look(bucket, prefix, &entry).await;
            (entry, look)
        })
        .buffer_unordered(LOOKS)
        .collect()
        .await;
    let mut outcomes = Vec::with_capacity(looked.len());
    let mut doomed = HashMap::new();
    for (entry, look) in looked {
        match look {
            Ok(Look::Same) => {
                doomed.insert(format!("{prefix}{}", entry.key.as_str()), entry);
            }
            Ok(Look::Gone) => outcomes.push(outcome(entry, Ok(()))),
            Err(error) => outcomes.push(outcome(entry, Err(error))),
        }
    }
    outcomes.extend(delete_batch(bucket, doomed).await);
    outcomes
}

async fn delete_batch(
    bucket: &Arc<dyn Bucket>,
    mut doomed: HashMap<String, Entry>,
) -> Vec<Outcome> {
    if doomed.is_empty() {
        return Vec::new();
    }
    let keys: Vec<String> = doomed.keys().cloned().collect();
    let mut outcomes = Vec::with_capacity(keys.len());
    match bucket.delete(&keys).await {
        Ok(failures) => {
            let mut unknown = None;
            for (key, error) in failures {
                match doomed.remove(&key) {
                    Some(entry) => outcomes.push(outcome(entry, Err(error))),
                    None => unknown = Some(error),
                }
            }
            // A failure of who knows which key: none of them can be said to be gone.
            if let Some(error) = unknown {
                outcomes.extend(doomed.drain().map(|(_, entry)| failed(entry, &error)));
            }
            outcomes.extend(doomed.into_values().map(|entry| outcome(entry, Ok(()))));
        }
        Err(error) => {
            outcomes.extend(doomed.into_values().map(|entry| failed(entry, &error)));
        }
    }
    outcomes
}

/// The failure of a whole batch, told of one of it.
fn failed(entry: Entry, error: &Error) -> Outcome {
    let what = format!("cannot delete {}", entry.key);
    outcome(entry, Err(Error::new(error.kind(), what, error.cause())))
}

enum Look {
    Same,
    Gone,
}

async fn look(bucket: &Arc<dyn Bucket>, prefix: &str, entry: &Entry) -> Result<Look> {
    match bucket.head(&format!("{prefix}{}", entry.key.as_str())).await {
        Ok(info) if Some(&info.etag) == entry.etag() => Ok(Look::Same),
        Ok(_) => {
            let what = format!("cannot delete {}", entry.key);
            let cause = "it has changed since it was listed; it stays";
            Err(Error::new(ErrorKind::Precondition, what, cause))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Look::Gone),
        Err(error) => Err(error),
    }
}

/// Deletes files, links and empty directories of the target directory; `entries` come last key
/// first, so that what is in a directory goes before it.
pub(crate) async fn delete_local(tree: Arc<Tree>, entries: Vec<Entry>) -> Vec<Outcome> {
    blocking(move || {
        let remove = |entry: Entry| {
            let result = tree.remove(&entry.key, entry.signature());
            outcome(entry, result)
        };
        entries.into_iter().map(remove).collect()
    })
    .await
}

fn outcome(entry: Entry, result: Result<()>) -> Outcome {
    Outcome { key: entry.key, deed: Deed::Delete, result: result.map(|()| 0), unverified: false }
}
