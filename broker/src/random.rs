//! A small seeded generator (SplitMix64): ids that must be unique come from it, and the seed from the driver, so that
//! a simulated run can be repeated.

use uuid::Uuid;

/// The generator.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// A random (version 4) UUID.
    pub(crate) const fn uuid(&mut self) -> Uuid {
        let high = self.next();
        let low = self.next();
        uuid::Builder::from_u128(((high as u128) << 64) | low as u128)
            .with_variant(uuid::Variant::RFC4122)
            .with_version(uuid::Version::Random)
            .into_uuid()
    }
}
