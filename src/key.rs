//! Keys: the relative names that a source and a target share, and their mapping to paths.
//!
//! Owns the order (byte order, as S3 lists) and every reason for which a name cannot cross from one
//! side to the other. Knows no I/O: what only a file system can tell is found out by `tree`.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest object key that S3 accepts, in bytes of UTF-8, the prefix included.
pub const MAX_KEY_BYTES: usize = 1024;

/// The name of an object below a prefix, or of a file below a directory, with `/` between segments.
///
/// `Ord` is byte order, which is the order in which S3 lists. A trailing `/` names a directory.
///
/// ```
/// use haul::Key;
/// assert!(Key::new("foo-bar") < Key::new("foo/x"));
/// assert!(Key::new("../x").to_path().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a name cannot exist on the other side; shown after the name itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A file name that is not UTF-8: object keys are.
    #[error("its name is not UTF-8, and object keys are")]
    NotUtf8,
    /// A key with `//` inside, at its start, or nothing at all.
    #[error("it has an empty segment (`//` or a leading `/`)")]
    EmptySegment,
    /// A key with a `.` or `..` segment.
    #[error("it has a `.` or `..` segment")]
    DotSegment,
    /// A key with a NUL byte.
    #[error("it has a NUL byte")]
    Nul,
    /// An object key over [`MAX_KEY_BYTES`].
    #[error("its object key would have {0} bytes, and S3 allows {MAX_KEY_BYTES}")]
    KeyTooLong(usize),
    /// A segment or a path longer than the file system takes.
    #[error("its name is too long for this file system")]
    NameTooLong,
    /// A name of the form that haul's own temporary files have.
    #[error("the name is reserved for temporary files")]
    Reserved,
    /// A directory on the way is a symbolic link.
    #[error("its path goes through the symbolic link {0}")]
    ThroughSymlink(String),
    /// A directory on the way is a file.
    #[error("{0} is a file, not a directory")]
    FileInTheWay(String),
    /// A directory has the name that the file should get.
    #[error("a directory of that name is in the way")]
    DirectoryInTheWay,
    /// Something that is no file, link or directory has that name at the target.
    #[error("{0} is in the way at the target")]
    SpecialInTheWay(String),
    /// A FIFO, socket or device.
    #[error("it is {0}, which no object can hold")]
    Special(&'static str),
    /// A key that ends in `/` and is not empty: no file can be called that.
    #[error("it ends in `/` but has content")]
    DirectoryWithContent,
}

impl Key {
    /// Takes any object key below a prefix, byte for byte; no check is made.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the key of a directory, which ends in `/`.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.0.ends_with('/')
    }

    /// The key of the file at `relative`, a path below the root.
    ///
    /// # Errors
    /// [`Refusal::NotUtf8`] where the path is not UTF-8.
    pub fn from_path(relative: &Path) -> Result<Self, Refusal> {
        std::str::from_utf8(relative.as_os_str().as_bytes())
            .map(Self::new)
            .map_err(|_| Refusal::NotUtf8)
    }

    /// The relative path of this key, which never leaves the directory it is joined to.
    ///
    /// # Errors
    /// The reason for which the key cannot be a safe path.
    pub fn to_path(&self) -> Result<PathBuf, Refusal> {
        self.segments()?;
        Ok(PathBuf::from(self.0.trim_end_matches('/')))
    }

    /// The segments of a safe path, first to last; a directory's trailing `/` gives none.
    ///
    /// # Errors
    /// The reason for which the key cannot be a safe path.
    pub fn segments(&self) -> Result<Vec<&str>, Refusal> {
        if self.0.contains('\0') {
            return Err(Refusal::Nul);
        }
        let text = self.0.strip_suffix('/').unwrap_or(&self.0);
        let segments: Vec<&str> = text.split('/').collect();
        for segment in &segments {
            match *segment {
                "" => return Err(Refusal::EmptySegment),
                "." | ".." => return Err(Refusal::DotSegment),
                name if is_temporary(name) => return Err(Refusal::Reserved),
                _ => {}
            }
        }
        Ok(segments)
    }
}

impl fmt::Display for Key {
    /// Control characters are shown as `\u{…}`, so that a hostile key cannot drive a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

/// Control characters, and those that turn the direction of text: neither belongs on a terminal.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with its control characters escaped; borrowed where there are none.
#[must_use]
pub fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return text.into();
    }
    let escape = |c: char| {
        if is_unprintable(c) { c.escape_default().collect() } else { c.to_string() }
    };
    text.chars().map(escape).collect::<String>().into()
}

const TEMPORARY_PREFIX: &str = ".haul-";
const TEMPORARY_SUFFIX: &str = ".tmp";
const TEMPORARY_HEX: usize = 16;

/// The name of the temporary file beside the file called `name`: always the same one, so that a
/// later run finds what a killed one left, and short, so that a 255-byte `name` has one too.
#[must_use]
pub fn temporary_name(name: &str) -> String {
    let hex = blake3::hash(name.as_bytes()).to_hex();
    format!("{TEMPORARY_PREFIX}{}{TEMPORARY_SUFFIX}", &hex[..TEMPORARY_HEX])
}

/// True for a name that [`temporary_name`] gives.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY_PREFIX)
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX))
        .is_some_and(|hex| hex.len() == TEMPORARY_HEX && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_the_order_of_a_listing() {
        let mut keys: Vec<Key> =
            ["foo/x", "foo", "foo.txt", "foo-bar", "foo!", "foo0"].map(Key::new).into();
        keys.sort();
        let text: Vec<&str> = keys.iter().map(Key::as_str).collect();
        assert_eq!(text, ["foo", "foo!", "foo-bar", "foo.txt", "foo/x", "foo0"]);
    }

    #[test]
    fn unsafe_keys_have_no_path() {
        let refused = [
            ("", Refusal::EmptySegment),
            ("/abs", Refusal::EmptySegment),
            ("a//b", Refusal::EmptySegment),
            ("a//", Refusal::EmptySegment),
            ("..", Refusal::DotSegment),
            ("a/../../x", Refusal::DotSegment),
            ("./a", Refusal::DotSegment),
            ("a/.", Refusal::DotSegment),
            ("nul\0", Refusal::Nul),
            (".haul-0123456789abcdef.tmp", Refusal::Reserved),
        ];
        for (key, reason) in refused {
            assert_eq!(Key::new(key).to_path(), Err(reason), "{key:?}");
        }
    }

    #[test]
    fn odd_but_safe_keys_keep_their_bytes() {
        for key in
            ["...", "a b+c%20#?&;='\"", "..a/b..", "new\nline", "back\\slash", "é", "e\u{301}"]
        {
            let path = Key::new(key).to_path().expect(key);
            assert_eq!(Key::from_path(&path), Ok(Key::new(key)));
        }
        assert_eq!(Key::new("dir/").to_path(), Ok(PathBuf::from("dir")));
    }

    #[test]
    fn names_that_are_not_utf8_are_refused() {
        let path = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        assert_eq!(Key::from_path(path), Err(Refusal::NotUtf8));
    }

    #[test]
    fn temporary_names_are_short_stable_and_known() {
        let name = temporary_name(&"n".repeat(255));
        assert!(name.len() < 64 && is_temporary(&name));
        assert_eq!(name, temporary_name(&"n".repeat(255)));
        assert!(!is_temporary(".haul-x.tmp") && !is_temporary("haul"));
    }

    #[test]
    fn control_characters_are_not_printed_raw() {
        assert_eq!(Key::new("a\u{1b}[31m\n").to_string(), "a\\u{1b}[31m\\n");
    }
}
