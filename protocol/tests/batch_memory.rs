//! What a batch claims costs nothing; what it really unfolds to is bounded. Alone in its process, because it looks at the
//! process's memory.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::io::Write;

use levada_protocol::{
    batch::{Attributes, BatchError, BatchHeader, Compression, seal, validate_produced},
    limits::{BATCH_BYTES_MAX, MIB},
};

/// The most memory that this process has ever had.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn batch(codec: Compression, payload: &[u8]) -> Vec<u8> {
    let mut header = BatchHeader::parse(&common::fixture("java", Compression::None)).unwrap();
    header.attributes = Attributes::default().with_compression(codec);
    header.batch_length = 49 + u32::try_from(payload.len()).unwrap();
    let mut batch = header.to_bytes().to_vec();
    batch.extend_from_slice(payload);
    seal(&mut batch);
    batch
}

#[test]
fn claims_are_free_and_bombs_are_bounded() {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    let huge = [0xFE, 0xFF, 0xFF, 0xFF, 0x0F]; // a varint: i32::MAX
    let xerial = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    let claims: [(Compression, Vec<u8>); 9] = [
        (None, [&huge[..], &[0; 40]].concat()),
        (None, [&[78, 0, 0, 0][..], &huge, &[0; 40]].concat()),
        (None, [&[78, 0, 0, 0, 1, 1][..], &huge, &[0; 40]].concat()),
        (Snappy, [0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0, 0].to_vec()),
        (Snappy, [&xerial[..], &[0xFF, 0xFF, 0xFF, 0xFF], &[0; 40]].concat()),
        (Snappy, [&xerial[..], &[0, 0, 0, 8], &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0, 0]].concat()),
        // A frame that claims 2^62 bytes of content, and one with a window of 2^41.
        (Zstd, [&[0x28, 0xB5, 0x2F, 0xFD, 0xE0][..], &(1_u64 << 62).to_le_bytes(), &[0; 40]].concat()),
        (Zstd, [&[0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xFF][..], &[0; 40]].concat()),
        (Lz4, [&[0x04, 0x22, 0x4D, 0x18, 0x40, 0x70, 0xDF][..], &[0xFF; 40]].concat()),
    ];
    let before = peak_bytes();
    for (codec, payload) in &claims {
        let verdict = validate_produced(&batch(*codec, payload), BATCH_BYTES_MAX);
        assert!(verdict.is_err(), "{codec:?} {payload:02x?}");
    }
    let grown = peak_bytes() - before;
    assert!(grown < 8 * MIB, "{grown} bytes for {} empty claims", claims.len());

    let bombs = [
        batch(Gzip, &bomb(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast())).finish().unwrap()),
        batch(Zstd, &bomb(zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap()).finish().unwrap()),
    ];
    let before = peak_bytes();
    for bomb in bombs {
        let verdict = validate_produced(&bomb, BATCH_BYTES_MAX);
        assert!(matches!(verdict, Err(BatchError::Unfolds { .. })), "{verdict:?}");
        assert!(bomb.len() < 4 * MIB);
        let grown = peak_bytes() - before;
        assert!(grown < 160 * MIB, "{grown} bytes for a bomb of {}", bomb.len());
    }
}

/// Feeds an encoder with 512 MiB of zeros.
fn bomb<W: Write>(mut encoder: W) -> W {
    let zeros = vec![0; MIB];
    for _ in 0..512 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder
}
