//! Large files that have changed in part: what is unchanged of the object is taken over by the
//! server from the object itself.

use super::blocking;
use super::large::{Sending, index_of, is_gone_away};
use super::parts::ranges;
use crate::bucket::{ObjectRef, PartRef, PartTag};
use crate::catalog::Parts;
use crate::error::{ErrorKind, Result};
use crate::fingerprint::{ETag, Md5Bytes, part_size_candidates};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sizes that the pieces of a copied part may have, the likeliest; all are tried in one read.
const PIECE_SIZES: usize = 4;

/// An object whose parts are known.
pub(super) struct Base {
    pub object: ObjectRef,
    pub size: u64,
    pub parts: Parts,
}

/// The parts of an object that are those of the file, too.
pub(super) struct Same {
    pub object: ObjectRef,
    /// For each part.
    unchanged: Vec<bool>,
    /// For each part, where they are known.
    md5s: Option<Vec<Md5Bytes>>,
    /// The server does not copy.
    refused: AtomicBool,
}

impl Sending<'_> {
    /// The parts of the object at the server that the file still has; none where there are none, or
    /// they can't be taken over.
    pub(super) async fn same_parts(&self, base: Base) -> Result<Option<Same>> {
        if base.parts.part_bytes != self.part {
            self.remark("its part size has changed, so that all of it is sent");
            return Ok(None);
        }
        let Base { object, size, parts } = base;
        let old = ranges(size, self.part).zip(&parts.hashes);
        let new = ranges(self.entry().size, self.part).zip(&self.hash.parts);
        let unchanged: Vec<bool> = old.zip(new).map(|(old, new)| old == new).collect();
        let count = unchanged.iter().filter(|unchanged| **unchanged).count();
        if count == 0 {
            self.remark("no part of it is unchanged, so that all of it is sent");
            return Ok(None);
        }
        let now = match self.bucket.head(&object.key).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            found => found.ok().filter(|info| info.etag == object.etag && info.size == size),
        };
        if now.is_none() {
            self.remark("the object is not the one that was sent, so that all of the file is sent");
            return Ok(None);
        }
        self.remark(&format!("{count} of {} parts are unchanged", self.hash.parts.len()));
        let md5s = Some(parts.md5s).filter(|md5s| md5s.len() == parts.hashes.len());
        Ok(Some(Same { object, unchanged, md5s, refused: AtomicBool::new(false) }))
    }

    /// Has the server copy a part that is unchanged. None where it is not, or can't be proven to
    /// have arrived: it is sent then.
    pub(super) async fn copy_part(
        &self,
        same: &Same,
        part: PartRef<'_>,
        range: Range<u64>,
    ) -> Result<Option<PartTag>> {
        let index = index_of(part.number);
        if same.unchanged.get(index) != Some(&true) || same.refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let md5 = same.md5s.as_ref().map(|md5s| md5s[index]);
        let why = match self.bucket.copy_part(part, &same.object, range.clone()).await {
            Ok(tag) if self.is_proven(&tag, md5, range).await? => return Ok(Some(tag)),
            Ok(_) => "a copied part is not the one that was sent".to_owned(),
            Err(error) if is_gone_away(&error) || error.kind() == ErrorKind::NotFound => {
                return Err(error);
            }
            Err(error) => format!("the server does not copy parts ({})", error.cause()),
        };
        if !same.refused.swap(true, Ordering::Relaxed) {
            self.remark(&format!("{why}, so that the rest is sent"));
        }
        Ok(None)
    }

    /// True where a copied part's entity tag is that of the file's part: its MD5, which may be
    /// remembered, or the MD5 of the MD5s of the pieces that SeaweedFS keeps it in.
    async fn is_proven(
        &self,
        copied: &PartTag,
        md5: Option<Md5Bytes>,
        range: Range<u64>,
    ) -> Result<bool> {
        let etag = ETag::parse(&copied.etag);
        let pieces: Vec<u64> = match (&etag, md5) {
            (ETag::Md5(found), Some(md5)) => return Ok(*found == md5),
            (ETag::Md5(_), None) => Vec::new(),
            (ETag::Multipart(_, count), _) => {
                let bytes = range.end - range.start;
                part_size_candidates(bytes, *count).take(PIECE_SIZES).collect()
            }
            (ETag::Opaque(_), _) => return Ok(false),
        };
        let source = Arc::clone(&self.source);
        Ok(blocking(move || source.etags(range, &pieces)).await?.contains(&etag))
    }
}
