//! In which worlds each bug would do harm.

use levada_storage_engine::planted::Planted;

/// A kind of world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its scenario.
    pub scenario: &'static str,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// Seconds of faults.
    pub faults_s: u64,
}

const fn trial(scenario: &'static str, nodes: u64, faults_s: u64) -> Trial {
    Trial { scenario, nodes, faults_s }
}

const CALM: &[Trial] = &[trial("calm", 3, 5)];
const DEPOSED: &[Trial] = &[trial("deposed", 3, 15)];
const CRASHES: &[Trial] = &[trial("crashes", 3, 10)];
const DISKS: &[Trial] = &[trial("disks", 3, 10)];
const VOTES: &[Trial] = &[trial("votes", 3, 15)];
const LENDING: &[Trial] = &[trial("lending", 3, 15)];
const REGROUP: &[Trial] = &[trial("regroup", 5, 30)];
const POWER: &[Trial] = &[trial("power", 3, 10)];
const MIXED: &[Trial] = &[trial("mixed", 3, 10)];
const PARTITIONS: &[Trial] = &[trial("partitions", 3, 10)];
const FULL: &[Trial] = &[trial("full", 3, 10)];
const SLOW: &[Trial] = &[trial("slow", 3, 10)];
const ABSENT: &[Trial] = &[trial("absent", 3, 2)];
const ROT: &[Trial] = &[trial("rot", 3, 10)];
const JOURNAL: &[Trial] = &[trial("journal", 3, 20)];
const MEMBERSHIP: &[Trial] = &[trial("membership", 3, 20)];

/// Where a bug is looked for: in these kinds of worlds, in turn.
#[must_use]
pub const fn of(bug: Planted) -> &'static [Trial] {
    use Planted as P;
    match bug {
        P::JournalNotSynced | P::ReadsPastHighWatermark => CALM,
        P::JournalNameNotSynced
        | P::FramesUnchecked
        | P::CheckpointNotSynced
        | P::CheckpointNameNotSynced
        | P::SegmentsNotSynced
        | P::HardStateNotReplayed
        | P::FollowerAcksUnsynced
        | P::LeaderCountsUnsynced
        | P::ProducersNotCheckpointed
        | P::ProducerIdsNotCheckpointed => POWER,
        P::TailTrusted => CRASHES,
        P::SyncFailureIgnored => DISKS,
        P::VoteNotSaved => VOTES,
        P::CopyUnchecked => LENDING,
        P::JointLeftAtOnce => REGROUP,
        P::ReplacedEntriesReplayed
        | P::UncommittedWritten
        | P::RetentionTooFar
        | P::AppendsBatched
        | P::HighWatermarkFalls => MIXED,
        P::SleepsThroughLoss => ABSENT,
        P::StaleBounds | P::RefusesAlone | P::ReadsByLease | P::StaleMetadata => DEPOSED,
        P::VotesForAnybody
        | P::SentCountsAsAcknowledged
        | P::ConflictKept
        | P::LeaderAloneAcknowledges
        | P::LeadsTooSoon
        | P::ProducersForgotten
        | P::WindowTooShort
        | P::SequenceUnchecked
        | P::DuplicateAnsweredEarly
        | P::WaitersForgotten => PARTITIONS,
        P::NoSpaceIsSuccess => FULL,
        P::RecycledTooSoon => SLOW,
        P::SegmentUnchecked => ROT,
        P::DamageCut | P::DoubtIgnored => JOURNAL,
        P::ReplicasNotRenewed | P::MembershipNotCheckpointed => MEMBERSHIP,
    }
}
