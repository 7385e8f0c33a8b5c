//! How things are spelled: percent escapes, XML, hex digits and dates.

use quick_xml::Reader;
use quick_xml::events::Event;
use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

pub fn push_hex(target: &mut String, md5: [u8; 16]) {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(md5) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    target.push_str(std::str::from_utf8(&digits).expect("hex digits are ASCII"));
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-01-31T23:59:59.000Z`, as listings have it.
pub fn iso_date(seconds: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// `Sat, 31 Jan 2026 23:59:59 GMT`, as headers have it.
pub fn http_date(seconds: u64) -> String {
    let iso = iso_date(seconds);
    let weekday = WEEKDAYS[usize::try_from(seconds / 86_400 % 7).unwrap_or_default()];
    let month = iso[5..7].parse::<usize>().ok().and_then(|month| MONTHS.get(month - 1));
    let month = month.unwrap_or(&MONTHS[0]);
    format!("{weekday}, {} {month} {} {} GMT", &iso[8..10], &iso[..4], &iso[11..19])
}

/// Undoes percent escapes; `None` where that gives no UTF-8.
pub fn unescape(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let is_plain = |byte| byte != b'%' && (byte != b'+' || !plus_is_space);
    if text.bytes().all(is_plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' if plus_is_space => bytes.push(b' '),
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Percent-encodes all but unreserved bytes and `/`, a space as `%20`, which every client reads.
pub fn escape_url(target: &mut String, text: &str) {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
    if text.bytes().all(is_plain) {
        return target.push_str(text);
    }
    for byte in text.bytes() {
        match is_plain(byte) {
            true => target.push(char::from(byte)),
            false => {
                let _ = write!(target, "%{byte:02X}");
            }
        }
    }
}

pub fn escape_xml(target: &mut String, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && !matches!(byte, b'&' | b'<' | b'>' | b'"');
    if text.bytes().all(is_plain) {
        return target.push_str(text);
    }
    for c in text.chars() {
        match c {
            '&' => target.push_str("&amp;"),
            '<' => target.push_str("&lt;"),
            '>' => target.push_str("&gt;"),
            '"' => target.push_str("&quot;"),
            c if c < ' ' => {
                let _ = write!(target, "&#{};", u32::from(c));
            }
            c => target.push(c),
        }
    }
}

/// Names and texts of the elements that hold no others, in order; `None` for what is no XML.
pub fn leaves(xml: &[u8]) -> Option<Vec<(String, String)>> {
    let mut reader = Reader::from_str(std::str::from_utf8(xml).ok()?);
    let (mut found, mut name, mut content) = (Vec::new(), None, String::new());
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                name = Some(start.local_name().as_ref().to_owned());
                content.clear();
            }
            Event::Text(piece) => content.push_str(&piece.xml10_content()),
            Event::CData(piece) => content.push_str(&piece.xml10_content()),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().ok()? {
                Some(character) => content.push(character),
                None => {
                    content.push_str(quick_xml::escape::resolve_predefined_entity(&reference)?);
                }
            },
            Event::End(_) => {
                if let Some(name) = name.take() {
                    found.push((name, std::mem::take(&mut content)));
                }
            }
            Event::Eof => return Some(found),
            _ => {}
        }
    }
}
