//! The metrics of this crate. What each means stands in the constant, and `docs/metrics.md` is made from it.
//!
//! Nothing is counted per partition: a node may have thousands. What matters of partitions is counted as "how many are
//! in this state".
#![allow(missing_docs, reason = "each constant says what it means")]

use std::sync::{Mutex, PoisonError};

use levada_protocol::{
    frame::Api,
    metric::{Kind, Metric},
};
/// Those of the disk, which this crate serves with its own.
pub use levada_storage_engine::metrics as storage;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub const REQUESTS: Metric = Metric::counter("levada_requests_total", "requests")
    .by(&["api", "code"])
    .means("requests answered, by api and code (OK or the error's name)")
    .when_high("codes other than `OK` that grow: `docs/cli.md` and the error's message say what each asks for");
pub const PRODUCE_SECONDS: Metric = Metric::histogram("levada_produce_seconds", "seconds")
    .means("from the last byte of a produce request to its acknowledgement, successful ones only")
    .when_high(
        "compare `levada_journal_sync_seconds` on all nodes: an acknowledgement waits for the disks of a \
         majority. If these are quick, see `levada_tail_bytes` and `levada_worker_round_seconds`",
    );
pub const PRODUCE_BYTES: Metric =
    Metric::counter("levada_produce_bytes_total", "bytes").means("batches acknowledged here as leader");
pub const PRODUCE_RECORDS: Metric =
    Metric::counter("levada_produce_records_total", "records").means("records acknowledged here as leader");
pub const READ_BYTES: Metric =
    Metric::counter("levada_read_bytes_total", "bytes").means("batches read here, for any door");
pub const CONNECTIONS: Metric = Metric::gauge("levada_connections", "connections")
    .means("native connections that have shaken hands")
    .when_high("near `limits.connections_max` new ones are refused: raise it, or let clients share connections");
pub const CONNECTIONS_SHAKING_HANDS: Metric = Metric::gauge("levada_connections_shaking_hands", "connections")
    .means("native connections that have not said who they are yet")
    .when_high("at 1,024 the oldest goes when another comes: somebody opens connections and says nothing");
pub const CONNECTIONS_DROPPED: Metric = Metric::counter("levada_connections_dropped_total", "connections")
    .by(&["reason"])
    .means(
        "native connections of clients that were closed because they did nothing: `idle` for `limits.idle_ms`; `made_room` for \
         another when all places were taken; `silent` in the middle of a frame or `stalled` with answers that they did not take, \
         for `limits.frame_ms`, or for a second when others waited for the memory",
    )
    .when_high(
        "`made_room`: raise `limits.connections_max`, or let clients share connections; `silent` and `stalled`: clients hang, or \
         the network between does",
    );
pub const CONNECTIONS_REFUSED: Metric = Metric::counter("levada_connections_refused_total", "connections")
    .by(&["reason"])
    .means("native connections that were refused, by reason")
    .when_high(
        "`full`: `limits.connections_max` is reached; `descriptors`: the process has none left for connections, raise the \
         hard limit; `slow` and `crowded`: they did not say who they are in time, or not before too many others came; anything else: somebody who is no client of this cluster knocks",
    );
pub const HTTP_CONNECTIONS_BROKEN: Metric = Metric::counter("levada_http_connections_broken_total", "connections")
    .means("connections to metrics and health that were closed for another, as there was no place left")
    .when_high("somebody opens connections there and leaves them: 64 stand at once, each for 30 seconds at most");
pub const IN_FLIGHT_BYTES: Metric =
    Metric::gauge("levada_in_flight_bytes", "bytes").means("requests under way on all client connections").when_high(
        "near `limits.request_bytes_max` no client is read any more: the node does not keep up, see \
         `levada_produce_seconds`",
    );
pub const PEER_FRAMES: Metric =
    Metric::counter("levada_peer_frames_total", "frames").by(&["node"]).means("frames of raft messages sent, by node");
pub const PEER_MESSAGES_DROPPED: Metric = Metric::counter("levada_peer_messages_dropped_total", "messages")
    .by(&["node"])
    .means("raft messages dropped because a node's queue was full, by node")
    .when_high("that node, or the way to it, does not keep up: look at its disk and the network");
pub const WORKER_ROUND_SECONDS: Metric =
    Metric::histogram("levada_worker_round_seconds", "seconds").means("one round of the node core").when_high(
        "above 0.05 the core itself is slow: the machine lacks processor time, or reads from a slow disk for a \
         replica that is far behind",
    );
pub const WORKER_QUEUE: Metric = Metric::gauge("levada_worker_queue", "events")
    .means("events that wait for the node core")
    .when_high("as for `levada_worker_round_seconds`");
pub const TAIL_BYTES: Metric = Metric::gauge("levada_tail_bytes", "bytes")
    .means("entries in memory that a quorum or a segment does not have yet, or that were written lately")
    .when_high("near half of `tail.bytes_max` producers wait: the disk or the quorum does not keep up");
pub const BACKLOG_BYTES: Metric = Metric::gauge("levada_backlog_bytes", "bytes")
    .means("committed entries of partitions led elsewhere that wait for this disk's segments")
    .when_high(
        "near half of `tail.bytes_max` this node refuses entries of other leaders until its disk has caught up; \
         some megabytes are as they should be",
    );
pub const STORAGE_FAILURES: Metric = Metric::counter("levada_storage_failures_total", "failures")
    .means("failures of the data directory; each ends the process")
    .when_high("look at the log and at the disk (`dmesg`) before you start the node again");
pub const PARTITIONS: Metric = Metric::gauge("levada_partitions", "partitions")
    .means("partitions with a replica here")
    .when_high("see Sizing in `docs/operations.md`");
pub const GROUPS_ASLEEP: Metric = Metric::gauge("levada_groups_asleep", "groups")
    .means("raft groups here in which nothing happens and that sleep: they cost nothing until something does")
    .when_high("(when it stays low though little is written) `levada_group_wakes_total` says what wakes them");
pub const GROUP_SLEEPS: Metric =
    Metric::counter("levada_group_sleeps_total", "groups").means("how many times a raft group here fell asleep");
pub const GROUP_WAKES: Metric = Metric::counter("levada_group_wakes_total", "groups")
    .by(&["reason"])
    .means(
        "how many times a raft group here woke up: `message` of another replica, `request` of a client, `upkeep` of segments or \
         replicas, `node_lost` with its leader or its majority, `node_back` for a follower, `unconfirmed` by its leader for too long",
    )
    .when_high(
        "`node_lost` without a node that went down: nodes do not hear each other for a second, look at the network and at \
         `levada_worker_round_seconds`. `unconfirmed` is never to be seen: report it",
    );
pub const PARTITIONS_LED: Metric = Metric::gauge("levada_partitions_led", "partitions")
    .means("partitions led here")
    .when_high("more than on other nodes: `levada cluster move-leader`");
pub const PARTITIONS_LEADERLESS: Metric = Metric::gauge("levada_partitions_leaderless", "partitions")
    .means("partitions in the cluster's metadata without a leader known here")
    .when_high("start the nodes that are down: a partition needs a majority of its replicas");
pub const PARTITIONS_UNDER_REPLICATED: Metric = Metric::gauge("levada_partitions_under_replicated", "partitions")
    .means("partitions led here of which a replica's node is down, or behind by more than a moment's work")
    .when_high("`levada cluster status` shows which replicas; start their nodes, or look at their disks");
pub const REPLICA_BEHIND_MAX: Metric = Metric::gauge("levada_replica_entries_behind_max", "entries")
    .means("by how much the worst replica of any partition led here is behind")
    .when_high("when it does not fall, that replica is down, or its disk or network is too slow for the load");
pub const REPLICA_SECONDS_BEHIND_MAX: Metric = Metric::gauge("levada_replica_seconds_behind_max", "seconds")
    .means("since when the worst replica of any partition led here has lacked an entry that its leader has")
    .when_high("as for `levada_replica_entries_behind_max`; until it is over, that replica makes nothing safer");
pub const RECORDS_COMMITTED: Metric = Metric::gauge("levada_records_committed", "records")
    .means("records committed in partitions led here, since they were made (the sum of their high watermarks)");
pub const CONTROLLER: Metric = Metric::gauge("levada_controller", "1 or 0")
    .means("1 when this node is the controller")
    .when_high("the sum over all nodes is 1: 0 for long means that no majority of those that vote on metadata is up");
pub const READY: Metric = Metric::gauge("levada_ready", "1 or 0")
    .means("1 when this node serves, as `/health/ready` says")
    .when_high("(when it is 0) `/health/ready` says what the node waits for");
pub const NODE_INFO: Metric = Metric::gauge("levada_node_info", "1")
    .by(&["node", "cluster", "version"])
    .means("always 1: which node of which cluster this is, and which version it runs");
pub const SEGMENTS_DAMAGED: Metric = Metric::gauge("levada_segments_damaged", "segments")
    .means("segments here that cannot be read as a whole, and are not mended yet")
    .when_high(
        "for more than a minute: no other node has these segments soundly, or none answers; `levada cluster status` shows \
         which are down. And look at this node's disk (`dmesg`, SMART)",
    );
pub const SEGMENTS_MENDED: Metric = Metric::counter("levada_segments_mended_total", "segments")
    .means("segments that were damaged and have a sound file from another node now")
    .when_high("this disk does not keep what it was given: replace it before it loses more");
pub const REPLICAS_LOST: Metric = Metric::gauge("levada_replicas_lost", "replicas")
    .means(
        "replicas here that may have lost what they had acknowledged; they take no part until they are replaced, or somebody lets \
         their partition go on from one of them",
    )
    .when_high(
        "for more than a minute: their partitions have no leader, because a majority of their replicas is down or lost as \
         well. Bring nodes back that are down; if there are none, see `levada partition recover` in `docs/operations.md`",
    );
pub const REPLICAS_COPYING: Metric =
    Metric::gauge("levada_replicas_copying", "replicas").means("new replicas that are being copied to this node");
pub const COPIED_BYTES: Metric = Metric::counter("levada_copied_bytes_total", "bytes")
    .means("bytes of segments that came from other nodes, for new replicas and for damaged segments");
pub const SCRUB_BYTES: Metric = Metric::counter("levada_scrub_bytes_total", "bytes")
    .means("bytes of segments that were read from the disk to see whether they are sound");
pub const SCRUB_PASSES: Metric =
    Metric::counter("levada_scrub_passes_total", "passes").means("times that the scrub has read all segments here");
pub const SCRUB_DAMAGE: Metric = Metric::counter("levada_scrub_damage_total", "segments")
    .means("damaged segments that the scrub found")
    .when_high("as for `levada_segments_mended_total`");
pub const CLOCK_SECONDS: Metric =
    Metric::gauge("levada_clock_seconds", "seconds").means("the node's clock when it was asked, since 1970").when_high(
        "ahead of the other nodes by more than a second: mend its time synchronisation, as retention goes by the clock",
    );
pub const DISK_FREE_BYTES: Metric = Metric::gauge("levada_disk_free_bytes", "bytes")
    .means("what is free on the data directory's file system, for who is not root")
    .when_high(
        "(when it is low) free or add space, or shorten the retention of the largest topics; without space the \
         node answers BUSY and in the end stops",
    );
pub const DISK_TOTAL_BYTES: Metric =
    Metric::gauge("levada_disk_total_bytes", "bytes").means("the size of the data directory's file system");
pub const SEGMENT_DIR_UP: Metric = Metric::gauge("levada_segment_dir_up", "1 or 0")
    .by(&["directory"])
    .means("1 for a directory of `segment.dirs` that is used, 0 for one that has failed or could not be used at the start")
    .when_high(
        "(when it is 0) the log's `directory.failed` says why. Its segments come from other nodes; mend or replace the disk, and start the node again",
    );
pub const SEGMENT_DIR_FREE_BYTES: Metric = Metric::gauge("levada_segment_dir_free_bytes", "bytes")
    .by(&["directory"])
    .means("what is free in the file system of a directory of `segment.dirs`")
    .when_high("(when it is low) as for `levada_disk_free_bytes`; new segments go to where most space is");
pub const SEGMENT_DIR_TOTAL_BYTES: Metric = Metric::gauge("levada_segment_dir_total_bytes", "bytes")
    .by(&["directory"])
    .means("the size of the file system of a directory of `segment.dirs`");
pub const PROCESS_ANONYMOUS_BYTES: Metric = Metric::gauge("levada_process_anonymous_bytes", "bytes")
    .means("memory of the process without mapped files (RssAnon)")
    .when_high(
        "above `levada_memory_budget_bytes` by more than a tenth: something is not bounded, or not given back, which is a defect, \
         unless Flight writers send large messages (`docs/operations.md`, Memory)",
    );
pub const MEMORY_BUDGET_BYTES: Metric = Metric::gauge("levada_memory_budget_bytes", "bytes")
    .means("what the configuration lets the node take of its own memory, in a cluster of as many nodes as there are")
    .when_high(
        "above what the machine or its control group has left for it: lower `tail.bytes_max`, `limits.request_bytes_max` and \
         `flight.held_bytes_max`",
    );
pub const PROCESS_OPEN_FILES: Metric = Metric::gauge("levada_process_open_files", "descriptors")
    .means("open descriptors of the process: files, connections")
    .when_high(
        "near `levada_process_open_files_max`: raise the hard limit (`ulimit -Hn`, `LimitNOFILE=`) before the \
         node runs out",
    );
pub const PROCESS_OPEN_FILES_MAX: Metric =
    Metric::gauge("levada_process_open_files_max", "descriptors").means("how many descriptors the process may have");
pub const PROCESS_START_SECONDS: Metric = Metric::gauge("levada_process_start_seconds", "seconds")
    .means("when the process started, since 1970")
    .when_high("(when it changes) the node was started again: its log says why");

pub const DISK_FULLNESS: Metric = Metric::gauge("levada_disk_fullness", "level")
    .means("0: there is room on the disk; 1: little, records are taken slowly; 2: none, no records are taken")
    .when_high(
        "free space, let records go sooner (`retention.ms`, `retention.bytes`), or add a node; it goes on by itself. \
         `disk.reserve_bytes` says where it begins",
    );
pub const DISK_WAITING_WRITES: Metric = Metric::gauge("levada_disk_waiting_writes", "writes")
    .means("segments, checkpoints and journal files that found no space and are tried again every second")
    .when_high("as for `levada_disk_fullness`; nothing is lost meanwhile, and nothing more is taken");
pub const DISK_SLOW: Metric = Metric::gauge("levada_disk_slow", "boolean")
    .means("1 while this node leads nothing because its journal's blocks take far longer than those of other nodes")
    .when_high("look at this machine's disk (SMART, other load): `levada doctor --data-dir DIR` measures it");
pub const LEADERS_HANDED_OVER: Metric = Metric::counter("levada_leaders_handed_over_total", "partitions")
    .means("leaderships that this node gave away because its disk was full or slow, attempts included")
    .when_high("as for `levada_disk_fullness` and `levada_journal_sync_seconds` of this node");

/// All metrics of this crate.
pub const ALL: &[Metric] = &[
    REQUESTS,
    PRODUCE_SECONDS,
    PRODUCE_BYTES,
    PRODUCE_RECORDS,
    READ_BYTES,
    CONNECTIONS,
    CONNECTIONS_SHAKING_HANDS,
    CONNECTIONS_REFUSED,
    CONNECTIONS_DROPPED,
    HTTP_CONNECTIONS_BROKEN,
    IN_FLIGHT_BYTES,
    PEER_FRAMES,
    PEER_MESSAGES_DROPPED,
    WORKER_ROUND_SECONDS,
    WORKER_QUEUE,
    TAIL_BYTES,
    BACKLOG_BYTES,
    STORAGE_FAILURES,
    PARTITIONS,
    GROUPS_ASLEEP,
    GROUP_SLEEPS,
    GROUP_WAKES,
    PARTITIONS_LED,
    PARTITIONS_LEADERLESS,
    PARTITIONS_UNDER_REPLICATED,
    REPLICA_BEHIND_MAX,
    REPLICA_SECONDS_BEHIND_MAX,
    RECORDS_COMMITTED,
    CONTROLLER,
    READY,
    NODE_INFO,
    SEGMENTS_DAMAGED,
    SEGMENTS_MENDED,
    REPLICAS_LOST,
    REPLICAS_COPYING,
    COPIED_BYTES,
    SCRUB_BYTES,
    SCRUB_PASSES,
    SCRUB_DAMAGE,
    CLOCK_SECONDS,
    DISK_FREE_BYTES,
    DISK_TOTAL_BYTES,
    SEGMENT_DIR_UP,
    SEGMENT_DIR_FREE_BYTES,
    SEGMENT_DIR_TOTAL_BYTES,
    DISK_FULLNESS,
    DISK_WAITING_WRITES,
    DISK_SLOW,
    LEADERS_HANDED_OVER,
    PROCESS_ANONYMOUS_BYTES,
    MEMORY_BUDGET_BYTES,
    PROCESS_OPEN_FILES,
    PROCESS_OPEN_FILES_MAX,
    PROCESS_START_SECONDS,
];

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
    describe(ALL);
    describe(storage::ALL);
    *installed = Some(handle.clone());
    Ok(handle)
}

/// Tells the installed recorder what metrics mean.
pub fn describe(all: &[Metric]) {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    for metric in all {
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
        Some(Api::DescribeReplica) => "describe_replica",
        Some(Api::RecoverPartition) => "recover_partition",
        Some(Api::RecoverMetadata) => "recover_metadata",
        Some(Api::DescribeConfig) => "describe_config",
        Some(Api::ReloadConfig) => "reload_config",
        Some(Api::JoinCluster) => "join_cluster",
        Some(Api::SeedState) => "seed_state",
        Some(Api::FoundCluster) => "found_cluster",
        Some(Api::Raft) => "raft",
        Some(Api::FindCoordinator) => "find_coordinator",
        Some(Api::Group) => "group",
        Some(Api::Newcomers) => "newcomers",
        None => "unknown",
    }
}
