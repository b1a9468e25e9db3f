//! A coordinator partition: its records are what groups are, and its leader decides about them (`levada_groups::coordinator`).
//!
//! Every replica applies the records; checkpoints and copies take the groups along with the rest of a partition's state. The leader's
//! coordinator is ahead of that by what is in flight, so its requests are judged in the same call that proposes its records:
//! between the two nothing can come that makes raft refuse them. What it says without a record waits for what it may rest on,
//! or, if nothing is in flight, for a quorum's word that this node leads ([`Leading::enqueue_said`](super::leading::Leading::enqueue_said)).

use std::sync::LazyLock;

use bytes::Bytes;
use levada_groups::{
    command::Now as GroupsNow,
    coordinator::{Coordinator, Fenced, unknown_group},
    record::Record,
    state::State,
    wire::{decode_change, encode_change},
};
use levada_protocol::{
    batch::{Attributes, BatchProducer, NewRecord, Rows, RowsBuilder},
    error::{Error, ErrorCode},
    ids::TopicId,
};
use uuid::Uuid;

use super::machine::Partition;
use crate::{
    cluster::topics::KnownTopics,
    node::event::{Answer, Effect, GroupAnswer, GroupAsk, Now, RequestId},
    raft::TICK_MS,
};

/// The internal topic whose partitions are the coordinators.
pub const GROUPS_TOPIC: &str = "__levada_groups";
/// The request that makes it, whichever node is the first to need it.
pub const GROUPS_REQUEST: Uuid = Uuid::from_u128(0x6c65_7661_6461_8067_b26f_7570_7300_0001);
/// The topic that this request makes. One that somebody made under the name before there were coordinators is none of theirs.
pub static GROUPS_TOPIC_ID: LazyLock<TopicId> = LazyLock::new(|| TopicId::of_request(GROUPS_REQUEST, GROUPS_TOPIC));
/// Groups that one answer lists.
pub(crate) const LISTED_MAX: usize = 1_000;

/// What the leader of a coordinator partition has besides its records.
#[derive(Debug, Default)]
pub struct Coordinating {
    coordinator: Option<Coordinator>,
    /// Asked since the partition was driven last.
    asked: Vec<(RequestId, GroupAsk)>,
    ticked_ms: u64,
}

impl Coordinating {
    /// It leads no more: what it has decided and not written is forgotten.
    pub(super) fn end(&mut self) {
        self.coordinator = None;
    }
}

impl Partition {
    /// Whether it is a coordinator's.
    #[must_use]
    pub const fn is_coordinator(&self) -> bool {
        self.groups.is_some()
    }

    /// Whether its coordinator has something to see to as time passes.
    #[must_use]
    pub fn has_groups(&self) -> bool {
        self.groups.as_ref().is_some_and(|groups| !groups.is_empty())
    }

    /// Keeps a request for its coordinator until [`Partition::coordinate`].
    pub fn ask_coordinator(&mut self, id: RequestId, ask: GroupAsk) {
        self.coordinating.asked.push((id, ask));
    }

    /// It cannot be a coordinator any more: nobody is answered.
    pub fn refuse_group_requests(&mut self, why: &Error, out: &mut Vec<Effect>) {
        let asked = self.coordinating.asked.drain(..);
        out.extend(asked.map(|(id, _)| Effect::Reply { id, result: Err(why.clone()) }));
    }

    /// As leader of a coordinator partition: carries out what was asked and what is due. What follows is queued, and must be
    /// proposed before anything else happens to the partition.
    pub fn coordinate(&mut self, now: Now, topics: &KnownTopics<'_>, out: &mut Vec<Effect>) {
        let Some(groups) = &self.groups else { return };
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.can_propose(&self.group)) else {
            let moving = Error::new(ErrorCode::NotReady, "leadership is moving; try again");
            return self.refuse_group_requests(&moving, out);
        };
        let Coordinating { coordinator, asked, ticked_ms } = &mut self.coordinating;
        let at = GroupsNow { mono_ms: now.mono_ms, wall_ms: now.wall_ms };
        // Nothing is in flight before it decides: only it writes.
        let coordinator = coordinator.get_or_insert_with(|| Coordinator::new(groups.clone(), at));
        if now.mono_ms >= *ticked_ms + TICK_MS {
            *ticked_ms = now.mono_ms;
            let upkeep = coordinator.tick(at, topics);
            upkeep.fenced.iter().for_each(tell_fenced);
            for change in upkeep.changes {
                leading.enqueue_records(batch(&change, now.wall_ms), None);
            }
        }
        for (id, ask) in asked.drain(..) {
            match ask {
                GroupAsk::Change(command) => match coordinator.step(at, command, topics) {
                    Ok(outcome) if outcome.records.is_empty() => {
                        leading.enqueue_said(id, Ok(told(GroupAnswer::Told(outcome.answer))));
                    }
                    Ok(outcome) => {
                        let answer = told(GroupAnswer::Told(outcome.answer));
                        leading.enqueue_records(batch(&outcome.records, now.wall_ms), Some((id, answer)));
                    }
                    Err(error) => leading.enqueue_said(id, Err(error)),
                },
                GroupAsk::Show { group } => {
                    let shown = coordinator.state().shared(&group).map(GroupAnswer::Shown).map(told);
                    leading.enqueue_said(id, shown.ok_or_else(|| unknown_group(&group)));
                }
                GroupAsk::List { after } => {
                    let behind = coordinator.state().groups_after(&after).take(LISTED_MAX);
                    let listed =
                        behind.filter_map(|(name, _)| Some((name.to_owned(), coordinator.state().shared(name)?)));
                    leading.enqueue_said(id, Ok(told(GroupAnswer::Listed(listed.collect()))));
                }
            }
        }
    }
}

fn told(answer: GroupAnswer) -> Answer {
    Answer::Group(Box::new(answer))
}

fn tell_fenced(fenced: &Fenced) {
    let Fenced { group, member, held_on } = fenced;
    tracing::info!(group, %member, held_on, "group.member_fenced");
}

/// Records that hold together, as one record of the log under their group's name.
fn batch(records: &[Record], now_ms: i64) -> Bytes {
    let (key, value) = (records.first().map(|record| record.group().as_bytes()), encode_change(records));
    let mut builder = RowsBuilder::with_capacity(value.len() + 512);
    let record = NewRecord { timestamp_ms: now_ms.max(0), key, value: Some(&value), headers: &[] };
    builder.push(&record).expect("a change is smaller than a batch");
    builder.finish(Attributes::default(), BatchProducer::NONE).expect("it has a record")
}

/// Applies a batch of a coordinator's.
///
/// # Panics
/// When it is none: replicas must not differ.
pub(super) fn apply(groups: &mut State, batch: &Bytes) {
    let rows = Rows::open(batch).expect("a coordinator made this batch");
    for row in rows.iter() {
        let value = row.expect("a coordinator made this record").value.expect("it has a value");
        let records = decode_change(Bytes::copy_from_slice(value)).expect("a coordinator made these records");
        records.iter().for_each(|record| groups.apply(record));
    }
}
