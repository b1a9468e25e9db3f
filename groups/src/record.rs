//! What a coordinator writes down: how one thing is from now on. A state is what its records say, in their order.

use std::collections::BTreeSet;

use levada_protocol::ids::TopicPartition;

use crate::state::{Committed, Head, Member, MemberId};

/// One thing about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The group is there, and this is its epoch.
    Head {
        /// Its name.
        group: String,
        /// What it is.
        head: Head,
    },
    /// The group is gone, with all that belongs to it.
    GroupGone {
        /// Its name.
        group: String,
    },
    /// A member is there, and has this.
    Member {
        /// Of which group.
        group: String,
        /// Its id.
        id: MemberId,
        /// What it is.
        member: Member,
    },
    /// A member is gone: it has nothing any more.
    MemberGone {
        /// Of which group.
        group: String,
        /// Its id.
        id: MemberId,
    },
    /// What a member is to have in the end.
    Target {
        /// Of which group.
        group: String,
        /// Of which member.
        id: MemberId,
        /// All of it.
        places: BTreeSet<TopicPartition>,
    },
    /// An offset is committed.
    Offset {
        /// Of which group.
        group: String,
        /// In which partition.
        place: TopicPartition,
        /// The offset.
        committed: Committed,
    },
    /// A committed offset is gone.
    OffsetGone {
        /// Of which group.
        group: String,
        /// In which partition.
        place: TopicPartition,
    },
}

impl Record {
    /// The group that it is about.
    #[must_use]
    pub fn group(&self) -> &str {
        match self {
            Self::Head { group, .. }
            | Self::GroupGone { group }
            | Self::Member { group, .. }
            | Self::MemberGone { group, .. }
            | Self::Target { group, .. }
            | Self::Offset { group, .. }
            | Self::OffsetGone { group, .. } => group,
        }
    }
}
