//! How many bytes a second pass.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How many bytes a second may pass at a time of day; none for as many as go.
#[derive(Clone)]
pub struct Bandwidth(Arc<dyn Fn(SystemTime) -> Option<u64> + Send + Sync>);

impl Bandwidth {
    /// The same at all times.
    #[must_use]
    pub fn constant(bytes_per_second: u64) -> Self {
        Self::at(move |_| Some(bytes_per_second))
    }

    /// What `limit` says of each moment, in bytes a second.
    pub fn at(limit: impl Fn(SystemTime) -> Option<u64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(limit))
    }

    fn now(&self) -> Option<u64> {
        (self.0)(SystemTime::now())
    }
}

impl fmt::Debug for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bandwidth").field(&self.now()).finish()
    }
}

/// Spaces bytes by a bandwidth.
#[derive(Debug)]
pub(super) struct Throttle {
    bandwidth: Bandwidth,
    state: Mutex<Allowance>,
}

#[derive(Debug)]
struct Allowance {
    /// When the next byte may pass.
    next: Instant,
    limit: Option<u64>,
    /// When the limit was looked up: a timetable knows minutes.
    looked_up: Instant,
}

/// How long a limit that was looked up is good for.
const LOOK_UP: Duration = Duration::from_secs(1);
/// Bytes pass in pieces of at most so much time.
const PIECES_PER_SECOND: u64 = 20;

impl Throttle {
    pub(super) fn new(bandwidth: Bandwidth) -> Self {
        let (next, limit) = (Instant::now(), bandwidth.now());
        let state = Mutex::new(Allowance { next, limit, looked_up: next });
        Self { bandwidth, state }
    }

    /// Takes leave for up to `bytes`; answers for how many, and when they may pass.
    pub(super) fn reserve(&self, bytes: usize) -> (usize, Instant) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked_up) >= LOOK_UP {
            (state.limit, state.looked_up) = (self.bandwidth.now(), now);
        }
        let Some(limit) = state.limit.map(|limit| limit.max(1)) else {
            return (bytes, now);
        };
        let piece = usize::try_from((limit / PIECES_PER_SECOND).max(1)).unwrap_or(usize::MAX);
        let bytes = bytes.min(piece);
        let due = state.next.max(now);
        let nanoseconds = u128::try_from(bytes).unwrap_or(0) * 1_000_000_000 / u128::from(limit);
        state.next = due + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        (bytes, due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spaced_by_the_bandwidth() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let throttle = Throttle::new(Bandwidth::constant(1_000_000));
        let (first, begin) = throttle.reserve(1 << 20);
        assert_eq!(first, 50_000);
        let mut last = begin;
        for _ in 0..10 {
            last = throttle.reserve(1 << 20).1;
        }
        let waited = last.saturating_duration_since(begin);
        assert!(waited >= Duration::from_millis(499), "{waited:?}");
        assert!(waited <= Duration::from_millis(501), "{waited:?}");
    }
}
