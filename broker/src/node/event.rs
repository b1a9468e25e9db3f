//! What goes into the node core and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;
use levada_groups::{command::Command, state::Group};
use levada_protocol::{
    error::Error,
    ids::{GroupId, IncarnationId, LogIndex, NodeId, PartitionId, ReplicaId, Term, TopicId, TopicPartition},
    source::{Appended, LogBounds, NewTopic},
};
use levada_storage_engine::{
    disk::{DiskError, DiskOp, DiskSpace, FileName, Lane},
    store::GroupState,
};

use uuid::Uuid;

use super::{MemberLoss, Need, ScrubConfig};
use crate::{
    cluster::{
        balance::Move,
        metadata::{Node, Topic},
        recovery::ReplicaReport,
    },
    raft::wire::PeerMessage,
};

/// The time, as the driver tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the process began. Never jumps.
    pub mono_ms: u64,
    /// Milliseconds since the epoch, as the machine's clock has it. Goes into metadata, never into decisions of safety.
    pub wall_ms: i64,
}

/// A request's number, chosen by the driver, under which the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What of a node's configuration may change while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Replicas of a topic that does not say.
    pub default_replicas: u32,
    /// What new replicas on this node may copy from others in a second, together.
    pub copy_bytes_per_s: u64,
    /// How often and how fast all segments are read again.
    pub scrub: ScrubConfig,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// 50 milliseconds have passed (see [`crate::raft::TICK_MS`]).
    Tick,
    /// A disk effect was performed, or failed.
    Disk {
        /// The effect's token.
        token: u64,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// What the disk has left; `None` if nothing bounds it. The driver looks every second.
    Space(Option<DiskSpace>),
    /// A read was done, or failed.
    Read {
        /// The effect's token.
        token: u64,
        /// The bytes; fewer than asked for at the end of the file.
        result: Result<Bytes, DiskError>,
    },
    /// A message from another node.
    Peer {
        /// The node, as its handshake proved.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// Messages to a node were dropped: it cannot be reached, or its queue is full.
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// Somebody wants something.
    Request {
        /// Under which number the answer goes.
        id: RequestId,
        /// What is wanted.
        request: Request,
    },
    /// A produce request that follows is to be followed: [`Effect::Reached`] says how far it has come.
    Follow {
        /// The request.
        id: RequestId,
    },
    /// The configuration was read again.
    Settings(Settings),
    /// The process is about to end: hand leadership over. [`Effect::ReadyToStop`] follows.
    Shutdown,
}

/// What can be asked of a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// Append one batch that has passed the door checks (`batch::validate`; for a typed topic, the codec).
    Produce {
        /// Where to.
        partition: TopicPartition,
        /// The batch, rows or columns.
        batch: Bytes,
    },
    /// Log start and high watermark, linearizably. Leader only.
    Bounds {
        /// Of which partition.
        partition: TopicPartition,
    },
    /// A producer id. Controller only.
    InitProducer,
    /// A topic. Controller only.
    CreateTopic {
        /// The wish; its schema is canonical already.
        new: NewTopic,
        /// Only check.
        dry_run: bool,
        /// The id that follows from the client's request; none if the client leaves it to the controller.
        id: Option<TopicId>,
    },
    /// Other settings for a topic. Controller only.
    AlterTopic {
        /// The topic's name.
        name: String,
        /// Settings to set.
        set: std::collections::BTreeMap<String, String>,
        /// Settings that go back to their defaults.
        unset: Vec<String>,
        /// Which request of a client's it is, however often it comes; none if the client does not say.
        request: Option<Uuid>,
    },
    /// A topic's end. Controller only.
    DeleteTopic {
        /// The topic's name.
        name: String,
        /// Only if the topic of that name is this one.
        id: Option<TopicId>,
    },
    /// A node's addresses. Controller only.
    RegisterNode {
        /// It, as it says of itself.
        node: Box<Node>,
    },
    /// A node may join, or come back with an empty data directory. Controller only.
    AdmitNode {
        /// The node.
        node: NodeId,
        /// It is known with another data directory.
        replace: bool,
        /// Only say what would move.
        dry_run: bool,
    },
    /// An admitted node joins. Controller only.
    JoinNode {
        /// It, with the data directory that it has now.
        node: Box<Node>,
    },
    /// A node has lost its replica of the metadata group, and gets another. Controller only.
    RenewMember {
        /// The node.
        node: NodeId,
        /// Its data directory.
        incarnation: IncarnationId,
        /// The replica that is lost.
        lost: ReplicaId,
    },
    /// A node is to give up all its replicas, or not any more. Controller only.
    DrainNode {
        /// The node.
        node: NodeId,
        /// Whether it is.
        drain: bool,
        /// Only check, and say what would move.
        dry_run: bool,
    },
    /// Replicas and preferred leaders are to be spread evenly. Controller only.
    Balance {
        /// Only say what would move.
        dry_run: bool,
    },
    /// A topic is to have so many replicas of each partition. Controller only.
    SetReplicas {
        /// The topic's name.
        name: String,
        /// How many.
        replicas: u32,
    },
    /// A topic is to have more partitions. Controller only.
    SetPartitions {
        /// The topic's name.
        name: String,
        /// How many.
        partitions: u32,
    },
    /// What this node has of a partition.
    DescribeReplica {
        /// Its raft group.
        group: GroupId,
    },
    /// A partition goes on with what one replica has. Controller only.
    RecoverPartition {
        /// Its raft group.
        group: GroupId,
        /// That replica.
        survivor: ReplicaId,
        /// Which replicas it is to have, when that was decided.
        targets_given: u64,
        /// If it may be in doubt: the last term that anybody knows of.
        forgiven_to: Option<Term>,
    },
    /// The metadata as it is here, for a node whose replica of group 0 needs entries that no log has any more. Any node.
    CatchUpMember {
        /// The node.
        node: NodeId,
        /// Its data directory.
        incarnation: IncarnationId,
        /// Its replica.
        replica: ReplicaId,
        /// What it must be.
        need: Need,
    },
    /// The metadata goes on with what this node has of it, as a majority of those who vote on it is gone for good.
    RecoverMetadata,
    /// Waits until this node's metadata is as new as the call. Controller only.
    MetadataBarrier,
    /// Something about consumer groups. Leader of the coordinator partition only.
    Group {
        /// The coordinator partition.
        partition: PartitionId,
        /// What.
        ask: GroupAsk,
    },
    /// Leadership of a group goes to a replica on that node. Leader only.
    TransferLeader {
        /// The group.
        group: GroupId,
        /// The node.
        to: NodeId,
    },
}

/// What can be asked of a coordinator.
#[derive(Clone, Debug)]
pub enum GroupAsk {
    /// Something is to change.
    Change(Command),
    /// A group as it is now.
    Show {
        /// Its name.
        group: String,
    },
    /// Groups, in the order of their names.
    List {
        /// Those behind this name.
        after: String,
    },
}

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupAnswer {
    /// To [`GroupAsk::Change`].
    Told(levada_groups::command::Answer),
    /// To [`GroupAsk::Show`].
    Shown(Arc<Group>),
    /// To [`GroupAsk::List`].
    Listed(Vec<(String, Arc<Group>)>),
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Request::Produce`]: durable on a quorum.
    Appended(Appended),
    /// To [`Request::Bounds`].
    Bounds(LogBounds),
    /// To [`Request::InitProducer`]: the id; the epoch is 0.
    ProducerId(i64),
    /// To [`Request::JoinNode`] and [`Request::RenewMember`]: the metadata that the node begins with.
    Joined(Box<GroupState>),
    /// To [`Request::DrainNode`] and [`Request::Balance`]: what moves, or would.
    Moves(Vec<Move>),
    /// To [`Request::Group`].
    Group(Box<GroupAnswer>),
    /// To [`Request::DescribeReplica`].
    Replica(Box<ReplicaReport>),
    /// To the requests about topics: as it is now (as it was, for a deletion).
    Topic(Arc<Topic>),
    /// To the others.
    Done,
}

/// How far a followed produce request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has its offset, and is on its way to the journal and to the followers.
    Proposed {
        /// As this entry of its group's log.
        index: LogIndex,
    },
    /// The journal here has it durably.
    Durable,
}

/// Something a driver must do.
#[derive(Debug)]
pub enum Effect {
    /// Send to another node. Messages to one node keep their order; they may be lost.
    Send {
        /// The node.
        to: NodeId,
        /// What to say.
        message: PeerMessage,
    },
    /// Perform these operations in order, behind those given to the same lane before, and answer with [`Event::Disk`].
    Disk {
        /// Which queue.
        lane: Lane,
        /// For the answer.
        token: u64,
        /// What to do.
        ops: Vec<DiskOp>,
    },
    /// Read up to `len` bytes of a file, in no particular order, and answer with [`Event::Read`].
    Read {
        /// For the answer.
        token: u64,
        /// The file.
        file: FileName,
        /// Where.
        pos: u64,
        /// How many bytes at most.
        len: usize,
        /// Not from a cache, if that can be.
        from_disk: bool,
    },
    /// The answer to a request. Every request gets exactly one.
    Reply {
        /// The request.
        id: RequestId,
        /// The answer.
        result: Result<Answer, Error>,
    },
    /// A followed request has come so far. A driver that follows none may pass it over.
    Reached {
        /// The request.
        id: RequestId,
        /// How far.
        stage: Stage,
    },
    /// The data directory failed: the process must end at once.
    Fatal {
        /// What happened, and what to do.
        message: String,
    },
    /// This node's replica of the metadata group is of no use any more: the process must end at once, and begin again with
    /// another ([`NodeConfig::member_loss`](super::NodeConfig::member_loss)).
    GiveUpMetadata {
        /// Why.
        loss: MemberLoss,
        /// What happened.
        message: String,
    },
    /// After [`Event::Shutdown`]: nothing is led here any more, or nobody can take it.
    ReadyToStop,
}
