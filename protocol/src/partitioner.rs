//! Which partition a key belongs to: the same one as with Kafka's Java client.
//!
//! A topic that was filled by Kafka's producers and then by ours keeps every key in one partition only if both hash
//! alike: `murmur2(key) & 0x7fffffff`, modulo the number of partitions.

use crate::ids::PartitionId;

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;

/// The partition of a key in a topic of `partitions` partitions; 0 where there are none.
#[must_use]
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionId {
    PartitionId((murmur2(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0))
}

/// Kafka's murmur2: 32 bits, its own seed, little-endian words.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    // A key is shorter than a frame; Kafka takes the low 32 bits likewise.
    #[allow(clippy::cast_possible_truncation, reason = "as Kafka does")]
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (shift, &byte) in [0, 8, 16].into_iter().zip(tail) {
            hash ^= u32::from(byte) << shift;
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's `UtilsTest.testMurmur2`, and three more that `kafka-clients` 3.9.1 computed.
    #[test]
    fn hashes_like_kafka() {
        let vectors: [(&[u8], i32); 9] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
            (b"a", -1_563_381_124),
            ("ключ".as_bytes(), 2_122_343_024),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key).cast_signed(), hash, "{key:?}");
        }
    }

    /// Computed by `kafka-clients` 3.9.1: `Utils.toPositive(Utils.murmur2(key)) % 10`.
    #[test]
    fn chooses_the_partition_that_kafka_chooses() {
        let vectors: [(&str, u32); 8] = [
            ("", 1),
            ("a", 4),
            ("21", 0),
            ("foobar", 6),
            ("a-little-bit-long-string", 2),
            ("abc", 7),
            ("ключ", 4),
            ("a-little-bit-longer-string", 9),
        ];
        for (key, partition) in vectors {
            assert_eq!(partition_of_key(key.as_bytes(), 10), PartitionId(partition), "{key:?}");
        }
        assert_eq!(partition_of_key(b"anything", 1), PartitionId(0));
        assert_eq!(partition_of_key(b"anything", 0), PartitionId(0));
    }
}
