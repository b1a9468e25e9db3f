//! The metrics of this crate, by name. The operator's guide is made from these constants.
//!
//! Nothing is counted per partition: a node may have thousands. What matters of partitions is counted as "how many are
//! in this state".

use std::sync::{Mutex, PoisonError};

use levada_protocol::frame::Api;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Counter: requests answered, by `api` and `code` (`OK` or the error's name).
pub const REQUESTS: &str = "levada_requests_total";
/// Histogram, seconds: from the last byte of a produce request to its acknowledgement, successful ones only.
pub const PRODUCE_SECONDS: &str = "levada_produce_seconds";
/// Counter, bytes: batches acknowledged here as leader.
pub const PRODUCE_BYTES: &str = "levada_produce_bytes_total";
/// Counter: records acknowledged here as leader.
pub const PRODUCE_RECORDS: &str = "levada_produce_records_total";
/// Counter, bytes: batches read here, for any door.
pub const READ_BYTES: &str = "levada_read_bytes_total";
/// Gauge: native connections that have shaken hands.
pub const CONNECTIONS: &str = "levada_connections";
/// Counter: native connections that were refused, by `reason`.
pub const CONNECTIONS_REFUSED: &str = "levada_connections_refused_total";
/// Gauge, bytes: requests under way on all client connections.
pub const IN_FLIGHT_BYTES: &str = "levada_in_flight_bytes";
/// Counter: frames of raft messages sent, by `node`.
pub const PEER_FRAMES: &str = "levada_peer_frames_total";
/// Counter: raft messages dropped because a node's queue was full, by `node`.
pub const PEER_MESSAGES_DROPPED: &str = "levada_peer_messages_dropped_total";
/// Histogram, seconds: one round of the node core.
pub const WORKER_ROUND_SECONDS: &str = "levada_worker_round_seconds";
/// Gauge: events that wait for the node core.
pub const WORKER_QUEUE: &str = "levada_worker_queue";
/// Gauge, bytes: entries in memory that a quorum or a segment does not have yet, or that were written lately.
pub const TAIL_BYTES: &str = "levada_tail_bytes";
/// Gauge, bytes: committed entries of partitions led elsewhere that wait for this disk's segments.
pub const BACKLOG_BYTES: &str = "levada_backlog_bytes";
/// Counter: failures of the data directory; each ends the process.
pub const STORAGE_FAILURES: &str = "levada_storage_failures_total";
/// Gauge: partitions with a replica here.
pub const PARTITIONS: &str = "levada_partitions";
/// Gauge: partitions led here.
pub const PARTITIONS_LED: &str = "levada_partitions_led";
/// Gauge: partitions in the cluster's metadata without a leader known here.
pub const PARTITIONS_LEADERLESS: &str = "levada_partitions_leaderless";
/// Gauge: partitions led here of which a replica is behind by more than a moment's work.
pub const PARTITIONS_UNDER_REPLICATED: &str = "levada_partitions_under_replicated";
/// Gauge: entries by which the worst replica of any partition led here is behind.
pub const REPLICA_BEHIND_MAX: &str = "levada_replica_entries_behind_max";
/// Gauge: records committed in partitions led here, since they were made (the sum of their high watermarks).
pub const RECORDS_COMMITTED: &str = "levada_records_committed";
/// Gauge: 1 when this node is the controller.
pub const CONTROLLER: &str = "levada_controller";

/// Installs the recorder of this process, once, and gives the handle that renders it.
///
/// # Errors
/// Another recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = installed.as_ref() {
        return Ok(handle.clone());
    }
    let seconds = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    let bytes: Vec<f64> = (10..27).step_by(2).map(|power| 2f64.powi(power)).collect();
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &bytes)?
        .install_recorder()?;
    describe();
    levada_storage_engine::metrics::describe();
    *installed = Some(handle.clone());
    Ok(handle)
}

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution, in buckets.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Which kind of number it is.
    pub kind: Kind,
    /// What it means.
    pub meaning: &'static str,
}

const fn metric(name: &'static str, kind: Kind, meaning: &'static str) -> Metric {
    Metric { name, kind, meaning }
}

/// All metrics of this crate.
pub const ALL: &[Metric] = &[
    metric(REQUESTS, Kind::Counter, "requests answered, by api and code (OK or the error's name)"),
    metric(
        PRODUCE_SECONDS,
        Kind::Histogram,
        "seconds from the last byte of a produce request to its acknowledgement, successful ones only",
    ),
    metric(PRODUCE_BYTES, Kind::Counter, "bytes of batches acknowledged here as leader"),
    metric(PRODUCE_RECORDS, Kind::Counter, "records acknowledged here as leader"),
    metric(READ_BYTES, Kind::Counter, "bytes of batches read here, for any door"),
    metric(CONNECTIONS, Kind::Gauge, "native connections that have shaken hands"),
    metric(CONNECTIONS_REFUSED, Kind::Counter, "native connections that were refused, by reason"),
    metric(IN_FLIGHT_BYTES, Kind::Gauge, "bytes of requests under way on all client connections"),
    metric(PEER_FRAMES, Kind::Counter, "frames of raft messages sent, by node"),
    metric(PEER_MESSAGES_DROPPED, Kind::Counter, "raft messages dropped because a node's queue was full, by node"),
    metric(WORKER_ROUND_SECONDS, Kind::Histogram, "seconds of one round of the node core"),
    metric(WORKER_QUEUE, Kind::Gauge, "events that wait for the node core"),
    metric(
        TAIL_BYTES,
        Kind::Gauge,
        "bytes of entries in memory that a quorum or a segment does not have yet, or that were written lately",
    ),
    metric(
        BACKLOG_BYTES,
        Kind::Gauge,
        "bytes of committed entries of partitions led elsewhere that wait for this disk's segments",
    ),
    metric(STORAGE_FAILURES, Kind::Counter, "failures of the data directory; each ends the process"),
    metric(PARTITIONS, Kind::Gauge, "partitions with a replica here"),
    metric(PARTITIONS_LED, Kind::Gauge, "partitions led here"),
    metric(PARTITIONS_LEADERLESS, Kind::Gauge, "partitions in the cluster's metadata without a leader known here"),
    metric(
        PARTITIONS_UNDER_REPLICATED,
        Kind::Gauge,
        "partitions led here of which a replica is behind by more than a moment's work",
    ),
    metric(REPLICA_BEHIND_MAX, Kind::Gauge, "entries by which the worst replica of any partition led here is behind"),
    metric(
        RECORDS_COMMITTED,
        Kind::Gauge,
        "records committed in partitions led here, since they were made (the sum of their high watermarks)",
    ),
    metric(CONTROLLER, Kind::Gauge, "1 when this node is the controller"),
];

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    for metric in ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.meaning),
            Kind::Gauge => describe_gauge!(metric.name, metric.meaning),
            Kind::Histogram => describe_histogram!(metric.name, metric.meaning),
        }
    }
}

/// A request's name in metrics and logs.
#[must_use]
pub const fn api_name(api: u16) -> &'static str {
    match Api::from_u16(api) {
        Some(Api::Handshake) => "handshake",
        Some(Api::Metadata) => "metadata",
        Some(Api::Produce) => "produce",
        Some(Api::InitProducer) => "init_producer",
        Some(Api::Fetch) => "fetch",
        Some(Api::ListOffsets) => "list_offsets",
        Some(Api::CreateTopic) => "create_topic",
        Some(Api::AlterTopic) => "alter_topic",
        Some(Api::DeleteTopic) => "delete_topic",
        Some(Api::ClusterStatus) => "cluster_status",
        Some(Api::RegisterNode) => "register_node",
        Some(Api::TransferLeader) => "transfer_leader",
        Some(Api::AdmitNode) => "admit_node",
        Some(Api::DrainNode) => "drain_node",
        Some(Api::Balance) => "balance",
        Some(Api::ResizeTopic) => "resize_topic",
        Some(Api::JoinCluster) => "join_cluster",
        Some(Api::SeedState) => "seed_state",
        Some(Api::FoundCluster) => "found_cluster",
        Some(Api::Raft) => "raft",
        None => "unknown",
    }
}
