//! What the benchmarks write: values that do not compress, and that a reader can check one by one.
//!
//! | bytes | |
//! |---|---|
//! | 0..4 | CRC-32 of all that follows |
//! | 4..8 | the writing client |
//! | 8..16 | the record's number with that client |
//! | 16..24 | when it was to be sent, nanoseconds since 1970 |
//! | 24.. | random bytes |
//!
//! Numbers are little-endian.

/// The smallest value: its header.
pub(super) const VALUE_BYTES_MIN: usize = 24;
/// Random bytes that values are cut from: far more than any compressor's window over one batch.
const POOL_BYTES: usize = 8 << 20;

/// Random bytes, the same for the same seed.
#[derive(Debug)]
pub(super) struct Pool {
    bytes: Vec<u8>,
    value_bytes: usize,
}

/// What a value says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) client: u32,
    pub(super) number: u64,
    pub(super) intended_ns: u64,
}

impl Pool {
    pub(super) fn new(seed: u64, value_bytes: usize) -> Self {
        let value_bytes = value_bytes.max(VALUE_BYTES_MIN);
        let mut state = seed | 1;
        let mut bytes = Vec::with_capacity(POOL_BYTES + value_bytes + 8);
        while bytes.len() < POOL_BYTES + value_bytes {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        Self { bytes, value_bytes }
    }

    pub(super) const fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Writes a value into `out`, in place of what is there.
    pub(super) fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        // A stride without a common divisor with the pool's size visits all of it.
        let at = usize::try_from(stamp.number.wrapping_mul(1_000_003) % (POOL_BYTES as u64)).unwrap_or(0);
        out.clear();
        out.extend([0; 4]);
        out.extend(stamp.client.to_le_bytes());
        out.extend(stamp.number.to_le_bytes());
        out.extend(stamp.intended_ns.to_le_bytes());
        let random = self.bytes.get(at..at + self.value_bytes - VALUE_BYTES_MIN);
        out.extend(random.unwrap_or_default());
        let (crc, checked) = out.split_at_mut(4);
        crc.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
    }
}

/// Checks a value, and tells what it says of itself; `None` if it is not as it was written.
pub(super) fn check(value: &[u8]) -> Option<Stamp> {
    let (crc, checked) = value.split_first_chunk::<4>()?;
    let (client, rest) = checked.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (intended_ns, _) = rest.split_first_chunk::<8>()?;
    (crc32fast::hash(checked) == u32::from_le_bytes(*crc)).then_some(Stamp {
        client: u32::from_le_bytes(*client),
        number: u64::from_le_bytes(*number),
        intended_ns: u64::from_le_bytes(*intended_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_what_was_written_and_notices_every_flipped_bit() {
        let pool = Pool::new(7, 100);
        let stamp = Stamp { client: 3, number: u64::MAX, intended_ns: 9 };
        let mut value = Vec::new();
        pool.write(stamp, &mut value);
        assert_eq!((value.len(), check(&value)), (100, Some(stamp)));
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&flipped), None, "bit {bit}");
        }
        assert_eq!(check(&value[..20]), None);
        let mut again = Vec::new();
        Pool::new(7, 100).write(stamp, &mut again);
        assert_eq!(again, value, "the same seed gives the same values");
    }

    #[test]
    fn the_smallest_value_is_its_header() {
        let mut value = Vec::new();
        Pool::new(1, 0).write(Stamp { client: 0, number: 0, intended_ns: 0 }, &mut value);
        assert_eq!(value.len(), VALUE_BYTES_MIN);
        assert!(check(&value).is_some());
    }
}
