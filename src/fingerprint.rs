//! What is known of content without looking at it: hashes, entity tags, and part-size arithmetic.
//!
//! Pure values. The formula of a multipart ETag is S3's: the MD5 of the parts' binary MD5s, then
//! `-` and the number of parts.

use std::fmt;

/// One MiB.
pub const MIB: u64 = 1 << 20;
/// Files above this many bytes are sent in parts.
pub const MULTIPART_THRESHOLD: u64 = 16 * MIB;
/// The smallest part that haul sends, the last one aside.
pub const MIN_PART_BYTES: u64 = 16 * MIB;
/// The most parts that an upload may have (an S3 limit).
pub const MAX_PARTS: u64 = 10_000;
/// The largest object that S3 stores.
pub const MAX_OBJECT_BYTES: u64 = 5 << 40;

/// The part size for a file of `size` bytes: the smallest power of two of at least 16 MiB that
/// needs no more than 10,000 parts.
///
/// ```
/// assert_eq!(haul::part_bytes(300 << 20), 16 << 20);
/// assert_eq!(haul::part_bytes(5 << 40), 1 << 30);
/// ```
#[must_use]
pub fn part_bytes(size: u64) -> u64 {
    size.div_ceil(MAX_PARTS).next_power_of_two().max(MIN_PART_BYTES)
}

/// Part sizes that tools use by default, in MiB, the likeliest first: haul and mc 16, boto3, aws
/// and s5cmd's relatives 8, rclone 5, s3cmd 15, s5cmd 50, and powers of two.
const COMMON_PART_MIB: [u64; 14] = [16, 8, 5, 15, 50, 64, 10, 20, 32, 100, 128, 256, 512, 1024];

/// The part sizes in whole MiB with which an object of `size` bytes has `parts` parts: the common
/// ones, then the others, the smallest first.
pub fn part_size_candidates(size: u64, parts: u32) -> impl Iterator<Item = u64> {
    let fits = move |part: &u64| size.div_ceil(*part).max(1) == u64::from(parts);
    // With one part more than the last that is full, each part holds at least this.
    let least = size.div_ceil(u64::from(parts.max(1))).div_ceil(MIB).max(1);
    let most = if parts > 1 { size / u64::from(parts - 1) / MIB } else { least };
    let others = (least..=most).filter(|mib| !COMMON_PART_MIB.contains(mib));
    COMMON_PART_MIB.into_iter().chain(others).map(|mib| mib * MIB).filter(fits)
}

/// A BLAKE3 hash of a whole content (32 bytes, shown as 64 hex digits).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blake3([u8; 32]);

impl Blake3 {
    /// The hash of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        blake3::hash(content).into()
    }

    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(Self::from)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Blake3 {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<blake3::Hash> for Blake3 {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An MD5 in binary.
pub type Md5Bytes = [u8; 16];

/// An object's entity tag, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ETag {
    /// 32 hex digits: the MD5 of the content, where the server keeps to the rule.
    Md5(Md5Bytes),
    /// An MD5 of part MD5s, and the number of parts.
    Multipart(Md5Bytes, u32),
    /// Anything else, as sent.
    Opaque(Box<str>),
}

impl ETag {
    /// Reads an entity tag, quoted or not.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim().trim_matches('"');
        let (digest, parts) = match text.split_once('-') {
            None => (text, None),
            Some((digest, parts)) => (digest, Some(parts.parse::<u32>())),
        };
        match (parse_hex(digest), parts) {
            // Some gateways give every object this one.
            (Some(md5), _) if md5 == [0; 16] => Self::Opaque("".into()),
            (Some(md5), None) => Self::Md5(md5),
            (Some(md5), Some(Ok(parts))) if parts > 0 => Self::Multipart(md5, parts),
            _ => Self::Opaque(text.into()),
        }
    }

    /// The ETag of an object made of parts with these MD5s, in order.
    #[must_use]
    pub fn of_parts(parts: &[Md5Bytes]) -> Self {
        let digest = md5(&parts.concat());
        Self::Multipart(digest, u32::try_from(parts.len()).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Md5(md5) => f.write_str(&hex(md5)),
            Self::Multipart(md5, parts) => write!(f, "{}-{parts}", hex(md5)),
            Self::Opaque(text) => f.write_str(text),
        }
    }
}

/// The MD5 of `content`.
#[must_use]
pub fn md5(content: &[u8]) -> Md5Bytes {
    use md5::Digest;
    md5::Md5::digest(content).into()
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| DIGITS[usize::from(digit)]).collect()
}

fn parse_hex(text: &str) -> Option<Md5Bytes> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 16 || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_exceed_the_limit() {
        assert_eq!(part_bytes(0), MIN_PART_BYTES);
        for size in [1, 160_000 * MIB, 160_000 * MIB + 1, MAX_OBJECT_BYTES] {
            let part = part_bytes(size);
            assert!(part.is_power_of_two() && size.div_ceil(part) <= MAX_PARTS, "{size}");
        }
        assert_eq!(part_bytes(160_000 * MIB), 16 * MIB);
        assert_eq!(part_bytes(160_000 * MIB + 1), 32 * MIB);
    }

    #[test]
    fn etags_are_read_with_and_without_quotes() {
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(ETag::parse(&format!("\"{md5}\"")), ETag::Md5(super::md5(b"")));
        assert_eq!(ETag::parse(&format!("{md5}-3")), ETag::Multipart(super::md5(b""), 3));
        for odd in ["", "abc", &format!("{md5}-0"), &format!("{md5}-x"), &format!("{md5}é")] {
            assert!(matches!(ETag::parse(odd), ETag::Opaque(_)), "{odd}");
        }
        assert_eq!(ETag::parse(&format!("{md5}-3")).to_string(), format!("{md5}-3"));
        let zeros = "0".repeat(32);
        assert_eq!(ETag::parse(&format!("{zeros}-1")), ETag::Opaque("".into()));
    }

    #[test]
    fn candidates_fit_the_number_of_parts() {
        let fits: Vec<u64> = part_size_candidates(40 * MIB, 4).collect();
        assert_eq!(fits, [10, 11, 12, 13].map(|m| m * MIB));
        assert_eq!(part_size_candidates(40 * MIB, 5).collect::<Vec<_>>(), [8, 9].map(|m| m * MIB));
        assert_eq!(
            part_size_candidates(40 * MIB, 3).collect::<Vec<_>>(),
            [16, 15, 14, 17, 18, 19].map(|m| m * MIB)
        );
        assert_eq!(part_size_candidates(1000 * MIB, 143).collect::<Vec<_>>(), [7 * MIB]);
        assert_eq!(part_size_candidates(40 * MIB, 9999).count(), 0);
    }

    #[test]
    fn blake3_is_the_standard_hash() {
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Blake3::of(b"").to_string(), empty);
        assert_eq!(Blake3::parse(empty), Some(Blake3::of(b"")));
        assert_eq!(Blake3::parse("xyz"), None);
    }
}
