//! The independent client: what a bucket really holds, as boto3 sees it. Knows nothing of `haul`.
//!
//! One Python process serves the whole test binary, a line of JSON each way; it ends when its stdin
//! closes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::server::{Server, required};

static ORACLE: LazyLock<Mutex<Oracle>> = LazyLock::new(|| Mutex::new(Oracle::start()));

struct Oracle {
    _process: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Oracle {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/oracle.py");
        let mut process = Command::new(required("HAUL_TEST_PYTHON"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the oracle's Python starts");
        let requests = process.stdin.take().expect("stdin is piped");
        let replies = BufReader::new(process.stdout.take().expect("stdout is piped"));
        Self { _process: process, requests, replies }
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.replies.read_line(&mut line).map_err(|error| error.to_string())?;
        let mut answer: Value =
            serde_json::from_str(&line).map_err(|error| format!("{error} in {line:?}"))?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["reply"].take()),
        }
    }
}

fn ask(request: &Value) -> Result<Value, String> {
    ORACLE.lock().unwrap_or_else(PoisonError::into_inner).ask(request)
}

/// What S3 answers as `ETag` for this file, sent whole or in parts of `part_bytes`.
pub fn etag_of(path: &Path, part_bytes: Option<u64>) -> String {
    let reply = ask(&json!({"operation": "etag_of", "path": utf8(path), "part_bytes": part_bytes}));
    text(&reply.unwrap())
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("test directories have UTF-8 names")
}

/// What HEAD tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub size: u64,
    pub etag: String,
    pub content_type: String,
    pub metadata: BTreeMap<String, String>,
}

/// What a listing tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub size: u64,
    pub etag: String,
}

/// A bucket as an endpoint shows it.
#[derive(Clone, Debug)]
pub struct Bucket {
    endpoint: String,
    pub name: String,
}

impl Bucket {
    pub fn named(server: &Server, name: &str) -> Self {
        Self { endpoint: server.endpoint.clone(), name: name.to_owned() }
    }

    fn try_ask(&self, operation: &str, mut request: Value) -> Result<Value, String> {
        request["operation"] = operation.into();
        request["endpoint"] = self.endpoint.as_str().into();
        request["bucket"] = self.name.as_str().into();
        ask(&request)
    }

    fn ask(&self, operation: &str, request: Value) -> Value {
        self.try_ask(operation, request).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn exists(&self) -> bool {
        self.ask("bucket_exists", json!({})).as_bool().expect("a bool")
    }

    /// Stores a small object and answers its `ETag`.
    pub fn put(&self, key: &str, body: &[u8]) -> String {
        self.try_put(key, body).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Bucket::put`], for keys that a server may refuse.
    pub fn try_put(&self, key: &str, body: &[u8]) -> Result<String, String> {
        let request = json!({"key": key, "body": BASE64.encode(body)});
        self.try_ask("put", request).map(|etag| text(&etag))
    }

    /// Stores a small object with user metadata and a content type.
    pub fn put_described(&self, key: &str, body: &[u8], metadata: &[(&str, &str)], content: &str) {
        let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
        let (body, headers) = (BASE64.encode(body), json!({"ContentType": content}));
        self.ask(
            "put",
            json!({"key": key, "body": body, "metadata": metadata, "headers": headers}),
        );
    }

    /// As [`Bucket::put`], with user metadata.
    pub fn put_with(&self, key: &str, body: &[u8], metadata: &BTreeMap<String, String>) {
        self.ask("put", json!({"key": key, "body": BASE64.encode(body), "metadata": metadata}));
    }

    /// Has the server copy an object with its metadata.
    pub fn copy(&self, source: &str, key: &str) {
        self.ask("copy", json!({"source": source, "key": key}));
    }

    /// Stores a file as one PUT.
    pub fn put_file(&self, key: &str, path: &Path) {
        self.ask("put", json!({"key": key, "path": utf8(path)}));
    }

    /// Stores a file as one PUT, with this metadata.
    pub fn put_file_with(&self, key: &str, path: &Path, metadata: &Value) {
        self.ask("put", json!({"key": key, "path": utf8(path), "metadata": metadata}));
    }

    /// Stores a file in parts, with no metadata of its own.
    pub fn put_multipart(&self, key: &str, path: &Path, part_bytes: u64) {
        self.put_multipart_with(key, path, part_bytes, &json!({}));
    }

    /// As [`Bucket::put_multipart`], with `metadata` (an object), or with a `checksum` (`CRC32`,
    /// `CRC64NVME`) of a `checksum_type` (`FULL_OBJECT`, `COMPOSITE`).
    pub fn put_multipart_with(&self, key: &str, path: &Path, part_bytes: u64, extra: &Value) {
        let mut request = extra.clone();
        request["key"] = key.into();
        request["path"] = utf8(path).into();
        request["part_bytes"] = part_bytes.into();
        self.ask("put_multipart", request);
    }

    /// Opens a multipart upload and leaves it open; its id.
    pub fn begin_multipart(&self, key: &str) -> String {
        text(&self.ask("begin_multipart", json!({"key": key})))
    }

    /// Sends a file as one part of an open upload.
    pub fn put_part(&self, key: &str, upload: &str, number: u32, path: &Path) {
        let request = json!({"key": key, "upload": upload, "number": number, "path": utf8(path)});
        self.ask("put_part", request);
    }

    pub fn abort_multipart(&self, key: &str, upload: &str) {
        self.ask("abort_multipart", json!({"key": key, "upload": upload}));
    }

    pub fn get(&self, key: &str) -> Vec<u8> {
        BASE64.decode(text(&self.ask("get", json!({"key": key})))).expect("base64")
    }

    /// The body's BLAKE3 in hex, by way of a temporary file, whatever its size.
    pub fn hash(&self, key: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        self.ask("get", json!({"key": key, "path": utf8(file.path())}));
        super::tree::hash(file.path())
    }

    pub fn head(&self, key: &str) -> Option<Head> {
        let reply = self.ask("head", json!({"key": key}));
        let metadata = reply.get("metadata")?.as_object()?;
        Some(Head {
            size: reply["size"].as_u64()?,
            etag: text(&reply["etag"]),
            content_type: text(&reply["content_type"]),
            metadata: metadata.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        })
    }

    /// What HEAD tells of an object's checksum: its algorithm (`CRC32`, …) and value, its `Type`.
    pub fn checksums(&self, key: &str) -> BTreeMap<String, String> {
        let reply = self.ask("checksums", json!({"key": key}));
        let found = reply.as_object().expect("an object").iter();
        found.map(|(name, value)| (name.clone(), text(value))).collect()
    }

    /// Every key that the server lists, as it spells them.
    pub fn list(&self) -> BTreeMap<String, Listed> {
        let reply = self.ask("list_objects", json!({}));
        let entries = reply.as_array().expect("a list");
        let pair = |entry: &Value| {
            let size = entry["size"].as_u64().expect("a size");
            (text(&entry["key"]), Listed { size, etag: text(&entry["etag"]) })
        };
        entries.iter().map(pair).collect()
    }

    pub fn keys(&self) -> BTreeSet<String> {
        self.list().into_keys().collect()
    }

    pub fn delete(&self, key: &str) {
        self.ask("delete", json!({"key": key}));
    }

    /// Keys of multipart uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self) -> Vec<String> {
        let reply = self.ask("uploads", json!({}));
        reply.as_array().expect("a list").iter().map(text).collect()
    }

    /// The ids of those uploads.
    pub fn upload_ids(&self) -> BTreeSet<String> {
        let reply = self.ask("upload_ids", json!({}));
        reply.as_array().expect("a list").iter().map(text).collect()
    }

    #[track_caller]
    pub fn assert_keys(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(self.keys(), expected, "the keys in the bucket");
    }
}

/// A bucket of one test, emptied and removed when it goes out of scope.
pub struct OwnBucket(Bucket);

impl OwnBucket {
    pub fn create(server: &Server, name: &str) -> Self {
        let bucket = Self::absent(server, name);
        bucket.ask("create_bucket", json!({}));
        bucket
    }

    /// A name that the product is to create: nothing is made here, yet it is removed at the end.
    pub fn absent(server: &Server, name: &str) -> Self {
        Self(Bucket::named(server, name))
    }
}

impl Deref for OwnBucket {
    type Target = Bucket;

    fn deref(&self) -> &Bucket {
        &self.0
    }
}

impl Drop for OwnBucket {
    fn drop(&mut self) {
        if let Err(error) = self.try_ask("delete_bucket", json!({})) {
            eprintln!("could not remove bucket {}: {error}", self.name);
        }
    }
}
