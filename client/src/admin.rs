//! Topics, offsets, nodes and leaders: what operators and tools ask for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::{ClusterId, GroupId, NodeId, Offset, PartitionId, Term, TopicId, TopicPartition},
    messages::native::{
        AdmitNodeRequest, AdmitNodeResponse, AlterTopicRequest, BalanceRequest, ClusterStatusRequest,
        ClusterStatusResponse, CreateTopicRequest, DeleteTopicRequest, DescribeConfigRequest, DescribeConfigResponse,
        DrainNodeRequest, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
        MoveInfo, MovesResponse, RecoverMetadataRequest, RecoverMetadataResponse, RecoverPartitionRequest,
        RecoverPartitionResponse, ReloadConfigRequest, ReloadConfigResponse, ResizeTopicRequest, TopicResponse,
        TransferLeaderRequest, TransferLeaderResponse,
    },
    source::NewTopic,
};
use uuid::Uuid;

use crate::{
    call::{Failed, Target},
    cluster::Cluster,
    config::ClientConfig,
    topology::Topic,
};

/// Where a partition begins and ends, and where a time is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The first offset that can still be read.
    pub log_start: Offset,
    /// The first offset not yet committed.
    pub high_watermark: Offset,
    /// For the time asked for: the first offset whose record is not older; the high watermark when there is none.
    pub for_time: Option<Offset>,
    /// The leader's term.
    pub leader_epoch: Term,
    /// Bytes of the partition's segments.
    pub bytes: u64,
}

/// Record batches as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Whole batches, one behind the other (`levada_protocol::batch::BatchIter::adjacent` takes them apart). The first
    /// may begin below the offset asked for. Empty at the end of the log.
    pub batches: Bytes,
    /// The first offset not yet committed.
    pub high_watermark: Offset,
    /// The first offset that can still be read.
    pub log_start: Offset,
}

/// Creates, describes, changes and deletes topics; asks for offsets and health. Cheap to clone.
///
/// Every call finds the node that can answer it and tries again, up to `operation_timeout`, while leaders change.
#[derive(Clone, Debug)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl Admin {
    /// Finds the cluster through some of its nodes: `host:port`, several separated by commas.
    ///
    /// # Errors
    /// No node answers, or the addresses are none.
    pub async fn connect(bootstrap: &str) -> Result<Self> {
        Self::with_config(ClientConfig::new(bootstrap)?).await
    }

    /// The same with settings of your own.
    ///
    /// # Errors
    /// No node answers.
    pub async fn with_config(config: ClientConfig) -> Result<Self> {
        Ok(Self { cluster: Cluster::connect(config).await? })
    }

    /// The cluster's identity.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.id().get().copied()
    }

    /// All topics that there are at the moment, by name.
    ///
    /// # Errors
    /// The cluster has no controller within `operation_timeout`.
    pub async fn list_topics(&self) -> Result<Vec<Arc<Topic>>> {
        let request = MetadataRequest { all_topics: true, ..MetadataRequest::default() };
        let mut topics = self.cluster.refresh_linearizably(request).await?.topics;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic as it is at the moment, with its partitions, leaders, settings and schema.
    ///
    /// # Errors
    /// `UnknownTopic`; the cluster has no controller within `operation_timeout`.
    pub async fn describe_topic(&self, name: &str) -> Result<Arc<Topic>> {
        self.cluster.present_topic(name).await
    }

    /// Makes a topic; its partitions can be written when this returns.
    ///
    /// # Errors
    /// `TopicExists`; name, settings, schema or number of replicas are wrong.
    pub async fn create_topic(&self, new: NewTopic) -> Result<Arc<Topic>> {
        let (name, request_id) = (new.name.clone(), Uuid::new_v4());
        match self.create(new, false, request_id).await {
            Ok(topic) => Ok(topic),
            // An earlier try had succeeded and its answer was lost, if the topic is the one that this request makes.
            Err(Failed { error, may_have_happened: true }) if error.code == ErrorCode::TopicExists => {
                let topic = self.describe_topic(&name).await?;
                if topic.id == TopicId::of_request(request_id, &name) { Ok(topic) } else { Err(error) }
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// Checks whether a topic could be made, and makes none.
    ///
    /// # Errors
    /// As [`Admin::create_topic`].
    pub async fn check_topic(&self, new: NewTopic) -> Result<()> {
        self.create(new, true, Uuid::new_v4()).await.map(drop).map_err(Error::from)
    }

    async fn create(&self, new: NewTopic, dry_run: bool, request_id: Uuid) -> std::result::Result<Arc<Topic>, Failed> {
        let request = CreateTopicRequest {
            name: new.name,
            partitions: new.partitions,
            replicas: new.replicas,
            config: new.config,
            schema_json: new.schema_json.unwrap_or_default(),
            dry_run,
            request_id: Bytes::copy_from_slice(request_id.as_bytes()),
        };
        let frame = self.cluster.call(Target::Controller, Api::CreateTopic, &request, Duration::ZERO).await?;
        let certain = |error| Failed { error, may_have_happened: false };
        let response: TopicResponse = frame.message().map_err(certain)?;
        topic_of(response).map_err(certain)
    }

    /// Sets some settings of a topic, and takes others back to their defaults, once, however often it has to be asked for.
    ///
    /// # Errors
    /// `UnknownTopic`; `InvalidConfig`.
    pub async fn alter_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<Arc<Topic>> {
        let request_id = Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
        let request = AlterTopicRequest { name: name.to_owned(), set, unset, request_id };
        let frame = self.cluster.call(Target::Controller, Api::AlterTopic, &request, Duration::ZERO).await?;
        topic_of(frame.message()?)
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// `UnknownTopic`.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        // One that is made anew while an answer is lost is another one.
        let id = self.describe_topic(name).await?.id;
        let request = DeleteTopicRequest { name: name.to_owned(), topic_id: Bytes::copy_from_slice(&id.to_bytes()) };
        match self.cluster.call(Target::Controller, Api::DeleteTopic, &request, Duration::ZERO).await {
            Ok(_) => Ok(()),
            // An earlier try had succeeded and its answer was lost.
            Err(failed) if failed.may_have_happened && failed.error.code == ErrorCode::UnknownTopic => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Both ends of a partition, read linearizably from its leader; with a time also the first offset not older.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; no leader within `operation_timeout`.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partition: PartitionId,
        timestamp_ms: Option<i64>,
    ) -> Result<Offsets> {
        self.cluster.list_offsets(topic, partition, timestamp_ms).await
    }

    /// Record batches as they are stored, from the one that holds `offset`; waits up to `wait` when there is none yet.
    ///
    /// # Errors
    /// `OffsetOutOfRange`; `UnknownTopic`, `UnknownPartition`; no leader within `operation_timeout`.
    pub async fn fetch(
        &self,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
        bytes_max: u32,
        wait: Duration,
    ) -> Result<Fetched> {
        let request = |known| FetchRequest {
            topic_id: id_bytes(known),
            partition: partition.get(),
            offset: offset.get(),
            max_bytes: bytes_max,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let frame = self.cluster.call_leader(topic, partition, Api::Fetch, request, wait).await?;
        let response: FetchResponse = frame.message()?;
        Ok(Fetched {
            batches: frame.payload,
            high_watermark: Offset(response.high_watermark),
            log_start: Offset(response.log_start_offset),
        })
    }

    /// Nodes and partitions, as one node sees them or, with `all_nodes`, as every node sees its own.
    ///
    /// # Errors
    /// No node answers.
    pub async fn cluster_status(&self, all_nodes: bool) -> Result<ClusterStatusResponse> {
        let request = ClusterStatusRequest { all_nodes };
        self.cluster.call(Target::Any, Api::ClusterStatus, &request, Duration::ZERO).await?.message()
    }

    /// What is in force on a node (on one that answers, if none is named), and where each value was set.
    ///
    /// # Errors
    /// `UnknownNode`; the node does not answer.
    pub async fn describe_config(&self, node: Option<NodeId>) -> Result<DescribeConfigResponse> {
        let request = DescribeConfigRequest { node_id: node.map(NodeId::get) };
        self.cluster.call(Target::Any, Api::DescribeConfig, &request, Duration::ZERO).await?.message()
    }

    /// Has a node (one that answers, if none is named) read its configuration again. What can change has changed when
    /// this returns.
    ///
    /// # Errors
    /// `InvalidConfig`: it is wrong, and nothing has changed; `UnknownNode`; the node does not answer.
    pub async fn reload_config(&self, node: Option<NodeId>) -> Result<ReloadConfigResponse> {
        let request = ReloadConfigRequest { node_id: node.map(NodeId::get) };
        self.cluster.call(Target::Any, Api::ReloadConfig, &request, Duration::ZERO).await?.message()
    }

    /// Lets a node join the cluster: a new one, or with `replace` one that lost its data directory. It joins when it starts
    /// (or at once, if it waits already).
    ///
    /// # Errors
    /// `InvalidRequest`: it is there already; `FeatureLevel`: some node runs an older build.
    pub async fn admit_node(&self, node: NodeId, replace: bool) -> Result<()> {
        self.admit(node, replace, false).await.map(drop)
    }

    /// What would move when a node joins: to a new one, its share; on one that is replaced, all replicas are made anew.
    ///
    /// # Errors
    /// As [`Self::admit_node`].
    pub async fn plan_admission(&self, node: NodeId, replace: bool) -> Result<Vec<MoveInfo>> {
        self.admit(node, replace, true).await
    }

    async fn admit(&self, node: NodeId, replace: bool, dry_run: bool) -> Result<Vec<MoveInfo>> {
        let request = AdmitNodeRequest { node_id: node.get(), replace, dry_run };
        let frame = self.cluster.call(Target::Controller, Api::AdmitNode, &request, Duration::ZERO).await?;
        frame.message::<AdmitNodeResponse>().map(|response| response.moves)
    }

    /// Has a node give up all its replicas and leave the cluster. This returns when that has begun; the controller goes on
    /// with it, whatever becomes of the caller.
    ///
    /// # Errors
    /// `UnknownNode`; `NotEnoughNodes`: no other node could take a replica.
    pub async fn decommission_node(&self, node: NodeId) -> Result<()> {
        self.drain(node, false, false).await.map(drop)
    }

    /// What [`Admin::decommission_node`] would move.
    ///
    /// # Errors
    /// As it.
    pub async fn plan_decommission(&self, node: NodeId) -> Result<Vec<MoveInfo>> {
        self.drain(node, false, true).await
    }

    /// Has a node stay that was about to leave.
    ///
    /// # Errors
    /// `UnknownNode`.
    pub async fn cancel_decommission(&self, node: NodeId) -> Result<()> {
        self.drain(node, true, false).await.map(drop)
    }

    async fn drain(&self, node: NodeId, cancel: bool, dry_run: bool) -> Result<Vec<MoveInfo>> {
        let request = DrainNodeRequest { node_id: node.get(), cancel, dry_run };
        let frame = self.cluster.call(Target::Controller, Api::DrainNode, &request, Duration::ZERO).await?;
        frame.message::<MovesResponse>().map(|response| response.moves)
    }

    /// Spreads replicas and preferred leaders evenly over the nodes. The controller does so by itself when nothing else
    /// moves; this begins at once. With `dry_run` it only says what would move.
    ///
    /// # Errors
    /// `FeatureLevel`: some node runs an older build.
    pub async fn balance(&self, dry_run: bool) -> Result<Vec<MoveInfo>> {
        let request = BalanceRequest { dry_run };
        let frame = self.cluster.call(Target::Controller, Api::Balance, &request, Duration::ZERO).await?;
        frame.message::<MovesResponse>().map(|response| response.moves)
    }

    /// Gives a topic more partitions, or another number of replicas of each, or both. Replicas are moved after this
    /// returns.
    ///
    /// # Errors
    /// `UnknownTopic`; `InvalidRequest`: fewer partitions than there are; `NotEnoughNodes`.
    pub async fn resize_topic(&self, name: &str, partitions: Option<u32>, replicas: Option<u32>) -> Result<Arc<Topic>> {
        let request = ResizeTopicRequest { name: name.to_owned(), partitions, replicas };
        let frame = self.cluster.call(Target::Controller, Api::ResizeTopic, &request, Duration::ZERO).await?;
        topic_of(frame.message()?)
    }

    /// How a partition that has lost a majority of its replicas can go on with what one of them has. With `accept_data_loss`
    /// it does, and what only the others had is gone.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; `InvalidRequest`: it has a leader, or will have one, or no replica is left;
    /// `NotReady`: a node that may have a replica is starting; `FeatureLevel`: some node runs an older build.
    pub async fn recover_partition(
        &self,
        topic: &str,
        partition: PartitionId,
        accept_data_loss: bool,
    ) -> Result<RecoverPartitionResponse> {
        let request = RecoverPartitionRequest { topic: topic.to_owned(), partition: partition.get(), accept_data_loss };
        let frame = self.cluster.call(Target::Controller, Api::RecoverPartition, &request, Duration::ZERO).await?;
        frame.message()
    }

    /// How the cluster's metadata, which has lost a majority of the nodes that vote on it, can go on with what one node has. With
    /// `accept_data_loss` it does, and changes that only the others had are gone.
    ///
    /// # Errors
    /// `InvalidRequest`: somebody leads it, or will, or nothing is left of it; `NotReady`: a node that may have more of it is
    /// starting; `FeatureLevel`: the cluster has never been at the level that this needs.
    pub async fn recover_metadata(&self, accept_data_loss: bool) -> Result<RecoverMetadataResponse> {
        let request = RecoverMetadataRequest { accept_data_loss, forwarded: false };
        let frame = self.cluster.call(Target::Any, Api::RecoverMetadata, &request, Duration::ZERO).await?;
        frame.message()
    }

    /// Moves a partition's leadership to another node that has a replica of it.
    ///
    /// # Errors
    /// The node has no replica, or does not take over in time.
    pub async fn transfer_leader(&self, topic: &str, partition: PartitionId, to: NodeId) -> Result<()> {
        let described = self.cluster.topic(topic).await?;
        let known = described.topic_partition(partition)?;
        let group = described.partition(partition).map(|partition| partition.group).unwrap_or_default();
        self.transfer(Target::Leader(topic, known), group, to).await?;
        let leads = async || {
            let leader = self.describe_topic(topic).await.ok()?.partition(partition)?.leader?;
            (leader == to).then_some(())
        };
        taken_over(to, leads).await
    }

    /// Moves the controller to another node.
    ///
    /// # Errors
    /// The node does not vote on metadata, or does not take over in time.
    pub async fn transfer_controller(&self, to: NodeId) -> Result<()> {
        self.transfer(Target::Controller, GroupId::METADATA, to).await?;
        let controls = async || {
            let controller = self.cluster_status(false).await.ok()?.controller?;
            (controller == to.get()).then_some(())
        };
        taken_over(to, controls).await
    }

    async fn transfer(&self, target: Target<'_>, group: GroupId, to: NodeId) -> Result<()> {
        let request = TransferLeaderRequest { group: group.get(), node_id: to.get() };
        let frame = self.cluster.call(target, Api::TransferLeader, &request, Duration::ZERO).await?;
        frame.message::<TransferLeaderResponse>().map(drop)
    }
}

/// How long a node may take to take over, and how often it is looked for.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);
const TAKEOVER_PAUSE: Duration = Duration::from_millis(50);

/// Waits until a node leads: it was asked to, and may be down or behind.
async fn taken_over(node: NodeId, leads: impl AsyncFn() -> Option<()>) -> Result<()> {
    let waiting = async {
        while leads().await.is_none() {
            tokio::time::sleep(TAKEOVER_PAUSE).await;
        }
    };
    tokio::time::timeout(TAKEOVER_MAX, waiting).await.map_err(|_| {
        let why = format!(
            "node {node} did not take over within {TAKEOVER_MAX:?}: it is down, or behind; leadership stays where it was \
             (`levada cluster status` shows where)"
        );
        Error::new(ErrorCode::Timeout, why)
    })
}

impl Cluster {
    /// Both ends of a partition, and where a time is.
    pub(crate) async fn list_offsets(
        &self,
        topic: &str,
        partition: PartitionId,
        timestamp_ms: Option<i64>,
    ) -> Result<Offsets> {
        let request =
            |known| ListOffsetsRequest { topic_id: id_bytes(known), partition: partition.get(), timestamp_ms };
        let frame = self.call_leader(topic, partition, Api::ListOffsets, request, Duration::ZERO).await?;
        let response: ListOffsetsResponse = frame.message()?;
        Ok(Offsets {
            log_start: Offset(response.log_start_offset),
            high_watermark: Offset(response.high_watermark),
            for_time: response.offset_for_time.map(Offset),
            leader_epoch: Term(response.leader_epoch),
            bytes: response.bytes,
        })
    }
}

fn id_bytes(partition: TopicPartition) -> Bytes {
    Bytes::copy_from_slice(&partition.topic.to_bytes())
}

fn topic_of(response: TopicResponse) -> Result<Arc<Topic>> {
    let described = response.topic.ok_or_else(|| {
        Error::new(ErrorCode::BadFrame, "the server answered without describing the topic; upgrade the older side")
    })?;
    Topic::try_from(described).map(Arc::new)
}
