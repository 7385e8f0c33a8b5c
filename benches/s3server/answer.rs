//! An answer, and the failures of S3.

use crate::text::{escape_xml, http_date, now};
use bytes::Bytes;
use http::StatusCode;
use std::fmt::Write;

/// What goes back: a status, header lines and content in pieces.
pub struct Answer {
    status: u16,
    lines: String,
    pub body: Vec<Bytes>,
}

impl Answer {
    pub fn empty(status: u16) -> Self {
        Self { status, lines: String::new(), body: Vec::new() }
    }

    pub fn content(status: u16, lines: String, body: Vec<Bytes>) -> Self {
        Self { status, lines, body }
    }

    /// An XML document. It needs no declaration, which would cost a copy of it.
    pub fn xml(document: impl Into<String>) -> Self {
        let lines = "Content-Type: application/xml\r\n".to_owned();
        Self { status: 200, lines, body: vec![document.into().into()] }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.lines.extend([name, ": ", value, "\r\n"]);
        self
    }

    pub fn length(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// The lines above the body, the empty one included.
    pub fn head(&self) -> String {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let mut head = String::with_capacity(160 + self.lines.len());
        let _ = write!(head, "HTTP/1.1 {status}\r\nDate: {}\r\n", http_date(now()));
        if self.status != 204 && self.status != 304 {
            let _ = write!(head, "Content-Length: {}\r\n", self.length());
        }
        head.push_str(&self.lines);
        head.push_str("\r\n");
        head
    }
}

/// An error of S3.
pub struct Failure {
    status: u16,
    code: &'static str,
    message: &'static str,
}

impl Failure {
    pub const NO_BUCKET: Self = Self::new(404, "NoSuchBucket", "there is no such bucket");
    pub const NO_KEY: Self = Self::new(404, "NoSuchKey", "there is no such key");
    pub const NO_UPLOAD: Self = Self::new(404, "NoSuchUpload", "there is no such upload");
    pub const CHANGED: Self = Self::new(412, "PreconditionFailed", "it is not that object");
    pub const BAD_XML: Self = Self::new(400, "MalformedXML", "the body can't be understood");
    pub const BAD_RANGE: Self = Self::new(416, "InvalidRange", "the range is not within it");
    pub const UNKNOWN: Self = Self::new(501, "NotImplemented", "this server does not know that");
    pub const READ_ONLY: Self = Self::new(403, "AccessDenied", "the synthetic bucket stays as is");

    pub const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let mut message = String::new();
        escape_xml(&mut message, failure.message);
        let Failure { status, code, .. } = failure;
        let answer = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Self { status, ..Self::xml(answer) }
    }
}
