//! Who is to have which partitions: pure functions from subscriptions, and what each has been meant to have, to targets.
//!
//! Every assignor gives every partition of a subscribed topic to exactly one member that subscribes to it, and the same
//! answer to the same question: a coordinator that takes over would decide alike.

mod balanced;
mod range;

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::ids::TopicPartition;

use crate::{state::MemberId, topics::TopicShape};

/// How partitions are shared out. The numbers stand in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Assignor {
    /// Of each topic neighbouring partitions, the same numbers of every topic: for who joins topics.
    Range = 1,
    /// As even as can be, and who has what follows from who is there alone.
    Uniform = 2,
    /// As even as can be, and nobody gives away what need not move.
    #[default]
    Sticky = 3,
}

impl Assignor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Range, Self::Uniform, Self::Sticky];

    /// From its number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| u32::from(*assignor as u8) == number)
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// Its name, such as `sticky`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Uniform => "uniform",
            Self::Sticky => "sticky",
        }
    }

    /// Shares out the partitions of `topics`. Every member is in the answer.
    #[must_use]
    pub fn assign(
        self,
        members: &BTreeMap<MemberId, Wish<'_>>,
        topics: &BTreeMap<String, TopicShape>,
    ) -> BTreeMap<MemberId, BTreeSet<TopicPartition>> {
        match self {
            Self::Range => range::assign(members, topics),
            Self::Uniform => balanced::assign(members, topics, false),
            Self::Sticky => balanced::assign(members, topics, true),
        }
    }
}

/// What an assignor knows of a member.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Its static id, or else its own: what members are ordered by, so that one that comes back stands where it stood.
    pub order: &'a str,
    /// The topics that it wants.
    pub topics: &'a BTreeSet<String>,
    /// What it was meant to have so far.
    pub had: &'a BTreeSet<TopicPartition>,
}

/// The members in the order of their static ids, or ids.
fn in_order<'a>(members: &'a BTreeMap<MemberId, Wish<'a>>) -> Vec<(&'a MemberId, &'a Wish<'a>)> {
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by_key(|(id, wish)| (wish.order, *id));
    ordered
}

#[cfg(test)]
mod tests;
