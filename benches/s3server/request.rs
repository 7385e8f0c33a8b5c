//! A request as S3 sees it: a bucket, a key, a query, headers and content.

use crate::answer::Failure;
use crate::text::unescape;
use bytes::Bytes;
use std::borrow::Cow;

/// The headers that belong to an object and come back with it, beside `x-amz-meta-*`.
const KEPT_HEADERS: [&str; 6] = [
    "content-type",
    "content-encoding",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
];

/// The lines above a body.
pub struct Head<'a> {
    pub method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Head<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut lines = text.lines();
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Vec::with_capacity(16);
        for line in lines {
            let (name, value) = line.split_once(':')?;
            headers.push((name, value.trim_ascii()));
        }
        Some(Self { method, target, headers })
    }

    pub fn header(&self, name: &str) -> Option<&'a str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }

    pub fn has(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }
}

/// A body, and its MD5 where that was wanted.
pub struct Received {
    pub bytes: Bytes,
    pub md5: Option<[u8; 16]>,
}

pub struct Request<'a> {
    pub head: Head<'a>,
    pub bucket: Cow<'a, str>,
    pub key: Cow<'a, str>,
    query: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub body: Received,
}

impl<'a> Request<'a> {
    pub fn new(head: Head<'a>, body: Received) -> Result<Self, Failure> {
        let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
        let (bucket, key) = split_path(path)?;
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape_all(name, true)?, unescape_all(value, true)?))
        });
        let query = query.collect::<Result<_, Failure>>()?;
        Ok(Self { head, bucket, key, query, body })
    }

    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head.header(name)
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    pub fn asks(&self, name: &str) -> bool {
        self.query(name).is_some()
    }

    /// The lines of the headers that an object keeps, ready to be sent back.
    pub fn kept_lines(&self) -> String {
        let mut lines = String::new();
        for (name, value) in &self.head.headers {
            let name = name.to_ascii_lowercase();
            // How it was sent is no property of the object.
            let value = match name.as_str() {
                "content-encoding" => {
                    value.trim_start_matches("aws-chunked").trim_start_matches([',', ' '])
                }
                _ => value,
            };
            let is_kept = KEPT_HEADERS.contains(&name.as_str()) || name.starts_with("x-amz-meta-");
            if is_kept && !value.is_empty() {
                lines.extend([name.as_str(), ": ", value, "\r\n"]);
            }
        }
        if self.header("content-type").is_none_or(str::is_empty) {
            lines.push_str("content-type: binary/octet-stream\r\n");
        }
        lines
    }

    /// The bucket and key that a copy is made of.
    pub fn copy_source(&self) -> Result<(Cow<'a, str>, Cow<'a, str>), Failure> {
        let source = self.header("x-amz-copy-source").unwrap_or_default();
        split_path(source.split_once("?versionId=").map_or(source, |(path, _)| path))
    }
}

/// `/bucket/key`, its leading slash optional.
fn split_path(path: &str) -> Result<(Cow<'_, str>, Cow<'_, str>), Failure> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    Ok((unescape_all(bucket, false)?, unescape_all(key, false)?))
}

fn unescape_all(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, Failure> {
    let failure = || Failure::new(400, "InvalidURI", "a name is not percent-encoded UTF-8");
    unescape(text, plus_is_space).ok_or_else(failure)
}
