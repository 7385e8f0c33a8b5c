//! The library from outside: the example that the README points to.

use std::path::Path;
use std::process::Command;

use crate::support::{Server, Site};

on_both_servers! {
    first_steps_run_end_to_end,
}

/// Cargo builds the examples beside the binary that the tests run.
fn example(name: &str) -> std::path::PathBuf {
    let haul = Path::new(env!("CARGO_BIN_EXE_haul"));
    haul.parent().unwrap().join("examples").join(name)
}

fn first_steps_run_end_to_end(server: &Server) {
    let site = Site::new(server);
    let output = Command::new(example("first_steps"))
        .env("AWS_ENDPOINT_URL", &server.endpoint)
        .env("AWS_ACCESS_KEY_ID", &server.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &server.secret_key)
        .env("HAUL_STATE_DIR", site.state_directory())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("downloaded: Hello, store!"), "{said}");
    assert!(said.contains("in memory: 14 bytes"), "{said}");
    assert!(said.contains("synced 2 files, then 0"), "{said}");
    assert!(site.bucket.list().is_empty());
}
