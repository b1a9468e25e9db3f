//! What is going to happen, in the order in which it will.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Happenings ordered by time, and at the same time by the order in which they were put in: the order never depends
/// on anything else.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    sequence: u64,
    now_us: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at_us: u64,
    sequence: u64,
    what: T,
}

impl<T> Entry<T> {
    const fn key(&self) -> (u64, u64) {
        (self.at_us, self.sequence)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, now_us: 0 }
    }
}

impl<T> Queue<T> {
    /// The time: that of what happened last.
    #[must_use]
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Lets something happen at a time; a time that has passed means now.
    pub fn at(&mut self, at_us: u64, what: T) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at_us: at_us.max(self.now_us), sequence: self.sequence, what }));
    }

    /// Lets something happen so much later.
    pub fn after(&mut self, delay_us: u64, what: T) {
        self.at(self.now_us + delay_us, what);
    }

    /// What happens next, if it happens by then; the time moves there.
    pub fn next_by(&mut self, by_us: u64) -> Option<T> {
        if self.heap.peek().is_none_or(|Reverse(next)| next.at_us > by_us) {
            self.now_us = self.now_us.max(by_us);
            return None;
        }
        let Reverse(next) = self.heap.pop()?;
        self.now_us = next.at_us;
        Some(next.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_orders_and_then_the_order_of_putting_in() {
        let mut queue = Queue::default();
        for (at, what) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b'), (9, 'z')] {
            queue.at(at, what);
        }
        let happened: String = std::iter::from_fn(|| queue.next_by(5)).collect();
        assert_eq!(happened, "abcd");
        assert_eq!(queue.now_us(), 5);
        queue.at(1, 'e');
        queue.after(1, 'f');
        assert_eq!(queue.next_by(8), Some('e'), "the past is now");
        assert_eq!(queue.now_us(), 5);
        assert_eq!((queue.next_by(8), queue.next_by(8)), (Some('f'), None));
        assert_eq!(queue.now_us(), 8, "waiting moves the time too");
    }
}
