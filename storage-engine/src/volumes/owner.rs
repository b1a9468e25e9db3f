//! Whose a directory for segments is: the file `owner` in it.
//!
//! ```text
//! 0 magic "LVDADIR" | 7 format u8 = 1 | 8 node u64 | 16 incarnation (16) | 32 start u64 | 40 crc u32 of 0..40
//! ```
//! twice, see `atomic_file.rs`. The incarnation is the data directory's: with another one, other segments have these names. The
//! start says when the directory was used last: starts are counted in the data directory, in its file `starts`, which has the
//! same form.
#![deny(clippy::indexing_slicing)]

use bytes::BufMut;
use levada_protocol::ids::{IncarnationId, NodeId};

use crate::{
    atomic_file,
    codec::Decoder,
    disk::{Disk, DiskError, FileName},
    error::{DamageCause, OpenError},
    identity::DirIdentity,
    segment,
};

const FILE: &str = "owner";
const STARTS: &str = "starts";
/// Of a data directory (the broker's `bootstrap/record.rs`).
const FOUNDING: &str = "founding";
const MAGIC: [u8; 7] = *b"LVDADIR";
const FORMAT: u8 = 1;
const BYTES: usize = 44;
/// When the data directory was used last.
pub const ALWAYS: u64 = u64::MAX;
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
        Ok(read(disk, FILE)?.map(|(owner, _)| owner))
    }

    /// Takes a directory: one of nobody becomes this owner's, durably. That also shows whether it can be read and written.
    /// Answers the start at which it was used last, 0 for never.
    ///
    /// # Errors
    /// It is another's, or cannot be used. That it is full is none, if it is ours.
    pub fn take(&self, disk: &dyn Disk) -> Result<u64, OwnerError> {
        let mut is_ours = true;
        let last_used = match read(disk, FILE)? {
            Some((found, last_used)) if found == *self => last_used,
            Some((found, _)) => return Err(OwnerError::Other { found }),
            None => {
                // Somebody's who cannot be known.
                DirIdentity::refuse_used(disk, FILE)?;
                if disk.len(&FileName::new(FOUNDING)).map_err(OpenError::from)?.is_some() {
                    return Err(OpenError::NotEmpty { missing: FILE }.into());
                }
                is_ours = false;
                0
            }
        };
        match write(disk, FILE, *self, last_used) {
            Err(error) if is_ours && !error.is_fatal() => {}
            written => written.map_err(OpenError::from)?,
        }
        disk.list(segment::DIRECTORY).map_err(OpenError::from)?;
        Ok(last_used)
    }

    /// Says durably that a directory is used at this start: from now on, what it has is as new as anything.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn stamp(&self, disk: &dyn Disk, start: u64) -> Result<(), DiskError> {
        write(disk, FILE, *self, start)
    }

    pub(crate) fn encode(&self, start: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_u64_le(self.node.get());
        out.put_slice(&self.incarnation.to_bytes());
        out.put_u64_le(start);
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u64), DamageCause> {
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
        let owner = Self {
            node: NodeId(fields.u64().ok_or_else(short)?),
            incarnation: IncarnationId::from_bytes(fields.array().ok_or_else(short)?),
        };
        Ok((owner, fields.u64().ok_or_else(short)?))
    }
}

/// Counts one more start in a data directory, durably. Answers its number; none if the disk is full: then no other directory is to
/// say that it was used.
///
/// # Errors
/// The count cannot be read or written.
pub fn next_start(home: &dyn Disk, owner: Owner) -> Result<Option<u64>, OpenError> {
    let start = read(home, STARTS)?.map_or(0, |(_, start)| start) + 1;
    match write(home, STARTS, owner, start) {
        Err(error) if !error.is_fatal() => Ok(None),
        written => Ok(written.map(|()| Some(start))?),
    }
}

fn read(disk: &dyn Disk, file: &str) -> Result<Option<(Owner, u64)>, OpenError> {
    atomic_file::read(disk, &FileName::new(file), Owner::decode)
}

fn write(disk: &dyn Disk, file: &str, owner: Owner, start: u64) -> Result<(), DiskError> {
    let ops = atomic_file::replace(&FileName::new(file), owner.encode(start));
    ops.iter().try_for_each(|op| disk.perform(op))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::DiskOp,
        sim_disk::{CrashPlan, Fault, SimDisk},
    };

    fn owner(n: u8) -> Owner {
        Owner { node: NodeId(n.into()), incarnation: IncarnationId::from_bytes([n; 16]) }
    }

    #[test]
    fn golden_bytes() {
        let mut expected = b"LVDADIR\x01\x07\0\0\0\0\0\0\0".to_vec();
        expected.extend([7; 16]);
        expected.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(owner(7).encode(9), expected);
    }

    #[test]
    fn every_bit_counts() {
        let good = owner(7).encode(9);
        assert_eq!(Owner::decode(&good).unwrap(), (owner(7), 9));
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
        assert_eq!(owner(7).take(&disk).unwrap(), 0);
        owner(7).stamp(&disk, 3).unwrap();
        disk.crash(&CrashPlan::LOSE_ALL);
        assert_eq!(Owner::read(&disk).unwrap(), Some(owner(7)));
        // A start that comes to nothing says nothing.
        (0..2).for_each(|_| assert_eq!(owner(7).take(&disk).unwrap(), 3));
        for other in [owner(8), Owner { incarnation: owner(8).incarnation, ..owner(7) }] {
            let error = other.take(&disk).unwrap_err();
            assert!(matches!(error, OwnerError::Other { found } if found == owner(7)), "{error}");
        }
    }

    #[test]
    fn starts_are_counted_over_crashes() {
        let disk = SimDisk::new(1);
        for expected in 1..4 {
            assert_eq!(next_start(&disk, owner(7)).unwrap(), Some(expected));
            disk.crash(&CrashPlan::LOSE_ALL);
        }
        disk.set_capacity(Some(0));
        assert_eq!(next_start(&disk, owner(7)).unwrap(), None, "a node starts on a full disk");
    }

    #[test]
    fn what_is_somebodys_is_not_taken() {
        for name in ["segments/1.seg", "journal/00000001.lj", "identity", "founding"] {
            let disk = SimDisk::new(1);
            let file = FileName::new(name);
            if !file.dir().is_empty() {
                disk.perform(&DiskOp::CreateDir { dir: file.dir().to_owned() }).unwrap();
            }
            disk.perform(&DiskOp::Create { file }).unwrap();
            let error = owner(7).take(&disk).unwrap_err();
            assert!(matches!(error, OwnerError::Open(OpenError::NotEmpty { missing: FILE })), "{name}: {error}");
            assert_eq!(Owner::read(&disk).unwrap(), None);
        }
    }

    #[test]
    fn one_that_cannot_be_written_to_is_found_out_but_one_that_is_full_is_used() {
        let disk = SimDisk::new(1);
        owner(7).take(&disk).unwrap();
        for call in ["create", "write", "fdatasync", "rename", "fsync directory"] {
            let fault = Fault::fail(call);
            // The directory is synced once before, as it is read.
            disk.inject(if call == "fsync directory" { fault.after(1) } else { fault });
            assert!(matches!(owner(7).take(&disk), Err(OwnerError::Open(OpenError::Disk(_)))), "{call}");
        }
        let disk = SimDisk::new(1);
        owner(7).take(&disk).unwrap();
        disk.set_capacity(Some(disk.used()));
        assert_eq!(owner(7).take(&disk).unwrap(), 0);
        let empty = SimDisk::new(1);
        empty.set_capacity(Some(0));
        assert!(owner(7).take(&empty).is_err(), "a new one must have room for that");
    }
}
