//! S3: the operations of a bucket, each as one request through the door.

use super::door::{Door, Request, body_error_kind, encode_into};
use super::xml;
use super::{
    Bucket, Checksum, Content, KEPT_HEADERS, Metadata, ObjectInfo, ObjectRef, Page, PageRequest,
    PartInfo, PartOrigin, PartRef, PartTag, Payload, Signing, UploadPage,
};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::fingerprint::ETag;
use crate::key::printable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, Method};
use std::ops::Range;
use std::sync::Arc;

/// Asks for the checksums that the server keeps.
const CHECKSUM_MODE: &str = "x-amz-checksum-mode";

/// What the buckets of one endpoint share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) door: Door,
    /// `https://host[:port][/path]` without a trailing `/`; none for AWS.
    pub(super) endpoint: Option<String>,
    pub(super) region: String,
}

impl Service {
    pub(super) fn service_url(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => format!("https://s3.{}.amazonaws.com", self.region),
        }
    }

    /// Path-style for an endpoint of one's own; virtual-hosted on AWS, unless dots in the name
    /// would break its certificate.
    pub(super) fn bucket_url(&self, name: &str) -> String {
        match &self.endpoint {
            None if !name.contains('.') => {
                format!("https://{name}.s3.{}.amazonaws.com", self.region)
            }
            _ => format!("{}/{name}", self.service_url()),
        }
    }
}

/// One bucket of an [`Endpoint`](super::Endpoint).
#[derive(Debug)]
pub struct S3Bucket {
    shared: Arc<Service>,
    name: String,
    base: String,
}

impl S3Bucket {
    pub(super) fn new(shared: Arc<Service>, name: String, base: String) -> Self {
        Self { shared, name, base }
    }

    /// The bucket's own URL.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The object's URL. A key with a `.` or `..` segment has none: every URL library folds it.
    pub(super) fn object_url(&self, key: &str) -> Result<String> {
        if key.split('/').any(|segment| matches!(segment, "." | "..")) {
            let cause = "a key with a `.` or `..` segment can't be addressed by a URL";
            return Err(Error::new(
                ErrorKind::Refused,
                format!("cannot reach {}", self.shown(key)),
                cause,
            ));
        }
        let mut url = String::with_capacity(self.base.len() + 1 + key.len());
        url.push_str(&self.base);
        url.push('/');
        encode_into(&mut url, key, true);
        Ok(url)
    }

    pub(super) fn shown(&self, key: &str) -> String {
        format!("s3://{}/{}", self.name, printable(key))
    }

    pub(super) fn door(&self) -> &Door {
        &self.shared.door
    }

    pub(super) fn protocol(&self, key: &str, cause: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Protocol, format!("odd answer about {}", self.shown(key)), cause)
    }

    async fn list(&self, page: &PageRequest) -> Result<Page> {
        let shown = self.shown(&page.prefix);
        let mut request = Request::new(Method::GET, self.base.clone(), &shown)
            .query("list-type", "2")
            .query("encoding-type", "url");
        if page.by_directory {
            request = request.query("delimiter", "/");
        }
        if !page.prefix.is_empty() {
            request = request.query("prefix", page.prefix.as_str());
        }
        // A token says where to go on; beside it a start says nothing.
        if let Some(token) = &page.token {
            request = request.query("continuation-token", token.as_str());
        } else if let Some(after) = &page.after {
            request = request.query("start-after", after.as_str());
        }
        let answer = self.door().ask(&request).await?;
        xml::parse_page(&answer).map_err(|e| self.protocol(&page.prefix, e))
    }

    fn info(&self, key: &str, headers: &HeaderMap) -> Result<ObjectInfo> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let size = match text("content-range").and_then(|range| range.rsplit('/').next()) {
            Some(total) => total.parse().ok(),
            None => text("content-length").and_then(|length| length.parse().ok()),
        };
        let size = size.ok_or_else(|| self.protocol(key, "it has no length"))?;
        let etag = ETag::parse(text("etag").unwrap_or_default());
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(Metadata::PREFIX)?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        });
        let is_multipart = matches!(etag, ETag::Multipart(..));
        let kept = |name: &&'static str| Some((*name, text(name)?.to_owned()));
        let headers_kept = KEPT_HEADERS.iter().filter_map(kept).collect();
        let is_kms = text("x-amz-server-side-encryption").is_some_and(|name| name != "AES256");
        let is_customer = headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
        Ok(ObjectInfo {
            size,
            etag_is_hash: !is_kms && !is_customer,
            checksum: whole_checksum(&text, is_multipart),
            etag,
            modified: text("last-modified").map(str::to_owned),
            headers: headers_kept,
            metadata: Metadata(metadata.collect()),
        })
    }

    async fn open(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        if_match: Option<&ETag>,
    ) -> Result<Content> {
        let shown = self.shown(key);
        let mut request = Request::new(Method::GET, self.object_url(key)?, &shown)
            .header(CHECKSUM_MODE, "ENABLED")?;
        if let Some(range) = &range {
            let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            request = request.header("range", &value)?;
        }
        if let Some(etag) = if_match {
            request = request.header("if-match", &format!("\"{etag}\""))?;
        }
        let response = self.door().send(&request).await?;
        if range.is_some() && response.status() != http::StatusCode::PARTIAL_CONTENT {
            return Err(self.protocol(key, "the server ignored the range"));
        }
        let info = self.info(key, response.headers())?;
        let what = format!("cannot GET {shown}");
        let body = response.into_body().bytes_stream().map(move |frame| {
            frame.map_err(|e| {
                let cause = chain(&e).replace("HTTP error: ", "");
                Error::new(body_error_kind(&e), what.clone(), cause)
            })
        });
        Ok(Content { info, body: body.boxed() })
    }

    /// A request that carries content: the signed SHA-256 is checked by Ceph and AWS, the same as a
    /// checksum header by servers that ignore the signed one (SeaweedFS), Content-MD5 by all of
    /// them where nothing is signed.
    pub(super) fn carrying<'a>(
        &self,
        mut request: Request<'a>,
        payload: Payload,
    ) -> Result<Request<'a>> {
        if let Some(sha256) = payload.sha256.filter(|_| payload.md5.is_none()) {
            request = request.header("x-amz-checksum-sha256", &BASE64.encode(sha256))?;
        }
        let anonymous =
            || self.door().is_anonymous().then(|| crate::fingerprint::md5(&payload.bytes));
        if let Some(md5) = payload.md5.or_else(anonymous) {
            request = request.header("content-md5", &BASE64.encode(md5))?;
        }
        Ok(request.payload(payload))
    }

    async fn put_object(&self, key: &str, payload: Payload, metadata: &Metadata) -> Result<ETag> {
        let shown = self.shown(key);
        let mut request = Request::new(Method::PUT, self.object_url(key)?, &shown);
        metadata.add_to(&mut request.headers);
        let request = self.carrying(request, payload)?;
        let response = self.door().send(&request).await?;
        let etag = response.headers().get("etag").and_then(|value| value.to_str().ok());
        etag.map(ETag::parse).ok_or_else(|| self.protocol(key, "the server gave no ETag"))
    }

    async fn copy_object(
        &self,
        source: &ObjectRef,
        key: &str,
        described: Option<&ObjectInfo>,
    ) -> Result<Option<ETag>> {
        let shown = self.shown(key);
        let mut request =
            from_source(Request::new(Method::PUT, self.object_url(key)?, &shown), source)?;
        if let Some(described) = described {
            request = request.header("x-amz-metadata-directive", "REPLACE")?;
            for (name, value) in &described.headers {
                request = request.header(name, value)?;
            }
            described.metadata.add_to(&mut request.headers);
        }
        let answer = self.door().ask(&request).await?;
        Ok(xml::find(&answer, "ETag")
            .filter(|etag| !etag.is_empty())
            .map(|etag| ETag::parse(&etag)))
    }

    async fn delete_keys(&self, keys: &[String]) -> Result<Vec<(String, Error)>> {
        let (plain, odd): (Vec<&str>, Vec<&str>) =
            keys.iter().map(String::as_str).partition(|key| xml::is_expressible(key));
        let mut failures = Vec::new();
        if !plain.is_empty() {
            failures = self.delete_batch(&plain).await?;
        }
        for key in odd {
            if let Err(error) = self.delete_one(key).await {
                failures.push((key.to_owned(), error));
            }
        }
        Ok(failures)
    }

    async fn delete_batch(&self, keys: &[&str]) -> Result<Vec<(String, Error)>> {
        let shown = self.url();
        let body = Bytes::from(xml::delete_request(keys));
        let md5 = BASE64.encode(crate::fingerprint::md5(&body));
        let request = Request::new(Method::POST, self.base.clone(), &shown)
            .query("delete", "")
            .header("content-md5", &md5)?
            .payload(Payload::new(body));
        let answer = self.door().ask(&request).await?;
        let failures = xml::parse_deleted(&answer).map_err(|e| self.protocol("", e))?;
        let explain = |failure: xml::DeleteFailure| {
            let what = format!("cannot DELETE {}", self.shown(&failure.key));
            let cause = format!("{} {}", failure.told.code, failure.told.message);
            (failure.key, Error::new(ErrorKind::Denied, what, printable(&cause)))
        };
        Ok(failures.into_iter().filter(|f| f.told.code != "NoSuchKey").map(explain).collect())
    }

    async fn delete_one(&self, key: &str) -> Result<()> {
        let shown = self.shown(key);
        let request = Request::new(Method::DELETE, self.object_url(key)?, &shown);
        gone_is_fine(self.door().send(&request).await.map(drop))
    }

    async fn look(&self, key: &str) -> Result<ObjectInfo> {
        let shown = self.shown(key);
        let request = Request::new(Method::HEAD, self.object_url(key)?, &shown)
            .header(CHECKSUM_MODE, "ENABLED")?;
        let response = self.door().send(&request).await?;
        self.info(key, response.headers())
    }
}

/// The checksum of the whole content; that of parts' checksums (`COMPOSITE`) tells too little.
fn whole_checksum<'a>(
    header: &impl Fn(&'static str) -> Option<&'a str>,
    is_multipart: bool,
) -> Option<Checksum> {
    let is_whole = match header("x-amz-checksum-type") {
        Some(kind) => kind == "FULL_OBJECT",
        None => !is_multipart,
    };
    let value = |name| header(name).and_then(|text| BASE64.decode(text).ok());
    let sha256 = || Some(Checksum::Sha256(value("x-amz-checksum-sha256")?.try_into().ok()?));
    let crc64 = || {
        let bytes = value("x-amz-checksum-crc64nvme")?.try_into().ok()?;
        Some(Checksum::Crc64Nvme(u64::from_be_bytes(bytes)))
    };
    is_whole.then(|| sha256().or_else(crc64)).flatten()
}

pub(super) fn gone_is_fine(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn from_source<'a>(request: Request<'a>, source: &ObjectRef) -> Result<Request<'a>> {
    let mut path = format!("/{}/", source.bucket);
    encode_into(&mut path, &source.key, true);
    request
        .header("x-amz-copy-source", &path)?
        .header("x-amz-copy-source-if-match", &source.etag.to_string())
}

impl Bucket for S3Bucket {
    fn url(&self) -> String {
        format!("s3://{}", self.name)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> String {
        self.base.clone()
    }

    fn signing(&self) -> Signing {
        self.door().signing()
    }

    fn endpoint_id(&self) -> String {
        format!("{:p}", Arc::as_ptr(&self.shared))
    }

    fn list_page<'a>(&'a self, page: &'a PageRequest) -> BoxFuture<'a, Result<Page>> {
        self.list(page).boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<ObjectInfo>> {
        self.look(key).boxed()
    }

    fn get<'a>(
        &'a self,
        key: &'a str,
        range: Option<Range<u64>>,
        if_match: Option<&'a ETag>,
    ) -> BoxFuture<'a, Result<Content>> {
        self.open(key, range, if_match).boxed()
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        payload: Payload,
        metadata: &'a Metadata,
    ) -> BoxFuture<'a, Result<ETag>> {
        self.put_object(key, payload, metadata).boxed()
    }

    fn create_upload<'a>(
        &'a self,
        key: &'a str,
        metadata: &'a Metadata,
        parts: PartOrigin<'a>,
    ) -> BoxFuture<'a, Result<String>> {
        self.create(key, metadata, parts).boxed()
    }

    fn put_part<'a>(
        &'a self,
        part: PartRef<'a>,
        payload: Payload,
    ) -> BoxFuture<'a, Result<PartTag>> {
        self.send_part(part, payload).boxed()
    }

    fn copy_part<'a>(
        &'a self,
        part: PartRef<'a>,
        source: &'a ObjectRef,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<PartTag>> {
        self.copied_part(part, source, range).boxed()
    }

    fn list_parts<'a>(
        &'a self,
        key: &'a str,
        upload: &'a str,
    ) -> BoxFuture<'a, Result<Vec<PartInfo>>> {
        self.parts_of(key, upload).boxed()
    }

    fn list_uploads<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a (String, String)>,
    ) -> BoxFuture<'a, Result<UploadPage>> {
        self.uploads_below(prefix, after).boxed()
    }

    fn complete_upload<'a>(
        &'a self,
        key: &'a str,
        upload: &'a str,
        parts: &'a [PartTag],
    ) -> BoxFuture<'a, Result<()>> {
        self.complete(key, upload, parts).boxed()
    }

    fn abort_upload<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        self.abort(key, upload).boxed()
    }

    fn copy<'a>(
        &'a self,
        source: &'a ObjectRef,
        key: &'a str,
        described: Option<&'a ObjectInfo>,
    ) -> BoxFuture<'a, Result<Option<ETag>>> {
        self.copy_object(source, key, described).boxed()
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<(String, Error)>>> {
        self.delete_keys(keys).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::{Connection, Credentials, Endpoint};

    #[test]
    fn keys_go_into_urls_byte_for_byte() {
        let url = Some("http://127.0.0.1:1/".to_owned());
        let connection = Connection::new(url, Credentials::anonymous());
        let bucket = Endpoint::connect(&connection).unwrap().bucket("b");
        assert_eq!(bucket.object_url("a//b c/é").unwrap(), "http://127.0.0.1:1/b/a//b%20c/%C3%A9");
        assert_eq!(bucket.object_url("a/../b").unwrap_err().kind(), ErrorKind::Refused);
    }
}
