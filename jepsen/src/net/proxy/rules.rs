//! What is done to which links, and how often it was felt.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use crate::net::{Counter, Link};

/// What all connections go by.
#[derive(Debug, Default)]
pub(super) struct Rules {
    faults: watch::Sender<Faults>,
    held: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
}

/// Links, by what they do to what passes.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) cut: BTreeSet<Link>,
    pub(super) lossy: BTreeSet<Link>,
    pub(super) slow: BTreeSet<Link>,
}

impl Rules {
    /// From now on it is so.
    pub(super) fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    pub(super) fn is_cut(&self, link: Link) -> bool {
        self.faults.borrow().cut.contains(&link)
    }

    pub(super) fn is_lossy(&self, link: Link) -> bool {
        self.faults.borrow().lossy.contains(&link)
    }

    pub(super) fn is_slow(&self, link: Link) -> bool {
        self.faults.borrow().slow.contains(&link)
    }

    /// Waits until a link is not cut.
    pub(super) async fn healed(&self, link: Link) {
        // It ends only with these rules.
        let _ = self.faults.subscribe().wait_for(|faults| !faults.cut.contains(&link)).await;
    }

    /// Something met a fault.
    pub(super) fn count(&self, counter: Counter) {
        self.counter(counter).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counted(&self, counter: Counter) -> u64 {
        self.counter(counter).load(Ordering::Relaxed)
    }

    const fn counter(&self, counter: Counter) -> &AtomicU64 {
        match counter {
            Counter::Cut => &self.held,
            Counter::Lost => &self.lost,
            Counter::Late => &self.late,
        }
    }
}
