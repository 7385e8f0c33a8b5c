//! What was asked of the server, and what it took.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Counters {
    requests: Mutex<BTreeMap<&'static str, u64>>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    /// What the process had used when counting began.
    base_nanos: AtomicU64,
}

impl Counters {
    pub fn count(&self, operation: &'static str) {
        let mut requests = self.requests.lock().expect("nothing panics while it counts");
        *requests.entry(operation).or_default() += 1;
    }

    /// Bytes of a request's body.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of an answer's body.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        self.requests.lock().expect("nothing panics while it counts").clear();
        self.received_bytes.store(0, Ordering::Relaxed);
        self.sent_bytes.store(0, Ordering::Relaxed);
        self.base_nanos.store(cpu_nanos(), Ordering::Relaxed);
    }

    pub fn json(&self) -> String {
        let nanos = cpu_nanos().saturating_sub(self.base_nanos.load(Ordering::Relaxed));
        serde_json::json!({
            "requests": *self.requests.lock().expect("nothing panics while it counts"),
            "bytes_in": self.received_bytes.load(Ordering::Relaxed),
            "bytes_out": self.sent_bytes.load(Ordering::Relaxed),
            "cpu_seconds": std::time::Duration::from_nanos(nanos).as_secs_f64(),
        })
        .to_string()
    }
}

/// CPU time of the process in user and kernel: that of its threads, none of which ever ends.
fn cpu_nanos() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(Result::ok);
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
