//! What is going to happen, in the order in which it will.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Happenings ordered by time, and at the same time by the order in which they were put in: the order never depends
/// on anything else.
#[derive(Debug)]
pub struct Queue<T> {
    /// When, in which order, and in which place what happens waits: that is large, and stays where it is.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    places: Vec<Option<T>>,
    free: Vec<usize>,
    sequence: u64,
    now_us: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), sequence: 0, now_us: 0 }
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
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(what);
        self.heap.push(Reverse((at_us.max(self.now_us), self.sequence, place)));
    }

    /// Lets something happen so much later.
    pub fn after(&mut self, delay_us: u64, what: T) {
        self.at(self.now_us + delay_us, what);
    }

    /// What happens next, if it happens by then; the time moves there.
    pub fn next_by(&mut self, by_us: u64) -> Option<T> {
        if self.heap.peek().is_none_or(|Reverse((at_us, ..))| *at_us > by_us) {
            self.now_us = self.now_us.max(by_us);
            return None;
        }
        let Reverse((at_us, _, place)) = self.heap.pop()?;
        self.now_us = at_us;
        self.free.push(place);
        self.places[place].take()
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
