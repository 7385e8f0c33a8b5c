//! Keys: where they may come from, and that they are never printed.
//!
//! The library reads no environment: the caller passes what it found. A key file is JSON, as the
//! storage service of a site hands it out.

use crate::error::{Error, ErrorKind, Result};
use object_store::aws::AwsCredential;
use serde::Deserialize;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// An access key with its secret, or none at all (anonymous requests).
#[derive(Clone, Default)]
pub struct Credentials {
    pub(crate) key: Option<std::sync::Arc<AwsCredential>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.key.as_ref().map(|key| key.key_id.as_str());
        f.debug_struct("Credentials").field("access_key", &id).finish_non_exhaustive()
    }
}

impl Credentials {
    /// An access key, its secret, and the token of temporary keys.
    ///
    /// # Errors
    /// `Setup` where one of them is empty or holds what no header can carry.
    pub fn new(access_key: &str, secret_key: &str, token: Option<&str>) -> Result<Self> {
        let fits = |text: &str| text.bytes().all(|b| (0x21..0x7f).contains(&b));
        let checks = [("access key", access_key), ("secret key", secret_key)];
        for (name, text) in checks.into_iter().chain(token.map(|text| ("session token", text))) {
            if text.is_empty() || !fits(text) {
                let cause = "it is empty or has a space, a line break or another odd character";
                return Err(Error::new(ErrorKind::Setup, format!("bad {name}"), cause));
            }
        }
        let key = AwsCredential {
            key_id: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            token: token.map(str::to_owned),
        };
        Ok(Self { key: Some(key.into()) })
    }

    /// Unsigned requests, for public buckets.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }
}

/// What a JSON key file holds. Other names that sites use for the same are read too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    #[serde(alias = "access_key_id", alias = "aws_access_key_id", alias = "AWS_ACCESS_KEY_ID")]
    access_key: String,
    #[serde(
        alias = "secret_access_key",
        alias = "aws_secret_access_key",
        alias = "AWS_SECRET_ACCESS_KEY"
    )]
    secret_key: String,
    #[serde(default, alias = "aws_session_token", alias = "AWS_SESSION_TOKEN")]
    session_token: Option<String>,
    /// The endpoint that the keys belong to.
    #[serde(default, alias = "endpoint", alias = "endpoint_url", alias = "AWS_ENDPOINT_URL")]
    endpoint: Option<String>,
    /// The region to sign for.
    #[serde(default, alias = "AWS_REGION")]
    region: Option<String>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl KeyFile {
    /// Reads a key file that nobody but its owner may read.
    ///
    /// # Errors
    /// `Setup`: not there, readable by others, or not of this form. No part of the file's content
    /// is in the message.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |cause: String| {
            Error::new(ErrorKind::Setup, format!("cannot use key file {}", path.display()), cause)
        };
        let metadata = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(fail(format!(
                "its mode is {mode:o}, so others can read it; run: chmod 600 {}",
                path.display()
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| {
            fail(format!(
                "it must be a JSON object with `access_key`, `secret_key` and perhaps \
                 `session_token`, `endpoint`, `region` (line {}, column {})",
                e.line(),
                e.column()
            ))
        })
    }

    /// The keys.
    ///
    /// # Errors
    /// `Setup`, as [`Credentials::new`].
    pub fn credentials(&self) -> Result<Credentials> {
        Credentials::new(&self.access_key, &self.secret_key, self.session_token.as_deref())
    }

    /// The endpoint that the file names.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// The region that the file names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_key_file_is_read() {
        let text =
            r#"{"access_key": "AK", "secret_key": "SK", "endpoint_url": "https://s3.example.org"}"#;
        let keys = KeyFile::read(file(text, 0o600).path()).unwrap();
        assert_eq!(keys.endpoint(), Some("https://s3.example.org"));
        assert_eq!(keys.credentials().unwrap().key.unwrap().secret_key, "SK");
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let error = KeyFile::read(file("{}", 0o644).path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn no_secret_is_shown_by_an_error_or_a_debug_print() {
        let broken = file(r#"{"access_key": "AK", "secret_key": "hush-hush", "x": 1}"#, 0o600);
        let error = KeyFile::read(broken.path()).unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
        let keys = Credentials::new("AK", "hush-hush", Some("hush-token")).unwrap();
        assert!(!format!("{keys:?}").contains("hush"));
        assert!(Credentials::new("AK", "two words", None).is_err());
    }
}
