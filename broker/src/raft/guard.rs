//! What raft takes at its word: a message is looked at before raft sees it, so that none ends the process.
//!
//! Raft trusts its peers. A commit index above the log, entries with a gap, or a kind of message that only the node itself
//! may give make it panic, and an entry that does not parse ends every replica when it is applied. Whoever sends that is
//! broken, or is nobody of this group. The message is dropped; a sound peer sends again.

use levada_protocol::{
    batch::BatchIter,
    ids::{GroupId, Offset},
    messages::metadata as wire,
};
use levada_storage_engine::{entry::EntryKind, log::Log};
use prost::Message as _;
use raft::{
    Progress, RaftLog,
    eraftpb::{self, MessageType},
};

use super::{membership, storage::GroupStorage, wire::kind_of};

/// Checks what a message says against the log of its group, which has this term.
///
/// # Errors
/// Why raft must not see it.
pub(super) fn check(
    group: GroupId,
    term: u64,
    ours: &RaftLog<GroupStorage>,
    log: &Log,
    message: &eraftpb::Message,
) -> Result<(), &'static str> {
    match message.get_msg_type() {
        MessageType::MsgAppend => check_append(group, ours, log, message),
        MessageType::MsgHeartbeat if message.get_commit() > ours.last_index() && message.get_term() >= term => {
            Err("more is committed than was sent")
        }
        MessageType::MsgAppendResponse
            if !message.get_reject() && message.get_index() > ours.last_index() && message.get_term() == term =>
        {
            Err("more is acknowledged than was sent")
        }
        MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        // Nobody proposes, reads or transfers through another replica.
        _ => Err("it is of a kind that does not come from a peer"),
    }
}

/// A rejection that comes late leads raft back below what the follower has acknowledged since. It may well be that these
/// entries are gone here: then raft would send a snapshot, of which there are none, and never again what the follower lacks. So
/// back it goes (as in etcd's raft) no further than to what is acknowledged.
pub(super) fn keep_acknowledged(progress: &mut Progress) {
    progress.next_idx = progress.next_idx.max(progress.matched + 1);
}

fn check_append(
    group: GroupId,
    ours: &RaftLog<GroupStorage>,
    log: &Log,
    message: &eraftpb::Message,
) -> Result<(), &'static str> {
    let (index, log_term) = (message.get_index(), message.get_log_term());
    if (log_term == 0) != (index == 0) {
        return Err("it follows an entry that cannot be");
    }
    let mut before = log_term;
    for (expected, entry) in (index + 1..).zip(message.get_entries()) {
        if entry.get_index() != expected {
            return Err("its entries have gaps");
        }
        if entry.get_term() < before.max(1) || entry.get_term() > message.get_term() {
            return Err("an entry's term cannot be");
        }
        before = entry.get_term();
    }
    // What raft would not take anyway, it must still answer.
    let is_taken = index >= ours.committed && ours.match_term(index, log_term);
    let follows = if is_taken { offset_after(ours, log, index) } else { None };
    check_payloads(group, message.get_entries(), follows)
}

fn check_payloads(group: GroupId, entries: &[eraftpb::Entry], mut follows: Option<Offset>) -> Result<(), &'static str> {
    for entry in entries {
        let is_sound = match kind_of(entry, &entry.data) {
            EntryKind::Empty => true,
            EntryKind::Command if group == GroupId::METADATA => {
                wire::Command::decode(&entry.data[..]).is_ok_and(|command| command.kind.is_some())
            }
            EntryKind::Command => {
                wire::PartitionCommand::decode(&entry.data[..]).is_ok_and(|command| command.kind.is_some())
            }
            EntryKind::Batches => {
                group != GroupId::METADATA
                    && BatchIter::packed(&entry.data).all(|batch| {
                        batch.is_ok_and(|batch| {
                            let is_next = follows.is_none_or(|follows| follows == batch.header.base_offset);
                            follows = Some(batch.header.next_offset());
                            is_next
                        })
                    })
            }
            EntryKind::ConfChange => membership::read_change(&entry.data).is_ok(),
        };
        if !is_sound {
            return Err("an entry does not parse, or does not continue the log's offsets");
        }
    }
    Ok(())
}

/// The offset that follows an entry which is there: in raft's memory until the journal has it, then in the log.
fn offset_after(ours: &RaftLog<GroupStorage>, log: &Log, index: u64) -> Option<Offset> {
    let unstable = &ours.unstable;
    let count = usize::try_from((index + 1).saturating_sub(unstable.offset)).ok()?;
    let batches = unstable.entries.get(..count)?.iter().rev().find(|e| kind_of(e, &e.data) == EntryKind::Batches);
    if let Some(entry) = batches {
        return BatchIter::packed(&entry.data).flatten().last().map(|batch| batch.header.next_offset());
    }
    log.offset_after(index.min(unstable.offset - 1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_rejection_does_not_take_back_an_acknowledgement() {
        let mut progress = Progress::new(51, 8);
        // Entry 50 is not there; but then it comes, by another way, and is acknowledged.
        assert!(progress.maybe_update(50));
        assert_eq!((progress.matched, progress.next_idx), (50, 51));
        assert!(progress.maybe_decr_to(50, 20, raft::INVALID_INDEX), "raft believes it");
        assert_eq!(progress.next_idx, 21);
        keep_acknowledged(&mut progress);
        assert_eq!((progress.matched, progress.next_idx), (50, 51));
    }
}
