//! The one HTTP client of an endpoint: counts bytes, and ends what stands still.
//!
//! reqwest under `object_store`'s client interface, so that anything of `object_store` can share it.
//! No timeout covers a whole request: a slow but moving transfer of any length is fine, a minute
//! without a byte in either direction is not.

use crate::error::{Error, ErrorKind, Result, chain};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Request bodies are handed to the socket in slices of this many bytes, each a sign of life.
const SLICE_BYTES: usize = 256 << 10;

/// How hard an endpoint is worked.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests in flight at once.
    pub requests: usize,
    /// How long nothing may move before a request counts as hung.
    pub idle_timeout: Duration,
    /// How often a failed request is repeated.
    pub retries: u32,
}

impl Default for Limits {
    /// 64 requests, 60 s, 8 retries (about half a minute of pauses in all).
    fn default() -> Self {
        Self { requests: 64, idle_timeout: Duration::from_mins(1), retries: 8 }
    }
}

/// What went over the wire so far, bodies only.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Traffic {
    /// Requests sent, retries included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of request bodies.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of response bodies.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}

/// A place among the requests in flight. It travels with its request, and is given back when the
/// answer's body is done with.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Turn {
    pub(super) async fn take(permits: &Arc<Semaphore>) -> Self {
        let permit = Arc::clone(permits).acquire_owned().await;
        Self { _permit: Arc::new(permit.expect("the semaphore is never closed")) }
    }
}

#[derive(Debug)]
pub(super) struct Connector {
    client: reqwest::Client,
    idle: Duration,
    traffic: Arc<Traffic>,
}

impl Connector {
    pub(super) fn connect(limits: &Limits, traffic: Arc<Traffic>) -> Result<HttpClient> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(limits.requests)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("haul/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .build()
            .map_err(|e| Error::new(ErrorKind::Setup, "cannot start the HTTP client", chain(&e)))?;
        Ok(HttpClient::new(Self { client, idle: limits.idle_timeout, traffic }))
    }

    async fn execute(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let turn = request.extensions_mut().remove::<Turn>();
        let pulse = Arc::new(AtomicU64::new(0));
        let request = self.convert(request, &pulse)?;
        let response = self.watch(self.client.execute(request), &pulse).await?;
        let (head, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        let body = Watched {
            inner: body,
            timer: Box::pin(tokio::time::sleep(self.idle)),
            idle: self.idle,
            waiting: false,
            traffic: Arc::clone(&self.traffic),
            _turn: turn,
        };
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }

    fn convert(
        &self,
        request: HttpRequest,
        pulse: &Arc<AtomicU64>,
    ) -> Result<reqwest::Request, HttpError> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut converted = reqwest::Request::new(head.method, url);
        *converted.headers_mut() = head.headers;
        if let Some(bytes) = body.as_bytes().filter(|bytes| !bytes.is_empty()) {
            let rest = bytes.clone();
            let (pulse, traffic) = (Arc::clone(pulse), Arc::clone(&self.traffic));
            *converted.body_mut() = Some(reqwest::Body::wrap(Sliced { rest, pulse, traffic }));
        } else if matches!(*converted.method(), http::Method::PUT | http::Method::POST) {
            // Ceph answers 411 without it.
            converted.headers_mut().insert(http::header::CONTENT_LENGTH, 0.into());
        }
        Ok(converted)
    }

    /// Waits for the answer as long as the request's body moves, and the idle time beyond.
    async fn watch(
        &self,
        answer: impl Future<Output = Result<reqwest::Response, reqwest::Error>>,
        pulse: &AtomicU64,
    ) -> Result<reqwest::Response, HttpError> {
        let mut answer = std::pin::pin!(answer);
        let mut seen = 0;
        loop {
            if let Ok(answer) = tokio::time::timeout(self.idle, answer.as_mut()).await {
                return answer.map_err(http_error);
            }
            let now = pulse.load(Ordering::Relaxed);
            if now == seen {
                return Err(stood_still(self.idle));
            }
            seen = now;
        }
    }
}

impl HttpService for Connector {
    fn call<'life, 'async_trait>(
        &'life self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.execute(request))
    }
}

fn stood_still(idle: Duration) -> HttpError {
    let text = format!("no byte moved for {}", humantime::format_duration(idle));
    HttpError::new(HttpErrorKind::Timeout, std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

/// The kind tells whether another try makes sense; the URL goes, it is in our own message.
fn http_error(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_builder() {
        HttpErrorKind::Unknown
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, std::io::Error::other(chain(&error.without_url())))
}

/// A request body that shows when its bytes are taken.
struct Sliced {
    rest: Bytes,
    pulse: Arc<AtomicU64>,
    traffic: Arc<Traffic>,
}

impl Body for Sliced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let step = self.rest.len().min(SLICE_BYTES);
        self.pulse.fetch_add(1, Ordering::Relaxed);
        self.traffic.sent_bytes.fetch_add(step as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(step)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// A response body that ends with an error when it is waited for and nothing comes, and that gives
/// back its request's permit when it is done with.
struct Watched {
    inner: reqwest::Body,
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    /// The timer runs only while somebody waits: a slow consumer is no hung server.
    waiting: bool,
    traffic: Arc<Traffic>,
    _turn: Option<Turn>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.waiting = false;
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.traffic.received_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(http_error)));
        }
        if !self.waiting {
            self.waiting = true;
            let deadline = Instant::now() + self.idle;
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx).map(|()| Some(Err(stood_still(self.idle))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
