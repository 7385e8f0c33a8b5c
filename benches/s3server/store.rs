//! What there is: buckets, their keys in byte order, and open uploads.

use crate::answer::Failure;
use crate::request::Received;
use crate::synthetic::Synthetic;
use crate::text::{now, push_hex};
use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An object, or a part of one to be.
#[derive(Clone)]
pub struct Object {
    /// Its content: one piece, or those that its parts came in.
    pub segments: Vec<Bytes>,
    /// Without quotes.
    pub etag: String,
    /// Seconds since 1970.
    pub modified: u64,
    /// The header lines that come back with it.
    pub kept: String,
}

impl Object {
    pub fn size(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// A range of the content, not copied.
    pub fn slice(&self, range: Range<usize>) -> Vec<Bytes> {
        let mut start = 0;
        let pieces = self.segments.iter().map(|segment| {
            let (begin, end) = (start, start + segment.len());
            start = end;
            let within = range.start.clamp(begin, end)..range.end.clamp(begin, end);
            segment.slice(within.start - begin..within.end - begin)
        });
        pieces.filter(|piece| !piece.is_empty()).collect()
    }

    pub fn has_tag(&self, wanted: &str) -> bool {
        wanted == "*" || wanted.split(',').any(|tag| tag.trim().trim_matches('"') == self.etag)
    }
}

/// What a listing shows of an object.
pub struct Stat<'a> {
    pub size: usize,
    pub etag: &'a str,
    pub modified: u64,
}

/// What a scan does after a key.
pub enum Step {
    Next,
    Stop,
    /// Goes on at the first key that is not below this one.
    Seek(String),
}

pub enum Keys {
    Stored(RwLock<BTreeMap<String, Arc<Object>>>),
    Synthetic(Synthetic),
}

/// An upload in parts that is not complete.
pub struct Upload {
    pub key: String,
    pub kept: String,
    pub begun: u64,
    pub parts: BTreeMap<u32, Object>,
}

pub struct Bucket {
    pub created: u64,
    pub keys: Keys,
    uploads: Mutex<BTreeMap<String, Upload>>,
}

impl Bucket {
    fn new(keys: Keys) -> Arc<Self> {
        Arc::new(Self { created: now(), keys, uploads: Mutex::default() })
    }

    pub fn uploads(&self) -> MutexGuard<'_, BTreeMap<String, Upload>> {
        self.uploads.lock().expect("nothing panics with the uploads in hand")
    }

    fn stored(&self) -> Result<RwLockWriteGuard<'_, BTreeMap<String, Arc<Object>>>, Failure> {
        match &self.keys {
            Keys::Stored(objects) => Ok(write(objects)),
            Keys::Synthetic(_) => Err(Failure::READ_ONLY),
        }
    }

    pub fn get(&self, key: &str) -> Result<Arc<Object>, Failure> {
        let found = match &self.keys {
            Keys::Stored(objects) => read(objects).get(key).cloned(),
            Keys::Synthetic(synthetic) => synthetic.get(key).map(Arc::new),
        };
        found.ok_or(Failure::NO_KEY)
    }

    pub fn put(&self, key: &str, object: Object) -> Result<(), Failure> {
        let old = self.stored()?.insert(key.to_owned(), Arc::new(object));
        // Freed here, after the lock: it may be large.
        drop(old);
        Ok(())
    }

    pub fn remove(&self, key: &str) -> Result<(), Failure> {
        let old = self.stored()?.remove(key);
        drop(old);
        Ok(())
    }

    /// Calls `visit` for each key from there on, in order, until it says stop.
    pub fn scan(&self, from: Bound<&str>, visit: &mut dyn FnMut(&str, &Stat<'_>) -> Step) {
        let mut place: Bound<String> = from.map(str::to_owned);
        loop {
            let from = place.as_ref().map(String::as_str);
            let step = match &self.keys {
                Keys::Stored(objects) => scan(&read(objects), from, visit),
                Keys::Synthetic(synthetic) => synthetic.scan(from, visit),
            };
            let Step::Seek(next) = step else { return };
            place = Bound::Included(next);
        }
    }
}

fn scan(
    objects: &BTreeMap<String, Arc<Object>>,
    from: Bound<&str>,
    visit: &mut dyn FnMut(&str, &Stat<'_>) -> Step,
) -> Step {
    for (key, object) in objects.range::<str, _>((from, Bound::Unbounded)) {
        let stat = Stat { size: object.size(), etag: &object.etag, modified: object.modified };
        match visit(key, &stat) {
            Step::Next => {}
            other => return other,
        }
    }
    Step::Stop
}

pub struct Store {
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    fast_etag: bool,
    next_id: AtomicU64,
}

impl Store {
    pub fn new(fast_etag: bool, synthetic: Option<u64>) -> Self {
        let bucket = |count| {
            let keys = Keys::Synthetic(Synthetic::new(count, now()));
            ("synthetic".to_owned(), Bucket::new(keys))
        };
        let buckets = RwLock::new(synthetic.map(bucket).into_iter().collect());
        Self { buckets, fast_etag, next_id: AtomicU64::new(1) }
    }

    pub fn fast_etag(&self) -> bool {
        self.fast_etag
    }

    /// A number that was not given before.
    pub fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn buckets(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Bucket>>> {
        read(&self.buckets)
    }

    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>, Failure> {
        self.buckets().get(name).cloned().ok_or(Failure::NO_BUCKET)
    }

    pub fn create_bucket(&self, name: &str) {
        let empty = || Bucket::new(Keys::Stored(RwLock::default()));
        write(&self.buckets).entry(name.to_owned()).or_insert_with(empty);
    }

    pub fn delete_bucket(&self, name: &str) -> Result<(), Failure> {
        let mut buckets = write(&self.buckets);
        if !buckets.get(name).ok_or(Failure::NO_BUCKET)?.stored()?.is_empty() {
            return Err(Failure::new(409, "BucketNotEmpty", "the bucket is not empty"));
        }
        buckets.remove(name);
        Ok(())
    }

    /// What a request's body is stored as.
    pub fn object(&self, body: &Received, kept: String) -> Object {
        let segments = vec![body.bytes.clone()];
        Object { segments, etag: self.etag(body.md5, ""), modified: now(), kept }
    }

    /// What a piece of an object is stored as, to be a part of another.
    pub fn copied_part(&self, segments: Vec<Bytes>) -> Object {
        let hash = |segments: &[Bytes]| {
            let hasher = segments.iter().fold(Md5::new(), Md5::chain_update);
            hasher.finalize().into()
        };
        let md5 = (!self.fast_etag).then(|| hash(&segments));
        Object { segments, etag: self.etag(md5, ""), modified: now(), kept: String::new() }
    }

    /// Where there is no MD5, something that nobody takes for one.
    pub fn etag(&self, md5: Option<[u8; 16]>, suffix: &str) -> String {
        let Some(md5) = md5 else { return format!("opaque-{:016x}", self.new_id()) };
        let mut etag = String::with_capacity(32 + suffix.len());
        push_hex(&mut etag, md5);
        etag.push_str(suffix);
        etag
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().expect("nothing panics with a lock in hand")
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().expect("nothing panics with a lock in hand")
}
