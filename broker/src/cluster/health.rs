//! How a node is, as far as it matters to who should lead.
//!
//! Every node says so to every other every second, and at once when it changes. Nothing that is safe depends on it: a
//! node that hears nothing, or something old, believes the other to be well.

use levada_protocol::messages::peer;

/// How much room there is on a disk. The numbers are on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fullness {
    /// Enough.
    #[default]
    Roomy = 0,
    /// Little: records are taken slowly.
    Tight = 1,
    /// None but for what keeps the node alive: no records are taken.
    Full = 2,
}

impl Fullness {
    /// From the number on the wire. One that is not known yet is worse than all that are.
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::Roomy,
            1 => Self::Tight,
            _ => Self::Full,
        }
    }
}

/// How a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How much room there is on its disk.
    pub fullness: Fullness,
    /// Its journal's syncs take far longer than those of others.
    pub slow_disk: bool,
    /// What half of its journal's syncs took at most of late, in microseconds; 0: it is not known.
    pub sync_us: u64,
}

impl Health {
    /// Whether it should lead, if others can.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        self.fullness < Fullness::Full && !self.slow_disk
    }

    /// As it stands in a frame.
    #[must_use]
    pub fn to_wire(self) -> peer::NodeHealth {
        let Self { fullness, slow_disk, sync_us } = self;
        peer::NodeHealth { fullness: u32::from(fullness as u8), slow_disk, sync_us }
    }

    /// From a frame.
    #[must_use]
    pub const fn from_wire(wire: &peer::NodeHealth) -> Self {
        let peer::NodeHealth { fullness, slow_disk, sync_us } = *wire;
        Self { fullness: Fullness::from_u32(fullness), slow_disk, sync_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_the_wire_and_the_numbers_are_pinned() {
        for (fullness, number) in [(Fullness::Roomy, 0), (Fullness::Tight, 1), (Fullness::Full, 2)] {
            let health = Health { fullness, slow_disk: number == 1, sync_us: 7 };
            assert_eq!(health.to_wire().fullness, number);
            assert_eq!(Health::from_wire(&health.to_wire()), health);
        }
        assert_eq!(Fullness::from_u32(3), Fullness::Full, "of a newer build");
        assert!(!Health { fullness: Fullness::Full, ..Health::default() }.may_lead());
        assert!(!Health { slow_disk: true, ..Health::default() }.may_lead());
        assert!(Health { fullness: Fullness::Tight, ..Health::default() }.may_lead());
    }
}
