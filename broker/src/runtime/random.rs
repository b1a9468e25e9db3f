//! Where unique ids and seeds come from: the system's generator.
#![allow(clippy::disallowed_methods, reason = "the one place that draws")]

use uuid::Uuid;

/// A fresh unique id.
pub(crate) fn random_uuid() -> Uuid {
    Uuid::new_v4()
}

/// A fresh seed for a core.
pub(crate) fn random_seed() -> u64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}
