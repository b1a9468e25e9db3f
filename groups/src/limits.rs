//! What a coordinator is bounded by. A group's state lies in the memory of every replica of its coordinator partition, and
//! in their checkpoints: whoever makes groups in a loop must come to an end.

use levada_protocol::limits::{ENTRY_BYTES_MAX, KIB, MIB, TOPIC_NAME_BYTES_MAX};

/// The coordinator partitions of a cluster. A group's is found by its name ([`crate::coordinator_of`]), so this never changes.
pub const COORDINATORS: u32 = 16;

/// The longest name of a group, id of a member, and static id of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 249;
/// The longest words that a commit may carry, in bytes.
pub const METADATA_BYTES_MAX: usize = 4 * KIB;
/// The most groups of one coordinator.
pub const GROUPS_MAX: usize = 4_000;
/// The most members of one group.
pub const GROUP_MEMBERS_MAX: usize = 1_000;
/// The most members of one coordinator.
pub const MEMBERS_MAX: usize = 20_000;
/// The most topics that one member subscribes to.
pub const SUBSCRIPTION_TOPICS_MAX: usize = 64;
/// The most partitions that one group shares out. Topics that would go beyond it are left out, in the order of their names.
pub const GROUP_PARTITIONS_MAX: usize = 50_000;
/// The most topics that one group shares out; more are left out likewise.
pub const GROUP_TOPICS_MAX: usize = 1_000;
/// The most committed offsets of one coordinator.
pub const OFFSETS_MAX: usize = 500_000;
/// What the state of one coordinator takes, in bytes, when nothing more is let in. What members come to have by and by is
/// not asked for; with it, it is [`STATE_BYTES_MAX`] at most.
pub const STATE_BYTES_QUOTA: usize = 16 * MIB;
/// The most that the state of one coordinator ever takes, in bytes: it is one message to another node.
pub const STATE_BYTES_MAX: usize = 32 * MIB;
/// The most offsets of one commit.
pub const COMMIT_OFFSETS_MAX: usize = 10_000;

/// The shortest and the longest session timeout of a member.
pub const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 6_000..=300_000;
/// The session timeout of a member that does not say.
pub const SESSION_TIMEOUT_MS_DEFAULT: u32 = 45_000;
/// The shortest and the longest time that a member may take to let go of partitions.
pub const REBALANCE_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 1_000..=3_600_000;
/// That time for a member that does not say.
pub const REBALANCE_TIMEOUT_MS_DEFAULT: u32 = 300_000;
/// A member is to say that it is there so many times in a session timeout.
pub const HEARTBEATS_PER_SESSION: u32 = 9;
/// The longest pause between two heartbeats: a change of the assignment reaches nobody sooner.
pub const HEARTBEAT_MS_MAX: u32 = 1_000;

/// A group without members and commits is kept for so long: a week.
pub const KEPT_HOURS: u32 = 7 * 24;
/// Groups that are looked at each tick: for topics that have changed, and offsets that have expired.
pub const LOOKED_AT_PER_TICK: usize = 32;
/// Members that are fenced in one tick at most; the others are in the next.
pub const FENCED_PER_TICK: usize = 256;

/// The largest change: it is one batch of one entry.
pub const CHANGE_BYTES_MAX: usize = 16 * MIB;

const _: () = assert!(CHANGE_BYTES_MAX < ENTRY_BYTES_MAX);
// A commit of nothing but the longest words would be larger than a change may be: both are checked.
const _: () = assert!(COMMIT_OFFSETS_MAX * 64 < CHANGE_BYTES_MAX);
// A target names each partition once, and every member: it fits, with the topics, even if all members' targets change at once.
const _: () = assert!(
    GROUP_PARTITIONS_MAX * 5
        + GROUP_MEMBERS_MAX * (2 * NAME_BYTES_MAX + 24 * SUBSCRIPTION_TOPICS_MAX + 64)
        + GROUP_TOPICS_MAX * (TOPIC_NAME_BYTES_MAX + 32)
        < CHANGE_BYTES_MAX
);
// For each 24 bytes that count for a partition when it is shared out, 16 come when somebody has it.
const _: () = assert!(STATE_BYTES_QUOTA + STATE_BYTES_QUOTA / 24 * 16 < STATE_BYTES_MAX);
const _: () = assert!(GROUP_MEMBERS_MAX <= MEMBERS_MAX);
