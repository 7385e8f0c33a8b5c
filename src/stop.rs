//! The wish to stop, shared by whoever may express it and everything that must hear it.

use std::sync::Arc;
use tokio::sync::watch;

/// A stop that can be requested once and is heard everywhere. Cheap to clone.
///
/// ```
/// let stop = haul::Stop::new();
/// let other = stop.clone();
/// other.request();
/// assert!(stop.is_requested());
/// ```
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// A stop that nobody has requested.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Asks everything to stop: no new work, what is half-done is undone.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// True once it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the request.
    pub async fn requested(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so this ends only by the request.
        let _ = receiver.wait_for(|requested| *requested).await;
    }
}
