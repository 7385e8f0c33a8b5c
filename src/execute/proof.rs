//! How a content can be proven to be an object's: what the object says of itself, and the hashing
//! that compares. BLAKE3 is always computed, since it is what haul remembers.

use crate::bucket::{Checksum, ObjectInfo};
use crate::fingerprint::{Blake3, ETag, Md5Bytes, part_size_candidates};
use crate::hash::ETagHasher;
use bytes::Bytes;

/// What is known of an object's content: of several things the one that proves most for least.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// Its BLAKE3.
    Blake3(Blake3),
    /// Its MD5, which is its ETag.
    Md5(Md5Bytes),
    /// Its MD5 as another tool recorded it: it may have gone stale, or be that of what was
    /// encrypted.
    Recorded(Md5Bytes),
    /// A checksum that the server keeps.
    Checksum(Checksum),
    /// An ETag made of parts, and the part sizes with which it may have been made.
    Parts { etag: ETag, sizes: Vec<u64>, size_is_known: bool },
    /// Nothing that a content could be compared with.
    Nothing,
}

/// What a proof says of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is the object's.
    Proven,
    /// It is not.
    Disproven,
    /// It can't be said.
    Unproven,
}

/// The most part sizes that are tried at once; each costs an MD5 of everything.
const CANDIDATES: usize = 8;

impl Proof {
    /// The best proof that a HEAD or GET offers.
    pub(crate) fn of(info: &ObjectInfo) -> Self {
        if let Some(blake3) = info.metadata.blake3() {
            return Self::Blake3(blake3);
        }
        if let (ETag::Md5(md5), true) = (&info.etag, info.etag_is_hash) {
            return Self::Md5(*md5);
        }
        if let Some(md5) = info.metadata.md5() {
            return Self::Recorded(md5);
        }
        if let Some(checksum) = info.checksum {
            return Self::Checksum(checksum);
        }
        Self::of_etag(info)
    }

    /// What the ETag alone proves.
    pub(crate) fn of_etag(info: &ObjectInfo) -> Self {
        let parts = match &info.etag {
            ETag::Md5(md5) if info.etag_is_hash => return Self::Md5(*md5),
            ETag::Multipart(_, parts) => *parts,
            ETag::Md5(_) | ETag::Opaque(_) => return Self::Nothing,
        };
        let fits = |part: &u64| info.size.div_ceil(*part).max(1) == u64::from(parts);
        let known = info.metadata.part_bytes().filter(fits);
        let sizes = match known {
            Some(part) => vec![part],
            None => part_size_candidates(info.size, parts).take(CANDIDATES).collect(),
        };
        if sizes.is_empty() || !info.etag_is_hash {
            return Self::Nothing;
        }
        Self::Parts { etag: info.etag.clone(), sizes, size_is_known: known.is_some() }
    }

    /// What computes what is to be compared.
    pub(crate) fn hasher(&self) -> ProofHasher {
        let other = match self {
            Self::Blake3(_) | Self::Nothing => Other::Nothing,
            Self::Md5(_) | Self::Recorded(_) => Other::ETag(ETagHasher::new(&[])),
            Self::Parts { sizes, .. } => Other::ETag(ETagHasher::new(sizes)),
            Self::Checksum(Checksum::Sha256(_)) => Other::Sha256(sha2::Sha256::default()),
            Self::Checksum(Checksum::Crc64Nvme(_)) => {
                Other::Crc64(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
            }
        };
        ProofHasher { blake3: Box::default(), other }
    }

    /// The BLAKE3 of the content in `frames`, and whether it is the object's.
    pub(crate) fn check(&self, frames: &[Bytes]) -> (Blake3, Finding) {
        let mut hasher = self.hasher();
        for frame in frames {
            hasher.update(frame);
        }
        self.conclude(hasher)
    }

    /// The BLAKE3 of what was hashed, and whether it is the object's content.
    pub(crate) fn conclude(&self, hasher: ProofHasher) -> (Blake3, Finding) {
        let blake3 = Blake3::from(hasher.blake3.finalize());
        let equal = |agrees| if agrees { Finding::Proven } else { Finding::Disproven };
        let finding = match (self, hasher.other) {
            (Self::Blake3(expected), _) => equal(blake3 == *expected),
            (Self::Md5(md5), Other::ETag(hasher)) => {
                equal(hasher.finish().contains(&ETag::Md5(*md5)))
            }
            (Self::Checksum(Checksum::Sha256(expected)), Other::Sha256(hasher)) => {
                use sha2::Digest;
                equal(<[u8; 32]>::from(hasher.finalize()) == *expected)
            }
            (Self::Checksum(Checksum::Crc64Nvme(expected)), Other::Crc64(digest)) => {
                equal(digest.finalize() == *expected)
            }
            (Self::Recorded(md5), Other::ETag(hasher)) => {
                match hasher.finish().contains(&ETag::Md5(*md5)) {
                    true => Finding::Proven,
                    false => Finding::Unproven,
                }
            }
            // Where the part size is only guessed, another ETag proves nothing.
            (Self::Parts { etag, size_is_known, .. }, Other::ETag(hasher)) => {
                match hasher.finish().contains(etag) {
                    false if !size_is_known => Finding::Unproven,
                    agrees => equal(agrees),
                }
            }
            (
                Self::Nothing
                | Self::Md5(_)
                | Self::Recorded(_)
                | Self::Checksum(_)
                | Self::Parts { .. },
                _,
            ) => Finding::Unproven,
        };
        (blake3, finding)
    }
}

/// Hashes a content for a [`Proof`], in one read.
pub(crate) struct ProofHasher {
    blake3: Box<blake3::Hasher>,
    other: Other,
}

enum Other {
    Nothing,
    ETag(ETagHasher),
    Sha256(sha2::Sha256),
    Crc64(crc_fast::Digest),
}

impl ProofHasher {
    /// Takes the next bytes of the content.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        match &mut self.other {
            Other::Nothing => {}
            Other::ETag(hasher) => hasher.update(bytes),
            Other::Sha256(hasher) => {
                use sha2::Digest;
                hasher.update(bytes);
            }
            Other::Crc64(digest) => digest.update(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Metadata;
    use crate::fingerprint::{MIB, md5};

    fn info(etag: ETag, checksum: Option<Checksum>) -> ObjectInfo {
        ObjectInfo {
            size: 9,
            etag,
            etag_is_hash: true,
            modified: None,
            headers: Vec::new(),
            checksum,
            metadata: Metadata::default(),
        }
    }

    fn find(info: &ObjectInfo, content: &'static [u8]) -> Finding {
        let (blake3, finding) = Proof::of(info).check(&[Bytes::from_static(content)]);
        assert_eq!(blake3, Blake3::of(content));
        finding
    }

    #[test]
    fn each_kind_of_proof_tells_right_from_wrong() {
        // CRC-64/NVME of "123456789" is its check value in the catalogue of CRC algorithms.
        let sha256 = {
            use sha2::Digest;
            sha2::Sha256::digest(b"123456789").into()
        };
        let opaque = || ETag::Opaque("x".into());
        let mut recorded = info(opaque(), None);
        recorded.metadata = Metadata::of_file(Blake3::of(b"123456789"), None, None);
        let mut foreign = info(opaque(), None);
        foreign.metadata.0.insert("md5chksum".into(), "JfnnlDI7RTiF9RgfG2JNCw==".into());
        assert_eq!(find(&foreign, b"123456789"), Finding::Proven);
        assert_eq!(find(&foreign, b"123456780"), Finding::Unproven, "it may be stale");
        for object in [
            recorded,
            info(ETag::Md5(md5(b"123456789")), None),
            info(opaque(), Some(Checksum::Crc64Nvme(0xae8b_1486_0a79_9888))),
            info(opaque(), Some(Checksum::Sha256(sha256))),
        ] {
            assert_eq!(find(&object, b"123456789"), Finding::Proven, "{object:?}");
            assert_eq!(find(&object, b"123456780"), Finding::Disproven, "{object:?}");
        }
        assert_eq!(find(&info(opaque(), None), b"123456789"), Finding::Unproven);
    }

    #[test]
    fn a_guessed_part_size_proves_but_does_not_disprove() {
        let right = info(ETag::of_parts(&[md5(b"123456789")]), None);
        assert_eq!(find(&right, b"123456789"), Finding::Proven);
        assert_eq!(find(&right, b"123456780"), Finding::Unproven);
        let mut known = right;
        known.metadata.0.insert("part-size".into(), (16 * MIB).to_string());
        assert_eq!(find(&known, b"123456780"), Finding::Disproven);
        // An encrypted object's ETag is not made of its content.
        let encrypted = ObjectInfo { etag_is_hash: false, ..known };
        assert_eq!(find(&encrypted, b"123456789"), Finding::Unproven);
    }
}
