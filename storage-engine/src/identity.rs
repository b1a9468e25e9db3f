//! Whose data directory it is: the file `identity`, written when the directory is formatted and never changed.
//!
//! ```text
//! 0 magic "LVDAID\x00" | 7 format u8 = 2 | 8 cluster (16) | 24 node u64 | 32 incarnation (16) | 48 journal (16) | 64 crc u32 of 0..64;
//! twice
//! ```

#![deny(clippy::indexing_slicing)]

use bytes::BufMut;
use levada_protocol::ids::{ClusterId, IncarnationId, NodeId};

use crate::{
    atomic_file,
    checkpoint::Checkpoint,
    codec::Decoder,
    disk::{Disk, DiskError, DiskOp, FileName},
    error::{DamageCause, OpenError},
    journal::{JOURNAL_DIR, JournalId},
    segment,
};

const FILE: &str = "identity";
const MAGIC: [u8; 7] = *b"LVDAID\x00";
const FORMAT: u8 = 2;
const BYTES: usize = 68;

/// What tells a data directory from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirIdentity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// Drawn when it was formatted: a wiped node comes back with another one.
    pub incarnation: IncarnationId,
}

impl DirIdentity {
    /// Reads the identity of a data directory; `None` if it was never formatted.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn read(disk: &dyn Disk) -> Result<Option<Self>, OpenError> {
        Ok(Self::read_with_journal(disk)?.map(|(identity, _)| identity))
    }

    /// Whether a data directory was formatted. One that was and has lost its identity is told from one that was not.
    ///
    /// # Errors
    /// There is no identity, and something else is there; the file cannot be read or is damaged.
    pub fn is_formatted(disk: &dyn Disk) -> Result<bool, OpenError> {
        let is_there = Self::read(disk)?.is_some();
        if !is_there {
            Self::refuse_used(disk, FILE)?;
        }
        Ok(is_there)
    }

    /// Reads the identity together with the directory's secret.
    pub(crate) fn read_with_journal(disk: &dyn Disk) -> Result<Option<(Self, JournalId)>, OpenError> {
        atomic_file::read(disk, &FileName::new(FILE), Self::decode)
    }

    /// Makes an empty directory a data directory: the last thing it gets is the identity, so a crash on the way leaves one
    /// that is formatted again. `journal` must come from a random source, and must not be used for anything else.
    ///
    /// # Errors
    /// If it is not empty, or the disk refuses.
    pub fn format(&self, disk: &dyn Disk, journal: JournalId) -> Result<(), OpenError> {
        self.format_with(disk, journal, &Checkpoint::empty(self.incarnation))
    }

    /// The same with a checkpoint that has something already.
    pub(crate) fn format_with(
        &self,
        disk: &dyn Disk,
        journal: JournalId,
        checkpoint: &Checkpoint,
    ) -> Result<(), OpenError> {
        Self::refuse_used(disk, FILE)?;
        let dirs = [JOURNAL_DIR, segment::DIRECTORY].map(|dir| DiskOp::CreateDir { dir: dir.to_owned() });
        let checkpoint = checkpoint.write();
        let identity = atomic_file::replace(&FileName::new(FILE), self.encode(journal));
        Ok(dirs.iter().chain(&checkpoint).chain(&identity).try_for_each(|op| disk.perform(op))?)
    }

    /// Whether nothing is there that a data directory has once it was formatted. What a formatting that did not come to its
    /// end left is nothing: neither it nor anybody before it has acknowledged anything. `missing` is the file that would say
    /// whose it is.
    ///
    /// # Errors
    /// Something is there, which must not be formatted over; or the disk refuses.
    pub fn refuse_used(disk: &dyn Disk, missing: &'static str) -> Result<(), OpenError> {
        let is_empty = |dir| Ok::<_, DiskError>(disk.list(dir)?.is_empty());
        if disk.len(&FileName::new(FILE))?.is_some() || !is_empty(JOURNAL_DIR)? || !is_empty(segment::DIRECTORY)? {
            return Err(OpenError::NotEmpty { missing });
        }
        Ok(())
    }

    pub(crate) fn encode(&self, journal: JournalId) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_slice(&self.cluster.to_bytes());
        out.put_u64_le(self.node.get());
        out.put_slice(&self.incarnation.to_bytes());
        out.put_slice(&journal.to_bytes());
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, JournalId), DamageCause> {
        let short = || DamageCause::Short("the identity");
        let (front, crc) = bytes.get(..BYTES).and_then(<[u8]>::split_last_chunk).ok_or_else(short)?;
        let (stored, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(front));
        let mut fields = Decoder::new(front);
        if fields.array() != Some(MAGIC) {
            return Err(DamageCause::Magic("identity"));
        }
        match fields.u8() {
            Some(FORMAT) => {}
            Some(version) => return Err(DamageCause::Version { what: "the identity", version }),
            None => return Err(short()),
        }
        if stored != computed {
            return Err(DamageCause::Checksum { what: "the identity", stored, computed });
        }
        let identity = Self {
            cluster: ClusterId::from_bytes(fields.array().ok_or_else(short)?),
            node: NodeId(fields.u64().ok_or_else(short)?),
            incarnation: IncarnationId::from_bytes(fields.array().ok_or_else(short)?),
        };
        Ok((identity, JournalId::from_bytes(fields.array().ok_or_else(short)?)))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::sim_disk::SimDisk;

    const JOURNAL: JournalId = JournalId::from_bytes([4; 16]);

    fn identity() -> DirIdentity {
        DirIdentity {
            cluster: ClusterId(Uuid::from_bytes([1; 16])),
            node: NodeId(2),
            incarnation: IncarnationId(Uuid::from_bytes([3; 16])),
        }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = identity().encode(JOURNAL).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "4c56444149440002",
            "01010101010101010101010101010101",
            "0200000000000000",
            "03030303030303030303030303030303",
            "04040404040404040404040404040404",
            "8170f229",
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_directory_is_formatted_once() {
        let disk = SimDisk::new(1);
        assert_eq!(DirIdentity::read(&disk).unwrap(), None);
        identity().format(&disk, JOURNAL).unwrap();
        assert_eq!(DirIdentity::read_with_journal(&disk).unwrap(), Some((identity(), JOURNAL)));
        assert!(matches!(identity().format(&disk, JOURNAL), Err(OpenError::NotEmpty { .. })));
    }

    #[test]
    fn records_without_an_identity_are_not_formatted_over() {
        for dir in [JOURNAL_DIR, segment::DIRECTORY] {
            let disk = SimDisk::new(1);
            let file = FileName::new(format!("{dir}/something"));
            let ops = [DiskOp::CreateDir { dir: dir.to_owned() }, DiskOp::Create { file }];
            ops.iter().for_each(|op| disk.perform(op).unwrap());
            let error = identity().format(&disk, JOURNAL).unwrap_err();
            assert!(matches!(error, OpenError::NotEmpty { missing: "identity" }), "{error}");
            assert!(DirIdentity::is_formatted(&disk).is_err(), "nor does it count as one that never was");
            assert!(disk.len(&FileName::new("checkpoint")).unwrap().is_none(), "it was changed");
        }
    }

    #[test]
    fn a_formatting_that_was_cut_off_is_done_again() {
        let disk = SimDisk::new(1);
        identity().format(&disk, JOURNAL).unwrap();
        disk.perform(&DiskOp::Remove { file: FileName::new(FILE) }).unwrap();
        assert!(!DirIdentity::is_formatted(&disk).unwrap());
        identity().format(&disk, JOURNAL).unwrap();
        assert_eq!(DirIdentity::read(&disk).unwrap(), Some(identity()));
    }

    #[test]
    fn every_bit_counts() {
        let good = identity().encode(JOURNAL);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(DirIdentity::decode(&bytes).is_err());
        }
        assert!(DirIdentity::decode(&good[..67]).is_err());
    }

    #[test]
    fn another_release_is_no_damage() {
        let file = FileName::new(FILE);
        for format in [1, 3, 200] {
            let disk = SimDisk::new(1);
            let mut content = identity().encode(JOURNAL);
            content[7] = format;
            atomic_file::replace(&file, content).iter().for_each(|op| disk.perform(op).unwrap());
            let error = DirIdentity::read(&disk).unwrap_err();
            assert!(matches!(error, OpenError::OtherFormat { .. }), "{error}");
            assert!(error.to_string().contains(&format!("in format {format}")), "{error}");
            // In one copy it is a bad byte.
            let copy = identity().encode(JOURNAL).into();
            disk.perform(&DiskOp::Write { file: file.clone(), pos: 4096, bufs: vec![copy] }).unwrap();
            assert_eq!(DirIdentity::read(&disk).unwrap(), Some(identity()));
        }
    }
}
