//! The S3 door: every request is signed, sent, retried and its failure understood here.
//!
//! Signatures are `object_store`'s (AWS Signature Version 4, payload signed). Keys go through byte
//! for byte, which `object_store`'s own paths can't do. Knows no operation of S3.

use super::connector::{Connector, Traffic};
use super::credentials::Credentials;
use super::endpoint::Connection;
use super::pace::{Pace, Turn};
use super::{Payload, Signing, xml};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::key::printable;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest error answer that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// The longest other XML answer: 2,000 keys of 1,024 bytes, percent-encoded, take 7 MB.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// The first pause between tries; each next one is twice as long, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// A hung server is asked this often, and one that was never reached: the user waits.
const FEW_RETRIES: u32 = 1;

pub(super) struct Door {
    client: HttpClient,
    credentials: Credentials,
    region: String,
    retries: u32,
    signing: Signing,
    pace: Arc<Pace>,
    /// Something has answered: from then on a refused connection is worth waiting for.
    reached: AtomicBool,
    traffic: Arc<Traffic>,
}

/// One request; `shown` names the thing in messages, as in `cannot PUT s3://b/key`.
pub(super) struct Request<'a> {
    pub method: Method,
    /// Scheme, host and encoded path.
    pub url: String,
    pub query: Vec<(&'a str, String)>,
    pub headers: HeaderMap,
    pub payload: Option<Payload>,
    pub shown: &'a str,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, url: String, shown: &'a str) -> Self {
        Self { method, url, query: Vec::new(), headers: HeaderMap::new(), payload: None, shown }
    }

    pub(super) fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a header whose value comes from outside.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value).map_err(|e| {
            let what = format!("cannot {} {}", self.method, self.shown);
            Error::new(ErrorKind::Usage, what, format!("header {name}: {e}"))
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = Some(payload);
        self
    }

    fn what(&self) -> String {
        format!("cannot {} {}", self.method, printable(self.shown))
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Door {
    pub(super) fn new(connection: &Connection) -> Result<Self> {
        let Connection { credentials, region, retries, signing, .. } = connection.clone();
        let traffic = Arc::new(Traffic::default());
        let bandwidth = connection.bandwidth.clone();
        let client = Connector::connect(connection, bandwidth, Arc::clone(&traffic))?;
        let reached = AtomicBool::new(false);
        let (concurrency, rate) = (connection.requests, connection.requests_per_second);
        let pace = Arc::new(Pace::new(concurrency, rate, Arc::clone(&traffic)));
        Ok(Self { client, credentials, region, retries, signing, pace, reached, traffic })
    }

    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    pub(super) fn signing(&self) -> Signing {
        self.signing
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.credentials.key.is_none()
    }

    /// Sends until it succeeds or there is no sense in another try.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<HttpResponse> {
        let mut tries = 0;
        loop {
            let failure = match self.once(request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if tries >= failure.retries.min(self.retries) {
                return Err(failure.error);
            }
            let pause = failure.pause.unwrap_or_default().max(backoff(tries));
            tracing::debug!(error = %failure.error, ?pause, "trying again");
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    /// Sends, and reads the whole answer, which must be XML without an error in it: some calls fail
    /// with a 200 (CompleteMultipartUpload, CopyObject).
    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Bytes> {
        let mut tries = 0;
        loop {
            let response = self.send(request).await?;
            let answer = match read_limited(response, MAX_ANSWER_BYTES).await {
                Ok(answer) => match xml::parse_error(&answer) {
                    None => return Ok(answer),
                    Some(told) => {
                        self.understand(request, StatusCode::OK, &HeaderMap::new(), &told)
                    }
                },
                Err(broken) => Failure::new(broken.kind, request, broken.cause, broken.retries),
            };
            if tries >= answer.retries.min(self.retries) {
                return Err(answer.error);
            }
            tokio::time::sleep(backoff(tries)).await;
            tries += 1;
        }
    }

    /// Waits for its turn first: a signature is good for minutes only.
    async fn once(&self, request: &Request<'_>) -> Result<HttpResponse, Failure> {
        let turn = self.pace.take().await;
        let mut signed = self.sign(request)?;
        signed.extensions_mut().insert(turn.clone());
        tracing::trace!(method = %request.method, url = %signed.uri(), "request");
        let response = match self.client.execute(signed).await {
            Ok(response) => response,
            Err(error) => {
                let failure = self.unreached(request, &error);
                self.slow_down(&turn, &failure);
                return Err(failure);
            }
        };
        self.reached.store(true, Ordering::Relaxed);
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let told = match read_limited(response, MAX_ERROR_BYTES).await {
            Ok(body) => xml::parse_error(&body).unwrap_or_default(),
            Err(_) => xml::Told::default(),
        };
        let failure = self.understand(request, status, &headers, &told);
        self.slow_down(&turn, &failure);
        Err(failure)
    }

    /// What is too much for the server is so for all that go to it.
    fn slow_down(&self, turn: &Turn, failure: &Failure) {
        if failure.is_overload {
            self.pace.overloaded(turn, failure.pause);
        }
    }

    fn sign(&self, request: &Request<'_>) -> Result<HttpRequest, Failure> {
        let fail = |cause: String| Failure::new(ErrorKind::Protocol, request, cause, 0);
        let uri = full_url(&request.url, &request.query);
        let uri: http::Uri = uri.parse().map_err(|e: http::uri::InvalidUri| fail(e.to_string()))?;
        let body =
            request.payload.as_ref().map(|payload| payload.bytes.clone()).unwrap_or_default();
        let mut signed = HttpRequest::new(body.into());
        *signed.method_mut() = request.method.clone();
        *signed.uri_mut() = uri;
        *signed.headers_mut() = request.headers.clone();
        if let Some(key) = &self.credentials.key {
            let payload = request.payload.as_ref();
            let digest =
                payload.and_then(|payload| payload.sha256.as_ref()).map(|sha256| &sha256[..]);
            let is_bare = payload.is_some_and(|payload| payload.sha256.is_none());
            AwsAuthorizer::new(key, "s3", &self.region)
                .with_sign_payload(!is_bare)
                .try_authorize(&mut signed, digest)
                .map_err(|e| fail(chain(&e)))?;
        }
        Ok(signed)
    }

    fn unreached(&self, request: &Request<'_>, error: &HttpError) -> Failure {
        let cause = chain(error).replace("HTTP error: ", "");
        let reached = self.reached.load(Ordering::Relaxed);
        match error.kind() {
            HttpErrorKind::Connect if !reached => {
                let host = host_of(&request.url);
                let hint = match () {
                    () if host.ends_with(".amazonaws.com") => format!(
                        "{host} can't be reached; no endpoint was given, so Amazon was tried: set \
                         AWS_ENDPOINT_URL or --endpoint-url ({cause})"
                    ),
                    () if cause.contains("invalid peer certificate") => format!(
                        "the certificate of {host} is not trusted; give its authority's by --ca-bundle \
                         FILE or AWS_CA_BUNDLE ({cause})"
                    ),
                    () if cause.contains("InvalidContentType") => {
                        format!("{host} does not speak TLS; try http:// instead of https://")
                    }
                    () => format!("{host} can't be reached; check the endpoint ({cause})"),
                };
                Failure::new(ErrorKind::Setup, request, hint, FEW_RETRIES)
            }
            HttpErrorKind::Timeout => {
                let cause = format!("{cause}; the server hangs");
                Failure::new(ErrorKind::Hung, request, cause, FEW_RETRIES)
            }
            HttpErrorKind::Unknown => Failure::new(ErrorKind::Protocol, request, cause, 0),
            _ => Failure::new(ErrorKind::Network, request, cause, u32::MAX),
        }
    }

    /// What a failed answer means, what to do about it, and whether to ask again.
    fn understand(
        &self,
        request: &Request<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        told: &xml::Told,
    ) -> Failure {
        let code = told.code.as_str();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(hint) = setup_hint(code, header("date"), &self.region) {
            return Failure::new(ErrorKind::Setup, request, hint, 0);
        }
        // S3 explains every failure but that of a HEAD.
        let is_foreign = code.is_empty() && request.method != Method::HEAD;
        if is_foreign && matches!(status.as_u16(), 404 | 405 | 501) {
            let host = host_of(&request.url);
            let hint = format!("{host} does not answer like S3 ({status}); check the endpoint");
            return Failure::new(ErrorKind::Setup, request, hint, 0);
        }
        let kind = match (status.as_u16(), code) {
            (_, "XAmzContentSHA256Mismatch" | "BadDigest" | "InvalidDigest" | "IncompleteBody") => {
                ErrorKind::Corrupt
            }
            (_, "RequestTimeout" | "SlowDown" | "InternalError" | "OperationAborted") => {
                ErrorKind::Busy
            }
            (412 | 416, _) => ErrorKind::Precondition,
            (404, _) | (_, "NoSuchUpload" | "NoSuchKey") => ErrorKind::NotFound,
            (401 | 403 | 405 | 409, _) => ErrorKind::Denied,
            (501 | 505, _) => ErrorKind::Protocol,
            (429 | 500.., _) => ErrorKind::Busy,
            (300..=399, _) => ErrorKind::Setup,
            _ => ErrorKind::Protocol,
        };
        let retries = match kind {
            ErrorKind::Busy | ErrorKind::Corrupt => u32::MAX,
            _ => 0,
        };
        let mut failure = Failure::new(kind, request, told_cause(status, told), retries);
        failure.is_overload =
            matches!(status.as_u16(), 429 | 503) || matches!(code, "SlowDown" | "RequestTimeout");
        let seconds = header("retry-after").and_then(|text| text.parse().ok());
        failure.pause = seconds.map(|seconds: u64| Duration::from_secs(seconds).min(3 * MAX_PAUSE));
        failure
    }
}

struct Failure {
    error: Error,
    /// How often another try makes sense.
    retries: u32,
    /// The pause that the server asked for.
    pause: Option<Duration>,
    /// It is too much for the server, which is more than that one request failed.
    is_overload: bool,
}

impl Failure {
    fn new(
        kind: ErrorKind,
        request: &Request<'_>,
        cause: impl std::fmt::Display,
        retries: u32,
    ) -> Self {
        let is_overload = kind == ErrorKind::Hung;
        let error = Error::new(kind, request.what(), cause);
        Self { error, retries, pause: None, is_overload }
    }
}

/// Failures that mean that nothing will work, and what to do.
fn setup_hint(code: &str, date: Option<&str>, region: &str) -> Option<String> {
    Some(match code {
        "InvalidAccessKeyId" => {
            "the server does not know the access key; check AWS_ACCESS_KEY_ID or the key file"
                .into()
        }
        "SignatureDoesNotMatch" => format!(
            "the secret key does not belong to the access key; check AWS_SECRET_ACCESS_KEY or the \
             key file (signed for region {region})"
        ),
        "RequestTimeTooSkewed" => format!(
            "this machine's clock is wrong (the server's says {}); set it",
            date.unwrap_or("something else")
        ),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "the session token has expired or is not valid; get new keys".into()
        }
        "UserSuspended" | "AccountProblem" => {
            "the account is suspended; ask the store's staff".into()
        }
        "NoSuchBucket" => "no such bucket; `haul ls` lists yours, `haul mb` makes one".into(),
        "InvalidBucketName" => "the server does not take this bucket name".into(),
        "AuthorizationHeaderMalformed" | "PermanentRedirect" => {
            format!("the bucket is not in region {region}; set AWS_REGION or --region")
        }
        _ => return None,
    })
}

fn told_cause(status: StatusCode, told: &xml::Told) -> String {
    let said = printable(&told.message);
    match (told.code.is_empty(), said.is_empty()) {
        (true, _) => match status.as_u16() {
            403 => "access denied".into(),
            404 => "not found".into(),
            412 => "it is no longer the object that was listed".into(),
            _ => format!("the server answered {status}"),
        },
        (false, true) => format!("{} ({})", printable(&told.code), status.as_u16()),
        (false, false) => format!("{}: {said} ({})", printable(&told.code), status.as_u16()),
    }
}

/// Half to all of an exponentially growing pause, so that many clients spread out.
fn backoff(tries: u32) -> Duration {
    let ceiling = FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(MAX_PAUSE);
    ceiling.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Why a body could not be read, and how often to ask again.
struct Broken {
    kind: ErrorKind,
    cause: String,
    retries: u32,
}

/// The kind of a failure in the middle of a body.
pub(super) fn body_error_kind(error: &HttpError) -> ErrorKind {
    match error.kind() {
        HttpErrorKind::Timeout => ErrorKind::Hung,
        _ => ErrorKind::Network,
    }
}

/// Reads a body of at most `limit` bytes.
async fn read_limited(response: HttpResponse, limit: usize) -> Result<Bytes, Broken> {
    let mut frames = response.into_body().bytes_stream();
    let mut all = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|e| {
            let kind = body_error_kind(&e);
            let retries = if kind == ErrorKind::Hung { FEW_RETRIES } else { u32::MAX };
            Broken { kind, cause: chain(&e).replace("HTTP error: ", ""), retries }
        })?;
        if all.len() + frame.len() > limit {
            let cause = format!("the answer is longer than {limit} bytes");
            return Err(Broken { kind: ErrorKind::Protocol, cause, retries: 0 });
        }
        all.extend_from_slice(&frame);
    }
    Ok(all.freeze())
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn full_url(url: &str, query: &[(&str, String)]) -> String {
    let mut full = url.to_owned();
    for (index, (name, value)) in query.iter().enumerate() {
        full.push(if index == 0 { '?' } else { '&' });
        full.push_str(name);
        full.push('=');
        encode_into(&mut full, value, false);
    }
    full
}

/// Percent-encodes as Signature Version 4 wants it: all but `A-Za-z0-9-._~`, and `/` where kept.
pub(super) fn encode_into(target: &mut String, text: &str, keep_slash: bool) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                target.push(char::from(byte));
            }
            b'/' if keep_slash => target.push('/'),
            _ => {
                let _ = write!(target, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for tries in 0..40 {
            let pause = backoff(tries);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= MAX_PAUSE, "{tries}: {pause:?}");
        }
    }

    #[test]
    fn every_byte_outside_the_unreserved_set_is_encoded() {
        let mut encoded = String::new();
        encode_into(&mut encoded, "a b+c/é\n~", true);
        assert_eq!(encoded, "a%20b%2Bc/%C3%A9%0A~");
    }

    #[test]
    fn messages_carry_no_control_characters() {
        let told = xml::Told { code: "Odd".into(), message: "\u{1b}[2J".into() };
        assert!(!told_cause(StatusCode::BAD_REQUEST, &told).contains('\u{1b}'));
    }
}
