//! How raft is set up.

use levada_protocol::ids::{LogIndex, ReplicaId};
use levada_storage_engine::planted::{self, Planted};
use raft::{Config, ReadOnlyOption};

use super::{APPEND_BYTES_MAX, APPENDS_IN_FLIGHT_MAX, ELECTION_TICKS, HEARTBEAT_TICKS, hibernation};

/// For a replica that has applied its log up to an index.
pub(super) fn raft_config(replica: ReplicaId, applied: LogIndex) -> Config {
    Config {
        id: replica.get(),
        applied: applied.get(),
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        max_election_tick: hibernation::TIMEOUT_TICKS_MAX,
        max_size_per_msg: APPEND_BYTES_MAX,
        max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        skip_bcast_commit: true,
        // Raft 0.7 adds entries to an append that waits to be sent and has none yet without looking whether they follow
        // its index; a follower would then acknowledge what it does not have.
        batch_append: planted::is(Planted::AppendsBatched),
        read_only_option: if planted::is(Planted::ReadsByLease) {
            ReadOnlyOption::LeaseBased
        } else {
            ReadOnlyOption::Safe
        },
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use raft::{
        RawNode,
        eraftpb::{self, MessageType},
        storage::MemStorage,
    };

    use super::*;

    fn leader() -> RawNode<MemStorage> {
        let config = raft_config(ReplicaId(1), LogIndex(0));
        let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut leader = RawNode::new(&config, storage, &logger).unwrap();
        leader.raft.become_candidate();
        leader.raft.become_leader();
        leader
    }

    fn messages(leader: &mut RawNode<MemStorage>) -> Vec<eraftpb::Message> {
        let mut ready = leader.ready();
        leader.store().wl().append(ready.entries()).unwrap();
        let messages = ready.take_messages();
        leader.advance_append(ready);
        messages
    }

    fn hears(leader: &mut RawNode<MemStorage>, kind: MessageType, index: u64) {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(kind);
        message.set_from(2);
        message.set_to(1);
        message.set_term(leader.raft.term);
        message.set_index(index);
        leader.step(message).unwrap();
    }

    /// A heartbeat is answered, the connection breaks, another heartbeat is answered, all in one round: the first
    /// gives an append without entries, the last one with entries that begin further down.
    #[test]
    fn the_entries_of_an_append_follow_its_index() {
        let mut leader = leader();
        messages(&mut leader);
        hears(&mut leader, MessageType::MsgAppendResponse, 1);
        for _ in 0..3 {
            leader.propose(vec![], vec![1]).unwrap();
        }
        messages(&mut leader);
        hears(&mut leader, MessageType::MsgHeartbeatResponse, 0);
        leader.report_unreachable(2);
        hears(&mut leader, MessageType::MsgHeartbeatResponse, 0);

        let messages = messages(&mut leader);
        let appends: Vec<_> = messages.iter().filter(|m| m.get_msg_type() == MessageType::MsgAppend).collect();
        assert!(appends.iter().any(|append| !append.get_entries().is_empty()));
        for append in appends {
            let indexes = append.get_entries().iter().map(eraftpb::Entry::get_index);
            assert!((append.get_index() + 1..).zip(indexes).all(|(follows, index)| follows == index), "{append:?}");
        }
    }
}
