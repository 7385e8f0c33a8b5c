//! `kill -9` at each system call that changes a file of the state directory: the next run starts,
//! remembers what was written before, and completes the work.
//!
//! strace counts the calls, each kind for itself and each thread for itself, and kills at the N-th;
//! N grows until a run comes to its end.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::changes::change;
use super::up::Mirror;
use super::{Case, Content, each_case};
use crate::support::{Server, tree};

on_both_servers! {
    run_killed_while_its_first_catalog_is_written_is_completed_by_the_next,
    run_killed_while_it_writes_to_its_catalog_is_completed_by_the_next,
}

/// What changes a file; a question mark for what not every machine has.
const CALLS: [&str; 4] = ["pwrite64", "?fsync,?fdatasync", "ftruncate", "?unlink,?unlinkat"];
/// Far more calls of one kind than a run makes.
const MANY: u32 = 500;

fn databases(state: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(state).unwrap().map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "db")).collect()
}

/// The arguments that make strace kill at the `count`th of these calls on these databases.
fn strace_arguments(databases: &[PathBuf], calls: &str, count: u32) -> Vec<String> {
    let mut arguments: Vec<String> = ["-f", "-qq", "-o", "/dev/null"].map(Into::into).into();
    for database in databases {
        for ending in ["", "-wal", "-journal"] {
            arguments.extend(["-P".to_owned(), format!("{}{ending}", database.display())]);
        }
    }
    let traced = format!("trace={calls}");
    arguments.extend(["-e".to_owned(), traced]);
    arguments.extend(["-e".to_owned(), format!("inject={calls}:signal=KILL:when={count}")]);
    arguments
}

/// Syncs below strace; whether it was killed.
#[track_caller]
fn is_killed(mirror: &Mirror, databases: &[PathBuf], calls: &str, count: u32) -> bool {
    let arguments = strace_arguments(databases, calls, count);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let url = mirror.site.url("");
    let outcome = mirror.site.run(&mirror.run(&url)).below("strace", &arguments).finish();
    assert!(matches!(outcome.code, None | Some(0 | 137)), "strace cannot do it: {outcome:?}");
    outcome.code != Some(0)
}

fn assert_strace_is_there() {
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    let there = version.is_ok_and(|status| status.success());
    assert!(there, "strace is needed: scripts/servers.sh install strace");
}

#[track_caller]
fn assert_nothing_was_set_aside(mirror: &Mirror) {
    for file in fs::read_dir(&mirror.state).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".unusable"), "{name} was set aside");
    }
}

/// Changes the tree, syncs it as often as there are calls to be killed at, and completes each run.
fn kill_everywhere(server: &Server, mirror: &mut Mirror, is_first: bool, case: &Case) {
    assert_strace_is_there();
    let mut rng = fastrand::Rng::with_seed(case.seed);
    mirror.sync(case);
    let databases = databases(&mirror.state);
    assert_eq!(databases.len(), 2, "a catalog and the history");
    let mut kills = 0;
    for calls in CALLS {
        for count in 1..MANY {
            // So that something is written: at first there is nothing to remember.
            for name in ["x/1", "x/2"] {
                Content { size: 900, seed: rng.u64(..) }.write(&mirror.root, name);
            }
            for _ in 0..3 {
                change(case, &mut rng, &mirror.root);
            }
            if is_first {
                fs::remove_dir_all(&mirror.state).unwrap();
                mirror.forget();
            }
            mirror.evict();
            let killed = is_killed(mirror, &databases, calls, count);
            case.note(format!("kill at {calls} {count}: {killed}"));
            kills += u32::from(killed);
            mirror.look();
            mirror.sync(case);
            mirror.assert_idle();
            assert_nothing_was_set_aside(mirror);
            if !killed {
                break;
            }
        }
    }
    assert!(kills > 10, "killed {kills} times on {:?}", server.kind);
}

fn run_killed_while_its_first_catalog_is_written_is_completed_by_the_next(server: &Server) {
    each_case(1, |case, _| kill_everywhere(server, &mut Mirror::new(server), true, case));
}

fn run_killed_while_it_writes_to_its_catalog_is_completed_by_the_next(server: &Server) {
    each_case(1, |case, _| {
        let mut mirror = Mirror::new(server);
        // Records enough that several pages change.
        for number in 0..12 {
            tree::file(&mirror.root, format!("y/{number}"), number.to_string());
        }
        kill_everywhere(server, &mut mirror, false, case);
    });
}
