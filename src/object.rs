//! One file or object at a time: what a script does with a store, with the engine's care.

use crate::bucket::{Bucket, Content, ObjectInfo, ObjectRef, PageRequest};
use crate::catalog::{Catalog, Lock, Pair, Side};
use crate::entry::{Entry, EntryKind, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Control, Event};
use crate::execute::{self, Context, DEFAULT_BYTES, Download, Finding, Upload, may_resume};
use crate::fingerprint::MULTIPART_THRESHOLD;
use crate::hash::signature_of;
use crate::job::resolved;
use crate::key::{Key, printable};
use crate::tree::Tree;
use bytes::Bytes;
use futures::StreamExt;
use rustix::fs::FileType;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Runs `work` until it ends or is stopped; what is half-done is taken back then, or ends in time
/// and is remembered.
async fn stoppable<T>(
    context: &Context<'_>,
    control: &Control<'_>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        () = control.stop.requested() => {}
        outcome = &mut work => return outcome,
    }
    if context.unfinished.is_some()
        && let Ok(Ok(done)) = tokio::time::timeout(execute::GRACE, work).await
    {
        return Ok(done);
    }
    context.abort_uploads().await;
    Err(Error::new(ErrorKind::Interrupted, "stopped", "run the same command again to go on"))
}

/// The memory of one transfer, which lasts as long as it is not complete.
struct Begun {
    catalog: Arc<Catalog>,
    lock: Lock,
}

impl Begun {
    /// None where nothing is to be remembered of a transfer from `source` to `target`.
    async fn open(control: &Control<'_>, pair: Pair) -> Result<Option<Self>> {
        let Some(state) = control.state.clone() else { return Ok(None) };
        let opened = execute::blocking(move || {
            let lock = Lock::take(&state, &pair)?;
            let (catalog, _) = Catalog::open(&state, pair, &lock)?;
            Ok::<_, Error>(Self { catalog: Arc::new(catalog), lock })
        });
        match opened.await {
            Err(error) if error.kind() != ErrorKind::Locked => {
                let text = format!("going on without a memory: {error}");
                control.observer.event(&Event::Notice(&text));
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// The transfer has come to its end; uploads that were begun for an older content are taken
    /// back.
    async fn end(self, context: &Context<'_>, bucket: &Arc<dyn Bucket>, is_done: bool) {
        let Self { catalog, lock } = self;
        let uploads = || context.ask(Some(&catalog), Catalog::uploads);
        if is_done {
            for upload in uploads().await {
                context.give_up(bucket, &upload.object_key, &upload.id).await;
            }
        }
        let is_over = is_done && uploads().await.is_empty();
        execute::blocking(move || if is_over { catalog.discard(lock) } else { catalog.close() })
            .await;
    }
}

/// Runs `work`, which a later call can go on with where it is cut.
async fn resumable<T>(
    context: &mut Context<'_>,
    control: &Control<'_>,
    bucket: &Arc<dyn Bucket>,
    pair: Option<Pair>,
    work: impl AsyncFnOnce(&Context<'_>) -> Result<T>,
) -> Result<T> {
    context.stop = control.stop.clone();
    let begun = match pair {
        Some(pair) => Begun::open(control, pair).await?,
        None => None,
    };
    context.unfinished = begun.as_ref().map(|begun| Arc::clone(&begun.catalog));
    let outcome = stoppable(context, control, work(context)).await;
    if let Some(begun) = begun {
        begun.end(context, bucket, outcome.is_ok()).await;
    }
    outcome
}

/// Size, ETag and metadata of an object. A HEAD says no more than "denied" or "not found": where
/// the reason is that nothing works (keys, bucket, clock), a listing is asked for it.
///
/// # Errors
/// `NotFound`, `Setup`, or as every request ([`Bucket`]).
pub async fn object_info(bucket: &Arc<dyn Bucket>, key: &str) -> Result<ObjectInfo> {
    let error = match bucket.head(key).await {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => error,
        other => return other,
    };
    let page = PageRequest { prefix: key.to_owned(), by_directory: true, ..PageRequest::default() };
    match bucket.list_page(&page).await {
        Err(reason) if reason.kind() == ErrorKind::Setup => Err(reason),
        Ok(_) | Err(_) => Err(error),
    }
}

/// Uploads the file (or symbolic link, as such) at `path` as the object `key`; answers its bytes.
///
/// # Errors
/// `Unreadable` or `Changed` for the file, else as every request ([`Bucket`]).
pub async fn upload_file(
    bucket: &Arc<dyn Bucket>,
    path: &Path,
    key: &str,
    control: &Control<'_>,
) -> Result<u64> {
    upload_entry(bucket, path, look_at(path, key)?, control).await
}

/// As [`upload_file`]; then the file is removed, if it still is what was sent.
///
/// # Errors
/// As [`upload_file`]; `Precondition` where the file has changed since and so stays.
pub async fn move_file(
    bucket: &Arc<dyn Bucket>,
    path: &Path,
    key: &str,
    control: &Control<'_>,
) -> Result<u64> {
    let entry = look_at(path, key)?;
    let signature = entry.signature();
    let (name, parent) = split(path)?;
    let bytes = upload_entry(bucket, path, entry, control).await?;
    Tree::open(parent)?.remove(&Key::new(name), signature)?;
    Ok(bytes)
}

async fn upload_entry(
    bucket: &Arc<dyn Bucket>,
    path: &Path,
    entry: Entry,
    control: &Control<'_>,
) -> Result<u64> {
    let mut context = Context::new(control.observer, DEFAULT_BYTES);
    let (object_key, size) = (entry.key.as_str().to_owned(), entry.size);
    let pair = Pair {
        source: resolved(path).display().to_string(),
        target: format!("{}/{object_key}", bucket.address()),
        files: Some(Side::Source),
    };
    let pair = Some(pair).filter(|_| size > MULTIPART_THRESHOLD);
    let upload = Upload { path: path.to_owned(), object_key, entry, hash: None };
    resumable(&mut context, control, bucket, pair, async |context| {
        let mut ended = execute::upload_batch(context, bucket, vec![upload]).await;
        let sent = ended.pop().expect("one upload has one end").outcome.result;
        sent.map(|_| size)
    })
    .await
}

/// The name of the file at `path`, and its directory.
fn split(path: &Path) -> Result<(&str, &Path)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        let what = format!("cannot use {}", path.display());
        Error::new(ErrorKind::Usage, what, "it is not the name of a file in UTF-8")
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((name, parent.unwrap_or(Path::new("."))))
}

fn look_at(path: &Path, key: &str) -> Result<Entry> {
    let fail = |cause: std::io::Error| {
        Error::new(ErrorKind::Unreadable, format!("cannot read {}", path.display()), cause)
    };
    let stat = rustix::fs::lstat(path).map_err(|e| fail(e.into()))?;
    let (signature, mode) = signature_of(&stat);
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Directory => return Err(fail(std::io::Error::other("it is a directory"))),
        _ => return Err(fail(std::io::Error::other("it is a special file"))),
    };
    let origin = Origin::Local { signature, mode };
    Ok(Entry { key: Key::new(key), kind, size: signature.size, origin })
}

/// Uploads all that `input` holds as the object `key`; answers its bytes. Nothing needs to be known
/// of its length; up to 5 TiB.
///
/// # Errors
/// `Unreadable` for the stream, else as every request ([`Bucket`]).
pub async fn upload_stream(
    bucket: &Arc<dyn Bucket>,
    input: impl AsyncRead + Unpin,
    key: &str,
    control: &Control<'_>,
) -> Result<u64> {
    let context = Context::new(control.observer, DEFAULT_BYTES);
    let work = execute::upload_stream(&context, bucket, key, input);
    stoppable(&context, control, work).await
}

/// Downloads the object `key` to the file at `path`, verified, with its mtime and mode, and
/// durable; what was there is replaced only then. Answers its bytes.
///
/// # Errors
/// `NotFound`, `Corrupt`, `Write`, or as every request ([`Bucket`]).
pub async fn download_file(
    bucket: &Arc<dyn Bucket>,
    key: &str,
    path: &Path,
    control: &Control<'_>,
) -> Result<u64> {
    download_entry(bucket, listed(bucket, key).await?, path, control).await
}

/// As [`download_file`]; then the object is removed, if it still is what was fetched.
///
/// # Errors
/// As [`download_file`]; `Precondition` where the object has changed since and so stays.
pub async fn move_to_file(
    bucket: &Arc<dyn Bucket>,
    key: &str,
    path: &Path,
    control: &Control<'_>,
) -> Result<u64> {
    let entry = listed(bucket, key).await?;
    let bytes = download_entry(bucket, entry.clone(), path, control).await?;
    remove_object(bucket, entry).await.map(|()| bytes)
}

/// The object `key` as a listing of its bucket would show it.
async fn listed(bucket: &Arc<dyn Bucket>, key: &str) -> Result<Entry> {
    let info = object_info(bucket, key).await?;
    let origin = Origin::Remote { etag: info.etag, modified: "".into() };
    Ok(Entry { key: Key::new(key), kind: EntryKind::File, size: info.size, origin })
}

async fn remove_object(bucket: &Arc<dyn Bucket>, entry: Entry) -> Result<()> {
    let mut outcomes = execute::delete_objects(bucket, "", vec![entry]).await;
    outcomes.pop().expect("one delete has one outcome").result.map(drop)
}

async fn download_entry(
    bucket: &Arc<dyn Bucket>,
    entry: Entry,
    path: &Path,
    control: &Control<'_>,
) -> Result<u64> {
    let (name, parent) = split(path)?;
    let tree = Arc::new(Tree::open(parent)?);
    let mut context = Context::new(control.observer, DEFAULT_BYTES);
    let (object_key, size) = (entry.key.as_str().to_owned(), entry.size);
    let pair = Pair {
        source: format!("{}/{object_key}", bucket.address()),
        target: resolved(path).display().to_string(),
        files: Some(Side::Target),
    };
    let pair = Some(pair).filter(|_| size > MULTIPART_THRESHOLD);
    let fetch = Download { object_key, entry: Entry { key: Key::new(name), ..entry } };
    resumable(&mut context, control, bucket, pair, async |context| {
        let landing = match execute::download(context, bucket, &tree, fetch).await {
            Ok(landing) => landing,
            Err(outcome) => return outcome.result,
        };
        let mut ended = execute::commit(Arc::clone(&tree), vec![landing]).await;
        ended.pop().expect("one download has one end").outcome.result?;
        tree.sync().map(|()| size)
    })
    .await
}

/// Reads a whole object into memory, verified by its hash where one is known.
///
/// # Errors
/// `NotFound`, `Corrupt`, or as every request ([`Bucket`]).
pub async fn read_object(bucket: &Arc<dyn Bucket>, key: &str) -> Result<Bytes> {
    let mut content = Vec::new();
    stream_object(bucket, key, &mut content).await?;
    Ok(content.into())
}

/// Writes an object to `output` as it arrives, resumed where the connection breaks; answers its
/// bytes. Its hash is known only at the end: an error means that what was written is not to be
/// trusted.
///
/// # Errors
/// `NotFound`, `Corrupt`, `Write`, or as every request ([`Bucket`]).
pub async fn stream_object(
    bucket: &Arc<dyn Bucket>,
    key: &str,
    output: &mut (impl AsyncWrite + Unpin),
) -> Result<u64> {
    let what = || format!("cannot read {}/{}", bucket.url(), printable(key));
    let write_error = |e: std::io::Error| {
        let closed = e.kind() == std::io::ErrorKind::BrokenPipe;
        Error::new(if closed { ErrorKind::Closed } else { ErrorKind::Write }, "cannot write", e)
    };
    let Content { info, mut body } = bucket.get(key, None, None).await?;
    let (mut position, mut broken) = (0, 0);
    let proof = execute::Proof::of(&info);
    let mut hasher = proof.hasher();
    loop {
        let failure = match body.next().await {
            Some(Ok(frame)) => {
                hasher.update(&frame);
                output.write_all(&frame).await.map_err(write_error)?;
                (position, broken) = (position + frame.len() as u64, 0);
                continue;
            }
            None if position == info.size => break,
            None => Error::new(ErrorKind::Network, what(), "the body was cut"),
            Some(Err(error)) => error,
        };
        broken += 1;
        if !may_resume(&failure, broken) || position >= info.size {
            return Err(failure);
        }
        // The broken body gives back its place among the requests in flight first.
        drop(body);
        body = bucket.get(key, Some(position..info.size), Some(&info.etag)).await?.body;
    }
    output.flush().await.map_err(write_error)?;
    match proof.conclude(hasher) {
        (_, Finding::Proven | Finding::Unproven) => Ok(position),
        (_, Finding::Disproven) => {
            let cause = "the bytes that arrived do not have its hash";
            Err(Error::new(ErrorKind::Corrupt, what(), cause))
        }
    }
}

/// Copies an object within its endpoint; the bytes never come here. Answers its bytes.
///
/// # Errors
/// `NotFound`, or as every request ([`Bucket`]).
pub async fn copy_object(
    from: &Arc<dyn Bucket>,
    source_key: &str,
    to: &Arc<dyn Bucket>,
    key: &str,
    control: &Control<'_>,
) -> Result<u64> {
    let entry = copyable(from, source_key, to, key).await?;
    copy_entry(from, entry, to, key, control).await
}

/// As [`copy_object`]; then the source is removed, if it still is what was copied.
///
/// # Errors
/// As [`copy_object`]; `Precondition` where the source has changed since and so stays.
pub async fn move_object(
    from: &Arc<dyn Bucket>,
    source_key: &str,
    to: &Arc<dyn Bucket>,
    key: &str,
    control: &Control<'_>,
) -> Result<u64> {
    let entry = copyable(from, source_key, to, key).await?;
    let bytes = copy_entry(from, entry.clone(), to, key, control).await?;
    remove_object(from, entry).await.map(|()| bytes)
}

async fn copyable(
    from: &Arc<dyn Bucket>,
    source_key: &str,
    to: &Arc<dyn Bucket>,
    key: &str,
) -> Result<Entry> {
    let usage = |cause: &str| {
        let what = format!("cannot copy {}/{}", from.url(), printable(source_key));
        Error::new(ErrorKind::Usage, what, cause)
    };
    if from.endpoint_id() != to.endpoint_id() {
        return Err(usage("the buckets are on different endpoints"));
    }
    if from.name() == to.name() && source_key == key {
        return Err(usage("source and target are the same object"));
    }
    listed(from, source_key).await
}

async fn copy_entry(
    from: &Arc<dyn Bucket>,
    entry: Entry,
    to: &Arc<dyn Bucket>,
    key: &str,
    control: &Control<'_>,
) -> Result<u64> {
    let Origin::Remote { etag, .. } = entry.origin else { return Ok(0) };
    let source_key = entry.key.as_str().to_owned();
    let source = ObjectRef { bucket: from.name().to_owned(), key: source_key, etag };
    let context = Context::new(control.observer, DEFAULT_BYTES);
    control.observer.event(&Event::Started { key: &Key::new(key), bytes: entry.size });
    let work = execute::copy(&context, from, &source, (to, key));
    stoppable(&context, control, work).await.map(|_| entry.size)
}

/// Deletes one object. One that is not there is fine.
///
/// # Errors
/// As every request ([`Bucket`]).
pub async fn delete_object(bucket: &Arc<dyn Bucket>, key: &str) -> Result<()> {
    let failures = bucket.delete(&[key.to_owned()]).await?;
    failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}
