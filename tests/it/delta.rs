//! Large files that change in part: only what has changed goes over the wire, up and down, and
//! whatever happens meanwhile, the right bytes arrive.

mod down;
mod random;
mod troubled;
mod up;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use rusqlite::Connection;

use crate::support::run::Outcome;
use crate::support::{Kind, Server, Site, tree};

const MIB: u64 = 1 << 20;

fn append(path: &str, bytes: u64, seed: u64) {
    let mut file = File::options().append(true).open(path).unwrap();
    file.write_all(&noise(bytes, seed)).unwrap();
}

fn overwrite(path: &str, offset: u64, bytes: u64, seed: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&noise(bytes, seed), offset).unwrap();
}

fn truncate(path: &str, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Moves what is behind `offset` by so many bytes, which are new.
fn insert(path: &str, offset: u64, bytes: u64, seed: u64) {
    let behind = fs::read(path).unwrap().split_off(usize::try_from(offset).unwrap());
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&noise(bytes, seed)).unwrap();
    file.write_all(&behind).unwrap();
}

fn noise(bytes: u64, seed: u64) -> Vec<u8> {
    tree::noise(usize::try_from(bytes).unwrap(), seed)
}

/// Bytes of objects that came.
fn fetched_bytes(site: &Site) -> u64 {
    let passed = site.proxy.passed().into_iter();
    passed.filter(|one| one.kind == Kind::Get).map(|one| one.response_bytes).sum()
}

/// Fails unless the bucket holds exactly the tree's files, with all that is to be known of them.
#[track_caller]
fn assert_stored(site: &Site, root: &str) {
    site.assert_holds(root, "");
    assert_eq!(site.bucket.uploads(), [""; 0], "uploads that were left open");
}

/// Writes into the only catalog, as the hashes of the parts of `large`, those that it has in the
/// directory `other`.
fn forge_hashes(site: &Site, other: &str) {
    let own = site.catalog();
    site.haul(&["sync", other, &site.url("elsewhere")]).done();
    let of_other = site.catalogs().into_iter().find(|path| *path != own).unwrap();
    let select = "SELECT hashes FROM parts";
    let hashes = Connection::open(of_other).unwrap().query_row(select, [], |row| row.get(0));
    let (hashes, own): (Vec<u8>, _) = (hashes.unwrap(), Connection::open(own).unwrap());
    assert_eq!(own.execute("UPDATE parts SET hashes = ?1 WHERE hashes <> ?1", [hashes]), Ok(1));
    site.bucket.delete("elsewhere/large");
}

/// A directory with one file, `large`, and a bucket that holds it.
struct Mirror {
    site: Site,
    up: String,
    file: String,
}

impl Mirror {
    fn new(server: &Server, bytes: u64) -> Self {
        let mirror = Self::unsent(server, bytes);
        mirror.sync(&[]);
        mirror
    }

    fn unsent(server: &Server, bytes: u64) -> Self {
        let site = Site::new(server);
        let (up, file) = (site.directory("up"), site.at("up/large"));
        tree::generated(&up, "large", bytes, 1);
        Self { site, up, file }
    }

    #[track_caller]
    fn sync(&self, flags: &[&str]) -> Outcome {
        self.start(flags).finish().done()
    }

    /// Says why what is sent is sent.
    fn start(&self, flags: &[&str]) -> crate::support::run::Run {
        self.site.run(&["sync", &self.up, &self.site.url(""), "--json", "-v"]).args(flags)
    }

    /// Syncs: so many bytes are sent, and the bucket holds the directory then.
    #[track_caller]
    fn assert_sends(&self, bytes: u64) -> Outcome {
        self.site.proxy.reset();
        let outcome = self.sync(&[]);
        assert_eq!(self.site.proxy.sent_bytes(), bytes, "{}", outcome.output());
        assert_eq!(outcome.summary("bytes"), bytes);
        assert_stored(&self.site, &self.up);
        self.site.assert_sync_only_lists(&self.up, &self.site.url(""), 1);
        outcome
    }
}
