//! What the catalogs of a test hold of transfers that are not complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rusqlite::{Connection, Result};
use tempfile::TempDir;

use super::length_at;
use crate::support::Site;

/// How far a range has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub start: u64,
    pub bytes: u64,
    /// The size of the object.
    of: u64,
}

impl Range {
    fn is_complete(self) -> bool {
        self.bytes == length_at(self.of, self.start)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// By the id of an upload, the numbers of the parts that the server has.
    pub uploads: BTreeMap<String, BTreeSet<u32>>,
    /// By the key of a download, what is in its temporary file.
    pub downloads: BTreeMap<String, BTreeSet<Range>>,
}

impl Known {
    /// What a run that begins now would find. No other may be under way.
    #[track_caller]
    pub fn of(site: &Site) -> Self {
        Self::read(site).unwrap()
    }

    /// As [`Known::of`], beside a run: nothing, where it wrote just now.
    pub fn of_running(site: &Site) -> Self {
        Self::read(site).unwrap_or_default()
    }

    fn read(site: &Site) -> Result<Self> {
        let mut known = Self::default();
        for catalog in site.catalogs() {
            known.add(&catalog)?;
        }
        Ok(known)
    }

    /// Reads a copy: to open the file itself would change it.
    fn add(&mut self, catalog: &Path) -> Result<()> {
        let copy = TempDir::new().unwrap();
        let copied = copy.path().join("c.db").display().to_string();
        for ending in ["", "-wal", "-journal"] {
            let _ = fs::copy(format!("{}{ending}", catalog.display()), format!("{copied}{ending}"));
        }
        let connection = Connection::open(copied)?;
        let tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('upload', 'fetched_range')";
        // Killed before it had any.
        if connection.query_row(tables, [], |row| row.get::<_, u32>(0))? == 0 {
            return Ok(());
        }
        let uploads = "SELECT id, number FROM upload LEFT JOIN sent_part ON upload = id";
        let mut select = connection.prepare(uploads)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            self.uploads.entry(row.get(0)?).or_default().extend(row.get::<_, Option<u32>>(1)?);
        }
        let downloads = "SELECT CAST(key AS TEXT), start, bytes, size
                         FROM download LEFT JOIN fetched_range USING (key)";
        let mut select = connection.prepare(downloads)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let number = |column| row.get::<_, Option<i64>>(column);
            let (start, bytes, of) = (number(1)?, number(2)?, number(3)?);
            let range = start.zip(bytes).zip(of);
            let range = range.map(|((start, bytes), of)| {
                let [start, bytes, of] = [start, bytes, of].map(i64::cast_unsigned);
                Range { start, bytes, of }
            });
            self.downloads.entry(row.get(0)?).or_default().extend(range);
        }
        Ok(())
    }

    pub fn has_part(&self, upload: &str, number: u32) -> bool {
        self.uploads.get(upload).is_some_and(|parts| parts.contains(&number))
    }

    /// The ids of the uploads.
    pub fn ids(&self) -> BTreeSet<String> {
        self.uploads.keys().cloned().collect()
    }

    /// The id of the only upload.
    #[track_caller]
    pub fn id(&self) -> String {
        assert_eq!(self.uploads.len(), 1, "{self:?}");
        self.uploads.keys().next().unwrap().clone()
    }

    /// The numbers of all parts.
    pub fn parts(&self) -> BTreeSet<u32> {
        self.uploads.values().flatten().copied().collect()
    }

    /// Where all ranges begin that are complete.
    pub fn ranges(&self) -> BTreeSet<u64> {
        let all = self.downloads.values().flatten();
        all.filter(|range| range.is_complete()).map(|range| range.start).collect()
    }

    /// Bytes of the ranges that begin at one of these places.
    pub fn fetched(&self, starts: &BTreeSet<u64>) -> u64 {
        let all = self.downloads.values().flatten();
        all.filter(|range| starts.contains(&range.start)).map(|range| range.bytes).sum()
    }

    /// How many parts and ranges there are.
    pub fn done(&self) -> usize {
        self.parts().len() + self.ranges().len()
    }

    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty() && self.downloads.is_empty()
    }
}
