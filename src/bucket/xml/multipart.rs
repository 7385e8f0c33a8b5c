//! The XML of multipart uploads.

use super::{Rows, escape_into, url_decode, walk};
use crate::bucket::{PartInfo, PartTag, UploadInfo, UploadPage};
use crate::fingerprint::ETag;
use base64::Engine;
use std::fmt::Write;

/// A ListParts answer: the parts, and whether more follow.
pub(in crate::bucket) fn parse_parts(xml: &[u8]) -> Result<(Vec<PartInfo>, bool), String> {
    let mut rows = Rows::new(["PartNumber", "Size", "ETag"]);
    let (mut known, mut truncated) = (false, false);
    walk(xml, |path, text| {
        known |= path.first() == Some(&"ListPartsResult");
        match path {
            [_, "Part", field] => rows.take(field, text),
            [_, "IsTruncated"] => truncated = text == "true",
            _ => {}
        }
    })
    .filter(|()| known)
    .ok_or("the answer is not a list of parts")?;
    let part = |[number, size, etag]: [Option<String>; 3]| {
        let (number, size) = (number?.parse().ok()?, size?.parse().ok()?);
        Some(PartInfo { number, size, etag: ETag::parse(&etag?) })
    };
    let parts: Option<Vec<PartInfo>> = rows.rows.into_iter().map(part).collect();
    Ok((parts.ok_or("a part has no number, size or ETag")?, truncated))
}

/// A ListMultipartUploads answer, its keys `encoded` as in a URL or not.
pub(in crate::bucket) fn parse_uploads(xml: &[u8], encoded: bool) -> Result<UploadPage, String> {
    let mut rows = Rows::new(["Key", "UploadId", "Initiated"]);
    let (mut known, mut truncated) = (false, false);
    let mut next = (None, None);
    walk(xml, |path, text| {
        known |= path.first() == Some(&"ListMultipartUploadsResult");
        match path {
            [_, "Upload", field] => rows.take(field, text),
            [_, "IsTruncated"] => truncated = text == "true",
            [_, "NextKeyMarker"] => next.0 = Some(text.to_owned()),
            [_, "NextUploadIdMarker"] => next.1 = Some(text.to_owned()),
            _ => {}
        }
    })
    .filter(|()| known)
    .ok_or("the answer is not a list of uploads")?;
    let decoded = |key: String| match encoded {
        true => url_decode(&key),
        false => Some(key),
    };
    let upload = |[key, id, initiated]: [Option<String>; 3]| {
        let (key, initiated) = (decoded(key?)?, initiated.unwrap_or_default());
        Some(UploadInfo { key, id: id?, initiated })
    };
    let uploads: Option<Vec<UploadInfo>> = rows.rows.into_iter().map(upload).collect();
    let next = match next {
        (Some(key), id) if truncated => decoded(key).map(|key| (key, id.unwrap_or_default())),
        _ => None,
    };
    Ok(UploadPage { uploads: uploads.ok_or("an upload has no key or no id")?, next })
}

/// The body of CompleteMultipartUpload.
pub(in crate::bucket) fn complete_request(parts: &[PartTag]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload>");
    for part in parts {
        let _ = write!(xml, "<Part><PartNumber>{}</PartNumber><ETag>", part.number);
        escape_into(&mut xml, &part.etag);
        xml.push_str("</ETag>");
        if let Some(sha256) = part.sha256 {
            let text = base64::engine::general_purpose::STANDARD.encode(sha256);
            let _ = write!(xml, "<ChecksumSHA256>{text}</ChecksumSHA256>");
        }
        xml.push_str("</Part>");
    }
    xml + "</CompleteMultipartUpload>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_uploads_are_listed() {
        let xml = b"<ListPartsResult><Key>k</Key><IsTruncated>true</IsTruncated><Part><PartNumber>1</PartNumber>\
            <Size>5</Size><ETag>x</ETag></Part><Part><ETag>&quot;y&quot;</ETag><Size>6</Size>\
            <PartNumber>2</PartNumber></Part></ListPartsResult>";
        let (parts, truncated) = parse_parts(xml).unwrap();
        let seen: Vec<_> = parts.iter().map(|p| (p.number, p.size, p.etag.to_string())).collect();
        assert_eq!(seen, [(1, 5, "x".into()), (2, 6, "y".into())]);
        assert!(truncated);
        let xml = b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
            <NextKeyMarker>b+c</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>\
            <Upload><Key>a%2Fb</Key><UploadId>1</UploadId><Initiator><ID>i</ID></Initiator>\
            <Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>\
            <Upload><Key>b+c</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
        let page = parse_uploads(xml, true).unwrap();
        let keys: Vec<(&str, &str)> =
            page.uploads.iter().map(|u| (u.key.as_str(), u.id.as_str())).collect();
        assert_eq!(keys, [("a/b", "1"), ("b c", "2")]);
        assert_eq!(page.next, Some(("b c".into(), "2".into())));
        assert!(parse_parts(b"<Error><Code>x</Code></Error>").is_err());
        assert!(parse_uploads(b"<html></html>", false).is_err());
        let none = b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        assert_eq!(parse_uploads(none, false).unwrap(), UploadPage::default());
    }
}
