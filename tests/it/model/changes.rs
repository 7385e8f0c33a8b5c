//! Random changes of a directory: what people do to their files, with names that meet often.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Case, Content};
use crate::support::tree;

const NAMES: [&str; 5] = ["a", "b", "a-b", "d", "\u{e9} x"];
const TEXTS: [&str; 4] = ["a", "b/none", "../d", "keep"];
/// A file that is always there, so that the source is never empty.
pub const KEPT: &str = "keep";

/// A path of one to three names.
pub fn any_path(rng: &mut fastrand::Rng) -> String {
    let depth = rng.usize(1..=3);
    let names: Vec<&str> = (0..depth).map(|_| NAMES[rng.usize(..NAMES.len())]).collect();
    names.join("/")
}

/// What there is below a root, by kind.
#[derive(Default)]
struct Existing {
    files: Vec<String>,
    links: Vec<String>,
    directories: Vec<String>,
}

impl Existing {
    fn of(root: &str) -> Self {
        let mut existing = Self::default();
        for found in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
            let found = found.unwrap();
            let path = found.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let kind = found.file_type();
            let list = match (kind.is_dir(), kind.is_symlink()) {
                (true, _) => &mut existing.directories,
                (_, true) => &mut existing.links,
                (false, false) => &mut existing.files,
            };
            if path != KEPT {
                list.push(path);
            }
        }
        existing
    }
}

/// Removes whatever is at this path, or where one of its directories should be.
fn clear_way(root: &str, path: &str) {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let part = Path::new(root).join(&path[..end]);
        match fs::symlink_metadata(&part) {
            Ok(metadata) if !metadata.is_dir() => fs::remove_file(&part).unwrap(),
            Ok(_) if end == path.len() => fs::remove_dir_all(&part).unwrap(),
            Ok(_) | Err(_) => {}
        }
    }
    fs::create_dir_all(Path::new(root).join(path).parent().unwrap()).unwrap();
}

fn overlap(a: &str, b: &str) -> bool {
    a == b || super::is_inside(a, b) || super::is_inside(b, a)
}

fn full(root: &str, path: &str) -> String {
    format!("{root}/{path}")
}

fn set_modified(path: &str, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn modified(path: &str) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

/// Makes one random change below `root`.
pub fn change(case: &Case, rng: &mut fastrand::Rng, root: &str) {
    let existing = Existing::of(root);
    let file = rng.choice(&existing.files).cloned();
    let other = any_path(rng);
    let done = match (rng.u32(..24), file) {
        (0..5, _) | (_, None) => {
            let content = Content::any(rng);
            clear_way(root, &other);
            content.write(root, &other);
            format!("write {other} {content:?}")
        }
        (5..8, Some(file)) => rewrite(rng, root, &file),
        (8, Some(file)) => {
            let mut open = File::options().append(true).open(full(root, &file)).unwrap();
            open.write_all(b"grown").unwrap();
            format!("grow {file}")
        }
        (9, Some(file)) => {
            let open = File::options().write(true).open(full(root, &file)).unwrap();
            open.set_len(open.metadata().unwrap().len() / 2).unwrap();
            format!("halve {file}")
        }
        (10, Some(file)) => {
            tree::touch(full(root, &file), rng.u64(1..1 << 30));
            format!("touch {file}")
        }
        (11, Some(file)) => {
            let mode = [0o600, 0o644, 0o755][rng.usize(..3)];
            tree::chmod(full(root, &file), mode);
            format!("chmod {mode:o} {file}")
        }
        (12 | 13, Some(file)) => rename(root, &file, &other),
        (14, Some(_)) => match rng.choice(&existing.directories) {
            Some(directory) => rename(root, directory, &other),
            None => "nothing".into(),
        },
        (15..18, Some(file)) => copy(rng, root, &file, &other),
        (18, Some(file)) => {
            fs::remove_file(full(root, &file)).unwrap();
            format!("remove {file}")
        }
        (19, Some(_)) => match rng.choice(&existing.directories) {
            Some(directory) => {
                fs::remove_dir_all(full(root, directory)).unwrap();
                format!("remove {directory}/")
            }
            None => "nothing".into(),
        },
        (20, Some(_)) => {
            let text = TEXTS[rng.usize(..TEXTS.len())];
            clear_way(root, &other);
            symlink(text, full(root, &other)).unwrap();
            format!("link {other} -> {text}")
        }
        (21, Some(_)) if !Path::new(&full(root, &other)).is_dir() => {
            clear_way(root, &other);
            fs::create_dir(full(root, &other)).unwrap();
            format!("make {other}/")
        }
        (22, Some(file)) => match rng.choice(&existing.files) {
            Some(second) => swap(root, &file, second),
            None => "nothing".into(),
        },
        (_, Some(_)) => match rng.choice(&existing.links) {
            Some(link) => {
                fs::remove_file(full(root, link)).unwrap();
                symlink(TEXTS[rng.usize(..TEXTS.len())], full(root, link)).unwrap();
                format!("point {link} elsewhere")
            }
            None => "nothing".into(),
        },
    };
    case.note(done);
}

/// New content of the same size, with the old mtime: in place, or by a new file of that name.
fn rewrite(rng: &mut fastrand::Rng, root: &str, file: &str) -> String {
    let path = full(root, file);
    let (size, before) = (fs::metadata(&path).unwrap().len(), modified(&path));
    if size == super::LARGE {
        Content::of_size(rng, size).write(root, file);
    } else {
        let bytes = Content::of_size(rng, size).bytes();
        if rng.bool() {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, bytes).unwrap();
    }
    set_modified(&path, before);
    format!("rewrite {file}")
}

fn rename(root: &str, from: &str, to: &str) -> String {
    if overlap(from, to) {
        return "nothing".into();
    }
    clear_way(root, to);
    fs::rename(full(root, from), full(root, to)).unwrap();
    format!("rename {from} {to}")
}

/// A copy, with its own mtime or that of the original, or a second name of the file (not where a
/// download goes: that has a test of its own).
fn copy(rng: &mut fastrand::Rng, root: &str, from: &str, to: &str) -> String {
    if overlap(from, to) {
        return "nothing".into();
    }
    clear_way(root, to);
    let (from_path, to_path) = (full(root, from), full(root, to));
    match rng.u32(..4) {
        0 if !root.ends_with("/down") => fs::hard_link(from_path, to_path).unwrap(),
        0 | 1 => drop(fs::copy(from_path, to_path).unwrap()),
        _ => {
            fs::copy(&from_path, &to_path).unwrap();
            set_modified(&to_path, modified(&from_path) + Duration::from_nanos(rng.u64(..2)));
        }
    }
    format!("copy {from} {to}")
}

fn swap(root: &str, a: &str, b: &str) -> String {
    if a == b {
        return "nothing".into();
    }
    let spare = full(root, "spare");
    fs::rename(full(root, a), &spare).unwrap();
    fs::rename(full(root, b), full(root, a)).unwrap();
    fs::rename(&spare, full(root, b)).unwrap();
    format!("swap {a} {b}")
}
