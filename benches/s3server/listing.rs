//! ListObjects, both versions: a page is written while the keys are walked.

use crate::answer::{Answer, Failure};
use crate::request::Request;
use crate::store::{Bucket, Stat, Step, Store};
use crate::text::{escape_url, escape_xml, iso_date, unescape};
use std::fmt::Write;
use std::ops::Bound;

/// The most keys of a page.
const MAX_KEYS: usize = 1000;
/// About what a key takes in a page.
const KEY_BYTES: usize = 300;

/// What is asked for, and what was found so far.
struct Page<'a> {
    prefix: &'a str,
    delimiter: &'a str,
    /// Keys and common prefixes up to this one were told before.
    after: String,
    max: usize,
    is_encoded: bool,
    count: usize,
    is_truncated: bool,
    last: String,
    contents: String,
    prefixes: String,
    /// The last date and its spelling: many objects are of the same second.
    date: (u64, String),
}

pub fn list(store: &Store, request: &Request<'_>) -> Result<Answer, Failure> {
    let bucket = store.bucket(&request.bucket)?;
    let is_v2 = request.query("list-type") == Some("2");
    let text = |name| request.query(name).unwrap_or_default();
    let bad = |what| Failure::new(400, "InvalidArgument", what);
    let after = match (is_v2, request.query("continuation-token")) {
        // A token is the last key, spelled so that XML and URLs leave it alone.
        (true, Some(token)) => unescape(token, false).ok_or(bad("no such token"))?.into_owned(),
        (true, None) => text("start-after").to_owned(),
        (false, _) => text("marker").to_owned(),
    };
    let max = match request.query("max-keys") {
        None | Some("") => MAX_KEYS,
        Some(number) => number.parse().map_err(|_| bad("max-keys is no number"))?,
    };
    let mut page = Page {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        after,
        max: max.min(MAX_KEYS),
        is_encoded: request.query("encoding-type") == Some("url"),
        count: 0,
        is_truncated: false,
        last: String::new(),
        contents: String::new(),
        prefixes: String::new(),
        date: (u64::MAX, String::new()),
    };
    page.fill(&bucket);
    Ok(Answer::xml(page.document(is_v2, request)))
}

impl Page<'_> {
    fn fill(&mut self, bucket: &Bucket) {
        if self.max == 0 {
            return;
        }
        let (after, prefix) = (self.after.clone(), self.prefix);
        let from = match after.as_str() >= prefix && !after.is_empty() {
            true => Bound::Excluded(after.as_str()),
            false => Bound::Included(prefix),
        };
        bucket.scan(from, &mut |key, stat| self.visit(key, stat));
    }

    fn visit(&mut self, key: &str, stat: &Stat<'_>) -> Step {
        // An empty text has no address, and comparing it is slow in the C library: it was a fifth
        // of all that a listing took.
        if !self.prefix.is_empty() && !key.starts_with(self.prefix) {
            return Step::Stop;
        }
        let offset = self.prefix.len();
        let end = match self.delimiter {
            "" => None,
            delimiter => key[offset..].find(delimiter).map(|at| offset + at + delimiter.len()),
        };
        let common = end.map(|end| &key[..end]);
        // No key goes on with the last character there is.
        let past = |common: &str| Step::Seek(format!("{common}{}", char::MAX));
        if let Some(common) = common.filter(|common| *common <= self.after.as_str()) {
            return past(common);
        }
        if self.count == self.max {
            self.is_truncated = true;
            return Step::Stop;
        }
        self.count += 1;
        self.last.clear();
        self.last.push_str(common.unwrap_or(key));
        let Some(common) = common else {
            self.add(key, stat);
            return Step::Next;
        };
        self.prefixes.push_str("<CommonPrefixes><Prefix>");
        push_name(&mut self.prefixes, common, self.is_encoded);
        self.prefixes.push_str("</Prefix></CommonPrefixes>");
        past(common)
    }

    fn add(&mut self, key: &str, stat: &Stat<'_>) {
        if self.date.0 != stat.modified {
            self.date = (stat.modified, iso_date(stat.modified));
        }
        if self.contents.is_empty() {
            self.contents.reserve(KEY_BYTES * self.max);
        }
        let contents = &mut self.contents;
        contents.push_str("<Contents><Key>");
        push_name(contents, key, self.is_encoded);
        contents.push_str("</Key><LastModified>");
        contents.push_str(&self.date.1);
        contents.push_str("</LastModified><ETag>&quot;");
        contents.push_str(stat.etag);
        let _ = write!(contents, "&quot;</ETag><Size>{}</Size>", stat.size);
        contents.push_str("<StorageClass>STANDARD</StorageClass></Contents>");
    }

    fn document(&self, is_v2: bool, request: &Request<'_>) -> String {
        let mut xml = String::with_capacity(1024 + self.contents.len() + self.prefixes.len());
        xml.push_str("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        let mut name = |tag: &str, value: &str, is_encoded: bool| {
            let _ = write!(xml, "<{tag}>");
            push_name(&mut xml, value, is_encoded);
            let _ = write!(xml, "</{tag}>");
        };
        name("Name", &request.bucket, false);
        name("Prefix", self.prefix, self.is_encoded);
        if !self.delimiter.is_empty() {
            name("Delimiter", self.delimiter, self.is_encoded);
        }
        if self.is_encoded {
            name("EncodingType", "url", false);
        }
        if is_v2 {
            for (tag, query) in
                [("StartAfter", "start-after"), ("ContinuationToken", "continuation-token")]
            {
                if let Some(value) = request.query(query) {
                    name(tag, value, self.is_encoded && tag == "StartAfter");
                }
            }
        } else {
            name("Marker", &self.after, self.is_encoded);
        }
        if self.is_truncated {
            match is_v2 {
                true => name("NextContinuationToken", &self.last, true),
                false => name("NextMarker", &self.last, self.is_encoded),
            }
        }
        let _ = write!(xml, "<MaxKeys>{}</MaxKeys>", self.max);
        if is_v2 {
            let _ = write!(xml, "<KeyCount>{}</KeyCount>", self.count);
        }
        let _ = write!(xml, "<IsTruncated>{}</IsTruncated>", self.is_truncated);
        xml.extend([self.contents.as_str(), &self.prefixes, "</ListBucketResult>"]);
        xml
    }
}

fn push_name(target: &mut String, name: &str, is_encoded: bool) {
    match is_encoded {
        true => escape_url(target, name),
        false => escape_xml(target, name),
    }
}
