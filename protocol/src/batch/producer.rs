//! Who made a batch, as an idempotent producer signs it.

use crate::ids::{ProducerEpoch, ProducerId};

/// What makes a batch recognisable when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchProducer {
    /// The producer; -1 for none.
    pub id: ProducerId,
    /// Its incarnation; -1 for none.
    pub epoch: ProducerEpoch,
    /// The sequence number of the batch's first record; -1 for none.
    pub base_sequence: i32,
}

impl BatchProducer {
    /// A producer that does not care whether a retry doubles a batch.
    pub const NONE: Self = Self { id: ProducerId(-1), epoch: ProducerEpoch(-1), base_sequence: -1 };

    /// Whether there is one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.id.0 >= 0
    }
}

impl Default for BatchProducer {
    fn default() -> Self {
        Self::NONE
    }
}

/// The sequence number `count` further; they wrap from `i32::MAX` to 0.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "masked to 31 bits")]
pub const fn sequence_plus(sequence: i32, count: u32) -> i32 {
    ((sequence as i64 + count as i64) & 0x7FFF_FFFF) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(sequence_plus(0, 1), 1);
        assert_eq!(sequence_plus(i32::MAX, 0), i32::MAX);
        assert_eq!(sequence_plus(i32::MAX, 1), 0);
        assert_eq!(sequence_plus(i32::MAX - 1, 5), 3);
    }
}
