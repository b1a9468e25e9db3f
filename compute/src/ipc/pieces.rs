//! Buffers that grow in pieces: large values are shared with where they lie, small ones copied into pieces of a bounded
//! size, so that whoever still holds one piece does not hold a whole batch.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use levada_protocol::limits::KIB;

/// A piece is no larger than this.
const PIECE_BYTES: usize = 256 * KIB;
/// A value from this size on is shared, not copied: a frame of its own costs less.
const SHARED_BYTES_MIN: usize = 32 * KIB;

/// A growing buffer.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    done: Vec<Bytes>,
    last: Vec<u8>,
    length: usize,
    /// How much is expected in all, as far as is known.
    expected: usize,
}

impl Pieces {
    pub(crate) fn with_expected(expected: usize) -> Self {
        Self { expected, ..Self::default() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Appends a value; `share` gives it as a buffer of its own.
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8], share: impl FnOnce(&[u8]) -> Bytes) {
        self.length += value.len();
        if value.len() <= self.last.capacity() - self.last.len() {
            self.last.extend_from_slice(value);
            return;
        }
        self.close();
        if value.len() >= SHARED_BYTES_MIN {
            self.done.push(share(value));
            return;
        }
        let expected = self.expected.saturating_sub(self.length) + value.len();
        self.last.reserve_exact(expected.clamp(value.len(), PIECE_BYTES));
        self.last.extend_from_slice(value);
    }

    fn close(&mut self) {
        if !self.last.is_empty() {
            self.done.push(std::mem::take(&mut self.last).into());
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }
}

/// Which elements are null.
#[derive(Debug, Default)]
pub(crate) struct Validity {
    /// Least significant bit first; grown only once there is a null.
    bits: Vec<u8>,
    length: usize,
    nulls: usize,
}

impl Validity {
    #[inline]
    pub(crate) fn push(&mut self, valid: bool) {
        if !valid {
            if self.nulls == 0 {
                self.bits.resize(self.length.div_ceil(8), 0xFF);
            }
            self.nulls += 1;
        }
        if self.nulls > 0 {
            let (byte, bit) = (self.length / 8, self.length % 8);
            if self.bits.len() == byte {
                self.bits.push(0);
            }
            if let Some(place) = self.bits.get_mut(byte) {
                *place = *place & !(1 << bit) | u8::from(valid) << bit;
            }
        }
        self.length += 1;
    }

    pub(crate) fn extend_valid(&mut self, count: usize) {
        if self.nulls == 0 {
            self.length += count;
        } else {
            (0..count).for_each(|_| self.push(true));
        }
    }

    /// Appends some of `bits`; those that are not there are null.
    pub(crate) fn extend(&mut self, bits: &[u8], range: std::ops::Range<usize>) {
        range.for_each(|at| self.push(bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)));
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    pub(crate) const fn nulls(&self) -> usize {
        self.nulls
    }

    pub(crate) fn finish(self) -> Bytes {
        self.bits.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_was_pushed() {
        for (expected, sizes) in
            [(0, vec![0, 1, 5]), (1 << 20, vec![1000; 2000]), (10, vec![40_000, 3, 300_000, 31_000, 31_000])]
        {
            let source: Vec<u8> = (0..=250_u8).cycle().take(sizes.iter().sum()).collect();
            let source = Bytes::from(source);
            let mut pieces = Pieces::with_expected(expected);
            let mut at = 0;
            for size in sizes {
                pieces.push(&source[at..at + size], |value| source.slice_ref(value));
                at += size;
            }
            assert_eq!(pieces.len(), source.len());
            let pieces = pieces.finish();
            let own = |piece: &&Bytes| !source.as_ptr_range().contains(&piece.as_ptr());
            assert!(pieces.iter().filter(own).all(|piece| piece.len() <= PIECE_BYTES));
            assert_eq!(pieces.concat(), source);
        }
    }

    #[test]
    fn validity_is_there_only_if_needed() {
        for pattern in [vec![true; 20], vec![false; 3], [vec![true; 9], vec![false, true, false]].concat()] {
            let mut validity = Validity::default();
            pattern.iter().for_each(|valid| validity.push(*valid));
            let nulls = pattern.iter().filter(|valid| !**valid).count();
            assert_eq!((validity.len(), validity.nulls()), (pattern.len(), nulls));
            let bits = validity.finish();
            assert_eq!(bits.len(), if nulls == 0 { 0 } else { pattern.len().div_ceil(8) });
            if nulls > 0 {
                let read: Vec<_> = (0..pattern.len()).map(|row| bits[row / 8] >> (row % 8) & 1 == 1).collect();
                assert_eq!(read, pattern);
            }
        }
    }
}
