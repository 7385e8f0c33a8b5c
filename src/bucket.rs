//! What the engine needs of a store, whatever speaks to it.
//!
//! [`Bucket`] works on whole object keys, byte for byte. It retries what can be retried and reports
//! everything else; it does not decide what is transferred.

mod connector;
mod credentials;
mod door;
mod endpoint;
mod metadata;
mod multipart;
mod pace;
mod s3;
mod throttle;
mod xml;

pub use connector::Traffic;
pub use credentials::{Credentials, KeyFile};
pub use endpoint::{Connection, Endpoint, Trust};
pub use metadata::Metadata;
pub use pace::Concurrency;
pub use s3::S3Bucket;
pub use throttle::Bandwidth;
pub use xml::BucketInfo;

use crate::error::Result;
use crate::fingerprint::{ETag, Md5Bytes};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::fmt::Debug;
use std::ops::Range;

/// The most keys that one delete request takes, and that one listing page may hold.
pub const MAX_BATCH_KEYS: usize = 1000;

/// The operations of a store that the engine is built on. Every method is safe to repeat.
///
/// Errors: `NotFound`, `Denied`, `Precondition`, `Protocol`, and after the retries `Busy` or
/// `Network`; `Setup` where nothing on this endpoint can work (keys, bucket, clock).
pub trait Bucket: Debug + Send + Sync {
    /// `s3://name`, for messages.
    fn url(&self) -> String;

    /// The bucket's name.
    fn name(&self) -> &str;

    /// Where it is, for good: the address of the bucket, with no key or secret in it.
    fn address(&self) -> String;

    /// What signatures cover.
    fn signing(&self) -> Signing {
        Signing::default()
    }

    /// What identifies the endpoint and its keys: buckets that share it can be copied between.
    fn endpoint_id(&self) -> String;

    /// One page of the keys that start with `prefix`, from `token` on.
    fn list_page<'a>(&'a self, page: &'a PageRequest) -> BoxFuture<'a, Result<Page>>;

    /// Size, ETag and metadata of an object.
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<ObjectInfo>>;

    /// Opens an object's content, or a range of it (not of an empty object), if it still is the
    /// one with `if_match`. A body that breaks is not resumed here: ask for the rest.
    fn get<'a>(
        &'a self,
        key: &'a str,
        range: Option<Range<u64>>,
        if_match: Option<&'a ETag>,
    ) -> BoxFuture<'a, Result<Content>>;

    /// Stores a whole object.
    fn put<'a>(
        &'a self,
        key: &'a str,
        payload: Payload,
        metadata: &'a Metadata,
    ) -> BoxFuture<'a, Result<ETag>>;

    /// Begins a multipart upload; answers its id.
    fn create_upload<'a>(
        &'a self,
        key: &'a str,
        metadata: &'a Metadata,
        parts: PartOrigin<'a>,
    ) -> BoxFuture<'a, Result<String>>;

    /// Sends one part.
    fn put_part<'a>(
        &'a self,
        part: PartRef<'a>,
        payload: Payload,
    ) -> BoxFuture<'a, Result<PartTag>>;

    /// Makes one part out of `range` of an object of the same endpoint.
    fn copy_part<'a>(
        &'a self,
        part: PartRef<'a>,
        source: &'a ObjectRef,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<PartTag>>;

    /// The parts that the server has of an upload; `NotFound` where it does not know the upload.
    fn list_parts<'a>(
        &'a self,
        key: &'a str,
        upload: &'a str,
    ) -> BoxFuture<'a, Result<Vec<PartInfo>>>;

    /// One page of the unfinished uploads of keys that start with `prefix`, from behind `after` on
    /// ([`UploadPage::next`]).
    fn list_uploads<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a (String, String)>,
    ) -> BoxFuture<'a, Result<UploadPage>>;

    /// Makes the object out of all its parts, in order.
    fn complete_upload<'a>(
        &'a self,
        key: &'a str,
        upload: &'a str,
        parts: &'a [PartTag],
    ) -> BoxFuture<'a, Result<()>>;

    /// Gives up a multipart upload and its parts. One that is gone already is fine.
    fn abort_upload<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Copies an object of the same endpoint, of at most 5 GiB, within the server. Its headers and
    /// metadata come along, or are replaced by those of `described`. Answers the new ETag, if the
    /// server tells it.
    fn copy<'a>(
        &'a self,
        source: &'a ObjectRef,
        key: &'a str,
        described: Option<&'a ObjectInfo>,
    ) -> BoxFuture<'a, Result<Option<ETag>>>;

    /// Deletes up to [`MAX_BATCH_KEYS`] objects; answers those that could not be, with the reason.
    /// An object that is gone already is fine.
    fn delete<'a>(
        &'a self,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<(String, crate::error::Error)>>>;
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct PageRequest {
    /// Only keys that start with this.
    pub prefix: String,
    /// Fold keys behind the next `/` into one prefix.
    pub by_directory: bool,
    /// Only keys behind this one.
    pub after: Option<String>,
    /// Where the page before ended ([`Page::next`]).
    pub token: Option<String>,
}

/// One page of a listing, in the server's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects, with their whole keys.
    pub objects: Vec<Listed>,
    /// With [`PageRequest::by_directory`], the prefixes that end in `/`.
    pub prefixes: Vec<String>,
    /// The token of the next page; none at the end.
    pub next: Option<String>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// ISO 8601, as the server spells it.
    pub modified: String,
    /// The storage class, where the server names one.
    pub storage_class: Option<String>,
}

/// What a HEAD or GET tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes of the whole object.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// False where the object is encrypted in a way that makes its ETag no hash of the content.
    pub etag_is_hash: bool,
    /// `Last-Modified`, as sent.
    pub modified: Option<String>,
    /// Those of [`KEPT_HEADERS`] that it has.
    pub headers: Vec<(&'static str, String)>,
    /// A checksum of the whole content, where the server has one.
    pub checksum: Option<Checksum>,
    /// User metadata.
    pub metadata: Metadata,
}

/// A checksum that the server keeps of a whole content. CRC32 is not among them: 32 bits are too
/// few to tell contents apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// `x-amz-checksum-sha256`.
    Sha256([u8; 32]),
    /// `x-amz-checksum-crc64nvme`.
    Crc64Nvme(u64),
}

/// The headers that belong to an object and go where it goes.
pub const KEPT_HEADERS: [&str; 6] = [
    "content-type",
    "content-encoding",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
];

impl ObjectInfo {
    /// MIME type.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        let of_type = |(name, _): &&(&str, String)| *name == "content-type";
        self.headers.iter().find(of_type).map(|(_, value)| value.as_str())
    }
}

/// An open object.
pub struct Content {
    /// What it is.
    pub info: ObjectInfo,
    /// Its bytes, in frames of the size in which they arrive.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Bytes to send and their SHA-256, which is signed and checked by the server.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The bytes; cloning them copies nothing.
    pub bytes: Bytes,
    /// SHA-256 of the bytes; none where only the channel vouches for them.
    pub sha256: Option<[u8; 32]>,
    /// MD5 of the bytes, sent instead of a checksum header, for parts of [`PartOrigin::Mixed`].
    pub md5: Option<Md5Bytes>,
}

impl Payload {
    /// Hashes `bytes` for sending: 0.5 s of CPU a GiB, so large ones belong on a blocking thread.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { sha256: Signing::Payload.digest(&bytes), md5: None, bytes }
    }
}

/// What the signature of a request covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signing {
    /// Head and content: the server checks every byte that it stores.
    #[default]
    Payload,
    /// The head alone: it is for TLS to keep the content what it is.
    Head,
}

impl Signing {
    /// What is signed of a content.
    #[must_use]
    pub fn digest(self, content: &[u8]) -> Option<[u8; 32]> {
        let mut hasher = self.hasher();
        hasher.update(content);
        hasher.finish()
    }

    /// Computes the same of a content that comes in pieces.
    #[must_use]
    pub fn hasher(self) -> PayloadHasher {
        PayloadHasher((self == Self::Payload).then(sha2::Sha256::default))
    }
}

/// Hashes a payload for [`Signing`].
#[derive(Debug)]
pub struct PayloadHasher(Option<sha2::Sha256>);

impl PayloadHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.0 {
            sha2::Digest::update(sha256, bytes);
        }
    }

    /// What is signed; none where only the channel vouches for the content.
    #[must_use]
    pub fn finish(self) -> Option<[u8; 32]> {
        self.0.map(|sha256| sha2::Digest::finalize(sha256).into())
    }
}

/// Where the parts of an upload will come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartOrigin<'a> {
    /// They are sent, each with its checksum.
    Sent,
    /// They are copied by the server from this object, whose headers come along.
    Copied(&'a ObjectInfo),
    /// Some are sent, each with its MD5, the others copied by the server.
    Mixed,
}

/// A part of an upload under way.
#[derive(Clone, Copy, Debug)]
pub struct PartRef<'a> {
    /// The object's key.
    pub key: &'a str,
    /// The upload's id.
    pub upload: &'a str,
    /// 1 to 10,000.
    pub number: u32,
}

/// A part that is at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartTag {
    /// 1 to 10,000.
    pub number: u32,
    /// The part's entity tag, as sent.
    pub etag: String,
    /// SHA-256 of what was sent, where the upload keeps these; none for a copied part.
    pub sha256: Option<[u8; 32]>,
}

/// A part as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// 1 to 10,000.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// The part's entity tag.
    pub etag: ETag,
}

/// An upload that was begun, and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The whole key of the object that it is to become.
    pub key: String,
    /// Its id.
    pub id: String,
    /// When it was begun, ISO 8601 as the server spells it; empty where it does not say.
    pub initiated: String,
}

/// One page of a listing of uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadPage {
    /// The uploads.
    pub uploads: Vec<UploadInfo>,
    /// The key and upload id behind which the next page begins; none at the end.
    pub next: Option<(String, String)>,
}

/// An object of some bucket, to copy from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// The bucket's name.
    pub bucket: String,
    /// The whole key.
    pub key: String,
    /// The version that is meant.
    pub etag: ETag,
}
