//! Where a source or a target is: `s3://bucket/prefix` or a path. Text only; nothing is opened.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::path::PathBuf;

/// A parsed location.
///
/// ```
/// use haul::Location;
/// assert_eq!(Location::parse("s3://data/run1/")?, Location::parse("s3://data/run1")?);
/// assert!(Location::parse("s3://key:secret@data/x").is_err());
/// # Ok::<(), haul::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file or directory of this machine.
    Local(PathBuf),
    /// A bucket, and a key or prefix without its trailing `/` (empty for the whole bucket).
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// A key, or a prefix that is a directory boundary.
        path: String,
    },
}

impl Location {
    /// Reads a location. A path that looks like one must be written `./s3:/…`.
    ///
    /// # Errors
    /// `Usage`, for an unknown scheme, a bad bucket name, or a secret in the URL.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            if let Some(rest) =
                ["s3:/", "s3//", "s3:"].iter().find_map(|near| text.strip_prefix(near))
            {
                let rest = rest.trim_start_matches('/');
                let cause = format!("did you mean s3://{rest}? (a path can be written ./{text})");
                return Err(usage(&format!("location `{text}`"), cause));
            }
            if text.is_empty() {
                return Err(usage("location", "it is empty; give a path or s3://BUCKET[/PREFIX]"));
            }
            return Ok(Self::Local(PathBuf::from(text)));
        };
        if scheme != "s3" {
            let cause = format!("unknown scheme `{scheme}://`; use s3://BUCKET[/PREFIX] or a path");
            return Err(usage("location", cause));
        }
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains('@') && bucket.contains([':', '@']) {
            let cause = "no key or secret may stand in a URL; use the environment or --credentials";
            return Err(usage("location", cause));
        }
        check_bucket_name(bucket)?;
        let path = path.strip_suffix('/').unwrap_or(path).to_owned();
        Ok(Self::Bucket { bucket: bucket.to_owned(), path })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Bucket { bucket, path } if path.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, path } => write!(f, "s3://{bucket}/{path}"),
        }
    }
}

/// The prefix that stands for the directory `path`: nothing, or `path/`.
#[must_use]
pub fn directory_prefix(path: &str) -> String {
    match path {
        "" => String::new(),
        _ if path.ends_with('/') => path.to_owned(),
        _ => format!("{path}/"),
    }
}

/// S3's rule, and Ceph's looser one: letters, digits, `.`, `-`, `_`, 3 to 255 bytes.
fn check_bucket_name(name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if (3..=255).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    let cause = "a bucket name has 3 to 255 letters, digits, dots, hyphens or underscores";
    Err(usage(&format!("bucket name `{name}`"), cause))
}

fn usage(what: &str, cause: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Usage, format!("bad {what}"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bucket: &str, path: &str) -> Location {
        Location::Bucket { bucket: bucket.into(), path: path.into() }
    }

    #[test]
    fn trailing_slashes_mean_nothing() {
        for text in ["s3://data", "s3://data/"] {
            assert_eq!(Location::parse(text).unwrap(), bucket("data", ""));
        }
        for text in ["s3://data/a/b", "s3://data/a/b/"] {
            assert_eq!(Location::parse(text).unwrap(), bucket("data", "a/b"));
        }
    }

    #[test]
    fn a_prefix_is_a_directory_boundary() {
        assert_eq!(directory_prefix("run1"), "run1/");
        assert_eq!(directory_prefix(""), "");
    }

    #[test]
    fn bad_locations_say_what_is_wrong() {
        for (text, part) in [
            ("", "empty"),
            ("gs://data/x", "unknown scheme"),
            ("s3:/data/x", "did you mean s3://data/x?"),
            ("s3//data/x", "did you mean s3://data/x?"),
            ("s3:data", "did you mean s3://data?"),
            ("s3://", "3 to 255"),
            ("s3://AKIA:secret@data/x", "no key or secret"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(!error.to_string().contains("secret@"));
        }
    }
}
