//! What a coordinator partition holds: groups, members, who has what, committed offsets. It is what its records say, the
//! same on every replica, and nothing in it decides: that is [`crate::coordinator`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use levada_protocol::ids::TopicPartition;

use crate::{
    assign::Assignor,
    record::Record,
    topics::{TopicShape, Version},
    weight,
};

/// A member's id, drawn by the member when it starts and never used by another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Arc<str>);

impl MemberId {
    /// An id of these words.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Partitions, with the member's epoch in which each was given to it.
pub type Held = BTreeMap<TopicPartition, u64>;

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its static id, if it has one: who comes back under it takes over what it had.
    pub instance: Option<String>,
    /// What it calls itself.
    pub client: String,
    /// It is fenced when it was not heard for so long.
    pub session_timeout_ms: u32,
    /// It is fenced when it has not let go of partitions for so long.
    pub rebalance_timeout_ms: u32,
    /// The topics that it wants.
    pub topics: BTreeSet<String>,
    /// Which of its wishes these were.
    pub wish: u64,
    /// The assignor that it would have.
    pub assignor: Option<Assignor>,
    /// The group's epoch whose target it has come up to. What it says must bear it.
    pub epoch: u64,
    /// The one before: an answer that never arrived.
    pub previous_epoch: u64,
    /// Rises with every change of what it has: by this it says what it has heard of.
    pub version: u64,
    /// What it has.
    pub owned: Held,
    /// What it is to let go of. It has it until it says that it has let go, by the version that tells it to.
    pub revoking: Held,
    /// A static member that has left and may come back.
    pub away: bool,
}

/// An offset that a group has committed: the next record to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: u64,
    /// The epoch of the leader that the record before it was read from.
    pub leader_epoch: Option<u64>,
    /// What the consumer says about it.
    pub metadata: String,
    /// When, in milliseconds since 1970.
    pub committed_ms: i64,
}

/// What a group is apart from its members and offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Rises with every change of who wants what. A target belongs to each.
    pub epoch: u64,
    /// How this epoch's target was computed.
    pub assignor: Assignor,
    /// The topics that members want and that there are, as they were then.
    pub topics: BTreeMap<String, TopicShape>,
    /// The newest metadata that any of its epochs was computed from.
    pub seen: Version,
    /// For how many hours coordinators have seen it without members and commits; none while it has members.
    pub idle_hours: Option<u32>,
}

/// A consumer group.
///
/// Invariants: `owners` is what `members` own and are to let go of, turned around, and no partition is in it for two members;
/// `targets` has nobody who is no member; no member's epoch is above the group's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its epoch and what that was computed from.
    pub head: Head,
    /// Its members.
    pub members: BTreeMap<MemberId, Member>,
    /// What each member is to have in the end; none for whom nothing was computed yet.
    pub targets: BTreeMap<MemberId, BTreeSet<TopicPartition>>,
    /// What it has committed.
    pub offsets: BTreeMap<TopicPartition, Committed>,
    owners: BTreeMap<TopicPartition, MemberId>,
    /// What it takes ([`weight`]).
    bytes: usize,
}

impl Group {
    const fn new(head: Head) -> Self {
        Self {
            head,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            offsets: BTreeMap::new(),
            owners: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The member that has a partition, or has not said yet that it has let go of it.
    #[must_use]
    pub fn owner(&self, place: TopicPartition) -> Option<&MemberId> {
        self.owners.get(&place)
    }

    /// The member with a static id.
    #[must_use]
    pub fn instance(&self, instance: &str) -> Option<(&MemberId, &Member)> {
        self.members.iter().find(|(_, member)| member.instance.as_deref() == Some(instance))
    }

    /// What a member is to have in the end.
    pub fn target(&self, id: &MemberId) -> impl Iterator<Item = TopicPartition> {
        self.targets.get(id).into_iter().flatten().copied()
    }

    /// Whether every member has what it is to have.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.members.iter().all(|(id, member)| {
            let is_target = member.owned.keys().copied().eq(self.target(id));
            member.epoch == self.head.epoch && member.revoking.is_empty() && is_target
        })
    }

    fn put_member(&mut self, id: &MemberId, member: Member) {
        debug_assert!(member.epoch <= self.head.epoch, "{id} is ahead of its group");
        self.drop_member(id);
        for place in member.owned.keys().chain(member.revoking.keys()) {
            let other = self.owners.insert(*place, id.clone());
            assert_eq!(other, None, "{place} was given to {id} while another had it");
        }
        self.members.insert(id.clone(), member);
    }

    fn drop_member(&mut self, id: &MemberId) -> Option<Member> {
        let member = self.members.remove(id)?;
        for place in member.owned.keys().chain(member.revoking.keys()) {
            self.owners.remove(place);
        }
        Some(member)
    }
}

/// All groups of one coordinator partition. Cheap to copy: groups are shared until one changes.
///
/// Invariants: `members`, `offsets` and `bytes` count what is in `groups`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    groups: BTreeMap<String, Arc<Group>>,
    members: usize,
    offsets: usize,
    bytes: usize,
}

impl State {
    /// A group by its name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).map(|group| &**group)
    }

    /// The same, to be kept while others change.
    #[must_use]
    pub fn shared(&self, name: &str) -> Option<Arc<Group>> {
        self.groups.get(name).cloned()
    }

    /// All groups, in the order of their names.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), &**group))
    }

    /// The groups behind a name, in order.
    pub fn groups_after(&self, name: &str) -> impl Iterator<Item = (&str, &Group)> {
        let from = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
        self.groups.range::<str, _>(from).map(|(name, group)| (name.as_str(), &**group))
    }

    /// How many groups there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many members all groups have.
    #[must_use]
    pub const fn members(&self) -> usize {
        self.members
    }

    /// How many offsets all groups have committed.
    #[must_use]
    pub const fn offsets(&self) -> usize {
        self.offsets
    }

    /// What all of it takes at most, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it as a record says.
    ///
    /// # Panics
    /// When the record is about a group or a member that is not there, or gives away what another has: its coordinator made it
    /// from the same state, so replicas would differ.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Head { group: name, head } => {
                let group = self.groups.entry(name.clone()).or_insert_with(|| Arc::new(Group::new(head.clone())));
                let before = if group.bytes == 0 { 0 } else { weight::head(name, &group.head) };
                Arc::make_mut(group).head = head.clone();
                self.weigh(name, before, weight::head(name, head));
            }
            Record::GroupGone { group } => {
                let gone = self.groups.remove(group).expect("a group that goes is there");
                self.members -= gone.members.len();
                self.offsets -= gone.offsets.len();
                self.bytes -= gone.bytes;
            }
            Record::Member { group: name, id, member } => {
                let group = self.change(name);
                let before = group.members.get(id).map(|before| weight::member(name, id, before));
                group.put_member(id, member.clone());
                self.members += usize::from(before.is_none());
                self.weigh(name, before.unwrap_or(0), weight::member(name, id, member));
            }
            Record::MemberGone { group: name, id } => {
                let group = self.change(name);
                let gone = group.drop_member(id).expect("a member that goes is there");
                group.targets.remove(id);
                self.members -= 1;
                self.weigh(name, weight::member(name, id, &gone), 0);
            }
            Record::Target { group, id, places } => {
                let group = self.change(group);
                assert!(group.members.contains_key(id), "a target is a member's");
                group.targets.insert(id.clone(), places.clone());
            }
            Record::Offset { group: name, place, committed } => {
                let before = self.change(name).offsets.insert(*place, committed.clone());
                self.offsets += usize::from(before.is_none());
                let before = before.map_or(0, |before| weight::offset(name, &before.metadata));
                self.weigh(name, before, weight::offset(name, &committed.metadata));
            }
            Record::OffsetGone { group: name, place } => {
                let gone = self.change(name).offsets.remove(place).expect("an offset that goes is there");
                self.offsets -= 1;
                self.weigh(name, weight::offset(name, &gone.metadata), 0);
            }
        }
    }

    /// Something of a group takes more or less than before.
    fn weigh(&mut self, group: &str, before: usize, now: usize) {
        let group = self.change(group);
        group.bytes = group.bytes + now - before;
        self.bytes = self.bytes + now - before;
    }

    fn change(&mut self, group: &str) -> &mut Group {
        Arc::make_mut(self.groups.get_mut(group).expect("a record's group is there"))
    }

    /// The records that make it from nothing.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.groups.iter().flat_map(|(name, group)| {
            let head = Record::Head { group: name.clone(), head: group.head.clone() };
            let members = group.members.iter().map(|(id, member)| Record::Member {
                group: name.clone(),
                id: id.clone(),
                member: member.clone(),
            });
            let targets = group.targets.iter().map(|(id, places)| Record::Target {
                group: name.clone(),
                id: id.clone(),
                places: places.clone(),
            });
            let offsets = group.offsets.iter().map(|(place, committed)| Record::Offset {
                group: name.clone(),
                place: *place,
                committed: committed.clone(),
            });
            std::iter::once(head).chain(members).chain(targets).chain(offsets)
        })
    }
}
