//! Which keys a run looks at: ordered patterns, of which the last that matches decides.
//!
//! `*` and `?` stop at `/`, `**` does not. A pattern without `/` (its last character aside) matches
//! at any depth, another one is anchored at the root. A pattern that matches a directory matches
//! all that is in it; one that ends in `/` matches only directories.

use crate::error::{Error, ErrorKind, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ordered exclude and include patterns. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    rules: Option<Arc<Rules>>,
    /// A directory that takes part in nothing, with its `/`.
    hidden: Option<Arc<str>>,
}

#[derive(Debug)]
struct Rules {
    set: GlobSet,
    /// For each glob of the set: does it exclude?
    excludes: Vec<bool>,
    /// An include after any exclude could bring back something in an excluded directory.
    may_prune: bool,
}

/// Collects patterns in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct FilterBuilder {
    patterns: Vec<(String, bool)>,
}

impl FilterBuilder {
    /// Adds a pattern whose matches are left out.
    #[must_use]
    pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push((pattern.into(), true));
        self
    }

    /// Adds a pattern whose matches are taken after all.
    #[must_use]
    pub fn include(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push((pattern.into(), false));
        self
    }

    /// Compiles the patterns.
    ///
    /// # Errors
    /// `Usage`, naming the pattern that is no glob.
    pub fn build(self) -> Result<Filter> {
        if self.patterns.is_empty() {
            return Ok(Filter::default());
        }
        let mut set = GlobSetBuilder::new();
        let mut excludes = Vec::new();
        for (pattern, exclude) in &self.patterns {
            for glob in globs(pattern) {
                let built = GlobBuilder::new(&glob).literal_separator(true).build();
                set.add(built.map_err(|e| bad_pattern(pattern, &e))?);
                excludes.push(*exclude);
            }
        }
        let set = set.build().map_err(|e| bad_pattern("all together", &e))?;
        let may_prune = excludes.iter().all(|exclude| *exclude);
        Ok(Filter { rules: Some(Arc::new(Rules { set, excludes, may_prune })), hidden: None })
    }
}

fn bad_pattern(pattern: &str, error: &globset::Error) -> Error {
    Error::new(ErrorKind::Usage, format!("bad pattern `{pattern}`"), error.kind())
}

/// The globs of one pattern: the thing itself, and all that is below it.
fn globs(pattern: &str) -> Vec<String> {
    let (body, directory_only) = match pattern.strip_suffix('/') {
        Some(body) => (body, true),
        None => (pattern, false),
    };
    let anchored = match body.strip_prefix('/') {
        Some(rest) => rest.to_owned(),
        None if body.contains('/') => body.to_owned(),
        None => format!("**/{body}"),
    };
    let below = format!("{anchored}/**");
    if directory_only { vec![below] } else { vec![anchored, below] }
}

impl Filter {
    /// The same, but the directory `key` (with its `/`) is left out, whatever the patterns say.
    #[must_use]
    pub fn hiding(self, key: &str) -> Self {
        Self { hidden: Some(key.into()), ..self }
    }

    fn hides(&self, key: &str) -> bool {
        self.hidden.as_ref().is_some_and(|hidden| key.starts_with(&**hidden))
    }

    /// True where `key` (of a directory: with its `/`) takes part in the run.
    #[must_use]
    pub fn admits(&self, key: &str) -> bool {
        if self.hides(key) {
            return false;
        }
        let Some(rules) = &self.rules else { return true };
        // `dir/` must match both `dir` and `dir/**`.
        let bare = key.strip_suffix('/');
        let last = |key: &str| rules.set.matches(key).into_iter().max();
        let decisive = last(key).max(bare.and_then(last));
        decisive.is_none_or(|index| !rules.excludes[index])
    }

    /// True where nothing below the directory `key` (with its `/`) can take part.
    #[must_use]
    pub fn prunes(&self, key: &str) -> bool {
        let may_prune = self.rules.as_ref().is_some_and(|rules| rules.may_prune);
        self.hides(key) || (may_prune && !self.admits(key))
    }
}

/// Counts what a scan saw and what its filter left out, to tell a filter that excludes everything
/// from a source that is empty. Shared with the scan's thread.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicU64,
    excluded: AtomicU64,
    /// Paths of temporary files, which are no entries.
    temporary: Mutex<Vec<String>>,
}

/// Temporary files that are remembered; what is more is for the next run.
const MAX_TEMPORARY: usize = 10_000;

impl Seen {
    pub(crate) fn admitted(&self) {
        self.0.admitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn excluded(&self) {
        self.0.excluded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn temporary(&self, path: String) {
        let mut paths = self.0.temporary.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() < MAX_TEMPORARY {
            paths.push(path);
        }
    }

    /// The temporary files that were seen so far.
    pub(crate) fn take_temporary(&self) -> Vec<String> {
        std::mem::take(&mut self.0.temporary.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True where something was there and the filter left all of it out.
    #[must_use]
    pub fn all_excluded(&self) -> bool {
        let Counts { admitted, excluded, .. } = &*self.0;
        admitted.load(Ordering::Relaxed) == 0 && excluded.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[&str]) -> Filter {
        let add = |builder: FilterBuilder, rule: &&str| match rule.split_at(1) {
            ("+", pattern) => builder.include(pattern),
            (_, pattern) => builder.exclude(pattern),
        };
        rules.iter().fold(FilterBuilder::default(), add).build().unwrap()
    }

    #[test]
    fn a_pattern_without_slash_matches_at_any_depth() {
        let filter = filter(&["-*.tmp"]);
        assert!(!filter.admits("a.tmp") && !filter.admits("x/y/a.tmp") && filter.admits("a.tmpl"));
    }

    #[test]
    fn a_pattern_with_slash_is_anchored() {
        let filter = filter(&["-logs/*.txt", "-/top"]);
        assert!(!filter.admits("logs/a.txt") && filter.admits("x/logs/a.txt"));
        assert!(filter.admits("logs/deep/a.txt"));
        assert!(!filter.admits("top") && filter.admits("x/top"));
    }

    #[test]
    fn a_directory_takes_its_contents_with_it() {
        let filter = filter(&["-cache", "-old/"]);
        assert!(
            !filter.admits("cache/x/y") && !filter.admits("a/cache/x") && !filter.admits("cache")
        );
        assert!(!filter.admits("old/x") && filter.admits("old"));
        assert!(filter.prunes("cache/") && filter.prunes("a/cache/") && !filter.prunes("b/"));
    }

    #[test]
    fn the_last_match_wins() {
        let filter = filter(&["-*", "+*.nc", "-bad.nc"]);
        assert!(filter.admits("run/a.nc") && !filter.admits("run/a.csv"));
        assert!(!filter.admits("run/bad.nc"));
        assert!(!filter.prunes("run/"), "an include could bring back something inside");
    }

    #[test]
    fn what_is_hidden_takes_part_in_nothing() {
        let filter = filter(&["-*", "+*.db"]).hiding("state/haul/");
        assert!(!filter.admits("state/haul/x.db") && filter.prunes("state/haul/"));
        assert!(filter.admits("state/haul.db") && filter.admits("state/x.db"));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = FilterBuilder::default().exclude("a[").build().unwrap_err();
        assert!(error.to_string().contains("`a[`"), "{error}");
    }
}
