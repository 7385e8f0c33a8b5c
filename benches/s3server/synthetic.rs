//! The bucket `synthetic`: any number of keys, none of which is stored.
//!
//! Object number n has the key `d<n/1000>/f<n>` and as content n in 16 digits. The numbers in keys
//! are as wide as the last one needs, so that the order of numbers is the order of bytes.

use crate::store::{Object, Stat, Step};
use crate::text::push_hex;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::ops::Bound;

/// A directory's number is a key's without its last digits.
const THOUSAND_DIGITS: usize = 3;
const CONTENT_BYTES: usize = 16;
/// The keys' widths where there are few of them.
const DIRECTORY_DIGITS: usize = 3;
const FILE_DIGITS: usize = 7;

pub struct Synthetic {
    count: u64,
    directory_digits: usize,
    file_digits: usize,
    modified: u64,
}

impl Synthetic {
    pub fn new(count: u64, modified: u64) -> Self {
        let last = count.saturating_sub(1);
        let width = |number: u64| number.to_string().len();
        Self {
            count,
            directory_digits: width(last / 1000).max(DIRECTORY_DIGITS),
            file_digits: width(last).max(FILE_DIGITS),
            modified,
        }
    }

    pub fn get(&self, key: &str) -> Option<Object> {
        let number = key.split_once("/f")?.1.parse().ok().filter(|number| *number < self.count)?;
        let (digits, mut expected) = (Digits::new(number), String::new());
        self.write_key(digits.as_str(), &mut expected);
        if key != expected {
            return None;
        }
        let content = Bytes::copy_from_slice(digits.content());
        let mut etag = String::new();
        push_hex(&mut etag, Md5::digest(&content).into());
        let kept = "content-type: binary/octet-stream\r\n".to_owned();
        Some(Object { segments: vec![content], etag, modified: self.modified, kept })
    }

    pub fn scan(&self, from: Bound<&str>, visit: &mut dyn FnMut(&str, &Stat<'_>) -> Step) -> Step {
        let (mut key, mut etag) = (String::new(), String::new());
        for number in self.first(from)..self.count {
            let digits = Digits::new(number);
            self.write_key(digits.as_str(), &mut key);
            etag.clear();
            push_hex(&mut etag, Md5::digest(digits.content()).into());
            let stat = Stat { size: CONTENT_BYTES, etag: &etag, modified: self.modified };
            match visit(&key, &stat) {
                Step::Next => {}
                other => return other,
            }
        }
        Step::Stop
    }

    /// The number of the first key within a bound.
    fn first(&self, from: Bound<&str>) -> u64 {
        let mut key = String::new();
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            self.write_key(Digits::new(middle).as_str(), &mut key);
            let is_before = match from {
                Bound::Included(bound) => key.as_str() < bound,
                Bound::Excluded(bound) => key.as_str() <= bound,
                Bound::Unbounded => false,
            };
            if is_before { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn write_key(&self, digits: &str, key: &mut String) {
        let directory = digits.len() - THOUSAND_DIGITS;
        key.clear();
        key.push('d');
        key.push_str(&digits[directory - self.directory_digits..directory]);
        key.push_str("/f");
        key.push_str(&digits[digits.len() - self.file_digits..]);
    }
}

/// A number in digits, of which a key is made without another division.
struct Digits([u8; 20]);

impl Digits {
    fn new(number: u64) -> Self {
        let (mut digits, mut rest) = ([b'0'; 20], number);
        for digit in digits.iter_mut().rev() {
            if rest == 0 {
                break;
            }
            *digit = b"0123456789"[usize::try_from(rest % 10).unwrap_or_default()];
            rest /= 10;
        }
        Self(digits)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }

    fn content(&self) -> &[u8] {
        &self.0[self.0.len() - CONTENT_BYTES..]
    }
}
