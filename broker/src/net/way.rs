//! Places that are taken, and who has to give one up when another comes: whoever has stood on one the longest.
//!
//! A door has so many places, and whoever reaches it can take them all, and do nothing with them. So who does nothing goes when
//! somebody comes who may do something.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Those who stand on places of one kind and do nothing.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Wakes whoever has waited longest.
    asked: Notify,
    standing: AtomicUsize,
}

impl Way {
    /// Stands here until asked to go.
    pub(crate) async fn stand(&self) {
        self.standing.fetch_add(1, Ordering::Relaxed);
        let _standing = Standing(self);
        self.asked.notified().await;
    }

    /// Asks whoever has stood here longest to go; false if nobody stands here.
    pub(crate) fn clear(&self) -> bool {
        let is_there = self.standing.load(Ordering::Relaxed) > 0;
        if is_there {
            self.asked.notify_one();
        }
        is_there
    }
}

struct Standing<'w>(&'w Way);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.standing.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn who_stands_longest_goes_first() {
        let way = Way::default();
        assert!(!way.clear(), "nobody is there");
        let (mut first, mut second) = (pin!(way.stand()), pin!(way.stand()));
        assert_eq!((poll!(&mut first), poll!(&mut second)), (Poll::Pending, Poll::Pending));
        assert!(way.clear());
        assert_eq!((poll!(&mut second), poll!(&mut first)), (Poll::Pending, Poll::Ready(())));
        assert!(way.clear());
        assert_eq!(poll!(&mut second), Poll::Ready(()));
        assert!(!way.clear(), "nobody is left");
        let late = pin!(way.stand());
        assert_eq!(poll!(late), Poll::Pending, "it was not asked");
    }
}
