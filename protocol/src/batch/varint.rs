//! Kafka's variable-length integers: zigzag, then seven bits a byte, low ones first (protobuf's `sint32`, `sint64`).

#![deny(clippy::indexing_slicing)]

/// The most bytes of a 64-bit one.
pub(super) const VARLONG_BYTES_MAX: usize = 10;

/// Takes a 32-bit integer off the front. `None` if the bytes end within it or it has more than 32 bits.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let zigzag = u32::try_from(take_unsigned::<5>(bytes)?).ok()?;
    Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// Takes a 64-bit integer off the front. `None` if the bytes end within it or it has more than 64 bits.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let zigzag = take_unsigned::<VARLONG_BYTES_MAX>(bytes)?;
    Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

#[inline]
fn take_unsigned<const BYTES_MAX: usize>(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(u64::from(first));
    }
    let mut value = 0;
    for (position, &byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7F);
        let shift = 7 * position;
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            *bytes = bytes.get(position + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Appends an integer. A value that fits in 32 bits has the same bytes either way.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = zigzag(value);
    while zigzag >= 0x80 {
        out.push(low_bits(zigzag) | 0x80);
        zigzag >>= 7;
    }
    out.push(low_bits(zigzag));
}

/// How many bytes [`put`] takes.
#[inline]
pub(super) const fn size(value: i64) -> usize {
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits")]
const fn low_bits(value: u64) -> u8 {
    (value & 0x7F) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        assert_eq!(out.len(), size(value), "{value}");
        out
    }

    /// From Kafka's `ByteUtilsTest`.
    #[test]
    fn known_vectors() {
        let vectors: [(i64, &[u8]); 14] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7E]),
            (-64, &[0x7F]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (8191, &[0xFE, 0x7F]),
            (-8192, &[0xFF, 0x7F]),
            (8192, &[0x80, 0x80, 0x01]),
            (i64::from(i32::MAX), &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F]),
            (i64::from(i32::MIN), &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
            (i64::MAX, &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
            (i64::MIN, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
        ];
        for (value, bytes) in vectors {
            assert_eq!(encoded(value), bytes, "{value}");
            assert_eq!(take_i64(&mut &*bytes), Some(value));
            assert_eq!(take_i32(&mut &*bytes), i32::try_from(value).ok());
        }
    }

    #[test]
    fn too_many_bits_are_refused() {
        assert_eq!(take_i32(&mut &[0xFF, 0xFF, 0xFF, 0xFF, 0x1F][..]), None, "33 bits");
        assert_eq!(take_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..]), None, "six bytes");
        let mut long = [0xFF; 10];
        long[9] = 0x02;
        assert_eq!(take_i64(&mut &long[..]), None, "65 bits");
        assert_eq!(take_i64(&mut &[0x80; 11][..]), None);
    }

    proptest! {
        #[test]
        fn round_trip_and_every_truncation(value: i64, shift in 0..64) {
            let value = value >> shift;
            let bytes = encoded(value);
            let mut followed = bytes.clone();
            followed.push(0xAA);
            let mut rest = &followed[..];
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert_eq!(rest, [0xAA]);
            for length in 0..bytes.len() {
                let mut cut = &bytes[..length];
                prop_assert_eq!(take_i64(&mut cut), None);
                prop_assert_eq!(cut.len(), length, "nothing is taken on failure");
            }
        }
    }
}
