//! Places that are taken, and who has to give one up when another comes: whoever has stood on one the longest.
//!
//! A door has so many places, and whoever reaches it can take them all, and do nothing with them. So who does nothing goes when
//! somebody comes who may do something.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Those who stand on places of one kind and do nothing.
#[derive(Debug, Default)]
pub(crate) struct Way(Mutex<Line>);

/// Whoever came first has the lowest number.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    standing: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Way {
    /// Stands here until asked to go.
    pub(crate) async fn stand(&self) {
        let (ask, asked) = oneshot::channel();
        let number = {
            let mut line = self.line();
            let number = line.next;
            line.next += 1;
            line.standing.insert(number, ask);
            number
        };
        let _standing = Standing { way: self, number };
        let _ = asked.await;
    }

    /// Asks whoever has stood here longest to go; false if nobody stands here.
    pub(crate) fn clear(&self) -> bool {
        let first = self.line().standing.pop_first();
        first.is_some_and(|(_, ask)| ask.send(()).is_ok())
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Standing<'w> {
    way: &'w Way,
    number: u64,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.way.line().standing.remove(&self.number);
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

    #[tokio::test]
    async fn who_was_asked_already_is_not_asked_for_another() {
        let way = Way::default();
        let mut first = pin!(way.stand());
        assert_eq!(poll!(&mut first), Poll::Pending);
        assert!(way.clear());
        assert!(!way.clear(), "nobody else is there");
        let mut second = pin!(way.stand());
        assert_eq!((poll!(&mut second), poll!(&mut first)), (Poll::Pending, Poll::Ready(())));
    }
}
