//! The `haul` program: arguments in, exit code out.

// They panic where the reader has gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod commands;
mod settings;
mod ui;
mod units;

use args::{Cli, Command, Global, Uploads};
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use haul::{Error, ErrorKind, Result, Stop};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The walk of a directory, the reading of the catalog and its writing, and the resolution of a
/// name each keep a thread beside the hashing ones.
const OTHER_THREADS: usize = 5;
const SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(5);
const TERMINATED: u8 = 143;
const INTERRUPTED: u8 = 130;
const HUNG_UP: u8 = 129;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    start_log(&cli.global);
    raise_file_limit();
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(threads + OTHER_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&Error::new(ErrorKind::Setup, "cannot start", error));
        }
    };
    let signal = Arc::new(AtomicU8::new(0));
    let outcome = runtime.block_on(dispatch(cli, &matches, &signal));
    let code = match outcome {
        Ok(code) => code,
        Err(error) => {
            fail(&error);
            error.kind().exit_code()
        }
    };
    // What its threads still do, such as removing a temporary file, is waited for; a read of stdin
    // that will never end is not.
    runtime.shutdown_timeout(SHUTDOWN);
    let by_signal = signal.load(Ordering::Relaxed);
    ExitCode::from(if code == INTERRUPTED && by_signal != 0 { by_signal } else { code })
}

fn fail(error: &Error) -> ExitCode {
    ui::note(&format!("haul: {error}"));
    ExitCode::from(error.kind().exit_code())
}

/// Requests are logged with `-vv`; never their headers, so no signature and no token.
fn start_log(global: &Global) {
    let level = match global.verbose {
        0 | 1 => tracing::Level::WARN,
        _ => tracing::Level::TRACE,
    };
    let filter = tracing_subscriber::filter::Targets::new().with_target("haul", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}

/// A group of downloads keeps files open until it lands; the soft limit is often only 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn dispatch(cli: Cli, matches: &ArgMatches, code: &Arc<AtomicU8>) -> Result<u8> {
    let Cli { global, command } = cli;
    let stop = Stop::new();
    let mut signals = JoinSet::new();
    signals.spawn(watch(SignalKind::interrupt(), INTERRUPTED, stop.clone(), Arc::clone(code)));
    signals.spawn(watch(SignalKind::terminate(), TERMINATED, stop.clone(), Arc::clone(code)));
    signals.spawn(watch(SignalKind::hangup(), HUNG_UP, stop.clone(), Arc::clone(code)));
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let session = commands::Session::new(global, stop);
    match command {
        Command::Sync { ends, how, dry_run } => session.sync(&ends, &how, dry_run, matches).await,
        Command::Plan { ends, how } => session.sync(&ends, &how, true, matches).await,
        Command::Check { ends, how, deep } => session.check(&ends, &how, deep, matches).await,
        Command::Manifest { place, checksum } => session.manifest(&place, checksum).await,
        Command::History { limit } => session.history(limit),
        Command::Cp { copy } => session.cp(&copy, haul::Afterwards::KeepSource).await,
        Command::Mv { copy } => session.cp(&copy, haul::Afterwards::RemoveSource).await,
        Command::Cat { urls } => session.cat(&urls).await,
        Command::Ls { url, recursive, long } => session.ls(url.as_deref(), recursive, long).await,
        Command::Du { url } => session.du(&url).await,
        Command::Stat { url } => session.stat(&url).await,
        Command::Rm { url, recursive, dry_run } => session.rm(&url, recursive, dry_run).await,
        Command::Uploads { what: Uploads::Ls { url } } => session.list_uploads(&url).await,
        Command::Uploads { what: Uploads::Abort { url, older_than, dry_run } } => {
            session.abort_uploads(&url, older_than, dry_run).await
        }
        Command::Mb { url } => session.mb(&url).await,
        Command::Rb { url } => session.rb(&url).await,
    }
}

/// The first signal asks for an orderly stop, the second ends the process at once.
async fn watch(kind: SignalKind, exit: u8, stop: Stop, code: Arc<AtomicU8>) {
    let Ok(mut signals) = signal(kind) else {
        return;
    };
    while signals.recv().await.is_some() {
        if stop.is_requested() {
            std::process::exit(exit.into());
        }
        code.store(exit, Ordering::Relaxed);
        stop.request();
    }
}
