//! A partition: what one raft group means to producers and readers.
//!
//! [`machine::Partition`] is a state machine over the group's log. Applying entries gives every replica the same next
//! offset, log start and producer state. The leader runs ahead of that: it gives offsets and judges sequences by a
//! copy that also holds what is in flight ([`leading`]), made when the first entry of its term is applied, because
//! from then on that copy is exactly what the log will say.

pub mod coordinating;
pub mod leading;
pub mod machine;
pub mod producers;
