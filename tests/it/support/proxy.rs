//! A fault proxy: HTTP/1.1 over loopback, one thread a connection, that counts what passes and
//! breaks what it is told to.
//!
//! It forwards every head unchanged (the Host header is signed), so a client that signs for the
//! proxy's address is accepted by the server behind it. It knows S3 only as far as telling one kind
//! of request from another.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{self, Flow, Head, Kind};
use super::server::Server;
use super::tokens::Tokens;

/// One request that arrived, and what became of it so far.
#[derive(Clone, Debug)]
pub struct Passed {
    number: u64,
    pub kind: Kind,
    /// Path and query, percent-encoded as the client sent them.
    pub target: String,
    /// Bytes of the request's body that were sent to the server.
    pub body_bytes: u64,
    /// Bytes of the response's body that were sent to the client.
    pub response_bytes: u64,
    /// The server's status, or the injected one; 0 where there was no answer.
    pub status: u16,
    pub arrived: Instant,
    /// When the answer's first byte was about to be sent to the client.
    pub answered: Option<Instant>,
}

/// What happens to a request that a rule matches.
#[derive(Clone)]
pub enum Fault {
    /// The request is read whole and answered by an S3 error of this status and code.
    Answer(u16, &'static str),
    /// The connection breaks after so many bytes of the request's body went through.
    CutRequest(u64),
    /// The connection breaks after so many bytes of the response's body went through.
    CutResponse(u64),
    /// Nothing is ever answered.
    Hang,
    /// The response stops after so many bytes of its body, with the connection left open.
    StallResponse(u64),
    /// One bit of the request's byte at this offset is flipped.
    FlipRequest(u64),
    /// One bit of the response's byte at this offset is flipped.
    FlipResponse(u64),
    /// The request's body goes through at so many bytes a second.
    SlowRequest(u64),
    /// The response's body goes through at so many bytes a second.
    SlowResponse(u64),
    /// Called before the request goes on as it is.
    Hook(Arc<dyn Fn() + Send + Sync>),
    /// Answered by `503 SlowDown` where the tokens are used up, and else goes on as it is.
    Throttle(Arc<Tokens>),
    /// Answered by `503 SlowDown` with `Retry-After`, in seconds.
    RetryAfter(u64),
    /// Answered by `200` and the XML that is made of path and query.
    Reply(Arc<dyn Fn(&str) -> String + Send + Sync>),
}

impl Fault {
    pub fn hook(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self::Hook(Arc::new(hook))
    }

    /// Each request waits so long before it goes on.
    pub fn delay(delay: Duration) -> Self {
        Self::hook(move || thread::sleep(delay))
    }

    /// So many requests a second are let through, each after `latency`; the rest is refused.
    pub fn throttle(per_second: u32, latency: Duration) -> Self {
        Self::Throttle(Arc::new(Tokens::new(per_second, latency)))
    }

    pub fn reply(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::Reply(Arc::new(reply))
    }
}

/// Which requests a fault befalls.
#[derive(Clone)]
pub struct Rule {
    /// None for all.
    kind: Option<Kind>,
    target_contains: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// Every request of this kind.
    pub fn every(kind: Kind, fault: Fault) -> Self {
        Self { kind: Some(kind), ..Self::all(fault) }
    }

    /// Every request.
    pub fn all(fault: Fault) -> Self {
        Self { kind: None, target_contains: String::new(), skip: 0, times: usize::MAX, fault }
    }

    /// Only requests with this in their path or query.
    pub fn on(mut self, target_contains: &str) -> Self {
        target_contains.clone_into(&mut self.target_contains);
        self
    }

    /// Leaves the first `count` matching requests alone.
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Befalls `count` requests, then no more.
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    /// The fault, where this request is one of the rule's; counts it.
    fn strike(&mut self, kind: Kind, target: &str) -> Option<Fault> {
        if self.kind.is_some_and(|wanted| wanted != kind) || !target.contains(&self.target_contains)
        {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.fault.clone())
    }
}

/// A proxy to one server. Dropping it breaks what is open and ends its threads.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: String,
    stopped: AtomicBool,
    next_number: AtomicU64,
    moved_bytes: Arc<AtomicU64>,
    rules: Mutex<Vec<Rule>>,
    passed: Mutex<Vec<Passed>>,
    open: Mutex<HashMap<u64, [TcpStream; 2]>>,
}

impl Shared {
    /// Brings the record of a request up to date, unless it was forgotten meanwhile.
    fn record(&self, now: Passed) {
        let mut passed = lock(&self.passed);
        if let Some(known) = passed.iter_mut().rev().find(|known| known.number == now.number) {
            *known = now;
        }
    }
}

impl Proxy {
    pub fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: server.address().to_owned(),
            stopped: AtomicBool::new(false),
            next_number: AtomicU64::new(0),
            moved_bytes: Arc::default(),
            rules: Mutex::default(),
            passed: Mutex::default(),
            open: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn rule(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Forgets the rules and what passed.
    pub fn reset(&self) {
        lock(&self.shared.rules).clear();
        lock(&self.shared.passed).clear();
    }

    /// Requests in the order in which they arrived.
    pub fn passed(&self) -> Vec<Passed> {
        lock(&self.shared.passed).clone()
    }

    /// How many requests of this kind arrived.
    pub fn count(&self, kind: Kind) -> usize {
        self.passed().iter().filter(|passed| passed.kind == kind).count()
    }

    /// How many requests of this kind were answered.
    pub fn answered(&self, kind: Kind) -> usize {
        self.passed().iter().filter(|passed| passed.kind == kind && passed.status > 0).count()
    }

    /// Bytes of objects that were sent.
    pub fn sent_bytes(&self) -> u64 {
        let passed = self.passed().into_iter();
        let sends = passed.filter(|passed| matches!(passed.kind, Kind::Put | Kind::Part));
        sends.map(|passed| passed.body_bytes).sum()
    }

    /// Bytes of all bodies that passed so far, whatever was forgotten since.
    pub fn moved_bytes(&self) -> u64 {
        self.shared.moved_bytes.load(Ordering::Relaxed)
    }

    /// Waits until every client is gone and its last request is on record.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        let started = Instant::now();
        while !lock(&self.shared.open).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(90), "a connection stays open");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Fails unless pages of listings were all that was asked for, and so many.
    #[track_caller]
    pub fn assert_only_lists(&self, pages: usize) {
        let passed = self.passed();
        let others: Vec<_> = passed.iter().filter(|passed| passed.kind != Kind::List).collect();
        assert!(others.is_empty(), "more than listings was asked for: {others:#?}");
        assert_eq!(passed.len(), pages, "pages of listings: {passed:#?}");
    }

    /// Fails where an object's bytes went either way, or one was copied.
    #[track_caller]
    pub fn assert_no_transfers(&self) {
        let moved: Vec<Passed> =
            self.passed().into_iter().filter(|passed| passed.kind.moves_bytes()).collect();
        assert!(moved.is_empty(), "sent although nothing changed: {moved:#?}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for stream in lock(&self.shared.open).values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        let shared = Arc::clone(shared);
        connections.push(thread::spawn(move || {
            let _ = Connection::open(client, shared).and_then(|mut connection| connection.serve());
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// One client's connection and the one to the server that goes with it.
struct Connection {
    number: u64,
    client: BufReader<TcpStream>,
    server: BufReader<TcpStream>,
    shared: Arc<Shared>,
}

impl Connection {
    fn open(client: TcpStream, shared: Arc<Shared>) -> io::Result<Self> {
        let server = TcpStream::connect(&shared.upstream)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let number = shared.next_number.fetch_add(1, Ordering::Relaxed);
        let both = [client.try_clone()?, server.try_clone()?];
        lock(&shared.open).insert(number, both);
        Ok(Self { number, client: BufReader::new(client), server: BufReader::new(server), shared })
    }

    /// Serves request after request; an error or a fault ends the connection on both sides.
    fn serve(&mut self) -> io::Result<()> {
        let mut result = Ok(true);
        while let Ok(true) = result {
            result = self.exchange();
        }
        result.map(|_| ())
    }

    /// One request and its response; whether the connection may be used again.
    fn exchange(&mut self) -> io::Result<bool> {
        let Some(request) = Head::read(&mut self.client)? else {
            return Ok(false);
        };
        let (kind, target) = (Kind::of(&request), request.target().to_owned());
        let fault = self.strike(kind, &target);
        let number = self.shared.next_number.fetch_add(1, Ordering::Relaxed);
        let mut passed = Passed {
            number,
            kind,
            target,
            body_bytes: 0,
            response_bytes: 0,
            status: 0,
            arrived: Instant::now(),
            answered: None,
        };
        lock(&self.shared.passed).push(passed.clone());
        let reusable = self.relay(&request, fault, &mut passed);
        self.shared.record(passed);
        reusable
    }

    fn strike(&self, kind: Kind, target: &str) -> Option<Fault> {
        lock(&self.shared.rules).iter_mut().find_map(|rule| rule.strike(kind, target))
    }

    fn relay(
        &mut self,
        request: &Head,
        fault: Option<Fault>,
        passed: &mut Passed,
    ) -> io::Result<bool> {
        let total = &self.shared.moved_bytes;
        let (mut up, mut down) = (Flow::counted_in(total), Flow::counted_in(total));
        match fault {
            Some(Fault::Throttle(tokens)) if !tokens.take() => {
                return self.refuse(request, (503, "SlowDown"), "", passed);
            }
            None | Some(Fault::Throttle(_)) => {}
            Some(Fault::Hook(hook)) => hook(),
            Some(Fault::Answer(status, code)) => {
                return self.refuse(request, (status, code), "", passed);
            }
            Some(Fault::RetryAfter(seconds)) => {
                let header = format!("Retry-After: {seconds}\r\n");
                return self.refuse(request, (503, "SlowDown"), &header, passed);
            }
            Some(Fault::Reply(reply)) => {
                let xml = reply(&passed.target);
                return self.answer(request, 200, "", &xml, passed);
            }
            Some(Fault::Hang) => return self.hang(),
            Some(Fault::CutRequest(bytes)) => up.cut_after = Some(bytes),
            Some(Fault::FlipRequest(offset)) => up.flip_at = Some(offset),
            Some(Fault::SlowRequest(rate)) => up.bytes_per_second = Some(rate),
            Some(Fault::SlowResponse(rate)) => down.bytes_per_second = Some(rate),
            Some(Fault::CutResponse(bytes)) => down.cut_after = Some(bytes),
            Some(Fault::FlipResponse(offset)) => down.flip_at = Some(offset),
            Some(Fault::StallResponse(bytes)) => {
                down.cut_after = Some(bytes);
                let _ = self.forward(request, up, down, passed);
                self.shared.record(passed.clone());
                return self.hang();
            }
        }
        self.forward(request, up, down, passed)
    }

    fn forward(
        &mut self,
        request: &Head,
        mut up: Flow,
        mut down: Flow,
        passed: &mut Passed,
    ) -> io::Result<bool> {
        self.welcome(request)?;
        self.server.get_mut().write_all(&request.without("expect"))?;
        let sent =
            http::relay_body(&request.body(), &mut self.client, self.server.get_mut(), &mut up);
        passed.body_bytes = up.passed;
        sent?;
        let response = loop {
            let head = Head::read(&mut self.server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if head.status() >= 200 {
                break head;
            }
        };
        passed.status = response.status();
        passed.answered = Some(Instant::now());
        self.client.get_mut().write_all(&response.bytes)?;
        let body = response.response_body(request);
        let received = http::relay_body(&body, &mut self.server, self.client.get_mut(), &mut down);
        passed.response_bytes = down.passed;
        received?;
        Ok(body.is_delimited() && !request.closes() && !response.closes())
    }

    /// Answers `Expect: 100-continue` itself, so that the body comes at once.
    fn welcome(&mut self, request: &Head) -> io::Result<()> {
        if request.header("expect").is_some() {
            self.client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    /// An error of S3.
    fn refuse(
        &mut self,
        request: &Head,
        (status, code): (u16, &str),
        headers: &str,
        passed: &mut Passed,
    ) -> io::Result<bool> {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <Error><Code>{code}</Code><Message>injected</Message></Error>"
        );
        self.answer(request, status, headers, &xml, passed)
    }

    /// Reads the request whole, and answers in the server's place.
    fn answer(
        &mut self,
        request: &Head,
        status: u16,
        headers: &str,
        xml: &str,
        passed: &mut Passed,
    ) -> io::Result<bool> {
        self.welcome(request)?;
        let nowhere = &mut io::sink();
        http::relay_body(&request.body(), &mut self.client, nowhere, &mut Flow::default())?;
        let body = if request.method() == "HEAD" { "" } else { xml };
        passed.status = status;
        passed.answered = Some(Instant::now());
        write!(
            self.client.get_mut(),
            "HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\n{headers}\
             Date: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n{body}",
            xml.len()
        )?;
        Ok(!request.closes())
    }

    /// Holds the connection open in silence until the proxy ends or the client leaves.
    fn hang(&self) -> io::Result<bool> {
        let client = self.client.get_ref();
        client.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut rest = [0; 4096];
        while !self.shared.stopped.load(Ordering::SeqCst) {
            match io::Read::read(&mut &*client, &mut rest) {
                Ok(0) => break,
                Err(error) if !waits(&error) => break,
                _ => {}
            }
        }
        Ok(false)
    }
}

impl Drop for Connection {
    /// Lets go of the streams for good: closing with bytes unread resets a connection, shutting
    /// down does not.
    fn drop(&mut self) {
        lock(&self.shared.open).remove(&self.number);
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
