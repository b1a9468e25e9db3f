//! Byte budgets: who wants to hold bytes waits until there is room, so that memory stays bounded and the sender, not
//! the server, keeps what does not fit.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that may be held at once.
#[derive(Clone, Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    bytes_max: u32,
}

/// Bytes that are held; dropping gives them back.
#[derive(Debug, Default)]
pub struct Charge {
    permits: Vec<OwnedSemaphorePermit>,
}

impl Budget {
    /// Of `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Self { room: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max }
    }

    /// Waits until there is room for `bytes`. More than the whole budget waits until nobody else holds anything.
    pub async fn take(&self, bytes: usize) -> Charge {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        // The semaphore is never closed.
        let permits = Arc::clone(&self.room).acquire_many_owned(bytes).await.into_iter().collect();
        Charge { permits }
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        (self.bytes_max as usize).saturating_sub(self.room.available_permits())
    }
}

impl Charge {
    /// Both as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.permits.extend(other.permits);
        self
    }
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
        assert!(waits(budget.take(1)).await);
        drop(both);
        assert_eq!(budget.held(), 0);
        let all = budget.take(1 << 40).await;
        assert_eq!(budget.held(), 100, "more than there is takes all of it");
        drop(all);
        drop(budget.take(100).await);
    }
}
