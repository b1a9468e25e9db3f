//! Faults that are planted in a simulated disk.

use std::io;

use crate::disk::DiskOp;

/// What a fault does instead of the operation it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEffect {
    /// The operation fails. A write leaves a part of its bytes, a sync drops what was not synced and calls it clean.
    Fail(io::ErrorKind),
    /// The operation reports success and does nothing: a disk that lies.
    Lie,
}

/// A fault that hits one operation, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of operation, by the name of [`DiskOp::call`]; empty for any.
    pub call: &'static str,
    /// Only operations on names that start with this.
    pub prefix: String,
    /// How many operations that match go unharmed first.
    pub skip: u64,
    /// What happens.
    pub effect: FaultEffect,
}

impl Fault {
    /// The next operation of this kind fails as on a broken disk (`EIO`).
    #[must_use]
    pub fn fail(call: &'static str) -> Self {
        Self { call, prefix: String::new(), skip: 0, effect: FaultEffect::Fail(io::ErrorKind::Other) }
    }

    /// The next operation of this kind does nothing and reports success.
    #[must_use]
    pub fn lie(call: &'static str) -> Self {
        Self { effect: FaultEffect::Lie, ..Self::fail(call) }
    }

    /// Lets this many matching operations pass first.
    #[must_use]
    pub const fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Only hits names that start with this.
    #[must_use]
    pub fn on(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    pub(super) fn matches(&self, op: &DiskOp) -> bool {
        (self.call.is_empty() || self.call == op.call()) && op.subject().starts_with(&self.prefix)
    }
}
