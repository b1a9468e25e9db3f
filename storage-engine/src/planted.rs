//! Bugs that can be planted, to see that the simulator finds them.
//!
//! Each is a mistake that somebody could make, at the place where it would be made: there the code asks [`is`]. Without the
//! feature `planted`, which no build but the simulator's own test of itself has, the answer is `false` when it is compiled,
//! and nothing of it is left in the product. With it, one bug at a time can be planted (`plant`) in the whole process.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident),+ $(,)?) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Planted {
            $($(#[doc = $doc])+ $bug),+
        }

        #[cfg(feature = "planted")]
        impl Planted {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug),+];

            /// What it is.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$bug => concat!($($doc),+)),+ }
            }
        }
    };
}

bugs! {
    // --- the journal
    /// Journal blocks are written and not synced.
    JournalNotSynced,
    /// A new journal file is used before its name is durable.
    JournalNameNotSynced,
    /// A write or sync of the journal that failed counts as done.
    SyncFailureIgnored,
    /// Replay ends at the first damaged block, as if nothing had ever been behind it.
    DamageCut,
    /// Replay does not look at the checksums of entries: a torn block counts.
    FramesUnchecked,
    /// The last block that replay finds is not written again: it may stand in the page cache only.
    TailTrusted,
    /// Journal files are used again when a checkpoint is written, not when it is durable.
    RecycledTooSoon,
    // --- checkpoint and recovery
    /// The checkpoint gets its name before its content is synced.
    CheckpointNotSynced,
    /// The checkpoint's name is not synced.
    CheckpointNameNotSynced,
    /// A checkpoint names segments that were not synced.
    SegmentsNotSynced,
    /// Terms and votes that stand in the journal are forgotten in a restart.
    HardStateNotReplayed,
    /// Replay keeps an entry that another one replaced.
    ReplacedEntriesReplayed,
    // --- logs and segments
    /// Entries go into segments when they are durable, committed or not.
    UncommittedWritten,
    /// Entries that conflict with what a new leader sends stay.
    ConflictKept,
    /// Retention removes the segment that holds the log start, too.
    RetentionTooFar,
    /// Reads of what is in memory do not end at the high watermark.
    ReadsPastHighWatermark,
    /// Segments are served without a look at their checksums.
    SegmentUnchecked,
    /// Segments that come from another node are not checked.
    CopyUnchecked,
    /// A segment or checkpoint that found no space counts as written.
    NoSpaceIsSuccess,
    // --- raft
    /// Followers acknowledge entries that their journal has not synced.
    FollowerAcksUnsynced,
    /// A leader counts itself before its journal has synced.
    LeaderCountsUnsynced,
    /// A vote is written down with the next entries, not before it is given.
    VoteNotSaved,
    /// Whoever asks gets the vote, however far behind its log is.
    VotesForAnybody,
    /// A leader takes what it sent for acknowledged.
    SentCountsAsAcknowledged,
    /// Linearizable reads rely on a lease instead of asking a quorum.
    ReadsByLease,
    /// Appends are batched, which raft 0.7 does without a look at their indexes.
    AppendsBatched,
    /// The old voters are not asked any more as soon as there are new ones.
    JointLeftAtOnce,
    // --- partitions
    /// A producer is answered when the leader alone has its batch.
    LeaderAloneAcknowledges,
    /// A new leader gives offsets before it has applied what it found in its log.
    LeadsTooSoon,
    /// A new leader knows no producers.
    ProducersForgotten,
    /// One batch less is remembered of each producer than it may have under way.
    WindowTooShort,
    /// Sequences of producers are not checked.
    SequenceUnchecked,
    /// A batch that was sent again is answered before its first try is committed.
    DuplicateAnsweredEarly,
    /// Checkpoints do not have the producers of partitions.
    ProducersNotCheckpointed,
    /// The high watermark falls back to what is applied.
    HighWatermarkFalls,
    /// Who believes to lead answers how far its log reaches without asking a quorum.
    StaleBounds,
    /// A leader that was deposed and has not heard of it refuses sequences by its old log.
    RefusesAlone,
    /// Who waits for a leader that is deposed gets no answer.
    WaitersForgotten,
    // --- nodes, membership, metadata
    /// Who believes to be the controller answers by its metadata without asking a quorum.
    StaleMetadata,
    /// A replica that may have lost what it acknowledged goes on as if nothing had happened.
    DoubtIgnored,
    /// A node that comes back with an empty disk keeps its replicas' ids.
    ReplicasNotRenewed,
    /// Checkpoints do not have the counter that producer ids come from.
    ProducerIdsNotCheckpointed,
    /// Checkpoints have the members that a group was made with.
    MembershipNotCheckpointed,
    /// Replicas that sleep do not notice that their leader is lost.
    SleepsThroughLoss,
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline(always)]
pub const fn is(_: Planted) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use self::planting::{is, plant};

#[cfg(feature = "planted")]
mod planting {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Planted;

    /// The place of the bug that is planted among all, from 1; 0: none is.
    static BUG: AtomicUsize = AtomicUsize::new(0);

    /// Whether this bug is planted.
    #[must_use]
    pub fn is(bug: Planted) -> bool {
        BUG.load(Ordering::Relaxed) == bug as usize + 1
    }

    /// Plants a bug, in place of the one before. Nothing that it is about may be running.
    pub fn plant(bug: Option<Planted>) {
        BUG.store(bug.map_or(0, |bug| bug as usize + 1), Ordering::Relaxed);
    }
}
