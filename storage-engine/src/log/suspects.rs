//! Segments that somebody could not read, until whoever repairs them asks for them.
//!
//! Readers find damage on any thread, and go on to tell their callers. Here it is written down as well.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use levada_protocol::ids::{GroupId, LogIndex};

/// More are not written down: they are found again when these are repaired.
const SUSPECTS_MAX: usize = 1024;

/// Segments, by group and first entry.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<BTreeSet<(GroupId, LogIndex)>>);

impl Suspects {
    pub(crate) fn add(&self, group: GroupId, first_index: LogIndex) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() < SUSPECTS_MAX {
            found.insert((group, first_index));
        }
    }

    pub(crate) fn take(&self) -> BTreeSet<(GroupId, LogIndex)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
