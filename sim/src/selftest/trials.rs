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
const POWER: &[Trial] = &[trial("power", 3, 10)];
const MIXED: &[Trial] = &[trial("mixed", 3, 10)];
const PARTITIONS: &[Trial] = &[trial("partitions", 3, 10)];
const FULL: &[Trial] = &[trial("full", 3, 10)];
const ROT: &[Trial] = &[trial("rot", 3, 10)];
const JOURNAL: &[Trial] = &[trial("journal", 3, 20)];
const MEMBERSHIP: &[Trial] = &[trial("membership", 3, 20)];

/// Where a bug is looked for: in these kinds of worlds, in turn.
#[must_use]
pub const fn of(bug: Planted) -> &'static [Trial] {
    use Planted as P;
    match bug {
        P::JournalNotSynced | P::StaleBounds | P::ReadsPastHighWatermark => CALM,
        P::JournalNameNotSynced
        | P::TailTrusted
        | P::FramesUnchecked
        | P::RecycledTooSoon
        | P::CheckpointNotSynced
        | P::CheckpointNameNotSynced
        | P::SegmentsNotSynced
        | P::HardStateNotReplayed
        | P::FollowerAcksUnsynced
        | P::LeaderCountsUnsynced
        | P::ProducersNotCheckpointed
        | P::ProducerIdsNotCheckpointed => POWER,
        P::SyncFailureIgnored
        | P::VoteNotSaved
        | P::ReplacedEntriesReplayed
        | P::UncommittedWritten
        | P::RetentionTooFar
        | P::AppendsBatched
        | P::HighWatermarkFalls
        | P::RefusesAlone
        | P::ReadsByLease
        | P::SleepsThroughLoss => MIXED,
        P::VotesForAnybody
        | P::SentCountsAsAcknowledged
        | P::ConflictKept
        | P::LeaderAloneAcknowledges
        | P::LeadsTooSoon
        | P::ProducersForgotten
        | P::WindowTooShort
        | P::SequenceUnchecked
        | P::DuplicateAnsweredEarly
        | P::WaitersForgotten
        | P::StaleMetadata => PARTITIONS,
        P::NoSpaceIsSuccess => FULL,
        P::SegmentUnchecked | P::CopyUnchecked => ROT,
        P::DamageCut | P::DoubtIgnored => JOURNAL,
        P::EarlierReplicaReplayed | P::JointLeftAtOnce | P::ReplicasNotRenewed | P::MembershipNotCheckpointed => {
            MEMBERSHIP
        }
    }
}
