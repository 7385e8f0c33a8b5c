//! Bodies in chunks: HTTP's own, and `aws-chunked`, which adds a signature to each chunk's size.

use bytes::{Buf, Bytes, BytesMut};

/// What stands at the beginning of a buffer.
pub enum Chunk {
    Data(BytesMut),
    Last,
    /// More must come first.
    Unfinished,
}

/// Takes the line that the buffer begins with, where it is whole.
pub fn take_line(buffer: &mut BytesMut) -> Option<BytesMut> {
    let end = buffer.windows(2).position(|window| window == b"\r\n")?;
    let line = buffer.split_to(end);
    buffer.advance(2);
    Some(line)
}

/// Takes a chunk, or of the last one its first line; `None` where there is none.
pub fn next_chunk(buffer: &mut BytesMut) -> Option<Chunk> {
    let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") else {
        return Some(Chunk::Unfinished);
    };
    let digits = std::str::from_utf8(&buffer[..end]).ok()?.split(';').next()?;
    let size = usize::from_str_radix(digits.trim(), 16).ok()?;
    if size > 0 && buffer.len() < end + 2 + size + 2 {
        return Some(Chunk::Unfinished);
    }
    buffer.advance(end + 2);
    if size == 0 {
        return Some(Chunk::Last);
    }
    let data = buffer.split_to(size);
    buffer.advance(2);
    Some(Chunk::Data(data))
}

/// The content of an `aws-chunked` body. Its signatures and trailers are ignored.
pub fn join_chunks(body: Bytes) -> Option<Bytes> {
    let mut rest = BytesMut::from(body);
    let mut content = BytesMut::with_capacity(rest.len());
    loop {
        match next_chunk(&mut rest)? {
            Chunk::Data(data) => content.extend_from_slice(&data),
            Chunk::Last => return Some(content.freeze()),
            Chunk::Unfinished => return None,
        }
    }
}
