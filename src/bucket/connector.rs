//! The one HTTP client of an endpoint: counts bytes, and ends what stands still.
//!
//! reqwest under `object_store`'s client interface, so that anything of `object_store` can share
//! it. No timeout covers a whole request: a slow but moving transfer of any length is fine, a
//! minute without a byte in either direction is not.

use super::endpoint::{Connection, Trust};
use super::pace::Turn;
use super::throttle::{Bandwidth, Throttle};
use crate::error::{Error, ErrorKind, Result, chain};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Request bodies are handed to the socket in slices of this many bytes, each a sign of life.
const SLICE_BYTES: usize = 256 << 10;

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

    /// Bytes of all bodies.
    pub(super) fn bytes(&self) -> u64 {
        self.sent_bytes() + self.received_bytes()
    }

    /// Bytes of response bodies.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Connector {
    client: reqwest::Client,
    idle: Duration,
    traffic: Arc<Traffic>,
    throttle: Option<Arc<Throttle>>,
}

fn trusting(builder: reqwest::ClientBuilder, trust: &Trust) -> Result<reqwest::ClientBuilder> {
    let path = match trust {
        Trust::System => return Ok(builder),
        Trust::Anybody => return Ok(builder.tls_danger_accept_invalid_certs(true)),
        Trust::Bundle(path) => path,
    };
    let fail = |cause: String| {
        let what = format!("cannot use the CA bundle {}", path.display());
        Error::new(ErrorKind::Setup, what, cause)
    };
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| fail(chain(&e)))?;
    if certificates.is_empty() {
        return Err(fail("there is no certificate in it (PEM is what is wanted)".into()));
    }
    Ok(builder.tls_certs_merge(certificates))
}

/// The most idle connections that are kept.
const IDLE_CONNECTIONS: usize = 256;

impl Connector {
    pub(super) fn connect(
        connection: &Connection,
        bandwidth: Option<Bandwidth>,
        traffic: Arc<Traffic>,
    ) -> Result<HttpClient> {
        let idle = connection.idle_timeout;
        let client = trusting(reqwest::Client::builder(), &connection.trust)?
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("haul/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .build()
            .map_err(|e| Error::new(ErrorKind::Setup, "cannot start the HTTP client", chain(&e)))?;
        let throttle = bandwidth.map(|bandwidth| Arc::new(Throttle::new(bandwidth)));
        Ok(HttpClient::new(Self { client, idle, traffic, throttle }))
    }

    async fn execute(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let turn = request.extensions_mut().remove::<Turn>();
        let pulse = Arc::new(Pulse::default());
        let request = self.convert(request, &pulse)?;
        let response = self.watch(self.client.execute(request), &pulse).await?;
        let (head, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        let body = Watched {
            inner: body,
            timer: Box::pin(tokio::time::sleep(self.idle)),
            idle: self.idle,
            waiting: false,
            throttled: Throttled::new(self.throttle.clone()),
            rest: Bytes::new(),
            traffic: Arc::clone(&self.traffic),
            _turn: turn,
        };
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }

    fn convert(
        &self,
        request: HttpRequest,
        pulse: &Arc<Pulse>,
    ) -> Result<reqwest::Request, HttpError> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut converted = reqwest::Request::new(head.method, url);
        *converted.headers_mut() = head.headers;
        if let Some(bytes) = body.as_bytes().filter(|bytes| !bytes.is_empty()) {
            let rest = bytes.clone();
            let (pulse, traffic) = (Arc::clone(pulse), Arc::clone(&self.traffic));
            *converted.body_mut() = Some(reqwest::Body::wrap(Sliced {
                rest,
                pulse,
                traffic,
                throttled: Throttled::new(self.throttle.clone()),
            }));
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
        pulse: &Pulse,
    ) -> Result<reqwest::Response, HttpError> {
        let mut answer = std::pin::pin!(answer);
        let mut seen = 0;
        loop {
            if let Ok(answer) = tokio::time::timeout(self.idle, answer.as_mut()).await {
                return answer.map_err(http_error);
            }
            let now = pulse.beats.load(Ordering::Relaxed);
            if now == seen && !pulse.waits.load(Ordering::Relaxed) {
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

/// Bytes that pass one piece at a time, at the pace of the bandwidth.
struct Throttled {
    throttle: Option<Arc<Throttle>>,
    /// Until when the next piece, of so many bytes, waits.
    due: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Throttled {
    fn new(throttle: Option<Arc<Throttle>>) -> Self {
        Self { throttle, due: None }
    }

    /// How many of `bytes` may pass now.
    fn poll(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(throttle) = &self.throttle else {
            return Poll::Ready(bytes);
        };
        if self.due.is_none() {
            let (piece, due) = throttle.reserve(bytes);
            if due <= Instant::now() {
                return Poll::Ready(piece);
            }
            self.due = Some((piece, Box::pin(tokio::time::sleep_until(due))));
        }
        let Some((piece, sleep)) = &mut self.due else {
            return Poll::Ready(bytes);
        };
        let piece = *piece;
        std::task::ready!(sleep.as_mut().poll(cx));
        self.due = None;
        Poll::Ready(piece)
    }
}

/// Whether a request's body moves.
#[derive(Debug, Default)]
struct Pulse {
    /// Slices that were taken.
    beats: AtomicU64,
    /// The next slice waits for the bandwidth, not for the server.
    waits: AtomicBool,
}

/// A request body that shows when its bytes are taken.
struct Sliced {
    rest: Bytes,
    pulse: Arc<Pulse>,
    traffic: Arc<Traffic>,
    throttled: Throttled,
}

impl Body for Sliced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let step = self.rest.len().min(SLICE_BYTES);
        let passes = self.throttled.poll(step, cx);
        self.pulse.waits.store(passes.is_pending(), Ordering::Relaxed);
        let step = std::task::ready!(passes);
        self.pulse.beats.fetch_add(1, Ordering::Relaxed);
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
    throttled: Throttled,
    /// What has arrived, and waits for the bandwidth.
    rest: Bytes,
    traffic: Arc<Traffic>,
    _turn: Option<Turn>,
}

impl Watched {
    /// A piece of what has arrived.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        let piece = std::task::ready!(self.throttled.poll(self.rest.len(), cx));
        Poll::Ready(Frame::data(self.rest.split_to(piece)))
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if !self.rest.is_empty() {
            return self.poll_rest(cx).map(|frame| Some(Ok(frame)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.waiting = false;
            let frame = match frame {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other.map(|frame| frame.map_err(http_error))),
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.traffic.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            if bytes == 0 || self.throttled.throttle.is_none() {
                return Poll::Ready(Some(Ok(frame)));
            }
            self.rest = frame.into_data().unwrap_or_default();
            return self.poll_rest(cx).map(|frame| Some(Ok(frame)));
        }
        if !self.waiting {
            self.waiting = true;
            let deadline = Instant::now() + self.idle;
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx).map(|()| Some(Err(stood_still(self.idle))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
}
