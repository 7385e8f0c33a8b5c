//! Uploads in parts. An object is made of its parts' memory: nothing is copied.

use crate::answer::{Answer, Failure};
use crate::operations::{looked_up, range_within};
use crate::request::Request;
use crate::store::{Object, Store, Upload};
use crate::text::{escape_xml, iso_date, leaves, now};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::fmt::Write;

const MAX_PARTS: usize = 1000;

fn id<'a>(request: &'a Request<'_>) -> &'a str {
    request.query("uploadId").unwrap_or_default()
}

fn part_number(request: &Request<'_>) -> Result<u32, Failure> {
    let number = request.query("partNumber").and_then(|number| number.parse().ok());
    let number = number.filter(|number| (1..=10_000).contains(number));
    number.ok_or(Failure::new(400, "InvalidArgument", "a part number is from 1 to 10000"))
}

/// An element with a name that others have given.
fn named(tag: &str, value: &str) -> String {
    let mut xml = format!("<{tag}>");
    escape_xml(&mut xml, value);
    let _ = write!(xml, "</{tag}>");
    xml
}

pub fn create(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let id = format!("upload-{:016x}", store.new_id());
    let (key, kept) = (request.key.to_string(), request.kept_lines());
    let upload = Upload { key, kept, begun: now(), parts: BTreeMap::new() };
    bucket.uploads().insert(id.clone(), upload);
    Ok(Answer::xml(format!(
        "<InitiateMultipartUploadResult>{}{}<UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>",
        named("Bucket", &request.bucket),
        named("Key", &request.key)
    )))
}

fn add_part(store: &Store, request: &Request<'_>, part: Object) -> Result<(), Failure> {
    let number = part_number(request)?;
    let bucket = store.bucket(&request.bucket)?;
    let mut uploads = bucket.uploads();
    uploads.get_mut(id(request)).ok_or(Failure::NO_UPLOAD)?.parts.insert(number, part);
    Ok(())
}

pub fn put_part(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let part = store.object(&request.body, String::new());
    let etag = format!("\"{}\"", part.etag);
    add_part(store, request, part)?;
    Ok(Answer::empty(200).with("ETag", &etag))
}

pub fn copy_part(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let source = looked_up(store, request)?;
    let all = 0..source.size();
    let range = match request.header("x-amz-copy-source-range") {
        Some(text) => range_within(text, source.size())?.unwrap_or(all),
        None => all,
    };
    let part = store.copied_part(source.slice(range));
    let (etag, date) = (part.etag.clone(), iso_date(part.modified));
    add_part(store, request, part)?;
    Ok(Answer::xml(format!(
        "<CopyPartResult><LastModified>{date}</LastModified><ETag>&quot;{etag}&quot;</ETag>\
         </CopyPartResult>"
    )))
}

/// Number and ETag of each part that a request names.
fn asked_parts(xml: &[u8]) -> Option<Vec<(u32, String)>> {
    let (mut parts, mut number, mut etag) = (Vec::new(), None, None);
    for (name, text) in leaves(xml)? {
        match name.as_str() {
            "PartNumber" => number = Some(text.trim().parse().ok()?),
            "ETag" => etag = Some(text),
            _ => {}
        }
        // Clients differ in their order.
        match (number.take(), etag.take()) {
            (Some(number), Some(etag)) => parts.push((number, etag)),
            half => (number, etag) = half,
        }
    }
    Some(parts).filter(|parts| !parts.is_empty())
}

/// The object that parts make. Its ETag is the MD5 of their MD5s, then `-` and their number.
fn joined(store: &Store, upload: &Upload, asked: &[(u32, String)]) -> Result<Object, Failure> {
    if !asked.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(Failure::new(400, "InvalidPartOrder", "parts are not in ascending order"));
    }
    let find =
        |(number, etag): &(u32, String)| upload.parts.get(number).filter(|part| part.has_tag(etag));
    let parts: Option<Vec<&Object>> = asked.iter().map(find).collect();
    let invalid = Failure::new(400, "InvalidPart", "a part is missing or has another ETag");
    let parts = parts.ok_or(invalid)?;
    let hash = || {
        let md5s = parts.iter().filter_map(|part| from_hex(&part.etag));
        md5s.fold(Md5::new(), Md5::chain_update).finalize().into()
    };
    let etag = store.etag((!store.fast_etag()).then(hash), &format!("-{}", parts.len()));
    let segments = parts.iter().flat_map(|part| part.segments.iter().cloned()).collect();
    Ok(Object { segments, etag, modified: now(), kept: upload.kept.clone() })
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

pub fn complete(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let asked = asked_parts(&request.body.bytes).ok_or(Failure::BAD_XML)?;
    let bucket = store.bucket(&request.bucket)?;
    let mut uploads = bucket.uploads();
    let upload = uploads.get(id(request)).ok_or(Failure::NO_UPLOAD)?;
    let object = joined(store, upload, &asked)?;
    let etag = object.etag.clone();
    bucket.put(&request.key, object)?;
    uploads.remove(id(request));
    let (bucket, key) = (named("Bucket", &request.bucket), named("Key", &request.key));
    Ok(Answer::xml(format!(
        "<CompleteMultipartUploadResult>{bucket}{key}<ETag>&quot;{etag}&quot;</ETag>\
         </CompleteMultipartUploadResult>"
    )))
}

pub fn abort(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let removed = store.bucket(&request.bucket)?.uploads().remove(id(request));
    removed.map(|_| Answer::empty(204)).ok_or(Failure::NO_UPLOAD)
}

pub fn parts(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let uploads = bucket.uploads();
    let upload = uploads.get(id(request)).ok_or(Failure::NO_UPLOAD)?;
    let number = |name| request.query(name).and_then(|text| text.parse().ok());
    let marker = number("part-number-marker").unwrap_or(0);
    let max = number("max-parts").map_or(MAX_PARTS, |max| (max as usize).min(MAX_PARTS));
    let mut rest = upload.parts.range(marker + 1..);
    let (mut shown, mut last) = (String::new(), marker);
    for (number, part) in rest.by_ref().take(max) {
        last = *number;
        let _ = write!(
            shown,
            "<Part><PartNumber>{number}</PartNumber><LastModified>{}</LastModified>\
             <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Part>",
            iso_date(part.modified),
            part.etag,
            part.size()
        );
    }
    Ok(Answer::xml(format!(
        "<ListPartsResult>{}{}{}<PartNumberMarker>{marker}</PartNumberMarker>\
         <NextPartNumberMarker>{last}</NextPartNumberMarker><MaxParts>{max}</MaxParts>\
         <IsTruncated>{}</IsTruncated>{shown}</ListPartsResult>",
        named("Bucket", &request.bucket),
        named("Key", &request.key),
        named("UploadId", id(request)),
        rest.next().is_some()
    )))
}

/// All of them on one page.
pub fn uploads(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let prefix = request.query("prefix").unwrap_or_default();
    let mut shown = String::new();
    for (id, upload) in bucket.uploads().iter().filter(|(_, open)| open.key.starts_with(prefix)) {
        let (key, begun) = (named("Key", &upload.key), iso_date(upload.begun));
        let _ = write!(
            shown,
            "<Upload>{key}<UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>"
        );
    }
    Ok(Answer::xml(format!(
        "<ListMultipartUploadsResult>{}{}<IsTruncated>false</IsTruncated>{shown}\
         </ListMultipartUploadsResult>",
        named("Bucket", &request.bucket),
        named("Prefix", prefix)
    )))
}
