//! Buffers that are compressed one by one: eight bytes of length, then a frame of LZ4 or Zstandard.
#![deny(clippy::indexing_slicing)]

use std::io::{self, Read};

use arrow_ipc::CompressionType;
use bytes::Bytes;
use levada_protocol::batch::decompressed_bytes_max;

/// How a batch's buffers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Lz4,
    Zstd,
}

impl Codec {
    pub(crate) fn from_wire(codec: CompressionType) -> Result<Self, String> {
        match codec {
            CompressionType::LZ4_FRAME => Ok(Self::Lz4),
            CompressionType::ZSTD => Ok(Self::Zstd),
            CompressionType(other) => Err(format!("compression {other} is unknown")),
        }
    }

    pub(crate) const fn to_wire(self) -> CompressionType {
        match self {
            Self::Lz4 => CompressionType::LZ4_FRAME,
            Self::Zstd => CompressionType::ZSTD,
        }
    }
}

/// What stands before a buffer that is not worth compressing: a length of -1.
pub(crate) static AS_IT_IS: [u8; 8] = [0xFF; 8];

/// The buffer as it was before. What it unfolds to is taken off `budget` before anything is allocated.
pub(crate) fn decompress(codec: Codec, buffer: &Bytes, budget: &mut usize) -> Result<Bytes, String> {
    if buffer.is_empty() {
        return Ok(Bytes::new());
    }
    let (&length, packed) = buffer.split_first_chunk().ok_or("a compressed buffer is shorter than its length field")?;
    if length == AS_IT_IS {
        return Ok(buffer.slice_ref(packed));
    }
    let length = i64::from_le_bytes(length);
    let length = usize::try_from(length).map_err(|_| format!("{length} is not the length of a buffer"))?;
    *budget = budget.checked_sub(length).ok_or("the batch unfolds to more than is allowed")?;
    if length == 0 {
        return Ok(Bytes::new());
    }
    let unpacked = match codec {
        Codec::Zstd if length <= decompressed_bytes_max(packed.len()) => zstd::bulk::decompress(packed, length),
        Codec::Zstd => {
            zstd::stream::read::Decoder::with_buffer(packed).and_then(|frames| unfold(frames, packed, length))
        }
        Codec::Lz4 => unfold(lz4_flex::frame::FrameDecoder::new(packed), packed, length),
    };
    let unpacked = unpacked.map_err(|error| format!("{codec:?}: {error}"))?;
    if unpacked.len() == length {
        Ok(unpacked.into())
    } else {
        Err(format!("a buffer unfolds to {} bytes and not the {length} it announces", unpacked.len()))
    }
}

/// At most one byte more than the length that is announced. Where that is more than such bytes unfold to as a rule, memory
/// comes with the bytes and not with the announcement.
fn unfold(frames: impl Read, packed: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(length.min(decompressed_bytes_max(packed.len())));
    let within = u64::try_from(length).unwrap_or(u64::MAX).saturating_add(1);
    frames.take(within).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn framed(length: i64, packed: &[u8]) -> Bytes {
        [&length.to_le_bytes(), packed].concat().into()
    }

    #[test]
    fn both_codecs_and_none() {
        let data = b"the same again, the same again".repeat(50);
        let zstd = zstd::bulk::compress(&data, 1).unwrap();
        for (codec, packed) in [(Codec::Lz4, lz4(&data)), (Codec::Zstd, zstd)] {
            let mut budget = data.len();
            let length = data.len().try_into().unwrap();
            assert_eq!(decompress(codec, &framed(length, &packed), &mut budget).unwrap(), data);
            assert_eq!(budget, 0);
            assert_eq!(decompress(codec, &framed(-1, &data), &mut budget).unwrap(), data);
            assert_eq!(decompress(codec, &Bytes::new(), &mut budget).unwrap(), Bytes::new());
        }
    }

    #[test]
    fn lengths_that_lie_cost_nothing() {
        let data = vec![0; 1 << 20];
        let zstd = zstd::bulk::compress(&data, 1).unwrap();
        for (codec, packed) in [(Codec::Lz4, lz4(&data)), (Codec::Zstd, zstd)] {
            for (length, budget) in [(i64::MAX, 4096), (-2, 4096), (1 << 20, (1 << 20) - 1), (4096, 4096), (8192, 8192)]
            {
                let mut left = budget;
                let result = decompress(codec, &framed(length, &packed), &mut left);
                assert!(result.is_err(), "{codec:?} {length}: {:?}", result.map(|bytes| bytes.len()));
            }
            assert!(decompress(codec, &Bytes::from_static(b"abc"), &mut 10).is_err());
        }
    }

    #[test]
    fn memory_comes_with_the_bytes() {
        // As much as a batch may unfold to, of next to nothing: it is there, and it is not.
        let length = 32 << 20;
        let announced = i64::try_from(length).unwrap();
        let data = vec![0; length];
        let zstd = zstd::bulk::compress(&data, 1).unwrap();
        assert!(length > decompressed_bytes_max(zstd.len()));
        assert_eq!(decompress(Codec::Zstd, &framed(announced, &zstd), &mut length.clone()).unwrap(), data);
        for (codec, packed) in
            [(Codec::Lz4, lz4(b"little")), (Codec::Zstd, zstd::bulk::compress(b"little", 1).unwrap())]
        {
            let error = decompress(codec, &framed(announced, &packed), &mut length.clone()).unwrap_err();
            assert!(error.contains("unfolds to 6 bytes"), "{error}");
            let unfolded = unfold(io::Cursor::new(b"little"), &packed, length).unwrap();
            assert!(unfolded.capacity() < length, "{}", unfolded.capacity());
        }
    }
}
