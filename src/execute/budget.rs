//! The bytes that buffers may hold at once, and the large buffers themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on the bytes in buffers. What is larger than the whole budget takes all of it, and so
/// goes alone.
///
/// Large buffers are used again: fresh pages for each part would cost more than sending it. Those
/// that are idle fit into what is left of the budget.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    units: u32,
    idle: Mutex<Vec<Box<[u8]>>>,
}

/// Memory is counted in units of this many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// The smallest buffer; the sizes are powers of two, so that a buffer fits the next content as well.
const LEAST_BUFFER_BYTES: usize = 1 << 20;

impl Budget {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        let most = u32::MAX >> 4;
        let units = u32::try_from(bytes / UNIT_BYTES as u64).unwrap_or(most).clamp(1, most);
        let permits = Arc::new(Semaphore::new(units as usize));
        Arc::new(Self { permits, units, idle: Mutex::default() })
    }

    /// Waits until `bytes` may be held; they are given back when the answer is dropped.
    pub(crate) async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        let permit = self.acquire(bytes).await;
        self.trim(&mut self.idle());
        permit
    }

    /// Waits until there may be one more buffer for `bytes`.
    pub(super) async fn buffer(self: &Arc<Self>, bytes: usize) -> Buffer {
        let class = bytes.next_power_of_two().max(LEAST_BUFFER_BYTES);
        let permit = self.acquire(class as u64).await;
        let mut idle = self.idle();
        let index = idle.iter().position(|buffer| buffer.len() == class);
        let content = index.map(|index| idle.swap_remove(index));
        self.trim(&mut idle);
        Buffer { content, class, bytes, home: Arc::clone(self), _permit: permit }
    }

    async fn acquire(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = bytes.div_ceil(UNIT_BYTES as u64);
        let units = u32::try_from(units).unwrap_or(u32::MAX).clamp(1, self.units);
        let permit = Arc::clone(&self.permits).acquire_many_owned(units).await;
        permit.expect("the budget's semaphore is never closed")
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees idle buffers until the rest fits into what nobody has taken.
    fn trim(&self, idle: &mut Vec<Box<[u8]>>) {
        let free = self.permits.available_permits() * UNIT_BYTES;
        let mut held: usize = idle.iter().map(|buffer| buffer.len()).sum();
        while held > free
            && let Some(buffer) = idle.pop()
        {
            held -= buffer.len();
        }
    }
}

/// A large buffer, which goes back when its last user drops it.
#[derive(Debug)]
pub(super) struct Buffer {
    /// None until it is first written to: that is for a blocking thread.
    content: Option<Box<[u8]>>,
    class: usize,
    bytes: usize,
    home: Arc<Budget>,
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    /// The bytes, to be filled: they may hold anything.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        let class = self.class;
        &mut self.content.get_or_insert_with(|| vec![0; class].into())[..self.bytes]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.content.as_deref().map_or(&[], |content| &content[..self.bytes])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.idle().extend(self.content.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn held(budget: &Budget) -> usize {
        budget.idle().iter().map(|buffer| buffer.len()).sum()
    }

    #[tokio::test]
    async fn buffers_are_used_again_and_idle_ones_make_room() {
        let budget = Budget::new(8 * MIB as u64);
        let mut first = budget.buffer(3 * MIB).await;
        first.as_mut().fill(7);
        assert_eq!((first.as_ref().len(), held(&budget)), (3 * MIB, 0));
        drop(first);
        assert_eq!(held(&budget), 4 * MIB);
        let again = budget.buffer(4 * MIB - 1).await;
        assert_eq!((again.as_ref()[0], held(&budget)), (7, 0), "another size of one class");
        drop(again);
        let other = budget.take(5 * MIB as u64).await;
        assert_eq!(held(&budget), 0, "only 3 MiB are left");
        drop(other);
        let small = budget.buffer(1).await;
        assert_eq!(budget.permits.available_permits(), 7 * 1024, "the smallest buffer");
        drop(small);
        assert_eq!(budget.permits.available_permits(), 8 * 1024);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_budget_goes_alone() {
        let budget = Budget::new(MIB as u64);
        let large = budget.take(5 * MIB as u64).await;
        assert_eq!(budget.permits.available_permits(), 0);
        drop(large);
        assert_eq!(budget.permits.available_permits(), 1024);
    }
}
