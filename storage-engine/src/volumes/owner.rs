//! Whose a directory for segments is: the file `owner` in it.
//!
//! ```text
//! 0 magic "LVDADIR" | 7 format u8 = 1 | 8 node u64 | 16 incarnation (16) | 32 crc u32 of 0..32; twice, see atomic_file.rs
//! ```
//! The incarnation is the data directory's: with another one, other segments have these names.
#![deny(clippy::indexing_slicing)]

use bytes::BufMut;
use levada_protocol::ids::{IncarnationId, NodeId};

use crate::{
    atomic_file,
    codec::Decoder,
    disk::{Disk, DiskOp, FileName},
    error::{DamageCause, OpenError},
    segment,
};

const FILE: &str = "owner";
const PROBE: &str = "probe";
const MAGIC: [u8; 7] = *b"LVDADIR";
const FORMAT: u8 = 1;
const BYTES: usize = 36;
const WHAT: &str = "the owner of a directory for segments";

/// Whose a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: IncarnationId,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It is another's. Nothing in it was touched.
    #[error(
        "it holds segments of another data directory (node {}, incarnation {}); give this node one of its own, or, if those are \
         not needed any more, empty it", found.node, found.incarnation
    )]
    Other {
        /// Whose it is.
        found: Owner,
    },
    /// It cannot be read or written, or is damaged.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Owner {
    /// Who owns a directory; `None` if nobody does.
    ///
    /// # Errors
    /// It cannot be read, or says nothing that can be understood.
    pub fn read(disk: &dyn Disk) -> Result<Option<Self>, OpenError> {
        atomic_file::read(disk, &FileName::new(FILE), Self::decode)
    }

    /// Takes a directory: one of nobody becomes this owner's, durably. Also tries whether it can be read and written to.
    ///
    /// # Errors
    /// It is another's, or cannot be used.
    pub fn take(&self, disk: &dyn Disk) -> Result<(), OwnerError> {
        match Self::read(disk)? {
            Some(found) if found == *self => {
                let file = FileName::new(PROBE);
                let probe = atomic_file::replace(&file, self.encode());
                let probe = probe.iter().chain([&DiskOp::Remove { file }]).try_for_each(|op| disk.perform(op));
                probe.and_then(|()| disk.list(segment::DIRECTORY)).map_err(OpenError::from)?;
            }
            Some(found) => return Err(OwnerError::Other { found }),
            None => {
                // The segments of somebody who cannot be known.
                if !disk.list(segment::DIRECTORY).map_err(OpenError::from)?.is_empty() {
                    return Err(OpenError::NotEmpty { missing: FILE }.into());
                }
                let ops = atomic_file::replace(&FileName::new(FILE), self.encode());
                ops.iter().try_for_each(|op| disk.perform(op)).map_err(OpenError::from)?;
            }
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_u64_le(self.node.get());
        out.put_slice(&self.incarnation.to_bytes());
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DamageCause> {
        let short = || DamageCause::Short(WHAT);
        let (front, crc) = bytes.get(..BYTES).and_then(<[u8]>::split_last_chunk).ok_or_else(short)?;
        let (stored, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(front));
        let mut fields = Decoder::new(front);
        if fields.array() != Some(MAGIC) {
            return Err(DamageCause::Magic("directory's owner"));
        }
        match fields.u8().ok_or_else(short)? {
            FORMAT => {}
            version => return Err(DamageCause::Version { what: WHAT, version }),
        }
        if stored != computed {
            return Err(DamageCause::Checksum { what: WHAT, stored, computed });
        }
        Ok(Self {
            node: NodeId(fields.u64().ok_or_else(short)?),
            incarnation: IncarnationId::from_bytes(fields.array().ok_or_else(short)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::{CrashPlan, Fault, SimDisk};

    fn owner(n: u8) -> Owner {
        Owner { node: NodeId(n.into()), incarnation: IncarnationId::from_bytes([n; 16]) }
    }

    #[test]
    fn golden_bytes() {
        let mut expected = b"LVDADIR\x01\x07\0\0\0\0\0\0\0".to_vec();
        expected.extend([7; 16]);
        expected.extend([0; 4]);
        let encoded = owner(7).encode();
        expected[32..].copy_from_slice(&encoded[32..]);
        assert_eq!(encoded, expected);
        assert_eq!(u32::from_le_bytes(*encoded.last_chunk().unwrap()), crc32fast::hash(&encoded[..32]));
    }

    #[test]
    fn every_bit_counts() {
        let good = owner(7).encode();
        assert_eq!(Owner::decode(&good).unwrap(), owner(7));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Owner::decode(&bytes).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(Owner::decode(&good[..cut]).is_err());
        }
    }

    #[test]
    fn a_directory_has_one_owner_for_good() {
        let disk = SimDisk::new(1);
        owner(7).take(&disk).unwrap();
        disk.crash(&CrashPlan::LOSE_ALL);
        assert_eq!(Owner::read(&disk).unwrap(), Some(owner(7)));
        owner(7).take(&disk).unwrap();
        for other in [owner(8), Owner { incarnation: owner(8).incarnation, ..owner(7) }] {
            let error = other.take(&disk).unwrap_err();
            assert!(matches!(error, OwnerError::Other { found } if found == owner(7)), "{error}");
        }
    }

    #[test]
    fn segments_of_nobody_are_not_taken() {
        let disk = SimDisk::new(1);
        let file = FileName::new("segments/1.seg");
        disk.perform(&DiskOp::CreateDir { dir: "segments".to_owned() }).unwrap();
        disk.perform(&DiskOp::Create { file }).unwrap();
        let error = owner(7).take(&disk).unwrap_err();
        assert!(matches!(error, OwnerError::Open(OpenError::NotEmpty { missing: FILE })), "{error}");
        assert_eq!(Owner::read(&disk).unwrap(), None);
    }

    #[test]
    fn one_that_cannot_be_written_to_is_found_out() {
        let disk = SimDisk::new(1);
        owner(7).take(&disk).unwrap();
        for call in ["create", "write", "fdatasync", "rename", "fsync directory", "remove"] {
            let fault = Fault::fail(call);
            // The directory is synced once before, as it is read.
            disk.inject(if call == "fsync directory" { fault.after(1) } else { fault });
            assert!(matches!(owner(7).take(&disk), Err(OwnerError::Open(OpenError::Disk(_)))), "{call}");
        }
        owner(7).take(&disk).unwrap();
    }
}
