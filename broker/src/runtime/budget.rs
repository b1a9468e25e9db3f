//! Byte budgets: who wants to hold bytes waits until there is room, so that memory stays bounded and the sender, not
//! the server, keeps what does not fit.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

/// A number of bytes (or of anything else) that may be held at once. It may change.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Room>);

/// Free permits, held ones and those of `owed` are `bytes_max` less what is owed: the budget was made smaller while
/// more than it was held, and what is given back first pays for that.
#[derive(Debug)]
struct Room {
    free: Semaphore,
    bytes_max: AtomicU32,
    owed: Mutex<u32>,
    /// How many wait for some of it.
    waiting: AtomicUsize,
}

/// One who waits.
struct Waiting<'r>(&'r Room);

/// Bytes that are held; dropping gives them back.
#[derive(Debug, Default)]
pub struct Charge {
    held: Vec<(Arc<Room>, u32)>,
}

impl Budget {
    /// Of `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let bytes_max = clamp(bytes_max);
        let free = Semaphore::new(bytes_max as usize);
        let (bytes_max, owed, waiting) = (AtomicU32::new(bytes_max), Mutex::new(0), AtomicUsize::new(0));
        Self(Arc::new(Room { free, bytes_max, owed, waiting }))
    }

    /// Waits until there is room for `bytes`. More than the whole budget waits until nobody else holds anything.
    pub async fn take(&self, bytes: usize) -> Charge {
        if let Some(charge) = self.try_take(bytes) {
            return charge;
        }
        let bytes = self.at_most(bytes);
        let _waiting = Waiting::new(&self.0);
        // The semaphore is never closed.
        if let Ok(permits) = self.0.free.acquire_many(bytes).await {
            permits.forget();
        }
        self.charge(bytes)
    }

    /// Takes `bytes` if there is room for them now.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Charge> {
        let bytes = self.at_most(bytes);
        self.0.free.try_acquire_many(bytes).ok()?.forget();
        Some(self.charge(bytes))
    }

    /// Whether somebody waits for some of it.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }

    /// From now on it is of `bytes_max`. What is held beyond that is not taken from anybody.
    pub fn resize(&self, bytes_max: u64) {
        let bytes_max = clamp(bytes_max);
        let mut owed = self.0.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.bytes_max.swap(bytes_max, Ordering::Relaxed);
        if let Some(more) = bytes_max.checked_sub(before) {
            let paid = more.min(*owed);
            *owed -= paid;
            self.0.free.add_permits((more - paid) as usize);
        } else {
            let less = before - bytes_max;
            let forgotten = u32::try_from(self.0.free.forget_permits(less as usize)).unwrap_or(less);
            *owed += less - forgotten;
        }
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        let owed = *self.0.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.0.bytes_max.load(Ordering::Relaxed) as usize + owed as usize;
        all.saturating_sub(self.0.free.available_permits())
    }

    fn at_most(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.0.bytes_max.load(Ordering::Relaxed))
    }

    fn charge(&self, bytes: u32) -> Charge {
        Charge { held: vec![(Arc::clone(&self.0), bytes)] }
    }
}

impl<'r> Waiting<'r> {
    fn new(room: &'r Room) -> Self {
        room.waiting.fetch_add(1, Ordering::Relaxed);
        Self(room)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    fn give_back(&self, bytes: u32) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = bytes.min(*owed);
        *owed -= paid;
        self.free.add_permits((bytes - paid) as usize);
    }
}

impl Charge {
    /// Both as one.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.held.append(&mut other.held);
        self
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        for (room, bytes) in self.held.drain(..) {
            room.give_back(bytes);
        }
    }
}

fn clamp(bytes_max: u64) -> u32 {
    u32::try_from(bytes_max).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn waits<T>(future: impl Future<Output = T>) -> bool {
        timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn who_finds_no_room_waits() {
        let budget = Budget::new(100);
        let first = budget.take(60).await;
        assert_eq!(budget.held(), 60);
        assert!(waits(budget.take(41)).await);
        let both = budget.take(40).await.and(first);
        assert!(!budget.is_waited_for());
        assert!(
            waits(async {
                tokio::join!(budget.take(1), async { assert!(budget.is_waited_for()) });
            })
            .await
        );
        assert!(!budget.is_waited_for(), "who has given up does not wait");
        assert!(budget.try_take(1).is_none());
        drop(both);
        assert_eq!(budget.held(), 0);
        let all = budget.take(1 << 40).await;
        assert_eq!(budget.held(), 100, "more than there is takes all of it");
        drop(all);
        drop(budget.try_take(100).unwrap());
    }

    #[tokio::test]
    async fn a_budget_changes_under_who_holds_of_it() {
        let budget = Budget::new(100);
        let (first, second) = (budget.take(60).await, budget.take(30).await);
        budget.resize(40);
        assert_eq!(budget.held(), 90, "nobody loses anything");
        drop(second);
        assert!(budget.try_take(1).is_none(), "60 are held, and 40 may be");
        drop(first);
        assert_eq!(budget.held(), 0);
        let all = budget.try_take(40).unwrap();
        assert!(budget.try_take(1).is_none());
        budget.resize(10);
        budget.resize(50);
        let more = budget.try_take(10).unwrap();
        assert!(budget.try_take(1).is_none());
        drop((all, more));
        drop(budget.try_take(50).unwrap());
        assert!(
            waits(async {
                budget.resize(70);
                let _all = budget.take(70).await;
                budget.take(1).await
            })
            .await
        );
    }
}
