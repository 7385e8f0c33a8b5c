//! The XML that S3 speaks: read as a stream of elements, without trust; written by hand.
//!
//! Pure: bytes in, values out. Format: the Amazon S3 API reference.

mod multipart;

pub(super) use multipart::{complete_request, parse_parts, parse_uploads};

use super::{Listed, Page};
use crate::fingerprint::ETag;
use quick_xml::Reader;
use quick_xml::events::Event;
use std::fmt::Write;

/// What an error answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub code: String,
    pub message: String,
}

/// A bucket of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// When it was made, ISO 8601 as the server spells it.
    pub created: String,
}

/// A failure of one key in a delete request.
pub(super) struct DeleteFailure {
    pub key: String,
    pub told: Told,
}

/// The deepest that answers nest, and some more.
const MAX_DEPTH: usize = 8;

/// Calls `leaf(path, text)` for each element that holds no others; `path` is the open elements'
/// local names from the root. `None` for anything that is no well-formed XML.
fn walk(xml: &[u8], mut leaf: impl FnMut(&[&str], &str)) -> Option<()> {
    let text = std::str::from_utf8(xml).ok()?;
    let mut reader = Reader::from_str(text);
    // Names are written over: a listing has eight elements a key.
    let mut names: [String; MAX_DEPTH] = Default::default();
    let mut depth = 0;
    let mut content = String::new();
    let mut is_leaf = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                let name = names.get_mut(depth)?;
                start.local_name().as_ref().clone_into(name);
                depth += 1;
                content.clear();
                is_leaf = true;
            }
            Event::Text(piece) => content.push_str(&piece.xml10_content()),
            Event::CData(piece) => content.push_str(&piece.xml10_content()),
            Event::GeneralRef(reference) => resolve(&reference, &mut content)?,
            Event::End(_) => {
                if is_leaf {
                    let mut path = [""; MAX_DEPTH];
                    for (place, name) in path.iter_mut().zip(&names[..depth]) {
                        *place = name;
                    }
                    leaf(&path[..depth], &content);
                }
                depth = depth.checked_sub(1)?;
                is_leaf = false;
            }
            Event::Eof => return (depth == 0).then_some(()),
            Event::Empty(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
}

fn resolve(reference: &quick_xml::events::BytesRef<'_>, content: &mut String) -> Option<()> {
    if let Some(character) = reference.resolve_char_ref().ok()? {
        content.push(character);
        return Some(());
    }
    content.push_str(quick_xml::escape::resolve_predefined_entity(reference)?);
    Some(())
}

/// The error in `xml`, if that is what it holds.
pub(super) fn parse_error(xml: &[u8]) -> Option<Told> {
    if !is_error(xml)? {
        return None;
    }
    let mut told = Told::default();
    walk(xml, |path, text| match path {
        ["Error", "Code"] => text.clone_into(&mut told.code),
        ["Error", "Message"] => text.clone_into(&mut told.message),
        _ => {}
    })?;
    (!told.code.is_empty()).then_some(told)
}

/// True where the outermost element is an `Error`: a long listing need not be read for that.
fn is_error(xml: &[u8]) -> Option<bool> {
    let mut reader = Reader::from_str(std::str::from_utf8(xml).ok()?);
    loop {
        match reader.read_event().ok()? {
            Event::Start(root) => return Some(root.local_name().as_ref() == "Error"),
            Event::Eof | Event::Empty(_) => return Some(false),
            _ => {}
        }
    }
}

/// A ListObjectsV2 answer that was asked for with `encoding-type=url`.
pub(super) fn parse_page(xml: &[u8]) -> Result<Page, String> {
    let mut page = Page::default();
    let mut object = Partial::default();
    let mut failure = None;
    let (mut known, mut encoded, mut truncated) = (false, false, false);
    // `EncodingType` may stand behind the keys, so they are decoded at the end.
    walk(xml, |path, text| match path {
        ["ListBucketResult", "Contents", field] => {
            if *field == "Key" && object.key.is_some() {
                push(&mut page, &mut object, &mut failure);
            }
            object.set(field, text);
        }
        ["ListBucketResult", "CommonPrefixes", "Prefix"] => page.prefixes.push(text.to_owned()),
        ["ListBucketResult", "EncodingType"] => encoded = text == "url",
        ["ListBucketResult", "IsTruncated"] => (known, truncated) = (true, text == "true"),
        ["ListBucketResult", "NextContinuationToken"] => page.next = Some(text.to_owned()),
        _ => {}
    })
    .ok_or("the listing is not well-formed XML")?;
    if object.key.is_some() {
        push(&mut page, &mut object, &mut failure);
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if !known {
        return Err("the answer is not a listing".into());
    }
    if truncated && page.next.is_none() {
        return Err("the listing is cut but names no continuation".into());
    }
    page.next = page.next.filter(|_| truncated);
    if encoded {
        decode_names(&mut page)?;
    }
    Ok(page)
}

#[derive(Default)]
struct Partial {
    key: Option<String>,
    size: Option<u64>,
    etag: String,
    modified: String,
    storage_class: Option<String>,
}

impl Partial {
    fn set(&mut self, field: &str, text: &str) {
        match field {
            "Key" => self.key = Some(text.to_owned()),
            "Size" => self.size = text.parse().ok(),
            "ETag" => text.clone_into(&mut self.etag),
            "LastModified" => text.clone_into(&mut self.modified),
            "StorageClass" => self.storage_class = Some(text.to_owned()),
            _ => {}
        }
    }
}

fn push(page: &mut Page, partial: &mut Partial, failure: &mut Option<String>) {
    let Partial { key, size, etag, modified, storage_class } = std::mem::take(partial);
    let key = key.unwrap_or_default();
    let Some(size) = size else {
        *failure = Some(format!("the listing gives no size of {}", crate::key::printable(&key)));
        return;
    };
    page.objects.push(Listed { key, size, etag: ETag::parse(&etag), modified, storage_class });
}

fn decode_names(page: &mut Page) -> Result<(), String> {
    let keys = page.objects.iter_mut().map(|object| &mut object.key);
    for name in keys.chain(&mut page.prefixes) {
        if name.contains(['%', '+']) {
            *name =
                url_decode(name).ok_or_else(|| format!("the listing has a bad key `{name}`"))?;
        }
    }
    Ok(())
}

/// Undoes `encoding-type=url`: percent escapes, and `+` for a space.
fn url_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8(bytes).ok()
}

/// A ListBuckets answer.
pub(super) fn parse_buckets(xml: &[u8]) -> Result<Vec<BucketInfo>, String> {
    let mut buckets: Vec<BucketInfo> = Vec::new();
    // A date that came ahead of its name; some servers give none at all.
    let mut ahead = String::new();
    let mut known = false;
    walk(xml, |path, text| {
        known |= path.first() == Some(&"ListAllMyBucketsResult");
        match path {
            [_, "Buckets", "Bucket", "Name"] => {
                let created = std::mem::take(&mut ahead);
                buckets.push(BucketInfo { name: text.to_owned(), created });
            }
            [_, "Buckets", "Bucket", "CreationDate"] => match buckets.last_mut() {
                Some(last) if last.created.is_empty() => text.clone_into(&mut last.created),
                Some(_) | None => text.clone_into(&mut ahead),
            },
            _ => {}
        }
    })
    .filter(|()| known)
    .ok_or("the answer is not a list of buckets")?;
    Ok(buckets)
}

/// The one element called `name` anywhere in `xml`.
pub(super) fn find(xml: &[u8], name: &str) -> Option<String> {
    let mut found = None;
    walk(xml, |path, text| {
        if path.last() == Some(&name) {
            found.get_or_insert_with(|| text.to_owned());
        }
    })?;
    found
}

/// Gathers the leaves of like elements, of the names in `names`: a second leaf of one name begins
/// the next element, since servers differ in their order.
struct Rows<const N: usize> {
    names: [&'static str; N],
    rows: Vec<[Option<String>; N]>,
}

impl<const N: usize> Rows<N> {
    fn new(names: [&'static str; N]) -> Self {
        Self { names, rows: Vec::new() }
    }

    fn take(&mut self, field: &str, text: &str) {
        let Some(column) = self.names.iter().position(|name| *name == field) else { return };
        if self.rows.last().is_none_or(|row| row[column].is_some()) {
            self.rows.push(std::array::from_fn(|_| None));
        }
        if let Some(row) = self.rows.last_mut() {
            row[column] = Some(text.to_owned());
        }
    }
}

/// The failures in a DeleteObjects answer.
pub(super) fn parse_deleted(xml: &[u8]) -> Result<Vec<DeleteFailure>, String> {
    let mut rows = Rows::new(["Key", "Code", "Message"]);
    let mut known = false;
    walk(xml, |path, text| {
        known |= path.first() == Some(&"DeleteResult");
        if let [_, "Error", field] = path {
            rows.take(field, text);
        }
    })
    .ok_or("the answer to a delete is not well-formed XML")?;
    // An empty result has no leaf at all.
    if !known && !xml.windows(12).any(|window| window == b"DeleteResult") {
        return Err("the answer is not that of a delete".into());
    }
    let failure = |row: [Option<String>; 3]| {
        let [key, code, message] = row.map(Option::unwrap_or_default);
        DeleteFailure { key, told: Told { code, message } }
    };
    let failures = rows.rows.into_iter().map(failure);
    Ok(failures.filter(|failure| !failure.told.code.is_empty()).collect())
}

/// True where `key` can stand in an XML 1.0 document, escaped or not.
pub(super) fn is_expressible(key: &str) -> bool {
    key.chars().all(|c| {
        matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
    })
}

fn escape_into(xml: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(xml, "&#{};", u32::from(c));
            }
            c => xml.push(c),
        }
    }
}

/// The body of DeleteObjects, in quiet mode.
pub(super) fn delete_request(keys: &[&str]) -> String {
    let mut xml = String::from("<Delete><Quiet>true</Quiet>");
    for key in keys {
        xml.push_str("<Object><Key>");
        escape_into(&mut xml, key);
        xml.push_str("</Key></Object>");
    }
    xml + "</Delete>"
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
      <Name>b</Name><IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>
      <Contents><Key>a%2Bb+c</Key><Size>3</Size><ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag>
        <LastModified>2026-01-01T00:00:00.000Z</LastModified><Owner><ID>x</ID></Owner></Contents>
      <Contents><Key>%0A%01</Key><Size>0</Size><ETag>x</ETag></Contents>
      <CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes>
      <NextContinuationToken>tok&amp;en</NextContinuationToken></ListBucketResult>"#;

    #[test]
    fn a_page_is_read_with_its_keys_decoded() {
        let page = parse_page(LISTING.as_bytes()).unwrap();
        let keys: Vec<&str> = page.objects.iter().map(|o| o.key.as_str()).collect();
        assert_eq!(keys, ["a+b c", "\n\u{1}"]);
        assert!(matches!(page.objects[0].etag, ETag::Md5(_)));
        assert_eq!((page.objects[0].size, page.prefixes), (3, vec!["p/".to_owned()]));
        assert_eq!(page.next.as_deref(), Some("tok&en"));
    }

    #[test]
    fn what_is_no_listing_is_an_error() {
        let cut = LISTING.replace("<NextContinuationToken>tok&amp;en</NextContinuationToken>", "");
        let sizeless = LISTING.replace("<Size>0</Size>", "");
        let open = &LISTING[..LISTING.len() - 8];
        for text in ["", "<html></html>", "not xml <", open, &cut, &sizeless] {
            assert!(parse_page(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_are_found_in_any_answer() {
        let told = parse_error(b"<Error><Code>NoSuchKey</Code><Message>a &lt; b</Message></Error>");
        assert_eq!(told, Some(Told { code: "NoSuchKey".into(), message: "a < b".into() }));
        assert_eq!(parse_error(LISTING.as_bytes()), None);
        assert_eq!(parse_error(b"\xff"), None);
    }

    #[test]
    fn deletes_say_what_they_could_not() {
        let xml = b"<DeleteResult><Error><Key>a&#10;b</Key><Code>AccessDenied</Code></Error></DeleteResult>";
        let failures = parse_deleted(xml).unwrap();
        assert_eq!(
            (failures[0].key.as_str(), failures[0].told.code.as_str()),
            ("a\nb", "AccessDenied")
        );
        let other_order =
            b"<DeleteResult><Error><Code>A</Code><Message>m</Message><Key>x</Key></Error>\
            <Error><Code>B</Code><Message>n</Message><Key>y</Key></Error></DeleteResult>";
        let failures = parse_deleted(other_order).unwrap();
        let pairs: Vec<(&str, &str)> =
            failures.iter().map(|f| (f.key.as_str(), f.told.code.as_str())).collect();
        assert_eq!(pairs, [("x", "A"), ("y", "B")]);
        assert!(parse_deleted(b"<DeleteResult/>").unwrap().is_empty());
        assert!(parse_deleted(b"<html></html>").is_err());
        assert_eq!(
            delete_request(&["a&\n"]),
            "<Delete><Quiet>true</Quiet><Object><Key>a&amp;&#10;</Key></Object></Delete>"
        );
    }

    #[test]
    fn buckets_are_listed() {
        let xml = b"<ListAllMyBucketsResult><Buckets><Bucket><Name>x</Name><CreationDate>2026</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>";
        assert_eq!(
            parse_buckets(xml).unwrap(),
            [BucketInfo { name: "x".into(), created: "2026".into() }]
        );
        let none =
            b"<ListAllMyBucketsResult><Owner><ID>1</ID></Owner><Buckets/></ListAllMyBucketsResult>";
        assert_eq!(parse_buckets(none).unwrap(), []);
    }
}
