//! Whether a partition, or the metadata, may go on from one replica, and from which.
//!
//! As long as a majority of a group's voters is there, it elects a leader that has everything that was acknowledged, and nobody
//! has to decide anything. When a majority is gone for good, what the rest has is all there is. Of these replicas the one with
//! the highest last term, and of those with the same term the longest, has everything that any of them knows to be committed
//! (Raft §5.4.1). What else was acknowledged, only those that are gone could say.
//!
//! A replica *in doubt* has lost some of that, and nobody knows how much: its journal has a hole. It goes on only where no sound one
//! answers, with what it has in front of the hole.

use std::{cmp::Reverse, collections::BTreeSet, ops::Range};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{LogIndex, NodeId, Offset, ReplicaId, Term},
    messages::native,
};

use super::metadata::Replica;
use crate::raft::membership::Conf;

/// What a node has of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaState {
    /// Nothing.
    #[default]
    Absent,
    /// A sound replica.
    Sound,
    /// One that has lost some of what it had, and takes no part any more.
    Lost,
    /// One that is being copied.
    Arriving,
}

/// What a node says of its replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// How it is.
    pub state: ReplicaState,
    /// Its number.
    pub replica: ReplicaId,
    /// Whether it leads.
    pub leads: bool,
    /// Who belongs to the group, as far as it knows.
    pub conf: Conf,
    /// Term and index of its last entry.
    pub last: (Term, LogIndex),
    /// The offset of its first record.
    pub log_start: Offset,
    /// Records below are committed, as far as it knows.
    pub high_watermark: Offset,
    /// The offset behind its last record.
    pub end: Offset,
    /// Of segments that are damaged, as far as it knows: some of these records cannot be read.
    pub damaged: Vec<Range<Offset>>,
    /// If it is in doubt, and its node can go on with what is left of it.
    pub doubt: Option<Doubtful>,
}

/// What is known of a replica in doubt, which has lost some of what it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubtful {
    /// The last term that it knows of. There may have been later ones.
    pub term: Term,
    /// Its journal tells of records up to here, the last ones behind a hole. There may have been more.
    pub seen_end: Offset,
}

impl ReplicaReport {
    /// Up to where it had records, as far as is known.
    fn known_end(&self) -> Offset {
        self.doubt.map_or(self.end, |doubt| doubt.seen_end.max(self.end))
    }

    /// The last term that it knows of.
    fn known_term(&self) -> Term {
        self.doubt.map_or(self.last.0, |doubt| doubt.term.max(self.last.0))
    }
}

/// A replica, and what its node says of it; `None` if the node does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The replica, by the metadata.
    pub replica: Replica,
    /// What its node says.
    pub report: Option<ReplicaReport>,
}

/// How a partition goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From this replica.
    pub survivor: Replica,
    /// Records from here on stay,
    pub log_start: Offset,
    /// and end here.
    pub end: Offset,
    /// The highest end that another replica says it had, or that this one is known to have had.
    pub known_end: Offset,
    /// It is in doubt: there is no sound one. No replica that was found knows of a later term.
    pub forgiven_to: Option<Term>,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A partition.
    Partition,
    /// The metadata of the cluster.
    Metadata,
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Partition => "the partition",
            Self::Metadata => "the metadata",
        }
    }

    const fn nothing_left(self) -> &'static str {
        match self {
            Self::Partition => "nothing is left of it but its name: delete the topic, or go on without the partition",
            Self::Metadata => {
                "nothing is left of the cluster but records that nobody can assign: bring data directories back from copies"
            }
        }
    }
}

/// Decides from which replica it goes on.
///
/// # Errors
/// It needs no such thing: somebody leads, or will; or nothing is left of it.
pub fn plan(subject: Subject, found: &[Found]) -> Result<Plan> {
    let name = subject.name();
    let reports = || found.iter().filter_map(|found| Some((found.replica, found.report.as_ref()?)));
    if let Some((leader, _)) = reports().find(|(_, report)| report.leads) {
        let why = format!("node {} leads {name}: there is nothing to recover", leader.node);
        return Err(Error::new(ErrorCode::NotNeeded, why));
    }
    let own = || reports().filter(|(replica, report)| report.replica == replica.id);
    let sound = || own().filter(|(_, report)| report.state == ReplicaState::Sound);
    let in_doubt = || own().filter(|(_, report)| report.state == ReplicaState::Lost && report.doubt.is_some());
    let age =
        |(replica, report): &(Replica, &ReplicaReport)| (report.last, Reverse((report.damaged.len(), replica.id)));
    let Some((survivor, best)) = sound().max_by_key(age).or_else(|| in_doubt().max_by_key(age)) else {
        return Err(Error::new(ErrorCode::InvalidRequest, nothing(subject, found)));
    };
    let is_sound = |replica: &ReplicaId| sound().any(|(found, _)| found.id == *replica);
    let is_majority = |of: &BTreeSet<ReplicaId>| {
        of.is_empty() || 2 * of.iter().filter(|replica| is_sound(replica)).count() > of.len()
    };
    if best.doubt.is_none() && is_majority(&best.conf.voters) && is_majority(&best.conf.outgoing) {
        let nodes: Vec<String> = sound().map(|(replica, _)| replica.node.to_string()).collect();
        let why = format!(
            "nodes {} have a majority of the replicas and elect a leader by themselves; look again in a few seconds",
            nodes.join(", ")
        );
        return Err(Error::new(ErrorCode::NotNeeded, why));
    }
    let known_end = reports().map(|(_, report)| report.known_end()).max().unwrap_or_default();
    let last_term = reports().map(|(_, report)| report.known_term()).max();
    let forgiven_to = last_term.filter(|_| best.doubt.is_some());
    Ok(Plan { survivor, log_start: best.log_start, end: best.end, known_end, forgiven_to })
}

/// Why it cannot go on. That nothing is left of it is not said as long as somebody who may have had some of it has not answered.
fn nothing(subject: Subject, found: &[Found]) -> String {
    let lost = |report: &ReplicaReport| report.state == ReplicaState::Lost;
    let silent = nodes_of(found, |found| found.report.is_none());
    let lost = nodes_of(found, |found| found.report.as_ref().is_some_and(lost));
    let why = format!("no node that answers has a replica of {} that it could go on with", subject.name());
    match (&silent[..], &lost[..]) {
        ([], []) => format!("{why}, and all that may have had one answer: {}", subject.nothing_left()),
        ([], lost) => format!(
            "{why}, and what {} had is damaged: bring data directories back from copies. If there are none, {}",
            words(lost),
            subject.nothing_left()
        ),
        ([node], _) => format!("{why}. Node {node} does not answer, and may have one: start it"),
        (silent, _) => {
            let nodes = words(silent).replacen('n', "N", 1);
            format!("{why}. {nodes} do not answer, and may have one: start them")
        }
    }
}

fn nodes_of(found: &[Found], which: impl Fn(&Found) -> bool) -> Vec<NodeId> {
    let nodes: BTreeSet<NodeId> = found.iter().filter(|found| which(found)).map(|found| found.replica.node).collect();
    nodes.into_iter().collect()
}

/// Nodes, as people name them.
fn words(nodes: &[NodeId]) -> String {
    match nodes {
        [node] => format!("node {node}"),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            format!("nodes {} and {last}", others.join(", "))
        }
        [] => "no node".to_owned(),
    }
}

impl ReplicaReport {
    /// For the wire.
    #[must_use]
    pub fn to_wire(&self) -> native::ReplicaReport {
        native::ReplicaReport {
            state: match self.state {
                ReplicaState::Absent => 0,
                ReplicaState::Sound => 1,
                ReplicaState::Lost => 2,
                ReplicaState::Arriving => 3,
            },
            replica_id: self.replica.get(),
            leads: self.leads,
            voters: self.conf.voters.iter().map(|replica| replica.get()).collect(),
            outgoing: self.conf.outgoing.iter().map(|replica| replica.get()).collect(),
            last_term: self.last.0.get(),
            last_index: self.last.1.get(),
            log_start_offset: self.log_start.get(),
            high_watermark: self.high_watermark.get(),
            end_offset: self.end.get(),
            damaged: self
                .damaged
                .iter()
                .map(|range| native::OffsetRange { from: range.start.get(), to: range.end.get() })
                .collect(),
            doubt: self
                .doubt
                .map(|doubt| native::ReplicaDoubt { term: doubt.term.get(), seen_end_offset: doubt.seen_end.get() }),
        }
    }

    /// From the wire. What it does not know counts as nothing.
    #[must_use]
    pub fn from_wire(wire: native::ReplicaReport) -> Self {
        let ids = |of: Vec<u64>| of.into_iter().map(ReplicaId).collect();
        Self {
            state: match wire.state {
                1 => ReplicaState::Sound,
                2 => ReplicaState::Lost,
                3 => ReplicaState::Arriving,
                _ => ReplicaState::Absent,
            },
            replica: ReplicaId(wire.replica_id),
            leads: wire.leads,
            conf: Conf { voters: ids(wire.voters), outgoing: ids(wire.outgoing), ..Conf::default() },
            last: (Term(wire.last_term), LogIndex(wire.last_index)),
            log_start: Offset(wire.log_start_offset),
            high_watermark: Offset(wire.high_watermark),
            end: Offset(wire.end_offset),
            damaged: wire.damaged.into_iter().map(|range| Offset(range.from)..Offset(range.to)).collect(),
            doubt: wire.doubt.map(|doubt| Doubtful { term: Term(doubt.term), seen_end: Offset(doubt.seen_end_offset) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: u64, state: ReplicaState, last: (u64, u64), end: u64) -> Found {
        let report = ReplicaReport {
            state,
            replica: ReplicaId(id),
            conf: Conf::of([1, 2, 3].map(ReplicaId)),
            last: (Term(last.0), LogIndex(last.1)),
            end: Offset(end),
            ..ReplicaReport::default()
        };
        Found { replica: Replica { id: ReplicaId(id), node: NodeId(10 + id) }, report: Some(report) }
    }

    fn silent(id: u64) -> Found {
        Found { report: None, ..found(id, ReplicaState::Sound, (0, 0), 0) }
    }

    /// In doubt, of a build that can go on with it.
    fn doubtful(id: u64, last: (u64, u64), end: u64, doubt: (u64, u64)) -> Found {
        let mut found = found(id, Lost, last, end);
        let report = found.report.as_mut().unwrap();
        report.conf = Conf::default();
        report.doubt = Some(Doubtful { term: Term(doubt.0), seen_end: Offset(doubt.1) });
        found
    }

    use ReplicaState::{Absent, Lost, Sound};

    #[test]
    fn who_is_left_goes_on_and_what_others_had_is_told() {
        let plan =
            plan(Subject::Partition, &[silent(1), found(2, Sound, (3, 50), 40), found(3, Lost, (4, 70), 60)]).unwrap();
        assert_eq!((plan.survivor.id, plan.end, plan.known_end), (ReplicaId(2), Offset(40), Offset(60)));
        let plan = super::plan(Subject::Partition, &[silent(1), found(2, Sound, (3, 50), 40), silent(3)]).unwrap();
        assert_eq!((plan.end, plan.known_end), (Offset(40), Offset(40)));
    }

    #[test]
    fn the_newest_of_several_goes_on() {
        let five = |mut found: Found| {
            let report = found.report.as_mut().unwrap();
            report.conf = Conf::of([1, 2, 3, 4, 5].map(ReplicaId));
            found
        };
        let all =
            [silent(1), five(found(2, Sound, (3, 90), 80)), silent(3), five(found(4, Sound, (4, 60), 50)), silent(5)];
        assert_eq!(plan(Subject::Partition, &all).unwrap().survivor.id, ReplicaId(4));
        let all =
            [silent(1), five(found(2, Sound, (4, 61), 51)), silent(3), five(found(4, Sound, (4, 60), 50)), silent(5)];
        let plan = plan(Subject::Partition, &all).unwrap();
        assert_eq!((plan.survivor.id, plan.end), (ReplicaId(2), Offset(51)));
    }

    #[test]
    fn of_two_that_have_the_same_the_sound_one_goes_on() {
        let five = |mut found: Found, damaged: &[Range<Offset>]| {
            let report = found.report.as_mut().unwrap();
            report.conf = Conf::of([1, 2, 3, 4, 5].map(ReplicaId));
            report.damaged = damaged.to_vec();
            found
        };
        let damage = [Offset(10)..Offset(20)];
        let rotten = five(found(2, Sound, (3, 50), 40), &damage);
        let sound = five(found(4, Sound, (3, 50), 40), &[]);
        let all = [silent(1), rotten, silent(3), sound, silent(5)];
        assert_eq!(plan(Subject::Partition, &all).unwrap().survivor.id, ReplicaId(4));
    }

    #[test]
    fn nothing_is_done_where_a_majority_is_left() {
        let error = plan(Subject::Partition, &[silent(1), found(2, Sound, (3, 50), 40), found(3, Sound, (3, 50), 40)])
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::NotNeeded);
        assert!(error.message.contains("nodes 12, 13"), "{error}");
        let mut leader = found(2, Sound, (3, 50), 40);
        leader.report.as_mut().unwrap().leads = true;
        assert_eq!(plan(Subject::Partition, &[silent(1), leader, silent(3)]).unwrap_err().code, ErrorCode::NotNeeded);
    }

    #[test]
    fn a_change_of_replicas_needs_both_majorities() {
        let joint = |mut found: Found| {
            let report = found.report.as_mut().unwrap();
            report.conf.outgoing = [1, 4, 5].map(ReplicaId).into();
            found
        };
        let all =
            [silent(1), joint(found(2, Sound, (3, 50), 40)), joint(found(3, Sound, (3, 50), 40)), silent(4), silent(5)];
        assert_eq!(plan(Subject::Partition, &all).unwrap().survivor.id, ReplicaId(2));
    }

    #[test]
    fn of_replicas_in_doubt_the_newest_goes_on_if_none_is_sound() {
        let doubted = [doubtful(1, (3, 50), 40, (5, 60)), doubtful(2, (4, 45), 35, (4, 38)), silent(3)];
        let plan = plan(Subject::Partition, &doubted).unwrap();
        assert_eq!((plan.survivor.id, plan.end, plan.known_end), (ReplicaId(2), Offset(35), Offset(60)));
        assert_eq!(plan.forgiven_to, Some(Term(5)), "nobody knows of a later term");
        // One alone is all that the partition has.
        let plan = super::plan(Subject::Partition, &doubted[..1]).unwrap();
        assert_eq!((plan.end, plan.known_end), (Offset(40), Offset(60)));
        // However old it is, a sound one has kept all that it had.
        let with_a_sound_one = [doubted[0].clone(), doubted[1].clone(), found(3, Sound, (2, 20), 10)];
        let plan = super::plan(Subject::Partition, &with_a_sound_one).unwrap();
        assert_eq!((plan.survivor.id, plan.end, plan.known_end), (ReplicaId(3), Offset(10), Offset(60)));
        assert_eq!(plan.forgiven_to, None);
    }

    #[test]
    fn where_nothing_is_left_nothing_can_be_done() {
        let none = [1, 2, 3].map(|id| found(id, Absent, (0, 0), 0));
        let error = plan(Subject::Partition, &none).unwrap_err();
        assert!(error.message.contains("all that may have had one answer: nothing is left"), "{error}");
        let [one, other, _] = none;
        let error = plan(Subject::Partition, &[one, other, found(3, Lost, (3, 50), 40)]).unwrap_err();
        assert!(error.message.contains("what node 13 had is damaged: bring data directories back"), "{error}");
        // What another replica of that node has is not this one's.
        let mut other = found(2, Sound, (3, 50), 40);
        other.replica.id = ReplicaId(9);
        assert!(plan(Subject::Partition, &[other]).is_err());
    }

    /// A node that is not heard may have everything.
    #[test]
    fn nobody_is_told_to_delete_what_may_be_there() {
        let all = [silent(1), found(2, Lost, (3, 50), 40), silent(3)];
        let error = plan(Subject::Partition, &all).unwrap_err();
        assert!(error.message.ends_with("Nodes 11 and 13 do not answer, and may have one: start them"), "{error}");
        let all = [silent(1), found(2, Absent, (0, 0), 0)];
        let error = plan(Subject::Metadata, &all).unwrap_err();
        assert!(error.message.ends_with("Node 11 does not answer, and may have one: start it"), "{error}");
    }

    #[test]
    fn reports_survive_the_wire() {
        let mut report = found(7, Lost, (3, 50), 40).report.unwrap();
        (report.log_start, report.high_watermark, report.leads) = (Offset(5), Offset(6), true);
        report.conf.outgoing = [ReplicaId(4)].into();
        report.damaged = vec![Offset(7)..Offset(9)];
        report.doubt = Some(Doubtful { term: Term(8), seen_end: Offset(9) });
        assert_eq!(ReplicaReport::from_wire(report.to_wire()), report);
    }
}
