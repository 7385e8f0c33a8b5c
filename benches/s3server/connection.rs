//! HTTP/1.1 over one socket: a request is read whole, answered, and the next one is read.
//!
//! Written by hand: beside hyper under the same handlers it takes about a fifth less CPU for a
//! small request, and it copies no large body, which is read into the memory that stores it and
//! written from there.

use crate::Server;
use crate::answer::{Answer, Failure};
use crate::chunks::{Chunk, join_chunks, next_chunk, take_line};
use crate::operations;
use crate::request::{Head, Received, Request};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use md5::{Digest, Md5};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How much is read at once where it is not known how much comes: a small request with its body.
const READ_BYTES: usize = 16 << 10;
/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;

struct Connection {
    stream: TcpStream,
    /// What came and is not taken yet.
    buffer: BytesMut,
}

/// Answers until the client goes.
pub async fn serve(stream: TcpStream, server: Arc<Server>) {
    let mut connection = Connection { stream, buffer: BytesMut::new() };
    // A connection that breaks is the client's affair.
    while let Ok(true) = connection.turn(&server).await {}
}

impl Connection {
    /// One request; true where another may follow.
    async fn turn(&mut self, server: &Server) -> io::Result<bool> {
        let Some(head) = self.read_head().await? else { return Ok(false) };
        let Some(head) = std::str::from_utf8(&head).ok().and_then(Head::parse) else {
            let failure = Failure::new(400, "InvalidRequest", "this is not HTTP");
            self.write(failure.into(), true).await?;
            return Ok(false);
        };
        let is_hashed = head.method == "PUT" && !server.store.fast_etag();
        let body = self.read_body(&head, is_hashed).await?;
        server.counters.received(body.bytes.len());
        let (has_body, is_last) = (head.method != "HEAD", head.has("connection", "close"));
        let answer = match Request::new(head, body) {
            Ok(request) => operations::answer(server, &request),
            Err(failure) => failure.into(),
        };
        if !server.delay.is_zero() {
            tokio::time::sleep(server.delay).await;
        }
        let sent = self.write(answer, has_body).await?;
        server.counters.sent(sent);
        Ok(!is_last)
    }

    /// Waits for more; an error where no more comes.
    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The lines of a request up to the empty one, or nothing where the client is done.
    async fn read_head(&mut self) -> io::Result<Option<Bytes>> {
        let mut searched = 0;
        loop {
            let mut windows = self.buffer[searched..].windows(4);
            if let Some(end) = windows.position(|window| window == b"\r\n\r\n") {
                let head = self.buffer.split_to(searched + end).freeze();
                self.buffer.advance(4);
                return Ok(Some(head));
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            searched = self.buffer.len().saturating_sub(3);
            match self.fill().await {
                Err(_) if self.buffer.is_empty() => return Ok(None),
                other => other?,
            }
        }
    }

    async fn read_body(&mut self, head: &Head<'_>, is_hashed: bool) -> io::Result<Received> {
        if head.has("expect", "100-continue") && self.buffer.is_empty() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let is_chunked = head.has("transfer-encoding", "chunked");
        let is_aws_chunked = head
            .header("x-amz-content-sha256")
            .is_some_and(|value| value.starts_with("STREAMING-"));
        let is_plain = !is_chunked && !is_aws_chunked;
        let mut hasher = (is_hashed && is_plain).then(Md5::new);
        let mut bytes = if is_chunked {
            self.read_chunks().await?
        } else {
            let length = head.header("content-length").and_then(|value| value.parse().ok());
            self.read_bytes(length.unwrap_or(0), &mut hasher).await?
        };
        if is_aws_chunked {
            bytes = join_chunks(bytes).ok_or(io::ErrorKind::InvalidData)?;
        }
        if is_hashed && !is_plain {
            hasher = Some(Md5::new_with_prefix(&bytes));
        }
        Ok(Received { bytes, md5: hasher.map(|hasher| hasher.finalize().into()) })
    }

    /// Hashes what came while the rest is on its way.
    async fn read_bytes(&mut self, length: usize, hasher: &mut Option<Md5>) -> io::Result<Bytes> {
        let mut body = BytesMut::with_capacity(length);
        body.extend_from_slice(&self.buffer.split_to(length.min(self.buffer.len())));
        let mut done = 0;
        loop {
            if let Some(hasher) = hasher {
                hasher.update(&body[done..]);
                done = body.len();
            }
            if body.len() == length {
                return Ok(body.freeze());
            }
            let missing = length - body.len();
            let mut rest = (&mut body).limit(missing);
            if self.stream.read_buf(&mut rest).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read_chunks(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            match next_chunk(&mut self.buffer).ok_or(io::ErrorKind::InvalidData)? {
                Chunk::Data(data) => body.extend_from_slice(&data),
                Chunk::Last => break,
                Chunk::Unfinished => self.fill().await?,
            }
        }
        // Trailers, up to an empty line.
        loop {
            match take_line(&mut self.buffer) {
                Some(line) if line.is_empty() => return Ok(body.freeze()),
                Some(_) => {}
                None => self.fill().await?,
            }
        }
    }

    /// Sends an answer, and tells how many bytes its body had.
    async fn write(&mut self, answer: Answer, has_body: bool) -> io::Result<usize> {
        let head = Bytes::from(answer.head());
        if !has_body {
            self.stream.write_all(&head).await?;
            return Ok(0);
        }
        let length = answer.length();
        let mut segments = answer.body.into_iter();
        // Head and content in one call.
        let mut first = head.chain(segments.next().unwrap_or_default());
        self.stream.write_all_buf(&mut first).await?;
        for segment in segments {
            self.stream.write_all(&segment).await?;
        }
        Ok(length)
    }
}
