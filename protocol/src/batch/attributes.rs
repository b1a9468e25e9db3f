//! The sixteen attribute bits of a batch.
//!
//! ```text
//!  15 .. 8      7        6            5        4              3                2 .. 0
//! +--------+---------+---------+---------+---------------+----------------+--------------+
//! | zero   | columns | horizon | control | transactional | timestamp type | codec        |
//! +--------+---------+---------+---------+---------------+----------------+--------------+
//! ```
//! All but bit 7 are Kafka's. Bit 6 (the base timestamp is a compaction horizon) is the log's own, never a producer's.

use super::BatchError;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// As they are.
    #[default]
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// Snappy, raw or in the xerial framing of the Java clients.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Compression {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    const fn from_bits(bits: u16) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Whose clock a batch's timestamps come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The log's: every record has the batch's max timestamp.
    LogAppendTime,
}

/// The attribute bits. The codec in them is known to exist.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    bits: u16,
    compression: Compression,
}

impl Attributes {
    const CODEC: u16 = 0b111;
    const LOG_APPEND_TIME: u16 = 1 << 3;
    const TRANSACTIONAL: u16 = 1 << 4;
    const CONTROL: u16 = 1 << 5;
    const DELETE_HORIZON: u16 = 1 << 6;
    const COLUMNS: u16 = 1 << 7;
    const UNUSED: u16 = 0xFF00;

    /// From the bits of a header.
    ///
    /// # Errors
    /// [`BatchError::Codec`] if the codec does not exist.
    pub const fn from_bits(bits: u16) -> Result<Self, BatchError> {
        match Compression::from_bits(bits & Self::CODEC) {
            Some(compression) => Ok(Self { bits, compression }),
            #[allow(clippy::cast_possible_truncation, reason = "three bits")]
            None => Err(BatchError::Codec((bits & Self::CODEC) as u8)),
        }
    }

    /// The bits as they stand in the header.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.bits
    }

    /// How the records are compressed. [`Compression::None`] for columns, whose buffers are compressed one by one.
    #[must_use]
    pub const fn compression(self) -> Compression {
        self.compression
    }

    /// Whose clock the timestamps come from.
    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.bits & Self::LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.bits & Self::TRANSACTIONAL != 0
    }

    /// Whether the records are markers of the log itself (a transaction's end) and not data.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.bits & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time from which compaction may drop the batch's tombstones.
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.bits & Self::DELETE_HORIZON != 0
    }

    /// Whether the payload is columns.
    #[must_use]
    pub const fn is_columns(self) -> bool {
        self.bits & Self::COLUMNS != 0
    }

    /// The same with this codec.
    #[must_use]
    pub const fn with_compression(self, compression: Compression) -> Self {
        Self { bits: self.bits & !Self::CODEC | compression as u16, compression }
    }

    /// The same, timestamps from this clock.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, matches!(timestamp_type, TimestampType::LogAppendTime))
    }

    /// The same, in a transaction or not.
    #[must_use]
    pub const fn with_transactional(self, yes: bool) -> Self {
        self.with(Self::TRANSACTIONAL, yes)
    }

    /// The same, markers or data.
    #[must_use]
    pub const fn with_control(self, yes: bool) -> Self {
        self.with(Self::CONTROL, yes)
    }

    /// The same, the payload columns or rows.
    #[must_use]
    pub const fn with_columns(self, yes: bool) -> Self {
        self.with(Self::COLUMNS, yes)
    }

    const fn with(self, bit: u16, yes: bool) -> Self {
        Self { bits: if yes { self.bits | bit } else { self.bits & !bit }, ..self }
    }

    /// Whether a batch in columns, or in rows, may have these bits, whoever made it.
    pub(super) const fn fit(self, columns: bool) -> bool {
        let (must, may_not) = if columns { (Self::COLUMNS, Self::CODEC) } else { (0, Self::COLUMNS) };
        self.bits & must == must && self.bits & (may_not | Self::UNUSED) == 0
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attributes({:#06x})", self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_kafkas() {
        let all = Attributes::default()
            .with_compression(Compression::Zstd)
            .with_timestamp_type(TimestampType::LogAppendTime)
            .with_transactional(true)
            .with_control(true)
            .with_columns(true);
        assert_eq!(all.bits(), 0b1011_1100);
        assert_eq!(all.with_compression(Compression::Gzip).bits(), 0b1011_1001);
        assert_eq!(all.with_transactional(false).with_control(false).bits(), 0b1000_1100);
        assert!(Attributes::from_bits(1 << 6).is_ok_and(Attributes::has_delete_horizon));
    }

    #[test]
    fn every_codec_has_its_number_and_no_other_exists() {
        for (bits, codec) in (0..).zip(Compression::ALL) {
            assert_eq!(Attributes::from_bits(bits).map(Attributes::compression), Ok(codec));
        }
        for bits in 5..=7 {
            assert!(matches!(Attributes::from_bits(bits), Err(BatchError::Codec(codec)) if u16::from(codec) == bits));
        }
    }
}
