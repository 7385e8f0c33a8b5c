//! Running the `haul` binary with an environment of its own, and what came of it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A run that takes longer than this is killed, and its test fails.
const TIME_LIMIT: Duration = Duration::from_mins(4);

/// The user and group that owns nothing.
pub const NOBODY: u32 = 65534;

/// Where a run with this home keeps what it remembers.
pub fn state_directory(home: &str) -> PathBuf {
    Path::new(home).join("haul-state")
}

/// A command line of `haul`, to be run once.
pub struct Run {
    command: Command,
    secret: String,
    stdin: Vec<u8>,
}

impl Run {
    /// `haul` with no variable set but PATH, HOME and the state directory.
    pub fn bare(home: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
        command.env_clear().env("HOME", home).env("XDG_STATE_HOME", home);
        command.env("HAUL_STATE_DIR", state_directory(home));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self { command, secret: String::new(), stdin: Vec::new() }
    }

    /// Sets the environment's keys. No output of the run may then contain the secret.
    pub fn keys(mut self, access_key: &str, secret_key: &str) -> Self {
        self.command.env("AWS_ACCESS_KEY_ID", access_key);
        self.command.env("AWS_SECRET_ACCESS_KEY", secret_key);
        self.keep_secret(secret_key)
    }

    pub fn keep_secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.secret);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Runs this copy of the binary as the user who owns nothing.
    pub fn by_nobody(mut self, binary: &str) -> Self {
        let mut command = Command::new(binary);
        command.env_clear().args(self.command.get_args()).uid(NOBODY).gid(NOBODY);
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        self.command = command;
        self
    }

    /// Runs it below this other program, which gets these arguments first.
    pub fn below(mut self, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.env_clear().args(args).arg(self.command.get_program());
        command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        self.command = command;
        self
    }

    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    pub fn start(mut self) -> Running {
        let pipe = Stdio::piped;
        self.command.stdin(pipe()).stdout(pipe()).stderr(pipe());
        let mut child = spawn(&mut self.command);
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let bytes = self.stdin;
        thread::spawn(move || {
            let _ = stdin.write_all(&bytes);
        });
        Running {
            stdout: drain(child.stdout.take().expect("stdout is piped")),
            stderr: drain(child.stderr.take().expect("stderr is piped")),
            child,
            secret: self.secret,
            started: Instant::now(),
        }
    }

    #[track_caller]
    pub fn finish(self) -> Outcome {
        self.start().finish()
    }
}

/// A copy of the binary can't be started while another thread, between its fork and its exec, has
/// it open for writing still.
fn spawn(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            child => return child.expect("haul starts"),
        }
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A `haul` that was started.
pub struct Running {
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    secret: String,
    started: Instant,
}

impl Running {
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it has ended by itself, or runs for too long.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some() || self.started.elapsed() > TIME_LIMIT
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    #[track_caller]
    pub fn kill(mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "it had ended before");
        self.child.kill().unwrap();
        assert_eq!(self.finish().code, None);
    }

    /// Waits for the end; panics past the time limit, or where the secret was printed.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > TIME_LIMIT {
                self.child.kill().unwrap();
                panic!("haul did not end within {TIME_LIMIT:?}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        let stderr = self.stderr.join().unwrap();
        let outcome = Outcome {
            code: status.code(),
            stdout: self.stdout.join().unwrap(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: self.started.elapsed(),
        };
        let printed = outcome.output();
        let told = !self.secret.is_empty() && printed.contains(&self.secret);
        assert!(!told, "the secret key was printed:\n{printed}");
        assert!(!outcome.stderr.contains("panicked at"), "haul panicked:\n{printed}");
        outcome
    }
}

/// What a run left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Nothing where a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Everything that was printed.
    pub fn output(&self) -> String {
        format!("{}\n{}", self.text(), self.stderr)
    }

    #[track_caller]
    pub fn done(self) -> Self {
        self.exits(&[0])
    }

    #[track_caller]
    pub fn exits(self, codes: &[i32]) -> Self {
        let code = self.code.unwrap_or(-1);
        assert!(codes.contains(&code), "exit {code}, not {codes:?}:\n{}", self.output());
        self
    }

    #[track_caller]
    pub fn fails(self) -> Self {
        assert_ne!(self.code, Some(0), "succeeded:\n{}", self.output());
        self
    }

    /// Fails unless this is somewhere in what was printed.
    #[track_caller]
    pub fn names(self, text: &str) -> Self {
        let printed = self.output();
        assert!(printed.contains(text), "{text:?} is not named in:\n{printed}");
        self
    }

    /// One clear message: at most two lines on stderr, with this in it in either case of letters.
    #[track_caller]
    pub fn explains(self, text: &str) -> Self {
        let lines = self.stderr.lines().filter(|line| !line.trim().is_empty()).count();
        assert!((1..=2).contains(&lines), "not one clear line:\n{}", self.stderr);
        let found = self.stderr.to_lowercase().contains(&text.to_lowercase());
        assert!(found, "{text:?} is not named in:\n{}", self.stderr);
        self
    }

    /// The objects on stdout, one a line.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let text = self.text();
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
        };
        text.lines().map(parse).collect()
    }

    /// A count of the summary, which is the last line of `--json`.
    #[track_caller]
    pub fn summary(&self, name: &str) -> u64 {
        let events = self.json();
        let summary = events.last().expect("a summary line");
        assert_eq!(summary["event"], "summary", "the last line");
        summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"))
    }

    /// Planned actions by key; those that keep are left out.
    #[track_caller]
    pub fn planned(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let events = self.json();
        let planned = events.iter().filter(|event| event["event"] == "planned");
        let pairs = planned.map(|event| (text(&event["key"]), text(&event["action"])));
        pairs.filter(|(_, action)| action != "keep").collect()
    }
}

/// Asks again and again until it is so, for at most a minute and a half.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(90), "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}
