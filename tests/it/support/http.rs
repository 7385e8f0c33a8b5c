//! Just enough HTTP/1.1 for the proxy: heads, how long a body is, and passing a body on while
//! something happens to it.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What an S3 request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page of a listing, of keys or of buckets.
    List,
    /// An object's bytes.
    Get,
    Head,
    /// An object in one request.
    Put,
    /// One part of a multipart upload.
    Part,
    /// A server-side copy, whole or as a part.
    Copy,
    /// The beginning of a multipart upload.
    Begin,
    /// The end of a multipart upload.
    Complete,
    /// Deletes: one key, a batch, or an upload's abort.
    Delete,
    Other,
}

impl Kind {
    pub fn of(request: &Head) -> Self {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let names_object = path.trim_matches('/').contains('/');
        match request.method() {
            "HEAD" => Self::Head,
            "DELETE" => Self::Delete,
            "GET" if has("uploads") || has("uploadId") || has("location") => Self::Other,
            "GET" if names_object => Self::Get,
            "GET" => Self::List,
            "PUT" if request.header("x-amz-copy-source").is_some() => Self::Copy,
            "PUT" if has("uploadId") => Self::Part,
            "PUT" if names_object => Self::Put,
            "POST" if has("delete") => Self::Delete,
            "POST" if has("uploads") => Self::Begin,
            "POST" if has("uploadId") => Self::Complete,
            _ => Self::Other,
        }
    }

    pub fn moves_bytes(self) -> bool {
        matches!(self, Self::Get | Self::Put | Self::Part | Self::Copy | Self::Begin)
    }
}

/// The first line and the headers of a message, up to and with the empty line.
pub struct Head {
    pub bytes: Vec<u8>,
    lines: Vec<String>,
}

impl Head {
    /// The next head, or nothing where the peer has closed the connection.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let (mut bytes, mut lines) = (Vec::new(), Vec::new());
        loop {
            let start = bytes.len();
            if stream.read_until(b'\n', &mut bytes)? == 0 {
                let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
                return if start == 0 { Ok(None) } else { Err(cut) };
            }
            let line = String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned();
            if line.is_empty() {
                return Ok(Some(Self { bytes, lines }));
            }
            lines.push(line);
        }
    }

    fn word(&self, index: usize) -> &str {
        self.lines.first().and_then(|line| line.split(' ').nth(index)).unwrap_or_default()
    }

    pub fn method(&self) -> &str {
        self.word(0)
    }

    pub fn target(&self) -> &str {
        self.word(1)
    }

    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The head's bytes with one header left out.
    pub fn without(&self, name: &str) -> Vec<u8> {
        if self.header(name).is_none() {
            return self.bytes.clone();
        }
        let keeps = |line: &&String| {
            line.split_once(':').is_none_or(|(found, _)| !found.eq_ignore_ascii_case(name))
        };
        let kept: Vec<&str> = self.lines.iter().filter(keeps).map(String::as_str).collect();
        format!("{}\r\n\r\n", kept.join("\r\n")).into_bytes()
    }

    /// How a request's body ends.
    pub fn body(&self) -> Body {
        let chunked = |value: &str| value.eq_ignore_ascii_case("chunked");
        if self.header("transfer-encoding").is_some_and(chunked) {
            return Body::Chunked;
        }
        let length = self.header("content-length").and_then(|value| value.parse().ok());
        Body::Length(length.unwrap_or(0))
    }

    /// How this response's body ends, given what was asked.
    pub fn response_body(&self, request: &Self) -> Body {
        if request.method() == "HEAD" || matches!(self.status(), 204 | 304) {
            return Body::Length(0);
        }
        let delimited =
            self.header("content-length").is_some() || self.header("transfer-encoding").is_some();
        if delimited { self.body() } else { Body::UntilClosed }
    }
}

/// Where a body ends.
pub enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

impl Body {
    pub fn is_delimited(&self) -> bool {
        !matches!(self, Self::UntilClosed)
    }
}

/// What happens to a body on its way, and how far it came.
#[derive(Default)]
pub struct Flow {
    pub cut_after: Option<u64>,
    pub flip_at: Option<u64>,
    pub bytes_per_second: Option<u64>,
    pub passed: u64,
    /// Where the bytes of all bodies are counted.
    total: Arc<AtomicU64>,
}

impl Flow {
    pub fn counted_in(total: &Arc<AtomicU64>) -> Self {
        Self { total: Arc::clone(total), ..Self::default() }
    }

    /// Passes on one piece, or fails where the body is to be cut.
    fn pass(&mut self, piece: &mut [u8], sink: &mut impl Write) -> io::Result<()> {
        let length = piece.len() as u64;
        if let Some(offset) = self.flip_at
            && (self.passed..self.passed + length).contains(&offset)
        {
            piece[usize::try_from(offset - self.passed).unwrap()] ^= 1;
        }
        let room = self.cut_after.map_or(length, |limit| (limit - self.passed).min(length));
        sink.write_all(&piece[..usize::try_from(room).unwrap()])?;
        self.passed += room;
        self.total.fetch_add(room, Ordering::Relaxed);
        if let Some(rate) = self.bytes_per_second {
            thread::sleep(Duration::from_micros(length * 1_000_000 / rate));
        }
        let cut = self.cut_after == Some(self.passed);
        if cut { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

/// Passes a body from one side to the other.
pub fn relay_body(
    body: &Body,
    source: &mut impl BufRead,
    sink: &mut impl Write,
    flow: &mut Flow,
) -> io::Result<()> {
    match *body {
        Body::Length(length) => relay_bytes(length, source, sink, flow)?,
        Body::UntilClosed => {
            relay_bytes(u64::MAX, source, sink, flow).or_else(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(()),
                _ => Err(error),
            })?;
        }
        Body::Chunked => while relay_chunk(source, sink, flow)? {},
    }
    sink.flush()
}

/// One chunk with its frame; whether another follows.
fn relay_chunk(
    source: &mut impl BufRead,
    sink: &mut impl Write,
    flow: &mut Flow,
) -> io::Result<bool> {
    let size = relay_line(source, sink)?;
    let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
        .map_err(io::Error::other)?;
    relay_bytes(size, source, sink, flow)?;
    if size > 0 {
        relay_line(source, sink)?;
        return Ok(true);
    }
    while !relay_line(source, sink)?.trim().is_empty() {}
    Ok(false)
}

fn relay_line(source: &mut impl BufRead, sink: &mut impl Write) -> io::Result<String> {
    let mut line = String::new();
    if source.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    sink.write_all(line.as_bytes())?;
    Ok(line)
}

fn relay_bytes(
    length: u64,
    source: &mut impl BufRead,
    sink: &mut impl Write,
    flow: &mut Flow,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = source.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        flow.pass(&mut buffer[..got], sink)?;
        left -= got as u64;
    }
    Ok(())
}
