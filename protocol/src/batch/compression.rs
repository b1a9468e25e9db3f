//! The four codecs of Kafka, with a bound on what a payload may unfold to.
//!
//! A decoder here never trusts a size that the payload claims: output grows with what is really decoded, and stops at
//! [`decompressed_bytes_max`]. Encoders write what Kafka's Java clients write: snappy in xerial framing, LZ4 frames of
//! independent 64 KiB blocks, one zstd frame.

#![deny(clippy::indexing_slicing)]

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{BatchError, Compression};
use crate::limits::{BATCH_BYTES_DEFAULT, BATCH_DECOMPRESSED_BYTES_MAX, BATCH_DECOMPRESSED_RATIO_MAX};

/// What xerial framing begins with: its magic, version 1, compatible with version 1.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// The part of it that never changes.
const XERIAL_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// How much of the input the Java clients put into one snappy block.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// A snappy element of three bytes stands for 64 at most: no block unfolds to more than this many times its size.
const SNAPPY_RATIO_MAX: usize = 22;

/// How many bytes a payload of `compressed` bytes may decompress to.
#[must_use]
pub const fn decompressed_bytes_max(compressed: usize) -> usize {
    let by_ratio = compressed.saturating_mul(BATCH_DECOMPRESSED_RATIO_MAX);
    let at_least = if by_ratio < BATCH_BYTES_DEFAULT { BATCH_BYTES_DEFAULT } else { by_ratio };
    if at_least < BATCH_DECOMPRESSED_BYTES_MAX { at_least } else { BATCH_DECOMPRESSED_BYTES_MAX }
}

/// Decompresses a payload.
///
/// # Errors
/// [`BatchError::Unfolds`] past [`decompressed_bytes_max`], [`BatchError::Decompress`] if the codec does not
/// understand the bytes.
pub(super) fn decompress(codec: Compression, payload: &[u8]) -> Result<Vec<u8>, BatchError> {
    match codec {
        Compression::None => Ok(payload.to_vec()),
        Compression::Gzip => read_all(codec, flate2::bufread::MultiGzDecoder::new(payload), payload.len()),
        Compression::Snappy => snappy(payload),
        Compression::Lz4 if lz4_is_one_frame(payload) => {
            read_all(codec, lz4_flex::frame::FrameDecoder::new(payload), payload.len())
        }
        Compression::Lz4 => Err(failed(codec, "it is not one whole frame")),
        Compression::Zstd => zstd(payload),
    }
}

/// Compresses a payload and appends it to `out`.
pub(super) fn compress(codec: Compression, payload: &[u8], mut out: Vec<u8>) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => out.extend_from_slice(payload),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(payload)?;
            out = encoder.finish()?;
        }
        Compression::Snappy => {
            let mut encoder = snap::raw::Encoder::new();
            out.extend_from_slice(&XERIAL_HEADER);
            for block in payload.chunks(XERIAL_BLOCK_BYTES) {
                let compressed = encoder.compress_vec(block)?;
                out.extend(u32::try_from(compressed.len()).map_err(io::Error::other)?.to_be_bytes());
                out.extend(compressed);
            }
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            encoder.write_all(payload)?;
            out = encoder.finish()?;
        }
        Compression::Zstd => {
            out.reserve(zstd::zstd_safe::compress_bound(payload.len()));
            let mut place = io::Cursor::new(out);
            place.seek(SeekFrom::End(0))?;
            zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?.compress_to_buffer(payload, &mut place)?;
            out = place.into_inner();
        }
    }
    Ok(out)
}

/// What most payloads of this size unfold to, so that the output rarely moves while it grows.
const fn first_capacity(compressed: usize) -> usize {
    compressed.saturating_mul(4)
}

fn read_all(codec: Compression, decoder: impl Read, compressed: usize) -> Result<Vec<u8>, BatchError> {
    let max = decompressed_bytes_max(compressed);
    let mut out = Vec::with_capacity(first_capacity(compressed));
    // One byte more tells "exactly the most" from "more than that".
    let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(most).read_to_end(&mut out).map_err(|error| failed(codec, error))?;
    if out.len() > max { Err(BatchError::Unfolds { codec, max }) } else { Ok(out) }
}

/// A frame that says how large its content is (ours do, those of Java's and librdkafka's streams do not) is decoded at
/// once into a buffer of that size. The claim is bounded, and memory that is not written to costs nothing.
fn zstd(payload: &[u8]) -> Result<Vec<u8>, BatchError> {
    let codec = Compression::Zstd;
    let max = decompressed_bytes_max(payload.len());
    let claimed = zstd::zstd_safe::get_frame_content_size(payload).ok().flatten();
    if let Some(bytes) = claimed.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)) {
        if bytes > max {
            return Err(BatchError::Unfolds { codec, max });
        }
        if let Ok(out) = zstd::bulk::decompress(payload, bytes) {
            return Ok(out);
        }
    }
    // No claim, a wrong one, or several frames.
    let decoder = zstd::stream::read::Decoder::with_buffer(payload).map_err(|error| failed(codec, error))?;
    read_all(codec, decoder, payload.len())
}

/// Whether an LZ4 payload is one frame from its magic to its end mark, which the decoder does not insist on.
fn lz4_is_one_frame(payload: &[u8]) -> bool {
    const STORED: u32 = 1 << 31;
    let [0x04, 0x22, 0x4D, 0x18, flags, ..] = *payload else { return false };
    let optional = |bit: u8, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
    let (block_checksum, content_checksum) = (optional(0x10, 4), optional(0x04, 4));
    // Magic, flags, block size, [content size], [dictionary], checksum of these.
    let mut position = 4 + 2 + optional(0x08, 8) + optional(0x01, 4) + 1;
    loop {
        let Some(size) = payload.get(position..).and_then(|rest| rest.first_chunk()) else { return false };
        position += size.len();
        match u32::from_le_bytes(*size) & !STORED {
            0 => return position + content_checksum == payload.len(),
            size => position = position.saturating_add(size as usize).saturating_add(block_checksum),
        }
    }
}

/// Raw, as librdkafka writes it, or in xerial framing: a header, then blocks with their lengths in front. Streams
/// that were put one after the other have the header again between blocks.
fn snappy(payload: &[u8]) -> Result<Vec<u8>, BatchError> {
    let codec = Compression::Snappy;
    let max = decompressed_bytes_max(payload.len());
    let mut decoder = snap::raw::Decoder::new();
    let mut out = Vec::with_capacity(first_capacity(payload.len()));
    if !payload.starts_with(&XERIAL_MAGIC) {
        snappy_block(&mut decoder, payload, max, &mut out)?;
        return Ok(out);
    }
    let mut rest = payload;
    while !rest.is_empty() {
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER.len()..).ok_or_else(|| failed(codec, "the xerial header is cut"))?;
            continue;
        }
        let (length, after) = rest.split_first_chunk().ok_or_else(|| failed(codec, "a block's length is cut"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (block, after) = after.split_at_checked(length).ok_or_else(|| failed(codec, "a block is cut"))?;
        snappy_block(&mut decoder, block, max, &mut out)?;
        rest = after;
    }
    Ok(out)
}

fn snappy_block(
    decoder: &mut snap::raw::Decoder,
    block: &[u8],
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let codec = Compression::Snappy;
    let claimed = snap::raw::decompress_len(block).map_err(|error| failed(codec, error))?;
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(failed(codec, "a block claims a size that it cannot unfold to"));
    }
    let start = out.len();
    let end = start.saturating_add(claimed);
    if end > max {
        return Err(BatchError::Unfolds { codec, max });
    }
    out.resize(end, 0);
    let place = out.get_mut(start..).unwrap_or_default();
    let written = decoder.decompress(block, place).map_err(|error| failed(codec, error))?;
    out.truncate(start + written);
    Ok(())
}

fn failed(codec: Compression, error: impl ToString) -> BatchError {
    BatchError::Decompress { codec, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MIB;

    fn text(bytes: usize) -> Vec<u8> {
        (0..).flat_map(|line: u32| format!("{line} water for the mill\n").into_bytes()).take(bytes).collect()
    }

    fn codecs() -> impl Iterator<Item = Compression> {
        Compression::ALL.into_iter().filter(|&codec| codec != Compression::None)
    }

    #[test]
    fn every_codec_returns_what_went_in() {
        for codec in Compression::ALL {
            for bytes in [0, 1, 100, XERIAL_BLOCK_BYTES, 3 * XERIAL_BLOCK_BYTES + 17, 300_000] {
                let payload = text(bytes);
                let compressed = compress(codec, &payload, Vec::new()).unwrap();
                assert_eq!(decompress(codec, &compressed).as_ref(), Ok(&payload), "{codec:?}, {bytes}");
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for codec in codecs() {
            let compressed = compress(codec, &text(40_000), Vec::new()).unwrap();
            for length in (0..compressed.len()).filter(|length| *length < 200 || length % 101 == 0) {
                let cut = decompress(codec, &compressed[..length]);
                // Nothing, or whole xerial blocks, are streams of their own; the record count will not fit them.
                let shorter = cut.as_ref().is_ok_and(|out| out.len() < 40_000 && out.len() % XERIAL_BLOCK_BYTES == 0);
                assert!(cut.is_err() || shorter, "{codec:?} cut to {length} of {}", compressed.len());
            }
        }
    }

    #[test]
    fn bytes_behind_the_stream_are_an_error() {
        for codec in codecs() {
            let mut compressed = compress(codec, &text(1000), Vec::new()).unwrap();
            compressed.extend_from_slice(b"surplus");
            assert!(matches!(decompress(codec, &compressed), Err(BatchError::Decompress { .. })), "{codec:?}");
        }
    }

    #[test]
    fn bombs_do_not_unfold() {
        for codec in [Compression::Gzip, Compression::Zstd] {
            let bomb = compress(codec, &vec![0; 65 * MIB], Vec::new()).unwrap();
            let max = decompressed_bytes_max(bomb.len());
            assert_eq!(decompress(codec, &bomb), Err(BatchError::Unfolds { codec, max }), "{} bytes", bomb.len());
        }
        // LZ4 and snappy stay within the ratio, so it is the absolute bound that stops them.
        for codec in [Compression::Lz4, Compression::Snappy] {
            let bomb = compress(codec, &vec![0; 65 * MIB], Vec::new()).unwrap();
            let max = BATCH_DECOMPRESSED_BYTES_MAX;
            assert_eq!(decompress(codec, &bomb), Err(BatchError::Unfolds { codec, max }), "{} bytes", bomb.len());
        }
    }

    #[test]
    fn bounds_of_unfolding() {
        assert_eq!(decompressed_bytes_max(0), BATCH_BYTES_DEFAULT);
        assert_eq!(decompressed_bytes_max(MIB / 16), 16 * MIB);
        assert_eq!(decompressed_bytes_max(usize::MAX), BATCH_DECOMPRESSED_BYTES_MAX);
        for codec in codecs() {
            let compressed = compress(codec, &vec![0; BATCH_BYTES_DEFAULT], Vec::new()).unwrap();
            assert_eq!(decompress(codec, &compressed).map(|out| out.len()), Ok(BATCH_BYTES_DEFAULT), "{codec:?}");
        }
    }

    #[test]
    fn snappy_comes_raw_or_framed_once_or_more() {
        let payload = text(1000);
        let raw = snap::raw::Encoder::new().compress_vec(&payload).unwrap();
        assert_eq!(decompress(Compression::Snappy, &raw).as_ref(), Ok(&payload));
        let framed = compress(Compression::Snappy, &payload, Vec::new()).unwrap();
        let twice = [&framed[..], &framed[..]].concat();
        assert_eq!(decompress(Compression::Snappy, &twice), Ok(payload.repeat(2)));
    }

    #[test]
    fn a_claimed_size_alone_allocates_nothing() {
        let claims_4_gib = [0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x00];
        assert!(matches!(decompress(Compression::Snappy, &claims_4_gib), Err(BatchError::Decompress { .. })));
    }
}
