//! Benches of the engine without a server: the merge join, the walk of a directory, hashes, and
//! keys.
//!
//!     make bench

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use haul::bucket::Payload;
use haul::entry::{Entry, EntryKind, Origin, Scanned};
use haul::fingerprint::{Blake3, ETag, md5};
use haul::plan::compare::CompareBy;
use haul::plan::{Found, Names, Plan, Rules, Side, next_side};
use haul::scan::{Filter, Seen, scan_local};
use haul::{Key, Result};
use std::hint::black_box;
use std::path::Path;

const KEYS: u64 = 100_000;
const FILES: u64 = 20_000;
const PART_BYTES: u64 = 1 << 20;

/// A side of a bucket in order; every tenth key is missing where `shift` says so.
fn side(shift: u64) -> Vec<Scanned> {
    let item = |number: u64| {
        let etag = ETag::Md5(md5(&number.to_le_bytes()));
        let origin = Origin::Remote { etag, modified: "".into() };
        let key = Key::new(format!("run{:03}/file{number:08}.nc", number / 1000));
        Scanned::Entry(Entry { key, kind: EntryKind::File, size: number, origin })
    };
    (0..KEYS).filter(|number| number % 10 != shift).map(item).collect()
}

fn join(source: Vec<Scanned>, target: Vec<Scanned>) -> usize {
    let rules = Rules {
        delete: true,
        compare: CompareBy::Content,
        names: Names::Keys { prefix_bytes: 0 },
        server_side: false,
        update_metadata: false,
    };
    let (mut plan, mut steps, mut count) = (Plan::new(rules), Vec::new(), 0);
    let (mut source, mut target) = (source.into_iter().peekable(), target.into_iter().peekable());
    while let Some(side) = next_side(source.peek(), target.peek()) {
        let from = (side != Side::Target).then(|| source.next()).flatten();
        let to = (side != Side::Source).then(|| target.next()).flatten();
        let found = Found { source: from, target: to, record: None };
        plan.step(found, source.peek(), &mut steps);
        count += steps.drain(..).count();
    }
    count
}

fn merge(criterion: &mut Criterion) {
    let (source, target) = (side(3), side(7));
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("merge_join", |bencher| {
        let both = || (source.clone(), target.clone());
        bencher.iter_batched(both, |(a, b)| black_box(join(a, b)), BatchSize::LargeInput);
    });
    group.finish();
}

fn make_tree(root: &Path) -> std::io::Result<()> {
    for number in 0..FILES {
        let folder = root.join(format!("d{:03}", number / 500));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("f{number}")), b"")?;
    }
    Ok(())
}

async fn walk(root: &Path) -> Result<usize> {
    let mut scan = scan_local(root.to_owned(), Filter::default(), Seen::default(), false);
    let mut count = 0;
    while scan.fill().await? {
        count += std::iter::from_fn(|| scan.pop()).count();
    }
    Ok(count)
}

fn scan(criterion: &mut Criterion) {
    let root = tempfile::tempdir().expect("the temporary directory can be written");
    make_tree(root.path()).expect("the temporary directory can be written");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs nothing");
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(FILES));
    group.bench_function("walk", |bencher| {
        bencher.iter(|| runtime.block_on(walk(root.path())).expect("nothing changes there"));
    });
    group.finish();
}

/// The three hashes of what is in the cache, each in one thread.
fn hash(criterion: &mut Criterion) {
    let part: Vec<u8> = (0..PART_BYTES / 8).flat_map(u64::to_le_bytes).collect();
    let shared = bytes::Bytes::from(part.clone());
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(PART_BYTES));
    group.bench_function("blake3", |bencher| bencher.iter(|| Blake3::of(black_box(&part))));
    group.bench_function("md5", |bencher| bencher.iter(|| md5(black_box(&part))));
    group.bench_function("sha256", |bencher| {
        bencher.iter(|| Payload::new(black_box(shared.clone())));
    });
    group.finish();
}

/// From a path to a key, and back with all checks.
fn keys(criterion: &mut Criterion) {
    let names: Vec<String> =
        (0..KEYS).map(|number| format!("run{:03}/été {number:08}.nc", number / 1000)).collect();
    let mut group = criterion.benchmark_group("key");
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("from_path", |bencher| {
        let parse = |name: &String| Key::from_path(Path::new(name)).expect("it is a good name");
        bencher.iter(|| names.iter().map(parse).map(black_box).count());
    });
    group.bench_function("to_path", |bencher| {
        let keys: Vec<Key> = names.iter().map(Key::new).collect();
        let path = |key: &Key| key.to_path().expect("it is a good key");
        bencher.iter(|| keys.iter().map(path).map(black_box).count());
    });
    group.finish();
}

criterion_group!(benches, merge, scan, hash, keys);
criterion_main!(benches);
