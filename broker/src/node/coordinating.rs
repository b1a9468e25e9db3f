//! Requests for coordinators go to the partitions that they are, and time passes for these.

use levada_groups::command::Command;
use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{GroupId, PartitionId, TopicPartition},
};

use super::{
    Node,
    event::{Effect, GroupAsk, RequestId},
    sleeping::Wake,
};
use crate::{cluster::health::Fullness, partition::coordinating::GROUPS_TOPIC_ID};

impl Node {
    /// Hands a request to the coordinator that it is for, if that is here.
    pub(super) fn on_group_request(
        &mut self,
        id: RequestId,
        number: PartitionId,
        ask: GroupAsk,
        out: &mut Vec<Effect>,
    ) {
        match self.coordinator(number).and_then(|group| self.check_room_for(&ask).map(|()| group)) {
            Ok(group) => {
                self.wake(group, Wake::Request);
                if let Some(partition) = self.partitions.get_mut(&group) {
                    partition.ask_coordinator(id, ask);
                    self.dirty.insert(group);
                }
            }
            Err(error) => out.push(Effect::Reply { id, result: Err(error) }),
        }
    }

    fn coordinator(&self, number: PartitionId) -> Result<GroupId, Error> {
        let metadata = self.controller.metadata();
        let topic = metadata.topic_by_id(*GROUPS_TOPIC_ID).ok_or_else(|| {
            Error::new(
                ErrorCode::NotReady,
                "this node knows of no coordinators yet; ask for the group's coordinator, and try again",
            )
        })?;
        self.leading_partition(TopicPartition { topic: topic.id, partition: number })
    }

    /// What makes more of it waits for room, as producers do. Who is there already is heard all the same: fenced for a full
    /// disk, members would read everything again that they cannot commit meanwhile.
    fn check_room_for(&self, ask: &GroupAsk) -> Result<(), Error> {
        let grows = match ask {
            GroupAsk::Change(Command::Heartbeat(heartbeat)) => heartbeat.epoch == 0,
            GroupAsk::Change(Command::Commit { .. }) => true,
            GroupAsk::Change(Command::Leave { .. } | Command::DeleteOffsets { .. } | Command::DeleteGroup { .. })
            | GroupAsk::Show { .. }
            | GroupAsk::List { .. } => false,
        };
        if grows && self.space.fullness() == Fullness::Full {
            return Err(self.space.refusal(self.config.node));
        }
        if grows && self.store.room_bytes() == 0 {
            return Err(Error::new(ErrorCode::Busy, "the disk or the other replicas do not keep up; try again"));
        }
        Ok(())
    }

    /// Coordinators here that have groups see to them. They do not sleep meanwhile.
    pub(super) fn tick_coordinators(&mut self) {
        let metadata = self.controller.metadata();
        let Some(topic) = metadata.topic_by_id(*GROUPS_TOPIC_ID) else { return };
        for partition in &topic.partitions {
            let group = partition.group;
            if self.partitions.get(&group).is_some_and(|here| here.leading.is_some() && here.has_groups()) {
                self.wake(group, Wake::Upkeep);
                self.dirty.insert(group);
            }
        }
    }
}
