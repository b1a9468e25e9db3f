//! Little-endian fields in and out of bytes. A decoder never reads, and never allocates, beyond what is there.

#![deny(clippy::indexing_slicing)]

const _: () = assert!(usize::BITS == 64, "positions in files are 64 bits wide");

/// A file position or length as a length in memory.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted above")]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}

/// The fields not yet read. Every reader answers `None` when the bytes end first.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Bytes behind their length in four bytes.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = to_usize(u64::from(self.u32()?));
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    /// How many items follow, from a count in four bytes; refused unless that many items of `item_bytes` can be there.
    pub(crate) fn count(&mut self, item_bytes: usize) -> Option<usize> {
        let count = to_usize(u64::from(self.u32()?));
        (count.checked_mul(item_bytes)? <= self.remaining()).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_end() {
        let mut bytes = vec![7];
        bytes.extend_from_slice(&0x0102_u16.to_le_bytes());
        bytes.extend_from_slice(&3_u32.to_le_bytes());
        bytes.extend_from_slice(b"abc");
        bytes.extend_from_slice(&(-5_i64).to_le_bytes());
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u8(), Some(7));
        assert_eq!(decoder.u16(), Some(0x0102));
        assert_eq!(decoder.bytes(), Some(&b"abc"[..]));
        assert_eq!(decoder.i64(), Some(-5));
        assert_eq!((decoder.remaining(), decoder.u8()), (0, None));
    }

    #[test]
    fn lengths_beyond_the_bytes_are_refused() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(Decoder::new(&bytes).bytes(), None);
        assert_eq!(Decoder::new(&bytes).count(1), None);
        assert_eq!(Decoder::new(&bytes).count(usize::MAX), None);
        bytes[..4].copy_from_slice(&50_u32.to_le_bytes());
        assert_eq!(Decoder::new(&bytes).count(2), Some(50));
        assert_eq!(Decoder::new(&bytes).count(3), None);
    }
}
