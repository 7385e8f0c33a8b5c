use super::*;
use crate::bucket::ObjectRef;
use crate::entry::Timestamp;
use crate::fingerprint::{Blake3, MIB};
use crate::key::Key;

const PART: u64 = 16 * MIB;
/// The largest file that is sent in parts of that size.
const MOST: u64 = 10_000 * PART;

/// An object in parts of this size.
fn sent_in(part_bytes: u64) -> Base {
    let etag = ETag::Opaque("x".into());
    let object = ObjectRef { bucket: "b".into(), key: "k".into(), etag };
    Base { object, size: 0, parts: Parts { part_bytes, hashes: Vec::new(), md5s: Vec::new() } }
}

/// An upload under way in parts of this size.
fn begun_in(part_bytes: u64) -> OpenUpload {
    let time = Timestamp { seconds: 0, nanoseconds: 0 };
    let signature = Signature { size: 0, modified: time, changed: time, inode: 0, device: 0 };
    let file = SentFile { signature, mode: 0, settled: true, is_mixed: false };
    let content = SentContent { file, blake3: Blake3::of(b""), part_bytes, hashes: Vec::new() };
    let (key, object_key) = (Key::new("k"), "k".into());
    OpenUpload { id: "id".into(), key, object_key, content: Some(content) }
}

fn after(part_bytes: u64) -> Remembered {
    Remembered { begun: Vec::new(), base: Some(sent_in(part_bytes)) }
}

#[test]
fn part_size_stays_while_the_file_fits_in_it() {
    assert_eq!(Remembered::default().part_bytes(PART + 1), PART);
    assert_eq!(after(PART).part_bytes(PART + 1), PART);
    assert_eq!(after(PART).part_bytes(MOST), PART);
    // As it is after a larger file has shrunk: larger parts than a new file would get.
    assert_eq!(after(4 * PART).part_bytes(5 * PART), 4 * PART);
    assert_eq!(after(4 * PART).part_bytes(MOST + 1), 4 * PART);
}

#[test]
fn part_size_grows_with_a_file_of_too_many_parts() {
    assert_eq!(after(PART).part_bytes(MOST + 1), 2 * PART);
    assert_eq!(after(2 * PART).part_bytes(2 * MOST), 2 * PART);
    assert_eq!(after(2 * PART).part_bytes(2 * MOST + 1), 4 * PART);
}

#[test]
fn part_size_is_the_usual_one_again_below_two_parts() {
    for size in [PART + 1, 4 * PART - 1, 4 * PART] {
        assert_eq!(after(4 * PART).part_bytes(size), PART, "{size}");
    }
    assert_eq!(after(4 * PART).part_bytes(4 * PART + 1), 4 * PART);
}

#[test]
fn part_sizes_that_haul_does_not_send_are_refused() {
    for odd in [0, 1, PART / 2, PART - 1, PART + 1, 3 * PART, 5 * MIB, u64::MAX] {
        assert_eq!(after(odd).part_bytes(20 * PART), PART, "{odd}");
    }
}

#[test]
fn part_size_of_an_upload_under_way_comes_first() {
    let remembered = |begun: &[u64]| Remembered {
        begun: begun.iter().copied().map(begun_in).collect(),
        base: Some(sent_in(PART)),
    };
    assert_eq!(remembered(&[2 * PART, 4 * PART]).part_bytes(9 * PART), 2 * PART);
    assert_eq!(remembered(&[16 * PART, 4 * PART]).part_bytes(9 * PART), 4 * PART);
    assert_eq!(remembered(&[16 * PART]).part_bytes(9 * PART), PART);
}
