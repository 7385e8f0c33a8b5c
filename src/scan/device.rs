//! What a directory is on: whether it is the file system that it was on last time.

use rustix::fs::{major, minor};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file system, as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `st_dev`. Network mounts get another one each time.
    number: u64,
    /// `ext4`, `nfs4`, …
    kind: String,
    /// What is mounted: a device, `server:/export`, …
    source: String,
    /// The directory of it that is mounted.
    root: String,
}

impl Device {
    /// What `directory` is on; none where that can't be told.
    pub(crate) fn of(directory: &Path) -> Option<Self> {
        let path = directory.canonicalize().ok()?;
        let number = path.metadata().ok()?.dev();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::among(&mounts, path.to_str()?, number)
    }

    /// The mount of `mounts` (proc(5), `mountinfo`) that `path` is below: the deepest, and of
    /// several at one place the last, which covers the others.
    fn among(mounts: &str, path: &str, number: u64) -> Option<Self> {
        let is_below = |point: &str| {
            let rest = path.strip_prefix(point.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (_, _, device) = mounts
            .lines()
            .enumerate()
            .filter_map(|(line, text)| {
                let (place, kind) = text.split_once(" - ")?;
                let mut place = place.split(' ').skip(3);
                let (root, point) = (unescape(place.next()?), unescape(place.next()?));
                let mut kind = kind.split(' ');
                let (kind, source) = (kind.next()?.to_owned(), unescape(kind.next()?));
                is_below(&point).then_some((point.len(), line, Self { number, kind, source, root }))
            })
            .max_by_key(|(depth, line, _)| (*depth, *line))?;
        Some(device)
    }

    /// True where this is what `before` was.
    pub(crate) fn is_still(&self, before: &Self) -> bool {
        let by_name = (&self.source, &self.root) == (&before.source, &before.root);
        self.kind == before.kind && (by_name || self.number == before.number)
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, kind, source, .. } = self;
        let source = crate::key::printable(source);
        write!(f, "{source} ({kind}, device {}:{})", major(*number), minor(*number))
    }
}

/// Undoes `\040` and the like.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let escaped = byte.filter(|_| first == b'\\');
        plain.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw - nfs4 server:/export rw
31 30 8:17 / /data rw - xfs /dev/sdb1 rw
32 22 0:41 /sub /my\\040data rw shared:2 master:3 - btrfs /dev/sdc rw";

    fn on(path: &str, number: u64) -> Device {
        Device::among(MOUNTS, path, number).unwrap()
    }

    #[test]
    fn the_mount_that_is_on_top_counts() {
        assert_eq!(on("/data/run1", 1).source, "/dev/sdb1");
        assert_eq!(on("/data", 1).kind, "xfs");
        assert_eq!(on("/data2", 1).source, "/dev/sda1");
        let sub = on("/my data/x", 1);
        assert_eq!((sub.source.as_str(), sub.root.as_str()), ("/dev/sdc", "/sub"));
        assert!(Device::among("", "/x", 1).is_none());
    }

    #[test]
    fn a_device_is_known_by_its_number_or_by_its_source() {
        let renamed = Device { source: "/dev/sdd1".into(), ..on("/data", 1) };
        assert!(on("/data", 1).is_still(&on("/data", 2)) && on("/data", 1).is_still(&renamed));
        let renumbered = Device { number: 2, ..renamed };
        assert!(!on("/data", 1).is_still(&renumbered) && !on("/data", 1).is_still(&on("/", 1)));
        assert!(Device::of(Path::new("/")).is_some_and(|root| root.is_still(&root)));
    }
}
