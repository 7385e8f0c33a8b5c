//! The layers of the crate: the engine knows no command line, the planner knows no I/O.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(under);
    let found = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok);
    found
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Lines of code that hold one of these words, comments left out.
fn mentions(path: &Path, words: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| words.iter().any(|word| line.contains(word)))
        .map(|line| format!("{}: {}", path.display(), line.trim()))
        .collect()
}

fn assert_free_of(paths: &[PathBuf], words: &[&str]) {
    assert!(!paths.is_empty(), "no sources found");
    let found: Vec<String> = paths.iter().flat_map(|path| mentions(path, words)).collect();
    assert!(found.is_empty(), "the layers are mixed: {found:#?}");
}

#[test]
fn engine_names_no_command_line_and_no_bars() {
    let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    let engine: Vec<PathBuf> =
        sources("").into_iter().filter(|path| !path.starts_with(&binary)).collect();
    assert_free_of(&engine, &["clap", "indicatif", "println!", "process::exit", "env::var"]);
}

#[test]
fn planner_names_no_io() {
    let planner = [sources("plan.rs"), sources("plan")].concat();
    assert_free_of(&planner, &["tokio", "std::fs", "object_store", "reqwest"]);
}
