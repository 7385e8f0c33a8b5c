//! What a catalog keeps, and what becomes of one that is not right.

use super::*;

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
    let record = record("large", b"content");
    let parts = Parts { part_bytes: 1 << 24, hashes: vec![[1; 32], [2; 32]], md5s: vec![[3; 16]] };
    catalog.write(&[Change::Put(Box::new(record.clone()), Some(parts.clone()))]).unwrap();
    assert_eq!(catalog.parts(&record.key, Blake3::of(b"content")).unwrap(), Some(parts));
    assert_eq!(catalog.parts(&record.key, Blake3::of(b"other")).unwrap(), None);
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
