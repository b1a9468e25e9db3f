//! Offsets are committed, and go.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::TopicPartition,
};

use super::{Coordinator, check_name, membership::fenced, quota};
use crate::{
    assign::Assignor,
    command::{Now, Position},
    limits::{CHANGE_BYTES_MAX, COMMIT_OFFSETS_MAX, GROUPS_MAX, METADATA_BYTES_MAX, OFFSETS_MAX},
    record::Record,
    state::{Committed, Group, Head, MemberId},
    topics::Version,
    weight,
};

impl Coordinator {
    pub(super) fn commit(
        &mut self,
        now: Now,
        name: &str,
        member: Option<(MemberId, u64)>,
        offsets: BTreeMap<TopicPartition, Position>,
        out: &mut Vec<Record>,
    ) -> Result<()> {
        check_name("a group's name", name)?;
        check_commit(&offsets)?;
        let group = self.state.group(name);
        match (&member, group) {
            (Some((id, epoch)), Some(group)) => check_owner(name, group, id, *epoch, offsets.keys())?,
            (Some((id, epoch)), None) => return Err(fenced(name, id, *epoch, None)),
            (None, Some(group)) => check_empty(name, group, "only they commit offsets")?,
            (None, None) if self.state.len() >= GROUPS_MAX => return Err(quota("groups", GROUPS_MAX)),
            (None, None) => {}
        }
        self.check_offsets_room(name, group, &offsets)?;
        let head = match group {
            None => Some(Head {
                epoch: 0,
                assignor: Assignor::default(),
                topics: BTreeMap::new(),
                seen: Version::default(),
                idle_hours: Some(0),
            }),
            Some(group) if group.head.idle_hours.is_some_and(|hours| hours > 0) => {
                Some(Head { idle_hours: Some(0), ..group.head.clone() })
            }
            Some(_) => None,
        };
        if let Some(head) = head {
            self.write(Record::Head { group: name.to_owned(), head }, out);
        }
        self.idle.remove(name);
        for (place, Position { offset, leader_epoch, metadata }) in offsets {
            let committed = Committed { offset, leader_epoch, metadata, committed_ms: now.wall_ms };
            self.write(Record::Offset { group: name.to_owned(), place, committed }, out);
        }
        Ok(())
    }

    fn check_offsets_room(
        &self,
        name: &str,
        group: Option<&Group>,
        offsets: &BTreeMap<TopicPartition, Position>,
    ) -> Result<()> {
        let before = |place| group.and_then(|group| group.offsets.get(place));
        let new = offsets.keys().filter(|place| before(place).is_none()).count();
        if self.state.offsets() + new > OFFSETS_MAX {
            return Err(quota("committed offsets", OFFSETS_MAX));
        }
        let gone: usize = offsets.keys().filter_map(before).map(|before| weight::offset(name, &before.metadata)).sum();
        let come: usize = offsets.values().map(|position| weight::offset(name, &position.metadata)).sum();
        let head = if group.is_none() { weight::name(name) } else { 0 };
        // What takes no more than before is never refused.
        self.check_bytes((head + come).saturating_sub(gone))
    }

    pub(super) fn delete_offsets(
        &mut self,
        name: &str,
        places: BTreeSet<TopicPartition>,
        out: &mut Vec<Record>,
    ) -> Result<()> {
        if places.len() > COMMIT_OFFSETS_MAX {
            let why = format!(
                "{COMMIT_OFFSETS_MAX} offsets are deleted at once, not {}; delete the group, or fewer",
                places.len()
            );
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        let group = self.group(name)?;
        check_empty(name, group, "offsets are deleted only while it has none")?;
        let known: Vec<_> = places.into_iter().filter(|place| group.offsets.contains_key(place)).collect();
        for place in known {
            self.write(Record::OffsetGone { group: name.to_owned(), place }, out);
        }
        Ok(())
    }
}

/// What goes only while nobody is a member.
pub(super) fn check_empty(name: &str, group: &Group, rule: &str) -> Result<()> {
    if group.members.is_empty() {
        return Ok(());
    }
    let why = format!("group {name:?} has {} members, and {rule}; stop its consumers first", group.members.len());
    Err(Error::new(ErrorCode::GroupNotEmpty, why))
}

fn check_commit(offsets: &BTreeMap<TopicPartition, Position>) -> Result<()> {
    if offsets.is_empty() || offsets.len() > COMMIT_OFFSETS_MAX {
        let why = format!("a commit has 1 to {COMMIT_OFFSETS_MAX} offsets, not {}", offsets.len());
        return Err(Error::new(ErrorCode::InvalidRequest, why));
    }
    if let Some((place, long)) = offsets.iter().find(|(_, position)| position.metadata.len() > METADATA_BYTES_MAX) {
        let bytes = long.metadata.len();
        let why = format!("the metadata of {place} has {bytes} bytes; {METADATA_BYTES_MAX} are allowed");
        return Err(Error::new(ErrorCode::InvalidRequest, why));
    }
    let words: usize = offsets.values().map(|position| position.metadata.len()).sum();
    if words > CHANGE_BYTES_MAX / 2 {
        let why = format!("the metadata of this commit has {words} bytes; commit fewer offsets at once");
        return Err(Error::new(ErrorCode::InvalidRequest, why));
    }
    Ok(())
}

/// The member has these partitions, and had them without a break since this epoch of its.
fn check_owner<'a>(
    name: &str,
    group: &Group,
    id: &MemberId,
    epoch: u64,
    mut places: impl Iterator<Item = &'a TopicPartition>,
) -> Result<()> {
    let known = group.members.get(id);
    let Some(member) = known.filter(|member| epoch <= member.epoch && !member.away) else {
        return Err(fenced(name, id, epoch, known));
    };
    let has = |place| {
        let given = member.owned.get(place).or_else(|| member.revoking.get(place));
        given.is_some_and(|given| *given <= epoch)
    };
    match places.find(|place| !has(place)) {
        None => Ok(()),
        Some(place) => {
            let why = format!(
                "member {id} of group {name:?} has not had {place} since epoch {epoch}; leave what you read of it to who has it"
            );
            Err(Error::new(ErrorCode::NotAssigned, why))
        }
    }
}
