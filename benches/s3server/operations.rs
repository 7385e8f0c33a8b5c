//! Which operation a request is, and those of buckets and objects.

use crate::Server;
use crate::answer::{Answer, Failure};
use crate::request::Request;
use crate::store::{Object, Store};
use crate::text::{escape_xml, http_date, iso_date, leaves, now};
use crate::{listing, uploads};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

type Handler = fn(&Store, &Request<'_>) -> Result<Answer, Failure>;

/// Settings that a bucket does not have, and the error that says so.
const NO_SETTING: [(&str, &str); 9] = [
    ("cors", "NoSuchCORSConfiguration"),
    ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
    ("lifecycle", "NoSuchLifecycleConfiguration"),
    ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ("ownershipControls", "OwnershipControlsNotFoundError"),
    ("policy", "NoSuchBucketPolicy"),
    ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
    ("replication", "ReplicationConfigurationNotFoundError"),
    ("website", "NoSuchWebsiteConfiguration"),
];
/// Settings that are there and empty, and the element that holds nothing then.
const EMPTY_SETTING: [(&str, &str); 7] = [
    ("accelerate", "AccelerateConfiguration"),
    ("acl", "AccessControlPolicy"),
    ("logging", "BucketLoggingStatus"),
    ("notification", "NotificationConfiguration"),
    ("requestPayment", "RequestPaymentConfiguration"),
    ("tagging", "Tagging"),
    ("versioning", "VersioningConfiguration"),
];

pub fn answer(server: &Server, request: &Request<'_>) -> Answer {
    match (request.head.method, request.bucket.as_ref()) {
        ("GET", "_counters") => {
            let body = vec![server.counters.json().into()];
            return Answer::content(200, "Content-Type: application/json\r\n".into(), body);
        }
        ("POST", "_reset") => {
            server.counters.reset();
            return Answer::empty(200);
        }
        _ => {}
    }
    let (name, handler) = operation(request);
    server.counters.count(name);
    handler(&server.store, request).unwrap_or_else(Answer::from)
}

fn operation(request: &Request<'_>) -> (&'static str, Handler) {
    match (request.head.method, request.bucket.is_empty(), request.key.is_empty()) {
        ("GET", true, true) => ("ListBuckets", buckets),
        (_, true, _) => ("Other", unknown),
        (method, false, true) => bucket_operation(method, request),
        (method, false, false) => object_operation(method, request),
    }
}

fn bucket_operation(method: &str, request: &Request<'_>) -> (&'static str, Handler) {
    match method {
        _ if is_about_setting(request) => ("Setting", setting),
        "GET" if request.asks("location") => ("GetBucketLocation", location),
        "GET" if request.asks("uploads") => ("ListMultipartUploads", uploads::uploads),
        "GET" if request.asks("versions") => ("Other", unknown),
        "GET" if request.query("list-type") == Some("2") => ("ListObjectsV2", listing::list),
        "GET" => ("ListObjects", listing::list),
        "PUT" => ("CreateBucket", create_bucket),
        "HEAD" => ("HeadBucket", head_bucket),
        "DELETE" => ("DeleteBucket", delete_bucket),
        "POST" if request.asks("delete") => ("DeleteObjects", delete_objects),
        _ => ("Other", unknown),
    }
}

fn object_operation(method: &str, request: &Request<'_>) -> (&'static str, Handler) {
    let is_copy = request.header("x-amz-copy-source").is_some();
    match (method, request.asks("uploadId")) {
        ("PUT", true) if is_copy => ("UploadPartCopy", uploads::copy_part),
        ("PUT", true) => ("UploadPart", uploads::put_part),
        ("GET", true) => ("ListParts", uploads::parts),
        ("POST", true) => ("CompleteMultipartUpload", uploads::complete),
        ("DELETE", true) => ("AbortMultipartUpload", uploads::abort),
        _ if is_about_setting(request) => ("Setting", setting),
        ("POST", false) if request.asks("uploads") => ("CreateMultipartUpload", uploads::create),
        ("PUT", false) if is_copy => ("CopyObject", copy_object),
        ("PUT", false) => ("PutObject", put_object),
        ("GET", false) => ("GetObject", get_object),
        ("HEAD", false) => ("HeadObject", get_object),
        ("DELETE", false) => ("DeleteObject", delete_object),
        _ => ("Other", unknown),
    }
}

fn is_about_setting(request: &Request<'_>) -> bool {
    NO_SETTING.iter().chain(&EMPTY_SETTING).any(|(name, _)| request.asks(name))
}

/// Nothing can be set, and nobody is told: a client that sets an ACL means well.
fn setting(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    store.bucket(&request.bucket)?;
    match request.head.method {
        "GET" => {}
        "DELETE" => return Ok(Answer::empty(204)),
        _ => return Ok(Answer::empty(200)),
    }
    if let Some((_, code)) = NO_SETTING.iter().find(|(name, _)| request.asks(name)) {
        return Err(Failure::new(404, code, "the bucket has no such setting"));
    }
    let empty = EMPTY_SETTING.iter().find(|(name, _)| request.asks(name));
    Ok(match empty.map(|(_, element)| *element) {
        Some("Tagging") => Answer::xml("<Tagging><TagSet></TagSet></Tagging>"),
        Some("AccessControlPolicy") => Answer::xml(
            "<AccessControlPolicy><Owner><ID>bench</ID></Owner><AccessControlList>\
             </AccessControlList></AccessControlPolicy>",
        ),
        element => Answer::xml(format!("<{}/>", element.unwrap_or_default())),
    })
}

fn unknown(_: &Store, _: &Request<'_>) -> Result<Answer, Failure> {
    Err(Failure::UNKNOWN)
}

#[expect(clippy::unnecessary_wraps, reason = "it is a handler like the others")]
fn buckets(store: &Store, _: &Request<'_>) -> Result<Answer, Failure> {
    let mut xml = String::from(
        "<ListAllMyBucketsResult><Owner><ID>bench</ID><DisplayName>bench</DisplayName></Owner>\
         <Buckets>",
    );
    for (name, bucket) in store.buckets().iter() {
        xml.push_str("<Bucket><Name>");
        escape_xml(&mut xml, name);
        let created = iso_date(bucket.created);
        let _ = write!(xml, "</Name><CreationDate>{created}</CreationDate></Bucket>");
    }
    Ok(Answer::xml(xml + "</Buckets></ListAllMyBucketsResult>"))
}

fn location(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    store.bucket(&request.bucket)?;
    Ok(Answer::xml("<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>"))
}

fn create_bucket(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    // As lenient as Ceph; names that begin with `_` are this server's own.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let name = request.bucket.as_bytes();
    if !(3..=255).contains(&name.len()) || name[0] == b'_' || !name.iter().copied().all(is_name) {
        return Err(Failure::new(400, "InvalidBucketName", "no bucket can have this name"));
    }
    store.create_bucket(&request.bucket);
    Ok(Answer::empty(200).with("Location", &format!("/{}", request.bucket)))
}

fn head_bucket(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    store.bucket(&request.bucket)?;
    Ok(Answer::empty(200).with("x-amz-bucket-region", "us-east-1"))
}

fn delete_bucket(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    store.delete_bucket(&request.bucket).map(|()| Answer::empty(204))
}

fn put_object(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let object = store.object(&request.body, request.kept_lines());
    let etag = format!("\"{}\"", object.etag);
    bucket.put(&request.key, object)?;
    Ok(Answer::empty(200).with("ETag", &etag))
}

/// GetObject, and HeadObject, whose body is left out where it is sent.
fn get_object(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let object = store.bucket(&request.bucket)?.get(&request.key)?;
    if request.header("if-match").is_some_and(|wanted| !object.has_tag(wanted)) {
        return Err(Failure::CHANGED);
    }
    if request.header("if-none-match").is_some_and(|known| object.has_tag(known)) {
        return Ok(Answer::empty(304).with("ETag", &format!("\"{}\"", object.etag)));
    }
    let mut lines = String::with_capacity(200 + object.kept.len());
    lines.push_str(&object.kept);
    let (etag, date) = (&object.etag, http_date(object.modified));
    let _ = write!(lines, "ETag: \"{etag}\"\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n");
    let size = object.size();
    let asked = request.header("range").map_or(Ok(None), |text| range_within(text, size))?;
    let Some(range) = asked else {
        return Ok(Answer::content(200, lines, object.segments.clone()));
    };
    let (first, last) = (range.start, range.end - 1);
    let _ = write!(lines, "Content-Range: bytes {first}-{last}/{size}\r\n");
    Ok(Answer::content(206, lines, object.slice(range)))
}

/// The range that a header names within `size` bytes, never an empty one; what is no single range
/// is none.
pub fn range_within(text: &str, size: usize) -> Result<Option<Range<usize>>, Failure> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let range = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(length)) if first.is_empty() => size.saturating_sub(length)..size,
        _ => return Ok(None),
    };
    if range.is_empty() { Err(Failure::BAD_RANGE) } else { Ok(Some(range)) }
}

/// The object that a copy is made of.
pub fn looked_up(store: &Store, request: &Request<'_>) -> Result<Arc<Object>, Failure> {
    let (bucket, key) = request.copy_source()?;
    let source = store.bucket(&bucket)?.get(&key)?;
    match request.header("x-amz-copy-source-if-match") {
        Some(wanted) if !source.has_tag(wanted) => Err(Failure::CHANGED),
        _ => Ok(source),
    }
}

/// The copy shares the source's memory and keeps its ETag.
fn copy_object(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let mut object = Object::clone(&*looked_up(store, request)?);
    object.modified = now();
    if request.head.has("x-amz-metadata-directive", "REPLACE") {
        object.kept = request.kept_lines();
    }
    let (etag, date) = (object.etag.clone(), iso_date(object.modified));
    bucket.put(&request.key, object)?;
    Ok(Answer::xml(format!(
        "<CopyObjectResult><LastModified>{date}</LastModified><ETag>&quot;{etag}&quot;</ETag>\
         </CopyObjectResult>"
    )))
}

fn delete_object(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    store.bucket(&request.bucket)?.remove(&request.key)?;
    Ok(Answer::empty(204))
}

fn delete_objects(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let asked = leaves(&request.body.bytes).ok_or(Failure::BAD_XML)?;
    let is_quiet = asked.iter().any(|(name, text)| name == "Quiet" && text == "true");
    let mut xml = String::from("<DeleteResult>");
    for (_, key) in asked.iter().filter(|(name, _)| name == "Key") {
        bucket.remove(key)?;
        if !is_quiet {
            xml.push_str("<Deleted><Key>");
            escape_xml(&mut xml, key);
            xml.push_str("</Key></Deleted>");
        }
    }
    Ok(Answer::xml(xml + "</DeleteResult>"))
}
