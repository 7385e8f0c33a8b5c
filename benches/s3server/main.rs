//! An S3 server for benchmarks: everything in memory, and as little work as possible, so that what
//! is measured is the client.
//!
//!     cargo bench --bench s3server -- --port 9000 [--threads 2] [--delay-ms 0] [--fast-etag]
//!                                     [--synthetic N]
//!
//! It is no judge of correctness. Signatures, checksums and conditions of writes are not looked
//! at, nothing is versioned, and nothing outlives the process, which SIGTERM ends. What it answers
//! is right, ETags included, unless `--fast-etag` makes those up. `GET /_counters` tells what was
//! asked and how much CPU that took here; `POST /_reset` begins anew.
//!
//! This file owns the command line and the threads. Below it stand `connection` with `chunks`
//! (HTTP/1.1 over a socket), `operations` with `listing` and `uploads` (what the calls of S3 mean),
//! `store` with `synthetic` (what there is), and `request`, `answer`, `counters` and `text`.

mod answer;
mod chunks;
mod connection;
mod counters;
mod listing;
mod operations;
mod request;
mod store;
mod synthetic;
mod text;
mod uploads;

use clap::Parser;
use counters::Counters;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An in-memory S3 server on loopback, for benchmarks.
#[derive(Parser)]
struct Arguments {
    /// Port to listen on; 0 takes a free one.
    #[arg(long)]
    port: u16,
    /// Threads that answer; connections are dealt out to them in turn.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Milliseconds that each answer waits, as if the server were far away.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Makes ETags up instead of computing an MD5.
    #[arg(long)]
    fast_etag: bool,
    /// Keys in the bucket `synthetic`, which are listed and read without being stored.
    #[arg(long)]
    synthetic: Option<u64>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all connections share.
struct Server {
    store: Store,
    counters: Counters,
    delay: Duration,
}

fn main() -> io::Result<()> {
    // A `cargo bench` of all targets runs this one, too, with arguments that are not its own.
    let is_port = |argument: String| argument == "--port" || argument.starts_with("--port=");
    if !std::env::args().any(is_port) {
        return Ok(());
    }
    let arguments = Arguments::parse();
    let server = Arc::new(Server {
        store: Store::new(arguments.fast_etag, arguments.synthetic),
        counters: Counters::default(),
        delay: Duration::from_millis(arguments.delay_ms),
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port))?;
    println!("listening on {}", listener.local_addr()?);
    let workers: Vec<_> = (0..arguments.threads).map(|_| start_worker(&server)).collect();
    // No runtime of several threads: its threads wake each other for work, which costs more than
    // the work of a small request.
    for worker in workers.iter().cycle() {
        let (stream, _) = listener.accept()?;
        worker.send(stream).expect("a worker ends with the process");
    }
    Ok(())
}

fn start_worker(server: &Arc<Server>) -> UnboundedSender<std::net::TcpStream> {
    let (sender, receiver) = unbounded_channel();
    let server = Arc::clone(server);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a thread can poll").block_on(work(receiver, server));
    });
    sender
}

async fn work(mut streams: UnboundedReceiver<std::net::TcpStream>, server: Arc<Server>) {
    while let Some(stream) = streams.recv().await {
        // A client that has already gone is no reason to end.
        let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        if let Ok(stream) = ready.and_then(|()| TcpStream::from_std(stream)) {
            tokio::spawn(connection::serve(stream, Arc::clone(&server)));
        }
    }
}
