//! S3: multipart uploads, each operation as one request. Format: the Amazon S3 API reference.

use super::door::Request;
use super::s3::{S3Bucket, from_source, gone_is_fine};
use super::xml;
use super::{
    Bucket, Metadata, ObjectRef, PartInfo, PartOrigin, PartRef, PartTag, Payload, Signing,
    UploadPage,
};
use crate::error::{ErrorKind, Result};
use http::Method;
use std::ops::Range;

impl S3Bucket {
    pub(super) async fn create(
        &self,
        key: &str,
        metadata: &Metadata,
        parts: PartOrigin<'_>,
    ) -> Result<String> {
        let shown = self.shown(key);
        let mut request =
            Request::new(Method::POST, self.object_url(key)?, &shown).query("uploads", "");
        match parts {
            PartOrigin::Sent if self.signing() == Signing::Payload => {
                request = request.header("x-amz-checksum-algorithm", "SHA256")?;
            }
            // AWS refuses the checksum of a part where none was announced, and wants one of each
            // part where one was.
            PartOrigin::Sent | PartOrigin::Mixed => {}
            PartOrigin::Copied(info) => {
                for (name, value) in &info.headers {
                    request = request.header(name, value)?;
                }
            }
        }
        metadata.add_to(&mut request.headers);
        let answer = self.door().ask(&request).await?;
        let id = xml::find(&answer, "UploadId").filter(|id| !id.is_empty());
        id.ok_or_else(|| self.protocol(key, "the server gave no upload id"))
    }

    fn part_request<'a>(&self, part: PartRef<'a>, shown: &'a str) -> Result<Request<'a>> {
        Ok(Request::new(Method::PUT, self.object_url(part.key)?, shown)
            .query("partNumber", part.number.to_string())
            .query("uploadId", part.upload))
    }

    pub(super) async fn send_part(&self, part: PartRef<'_>, payload: Payload) -> Result<PartTag> {
        let shown = self.shown(part.key);
        let sha256 = payload.sha256.filter(|_| payload.md5.is_none());
        let request = self.carrying(self.part_request(part, &shown)?, payload)?;
        let response = self.door().send(&request).await?;
        let etag = response.headers().get("etag").and_then(|value| value.to_str().ok());
        let etag = etag.ok_or_else(|| self.protocol(part.key, "a part got no ETag"))?.to_owned();
        Ok(PartTag { number: part.number, etag, sha256 })
    }

    pub(super) async fn copied_part(
        &self,
        part: PartRef<'_>,
        source: &ObjectRef,
        range: Range<u64>,
    ) -> Result<PartTag> {
        let shown = self.shown(part.key);
        let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let request = from_source(self.part_request(part, &shown)?, source)?
            .header("x-amz-copy-source-range", &range)?;
        let answer = self.door().ask(&request).await?;
        let etag = xml::find(&answer, "ETag");
        let etag = etag.ok_or_else(|| self.protocol(part.key, "a copied part got no ETag"))?;
        Ok(PartTag { number: part.number, etag, sha256: None })
    }

    pub(super) async fn complete(&self, key: &str, upload: &str, parts: &[PartTag]) -> Result<()> {
        let shown = self.shown(key);
        let body = xml::complete_request(parts);
        let request = Request::new(Method::POST, self.object_url(key)?, &shown)
            .query("uploadId", upload)
            .payload(Payload::new(body.into()));
        self.door().ask(&request).await.map(drop)
    }

    pub(super) async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let shown = self.shown(key);
        let request =
            Request::new(Method::DELETE, self.object_url(key)?, &shown).query("uploadId", upload);
        gone_is_fine(self.door().send(&request).await.map(drop))
    }

    /// The parts that the server has of an upload, in its order.
    pub(super) async fn parts_of(&self, key: &str, upload: &str) -> Result<Vec<PartInfo>> {
        let shown = self.shown(key);
        let mut parts: Vec<PartInfo> = Vec::new();
        loop {
            let marker = parts.iter().map(|part| part.number).max().unwrap_or_default();
            let mut request =
                Request::new(Method::GET, self.object_url(key)?, &shown).query("uploadId", upload);
            if marker > 0 {
                request = request.query("part-number-marker", marker.to_string());
            }
            let answer = self.door().ask(&request).await?;
            let (more, truncated) = xml::parse_parts(&answer).map_err(|e| self.protocol(key, e))?;
            // A server that gives the same page again would never come to its end.
            let goes_on = more.iter().any(|part| part.number > marker);
            parts.extend(more);
            if !truncated || !goes_on {
                return Ok(parts);
            }
        }
    }

    pub(super) async fn uploads_below(
        &self,
        prefix: &str,
        after: Option<&(String, String)>,
    ) -> Result<UploadPage> {
        // Ceph encodes keys without saying so, and SeaweedFS says so without doing it: they are
        // asked for as they are, and encoded only where that is no XML.
        let plain = self.uploads_page(prefix, after, false).await;
        match plain {
            Err(error) if error.kind() == ErrorKind::Protocol => {
                self.uploads_page(prefix, after, true).await
            }
            other => other,
        }
    }

    async fn uploads_page(
        &self,
        prefix: &str,
        after: Option<&(String, String)>,
        encoded: bool,
    ) -> Result<UploadPage> {
        let shown = self.shown(prefix);
        let mut request =
            Request::new(Method::GET, self.base().to_owned(), &shown).query("uploads", "");
        if encoded {
            request = request.query("encoding-type", "url");
        }
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        if let Some((key, upload)) = after {
            request = request
                .query("key-marker", key.as_str())
                .query("upload-id-marker", upload.as_str());
        }
        let answer = self.door().ask(&request).await?;
        let mut page =
            xml::parse_uploads(&answer, encoded).map_err(|e| self.protocol(prefix, e))?;
        page.next = page.next.filter(|next| Some(next) != after);
        Ok(page)
    }
}
