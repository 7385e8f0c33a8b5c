//! What is recorded with an object about its content and its file: by haul, and by other tools.

use crate::entry::Timestamp;
use crate::fingerprint::{Blake3, ETag, Md5Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeMap;

/// User metadata: lower-case names and ASCII values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(pub BTreeMap<String, String>);

impl Metadata {
    /// How the headers begin that carry it.
    pub(super) const PREFIX: &str = "x-amz-meta-";

    /// Only what a header can carry: S3 answers anything else with an error on the next read.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            let name = HeaderName::try_from(format!("{}{name}", Self::PREFIX));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
    }

    /// What haul writes of a file: `blake3`, `mtime`, `mode`, and for parts `part-size`.
    #[must_use]
    pub fn of_file(
        blake3: Blake3,
        file: Option<(Timestamp, u32)>,
        part_bytes: Option<u64>,
    ) -> Self {
        let mut map = BTreeMap::from([("blake3".to_owned(), blake3.to_string())]);
        if let Some((mtime, mode)) = file {
            map.insert("mtime".into(), mtime.to_string());
            map.insert("mode".into(), format!("{mode:o}"));
        }
        if let Some(bytes) = part_bytes {
            map.insert("part-size".into(), bytes.to_string());
        }
        Self(map)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The MD5 of the whole content, as rclone (`md5chksum`, base64) or s3cmd (`s3cmd-attrs`)
    /// recorded it.
    #[must_use]
    pub fn md5(&self) -> Option<Md5Bytes> {
        use base64::Engine;
        let of_rclone = || {
            let text = self.get("md5chksum")?;
            base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
        };
        let of_s3cmd = || match ETag::parse(self.s3cmd("md5")?) {
            ETag::Md5(md5) => Some(md5),
            ETag::Multipart(..) | ETag::Opaque(_) => None,
        };
        of_rclone().or_else(of_s3cmd)
    }

    /// One of the `name:value` pairs that s3cmd puts, with `/` between, into one value.
    fn s3cmd(&self, name: &str) -> Option<&str> {
        let pairs = self.get("s3cmd-attrs")?.split('/').filter_map(|pair| pair.split_once(':'));
        pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The BLAKE3 of the content, where it was recorded.
    #[must_use]
    pub fn blake3(&self) -> Option<Blake3> {
        self.get("blake3").and_then(Blake3::parse)
    }

    /// The file's modification time, as haul, rclone, s3cmd or s3sync recorded it.
    #[must_use]
    pub fn mtime(&self) -> Option<Timestamp> {
        // Ceph 16 turns `_` into `-`.
        let of_s3sync = ["s3sync_origin_last_modified", "s3sync-origin-last-modified"];
        let own =
            self.get("mtime").and_then(|text| Timestamp::parse(text).or_else(|| rfc3339(text)));
        own.or_else(|| self.s3cmd("mtime").and_then(Timestamp::parse))
            .or_else(|| of_s3sync.iter().find_map(|name| self.get(name)).and_then(rfc3339))
    }

    /// `st_mode`, type bits included, as haul (octal) or s3cmd (decimal) recorded it.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        let own = self.get("mode").and_then(|text| u32::from_str_radix(text, 8).ok());
        own.or_else(|| self.s3cmd("mode").and_then(|text| text.parse().ok()))
    }

    /// True where it says of the file what is so now.
    #[must_use]
    pub fn is_of(&self, mtime: Timestamp, mode: u32) -> bool {
        self.mtime() == Some(mtime) && self.mode() == Some(mode)
    }

    /// True for a recorded symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode().is_some_and(|mode| mode & 0o170_000 == 0o120_000)
    }

    /// The size of all parts but the last, in bytes.
    #[must_use]
    pub fn part_bytes(&self) -> Option<u64> {
        self.get("part-size").and_then(|text| text.parse().ok()).filter(|bytes| *bytes > 0)
    }
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    // Any offset but UTC's is beyond humantime.
    let text = text.strip_suffix("+00:00").map_or_else(|| text.to_owned(), |utc| format!("{utc}Z"));
    let time = humantime::parse_rfc3339_weak(&text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    Some(Timestamp { seconds, nanoseconds: since.subsec_nanos() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_reads_what_it_writes() {
        let time = Timestamp { seconds: 5, nanoseconds: 7 };
        let metadata = Metadata::of_file(Blake3::of(b"x"), Some((time, 0o100_640)), Some(1 << 24));
        assert_eq!(metadata.0["mode"], "100640");
        assert_eq!(metadata.0["mtime"], "5.000000007");
        assert_eq!(metadata.blake3(), Some(Blake3::of(b"x")));
        assert_eq!(metadata.mtime(), Some(time));
        assert_eq!(metadata.part_bytes(), Some(1 << 24));
        assert!(!metadata.is_symlink());
    }

    #[test]
    fn foreign_metadata_is_not_believed_blindly() {
        let odd =
            [("blake3", "nothex"), ("mtime", "yesterday"), ("mode", "999"), ("part-size", "0")];
        let odd = odd.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let metadata = Metadata(BTreeMap::from(odd));
        assert_eq!((metadata.blake3(), metadata.mtime()), (None, None));
        assert_eq!((metadata.mode(), metadata.part_bytes()), (None, None));
    }

    #[test]
    fn what_other_tools_recorded_is_read() {
        let one = |name: &str, value: &str| Metadata([(name.to_owned(), value.to_owned())].into());
        let empty = crate::fingerprint::md5(b"");
        assert_eq!(one("md5chksum", "1B2M2Y8AsgTpgAmY7PhCfg==").md5(), Some(empty));
        assert_eq!(one("md5chksum", "short").md5(), None);
        let attrs = "atime:1700000001/ctime:1700000002/gid:0/gname:root/\
                     md5:d41d8cd98f00b204e9800998ecf8427e/mode:33188/mtime:1700000000/uid:0/uname:root";
        let s3cmd = one("s3cmd-attrs", attrs);
        assert_eq!((s3cmd.md5(), s3cmd.mode()), (Some(empty), Some(0o100_644)));
        let time = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        assert_eq!(s3cmd.mtime(), time(1_700_000_000, 0));
        assert_eq!(one("mtime", "1700000000.5").mtime(), time(1_700_000_000, 500_000_000));
        for name in ["s3sync_origin_last_modified", "s3sync-origin-last-modified"] {
            let text = "2023-11-14T22:13:20.25+00:00";
            assert_eq!(one(name, text).mtime(), time(1_700_000_000, 250_000_000));
        }
    }
}
