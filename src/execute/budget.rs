//! The bytes that buffers may hold at once, and the large buffers themselves.

use crate::error::{Error, ErrorKind, Result};
use memmap2::MmapMut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on the bytes in buffers. What is larger than the whole budget takes all of it, and so
/// goes alone.
///
/// Buffers are used again: fresh pages for each part would cost more than sending it. Those that
/// are idle fit into what nobody holds of the budget, as of the last time that somebody took of it.
/// They are the kernel's own pages, since an allocator would keep what is freed for a while, in
/// each of its size classes and threads.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    units: u32,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Units that somebody holds. The semaphore knows less: it counts those that it has promised.
    held: usize,
    idle: Vec<MmapMut>,
}

/// The budget of a run that was given none, in bytes.
pub(crate) const DEFAULT_BYTES: u64 = 96 << 20;
/// Memory is counted in units of this many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// The smallest buffer; the sizes are powers of two, so that a buffer fits the next content as
/// well.
const LEAST_BUFFER_BYTES: usize = 64 << 10;

impl Budget {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        let most = u32::MAX >> 4;
        let units = u32::try_from(bytes / UNIT_BYTES as u64).unwrap_or(most).clamp(1, most);
        let permits = Arc::new(Semaphore::new(units as usize));
        Arc::new(Self { permits, units, pages: Mutex::default() })
    }

    /// Waits until `bytes` may be held; they are given back when the answer is dropped.
    pub(crate) async fn take(self: &Arc<Self>, bytes: u64) -> Held {
        let held = self.hold(bytes).await;
        let freed = self.pages().trim(self.units);
        drop(freed);
        held
    }

    /// Waits until there may be one more buffer for `bytes`.
    pub(super) async fn buffer(self: &Arc<Self>, bytes: usize) -> Buffer {
        let class = bytes.next_power_of_two().max(LEAST_BUFFER_BYTES);
        let held = self.hold(class as u64).await;
        let mut pages = self.pages();
        let index = pages.idle.iter().rposition(|buffer| buffer.len() == class);
        let content = index.map(|index| pages.idle.remove(index));
        let freed = pages.trim(self.units);
        drop(pages);
        drop(freed);
        Buffer { content, class, bytes, held }
    }

    async fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        let units = bytes.div_ceil(UNIT_BYTES as u64);
        let units = u32::try_from(units).unwrap_or(u32::MAX).clamp(1, self.units);
        let permit = Arc::clone(&self.permits).acquire_many_owned(units).await;
        let permit = permit.expect("the budget's semaphore is never closed");
        self.pages().held += permit.num_permits();
        Held { permit, home: Arc::clone(self) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Takes out idle buffers, those that were idle longest, until the rest fits into what nobody
    /// holds.
    fn trim(&mut self, units: u32) -> Vec<MmapMut> {
        let free = (units as usize).saturating_sub(self.held) * UNIT_BYTES;
        let mut kept: usize = self.idle.iter().map(|buffer| buffer.len()).sum();
        let surplus = self.idle.iter().take_while(|buffer| {
            let goes = kept > free;
            kept -= if goes { buffer.len() } else { 0 };
            goes
        });
        let surplus = surplus.count();
        self.idle.drain(..surplus).collect()
    }
}

/// Bytes of the budget that somebody holds.
#[derive(Debug)]
pub(crate) struct Held {
    permit: OwnedSemaphorePermit,
    home: Arc<Budget>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.home.pages().held -= self.permit.num_permits();
    }
}

/// A large buffer, which goes back when its last user drops it.
#[derive(Debug)]
pub(super) struct Buffer {
    /// None until it is first written to: that is for a blocking thread.
    content: Option<MmapMut>,
    class: usize,
    bytes: usize,
    held: Held,
}

impl Buffer {
    /// The bytes, to be filled: they may hold anything.
    ///
    /// # Errors
    /// `Setup`, where there is no memory.
    pub(super) fn as_mut(&mut self) -> Result<&mut [u8]> {
        let content = match self.content.take() {
            Some(content) => content,
            None => MmapMut::map_anon(self.class).map_err(|e| {
                let what = format!("cannot get {} bytes of memory", self.class);
                Error::new(ErrorKind::Setup, what, e)
            })?,
        };
        Ok(&mut self.content.insert(content)[..self.bytes])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.content.as_ref().map_or(&[], |content| &content[..self.bytes])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.held.home.pages().idle.extend(self.content.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn idle(budget: &Budget) -> usize {
        budget.pages().idle.iter().map(|buffer| buffer.len()).sum()
    }

    #[tokio::test]
    async fn buffers_are_used_again_and_idle_ones_make_room() {
        let budget = Budget::new(8 * MIB as u64);
        let mut first = budget.buffer(3 * MIB).await;
        first.as_mut().unwrap().fill(7);
        assert_eq!((first.as_ref().len(), idle(&budget)), (3 * MIB, 0));
        drop(first);
        assert_eq!(idle(&budget), 4 * MIB);
        let again = budget.buffer(4 * MIB - 1).await;
        assert_eq!((again.as_ref()[0], idle(&budget)), (7, 0), "another size of one class");
        drop(again);
        let other = budget.take(5 * MIB as u64).await;
        assert_eq!(idle(&budget), 0, "only 3 MiB are left");
        drop(other);
        let small = budget.buffer(1).await;
        assert_eq!(budget.permits.available_permits(), 8 * 1024 - 64, "the smallest buffer");
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
