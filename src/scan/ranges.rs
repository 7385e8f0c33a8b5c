//! Listing a large prefix in key ranges at once, in the order of the keys.
//!
//! Where the ranges end is known from the last run, or found out by listing directories. Pages come
//! out as one sequence, those of later ranges read ahead within bounds. A server whose order is not
//! that of bytes is noticed: what is listed past the end of a range must be where the next begins.

use crate::bucket::{Bucket, Listed, Page, PageRequest};
use crate::error::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Ranges that are listed at once.
const RANGES: usize = 12;
/// Pages of one range that wait. With 1,000 keys a page and 12 ranges, about 10 MB in all.
const PAGES_AHEAD: usize = 4;
/// Keys of a range: whole pages, so that no request is spent on a part of one.
const KEYS_PER_RANGE: usize = 4000;
/// So many pages are listed in sequence before directories are asked for.
const PAGES_IN_SEQUENCE: usize = 4;
/// The same, where it was known that there are no ranges.
const PAGES_OF_GROWTH: usize = 16;
/// How deep directories that hold nothing but one directory are followed.
const DEPTH: usize = 6;
/// The most ends of ranges that are found out by directories: so many pages of them.
const DIRECTORY_PAGES: usize = 4;

/// Where ranges end, in a sequence of keys that is counted as it passes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    count: usize,
    ends: Vec<String>,
}

impl Ends {
    /// Counts the next key.
    pub(crate) fn count(&mut self, key: &str) {
        self.count += 1;
        if self.count.is_multiple_of(KEYS_PER_RANGE) {
            self.ends.push(key.to_owned());
        }
    }

    /// The ends, as a later listing can use them. Behind the last key nothing begins.
    pub(crate) fn into_vec(mut self) -> Vec<String> {
        if self.count.is_multiple_of(KEYS_PER_RANGE) {
            self.ends.pop();
        }
        self.ends
    }
}

/// Where the ranges of a listing end: as it was last time, and as it is found to be now. Keys below
/// the prefix, in order. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Splits {
    known: Option<Arc<[String]>>,
    learned: Arc<Mutex<Ends>>,
}

impl Splits {
    /// With what is known from the last run, if anything is.
    #[must_use]
    pub fn new(known: Option<Vec<String>>) -> Self {
        Self { known: known.map(Into::into), learned: Arc::default() }
    }

    /// What a listing that has come to its end has learned.
    pub(crate) fn learned(&self) -> Ends {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, objects: &[Listed], prefix: &str) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for object in objects {
            learned.count(object.key.strip_prefix(prefix).unwrap_or(&object.key));
        }
    }
}

/// How to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One page after the other.
    InSequence,
    /// Several ranges at once.
    InRanges,
}

type Pages = mpsc::Sender<Result<Page>>;

/// A listing under way; it ends when this is dropped.
pub(super) struct Lister {
    pages: mpsc::Receiver<Result<Page>>,
    _task: JoinSet<()>,
    splits: Splits,
    prefix: String,
}

impl Lister {
    pub(super) fn start(bucket: Arc<dyn Bucket>, prefix: String, way: Way, splits: Splits) -> Self {
        // One page is on its way while one waits and one is consumed.
        let (sender, pages) = mpsc::channel(1);
        let mut task = JoinSet::new();
        let listing = Listing { bucket, prefix: prefix.clone(), known: splits.known.clone() };
        task.spawn(async move { listing.run(way, sender).await });
        Self { pages, _task: task, splits, prefix }
    }

    /// The next page in key order, as far as the server keeps to it.
    pub(super) async fn next(&mut self) -> Option<Result<Page>> {
        let page = self.pages.recv().await?;
        if let Ok(page) = &page {
            self.splits.learn(&page.objects, &self.prefix);
        }
        Some(page)
    }
}

struct Listing {
    bucket: Arc<dyn Bucket>,
    prefix: String,
    known: Option<Arc<[String]>>,
}

/// What lies behind `after`, up to `end` and with it.
#[derive(Clone, Debug)]
struct Range {
    after: String,
    end: Option<String>,
}

impl Listing {
    /// The first pages in sequence, the rest in ranges where these are known or can be found.
    async fn run(self, way: Way, sender: Pages) {
        let mut request = PageRequest { prefix: self.prefix.clone(), ..PageRequest::default() };
        let (mut ordered, mut last) = (way == Way::InRanges, None);
        for number in 1.. {
            let page = next_page(&self.bucket, &request).await;
            let mut per_directory = 1;
            request.token = None;
            if let Ok(page) = &page {
                ordered &= is_ordered(&page.objects);
                per_directory = self.keys_per_directory(page);
                last = last_key(page).or(last);
                request.token = page.next.clone();
            }
            if sender.send(page).await.is_err() || request.token.is_none() {
                return;
            }
            let Some(last) = last.as_ref().filter(|_| ordered) else { continue };
            let ends = match (&self.known, number) {
                (Some(known), 1) => self.known_ends(known, last),
                (None, PAGES_IN_SEQUENCE) | (Some(_), PAGES_OF_GROWTH) => {
                    self.found_ends(last, per_directory).await
                }
                _ => Vec::new(),
            };
            if !ends.is_empty() {
                return self.list_ranges(last.clone(), ends, &sender).await;
            }
        }
    }

    /// How many keys a directory has on average, judged by one page.
    fn keys_per_directory(&self, page: &Page) -> usize {
        let directory = |object: &Listed| {
            let below = object.key.strip_prefix(&self.prefix).unwrap_or_default();
            below.split_once('/').map(|(directory, _)| directory.to_owned())
        };
        let mut directories: Vec<_> = page.objects.iter().map(directory).collect();
        directories.dedup();
        page.objects.len().div_ceil(directories.len().max(1)).max(1)
    }

    /// Where the ranges behind `last` ended last time: whole keys, in order.
    fn known_ends(&self, known: &[String], last: &str) -> Vec<String> {
        let whole = known.iter().map(|end| format!("{}{end}", self.prefix));
        whole.filter(|end| end.as_str() > last).collect()
    }

    /// Where ranges behind `last` may end, by the directories that there are.
    async fn found_ends(&self, last: &str, per_directory: usize) -> Vec<String> {
        let directories = self.directories(last).await;
        let group = (KEYS_PER_RANGE / per_directory).max(1);
        let ends = directories.chunks(group).filter_map(|chunk| chunk.last().cloned());
        ends.filter(|end| end.as_str() > last).collect()
    }

    /// The directories behind `last` on the first level that has more than one.
    async fn directories(&self, last: &str) -> Vec<String> {
        let mut prefix = self.prefix.clone();
        for _ in 0..DEPTH {
            let after = Some(last.to_owned()).filter(|last| last.starts_with(&prefix));
            let mut request =
                PageRequest { prefix: prefix.clone(), by_directory: true, after, token: None };
            let mut found = Vec::new();
            for _ in 0..DIRECTORY_PAGES {
                // What can't be found out here is listed in sequence.
                let Ok(page) = self.bucket.list_page(&request).await else { return Vec::new() };
                found.extend(page.prefixes);
                request.token = page.next;
                if request.token.is_none() {
                    break;
                }
            }
            match found.as_slice() {
                [only] => only.clone_into(&mut prefix),
                _ => return found,
            }
        }
        Vec::new()
    }

    /// Lists the ranges, several at once, and hands on their pages in order.
    async fn list_ranges(self, first: String, ends: Vec<String>, sender: &Pages) {
        let mut after = first;
        let mut ranges = VecDeque::new();
        for end in ends {
            let next = Range { after: std::mem::replace(&mut after, end.clone()), end: Some(end) };
            ranges.push_back(next);
        }
        ranges.push_back(Range { after, end: None });
        let mut tasks = JoinSet::new();
        let mut under_way = VecDeque::new();
        // What the range before has seen of the next.
        let mut expected = Expected::Anything;
        loop {
            while under_way.len() < RANGES
                && let Some(range) = ranges.pop_front()
            {
                under_way.push_back(self.start_range(&mut tasks, range));
            }
            let Some((mut pages, is_last)) = under_way.pop_front() else { return };
            while let Some(part) = pages.recv().await {
                let checked = part.and_then(|part| self.check(part, &mut expected, is_last));
                let failed = checked.is_err();
                if sender.send(checked).await.is_err() || failed {
                    return;
                }
            }
        }
    }

    fn start_range(
        &self,
        tasks: &mut JoinSet<()>,
        range: Range,
    ) -> (mpsc::Receiver<Result<Part>>, bool) {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let (bucket, prefix, is_last) =
            (Arc::clone(&self.bucket), self.prefix.clone(), range.end.is_none());
        tasks.spawn(async move { list_range(&bucket, prefix, range, &sender).await });
        (pages, is_last)
    }

    /// The page, if it goes on where the one before it has ended.
    fn check(&self, part: Part, expected: &mut Expected, is_last: bool) -> Result<Page> {
        let Part { mut page, beyond, ends } = part;
        let says_nothing = page.objects.is_empty() && beyond.is_none() && !ends;
        let first = page.objects.first().map(|object| object.key.as_str()).or(beyond.as_deref());
        let fits = match expected {
            Expected::Anything => true,
            Expected::Key(key) => first == Some(key.as_str()),
            Expected::Nothing => first.is_none(),
        };
        if !fits && !says_nothing {
            let what = format!("cannot merge {}/{}", self.bucket.url(), self.prefix);
            let cause = "its ranges do not fit together: the server does not list in byte order";
            return Err(Error::new(ErrorKind::Unordered, what, cause));
        }
        if !says_nothing {
            *expected = match (ends, beyond) {
                (true, Some(key)) => Expected::Key(key),
                (true, None) if page.next.is_none() => Expected::Nothing,
                _ => Expected::Anything,
            };
        }
        // Only the last page of all is not followed by another.
        let goes_on = !(ends && is_last);
        page.next = goes_on.then(|| page.next.unwrap_or_default());
        Ok(page)
    }
}

/// What must come next, for nothing to be missing.
enum Expected {
    Anything,
    Key(String),
    Nothing,
}

/// A page of a range.
struct Part {
    page: Page,
    /// The first key past the end of the range.
    beyond: Option<String>,
    /// It is the range's last.
    ends: bool,
}

fn last_key(page: &Page) -> Option<String> {
    page.objects.last().map(|object| object.key.clone())
}

/// True where the keys of a page rise.
pub(super) fn is_ordered(objects: &[Listed]) -> bool {
    objects.windows(2).all(|pair| pair[0].key < pair[1].key)
}

async fn list_range(
    bucket: &Arc<dyn Bucket>,
    prefix: String,
    range: Range,
    sender: &mpsc::Sender<Result<Part>>,
) {
    let Range { after, end } = range;
    let mut request = PageRequest { prefix, after: Some(after), ..PageRequest::default() };
    loop {
        let part = next_page(bucket, &request).await.map(|page| cut(page, end.as_deref()));
        request.token = match &part {
            Ok(Part { page, ends: false, .. }) => page.next.clone(),
            Ok(_) | Err(_) => None,
        };
        if sender.send(part).await.is_err() || request.token.is_none() {
            return;
        }
    }
}

/// Takes off a page what lies past the end of its range.
fn cut(mut page: Page, end: Option<&str>) -> Part {
    let Some(end) = end else {
        let ends = page.next.is_none();
        return Part { page, beyond: None, ends };
    };
    let inside = page.objects.iter().take_while(|object| object.key.as_str() <= end).count();
    let beyond = page.objects.get(inside).map(|object| object.key.clone());
    page.objects.truncate(inside);
    let reached = page.objects.last().is_some_and(|object| object.key == end);
    let ends = beyond.is_some() || reached || page.next.is_none();
    Part { page, beyond, ends }
}

async fn next_page(bucket: &Arc<dyn Bucket>, request: &PageRequest) -> Result<Page> {
    let page = bucket.list_page(request).await?;
    if page.next.is_some() && page.next == request.token {
        let what = format!("cannot list {}/{}", bucket.url(), request.prefix);
        let cause = "the server gave the same continuation token twice";
        return Err(Error::new(ErrorKind::Protocol, what, cause));
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::ETag;

    fn page(keys: &[&str], next: Option<&str>) -> Page {
        let listed = |key: &&str| Listed {
            key: (*key).to_owned(),
            size: 1,
            etag: ETag::parse(""),
            modified: String::new(),
            storage_class: None,
        };
        let objects = keys.iter().map(listed).collect();
        Page { objects, prefixes: Vec::new(), next: next.map(str::to_owned) }
    }

    fn keys(part: &Part) -> Vec<&str> {
        part.page.objects.iter().map(|object| object.key.as_str()).collect()
    }

    #[test]
    fn a_range_ends_where_the_next_begins() {
        let part = cut(page(&["a", "b", "c"], Some("t")), Some("b"));
        assert_eq!(
            (keys(&part), part.beyond.as_deref(), part.ends),
            (vec!["a", "b"], Some("c"), true)
        );
        let part = cut(page(&["a", "b"], Some("t")), Some("b"));
        assert_eq!((keys(&part), part.beyond.as_deref(), part.ends), (vec!["a", "b"], None, true));
        let part = cut(page(&["a", "b"], Some("t")), Some("x"));
        assert_eq!((part.beyond.as_deref(), part.ends), (None, false));
        let part = cut(page(&["c"], None), Some("b"));
        assert_eq!((keys(&part), part.beyond.as_deref(), part.ends), (vec![], Some("c"), true));
    }

    #[test]
    fn every_four_thousandth_key_ends_a_range() {
        let mut ends = Ends::default();
        for number in 0..9000 {
            ends.count(&format!("{number:05}"));
        }
        assert_eq!(ends.clone().into_vec(), ["03999", "07999"]);
        (9000..12000).for_each(|number| ends.count(&format!("{number:05}")));
        assert_eq!(ends.into_vec(), ["03999", "07999"], "nothing begins behind the last");
    }
}
