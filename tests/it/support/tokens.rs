//! How many requests a store takes in a second.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A token bucket, as stores count requests.
pub struct Tokens {
    per_second: u32,
    latency: Duration,
    /// The tokens that there were at that time.
    since: Mutex<(Instant, f64)>,
}

impl Tokens {
    /// The tokens of so long are kept for a burst.
    const SECONDS_KEPT: f64 = 0.1;

    pub fn new(per_second: u32, latency: Duration) -> Self {
        let since = Mutex::new((Instant::now(), f64::from(per_second) * Self::SECONDS_KEPT));
        Self { per_second, latency, since }
    }

    /// Takes one, where one is left.
    pub fn take(&self) -> bool {
        thread::sleep(self.latency);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, per_second) = (Instant::now(), f64::from(self.per_second));
        let grown = since.1 + (now - since.0).as_secs_f64() * per_second;
        let left = grown.min(per_second * Self::SECONDS_KEPT);
        let passes = left >= 1.0;
        *since = (now, if passes { left - 1.0 } else { left });
        passes
    }
}
