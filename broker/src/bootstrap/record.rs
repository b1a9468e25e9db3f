//! What a data directory says of itself: the file `founding`.
//!
//! ```text
//! 0 magic "LVDAFND" | 7 format u8 = 1 | 8 length u32 | 12 crc u32 of what follows | 16 a SeedStateResponse (protobuf); twice
//! ```
//! It is replaced as a whole: first with the incarnation, then with the founders' decision too. It never changes again.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use levada_protocol::{
    ids::{ClusterId, IncarnationId, NodeId, ReplicaId},
    messages::peer::{SeedMember, SeedStateResponse},
};
use levada_storage_engine::{
    atomic_file,
    disk::{Disk, FileName},
    error::DamageCause,
    identity::DirIdentity,
};
use prost::Message as _;

use super::{BootstrapError, Identity};
use crate::cluster::addresses::Member;

/// Its name.
const FILE: &str = "founding";
const MAGIC: [u8; 7] = *b"LVDAFND";
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 16;

/// Who a node is, and to which cluster it belongs, if it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) node: NodeId,
    pub(crate) incarnation: IncarnationId,
    pub(crate) decision: Option<Decision>,
}

/// The founder's decision, and for a node that joined later its own place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) cluster: ClusterId,
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// For a node that joined later: its replica of group 0.
    pub(crate) joined: Option<ReplicaId>,
}

impl Record {
    /// Reads the record of a data directory; a directory without one gets one with a fresh incarnation, durably.
    pub(crate) fn open(
        disk: &dyn Disk,
        node: NodeId,
        fresh: impl FnOnce() -> IncarnationId,
    ) -> Result<Self, BootstrapError> {
        let Some(record) = atomic_file::read(disk, &FileName::new(FILE), Self::decode)? else {
            // The records of somebody who cannot be known are nobody's to found a cluster over.
            DirIdentity::refuse_used(disk, FILE)?;
            let record = Self { node, incarnation: fresh(), decision: None };
            record.write(disk)?;
            return Ok(record);
        };
        if record.node != node {
            return Err(BootstrapError::OtherNode { theirs: record.node, ours: node });
        }
        Ok(record)
    }

    /// Makes it durable: after a crash there is the old record or this one.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), BootstrapError> {
        let ops = atomic_file::replace(&FileName::new(FILE), self.encode());
        Ok(ops.iter().try_for_each(|op| disk.perform(op))?)
    }

    /// Who this is, once there is a decision.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let Decision { cluster, members, joined } = self.decision.clone()?;
        Some(Identity { cluster, node: self.node, incarnation: self.incarnation, members, joined })
    }

    /// As other seeds see it.
    pub(crate) fn to_wire(&self) -> SeedStateResponse {
        SeedStateResponse {
            node_id: self.node.get(),
            incarnation: Bytes::copy_from_slice(&self.incarnation.to_bytes()),
            cluster_id: self
                .decision
                .as_ref()
                .map(|decision| Bytes::copy_from_slice(&decision.cluster.to_bytes()))
                .unwrap_or_default(),
            members: self.decision.as_ref().map(|decision| members_to_wire(&decision.members)).unwrap_or_default(),
            member_id: self.decision.as_ref().and_then(|decision| decision.joined).map_or(0, ReplicaId::get),
        }
    }

    /// From what another seed says of itself.
    pub(crate) fn from_wire(wire: SeedStateResponse) -> Result<Self, String> {
        let incarnation = IncarnationId::from_slice(&wire.incarnation).ok_or("its incarnation is not 16 bytes")?;
        let decision = if wire.cluster_id.is_empty() {
            None
        } else {
            let joined = (wire.member_id != 0).then_some(ReplicaId(wire.member_id));
            Some(Decision { joined, ..Decision::from_wire(&wire.cluster_id, wire.members)? })
        };
        Ok(Self { node: NodeId(wire.node_id), incarnation, decision })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let message = self.to_wire().encode_to_vec();
        let mut out = Vec::with_capacity(HEAD_BYTES + message.len());
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_u32_le(u32::try_from(message.len()).unwrap_or(u32::MAX));
        out.put_u32_le(crc32fast::hash(&message));
        out.put_slice(&message);
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, DamageCause> {
        let what = "the founding record";
        let short = DamageCause::Short(what);
        if bytes.len() < HEAD_BYTES {
            return Err(short);
        }
        let mut magic = [0; 7];
        bytes.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(DamageCause::Magic("founding record"));
        }
        let version = bytes.get_u8();
        if version != FORMAT {
            return Err(DamageCause::Version { what, version });
        }
        let (length, stored) = (bytes.get_u32_le() as usize, bytes.get_u32_le());
        let message = bytes.get(..length).ok_or(short)?;
        let computed = crc32fast::hash(message);
        if stored != computed {
            return Err(DamageCause::Checksum { what, stored, computed });
        }
        let nonsense = |why: String| DamageCause::Disk(format!("its content makes no sense: {why}"));
        let state = SeedStateResponse::decode(message).map_err(|error| nonsense(error.to_string()))?;
        Self::from_wire(state).map_err(nonsense)
    }
}

impl Decision {
    /// From the wire.
    pub(crate) fn from_wire(cluster_id: &[u8], members: Vec<SeedMember>) -> Result<Self, String> {
        let cluster = ClusterId::from_slice(cluster_id).ok_or("its cluster id is not 16 bytes")?;
        let members = members.into_iter().map(|member| {
            let incarnation = IncarnationId::from_slice(&member.incarnation).ok_or("an incarnation is not 16 bytes")?;
            Ok((NodeId(member.node_id), Member { incarnation, native: member.native }))
        });
        let members: BTreeMap<NodeId, Member> = members.collect::<Result<_, &str>>()?;
        if members.is_empty() {
            return Err("it names no members".to_owned());
        }
        Ok(Self { cluster, members, joined: None })
    }
}

pub(crate) fn members_to_wire(members: &BTreeMap<NodeId, Member>) -> Vec<SeedMember> {
    let members = members.iter().map(|(node, member)| SeedMember {
        node_id: node.get(),
        incarnation: Bytes::copy_from_slice(&member.incarnation.to_bytes()),
        native: member.native.clone(),
    });
    members.collect()
}

#[cfg(test)]
mod tests {
    use levada_storage_engine::{
        disk::DiskOp,
        error::OpenError,
        sim_disk::{CrashPlan, SimDisk},
    };

    use super::*;

    fn decided() -> Record {
        let member = |n: u8| Member { incarnation: IncarnationId::from_bytes([n; 16]), native: format!("node{n}:1") };
        Record {
            node: NodeId(2),
            incarnation: IncarnationId::from_bytes([2; 16]),
            decision: Some(Decision {
                cluster: ClusterId::from_bytes([9; 16]),
                members: (1..4).map(|n| (NodeId(n.into()), member(n))).collect(),
                joined: Some(ReplicaId(1 << 48)),
            }),
        }
    }

    fn undecided() -> Record {
        Record { decision: None, ..decided() }
    }

    fn open(disk: &dyn Disk) -> Result<Record, BootstrapError> {
        Record::open(disk, NodeId(2), || IncarnationId::from_bytes([77; 16]))
    }

    #[test]
    fn golden_bytes() {
        let mut expected = b"LVDAFND\x01".to_vec();
        expected.extend([20, 0, 0, 0, 173, 36, 219, 125, 0x08, 2, 0x12, 16]);
        expected.extend([2; 16]);
        assert_eq!(undecided().encode(), expected);
    }

    #[test]
    fn every_bit_counts() {
        let good = decided().encode();
        assert_eq!(Record::decode(&good).unwrap(), decided());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bytes).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(Record::decode(&good[..cut]).is_err());
        }
    }

    #[test]
    fn a_directory_keeps_its_incarnation_and_its_node() {
        let disk = SimDisk::new(1);
        let first = open(&disk).unwrap();
        assert_eq!(first.incarnation, IncarnationId::from_bytes([77; 16]));
        let again = Record::open(&disk, NodeId(2), || panic!("it has one")).unwrap();
        assert_eq!(again, first);
        let other = Record::open(&disk, NodeId(3), || panic!("it has one")).unwrap_err();
        assert!(matches!(other, BootstrapError::OtherNode { theirs: NodeId(2), ours: NodeId(3) }), "{other}");
    }

    #[test]
    fn nobody_becomes_somebody_over_records() {
        for name in ["journal/00000001.lj", "segments/something", "identity"] {
            let disk = SimDisk::new(1);
            let file = FileName::new(name);
            let ops = [DiskOp::CreateDir { dir: file.dir().to_owned() }, DiskOp::Create { file: file.clone() }];
            ops[usize::from(file.dir().is_empty())..].iter().for_each(|op| disk.perform(op).unwrap());
            let error = open(&disk).unwrap_err();
            let BootstrapError::Record(OpenError::NotEmpty { missing: FILE }) = error else {
                panic!("{name}: {error}")
            };
            assert_eq!(disk.len(&FileName::new(FILE)).unwrap(), None, "{name}: it was changed");
        }
    }

    #[test]
    fn what_was_read_after_a_killed_process_stays() {
        let disk = SimDisk::new(1);
        undecided().write(&disk).unwrap();
        let ops = atomic_file::replace(&FileName::new(FILE), decided().encode());
        ops[..ops.len() - 1].iter().for_each(|op| disk.perform(op).unwrap());
        assert_eq!(open(&disk).unwrap(), decided());
        disk.crash(&CrashPlan::LOSE_ALL);
        assert_eq!(open(&disk).unwrap(), decided(), "others were told of it");
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_old_record_or_the_new() {
        let base = SimDisk::new(1);
        undecided().write(&base).unwrap();
        let (mut old, mut new) = (0, 0);
        for after in 0..5 {
            for seed in 0..20 {
                let disk = base.fork();
                disk.halt_after(after);
                let written = decided().write(&disk).is_ok();
                disk.crash(&CrashPlan::seeded(seed));
                match open(&disk).unwrap() {
                    found if found == decided() => new += 1,
                    found if found == undecided() && !written => old += 1,
                    found => panic!("cut at {after}: {found:?}"),
                }
            }
        }
        assert!(old > 0, "{old} {new}");
    }
}
