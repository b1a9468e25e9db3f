//! Gauges that are read off the view now and then. What the process and its disk have left is in [`super::vitals`].
#![allow(clippy::cast_precision_loss, reason = "gauges are floating point, and none of these comes near 2^52")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use levada_protocol::ids::{GroupId, NodeId, TopicPartition};
use metrics::{counter, gauge};
use tokio::time::sleep;

use super::lag::Lags;
use crate::{broker::Broker, cluster::metadata::Replica, config::ServerConfig, metrics as names, runtime::clock};

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Entries that a replica may be behind in the middle of work.
const BEHIND_TOLERATED: u64 = 200;

/// Sets the gauges, for ever.
pub(super) async fn observe(broker: Arc<Broker>, config: ServerConfig) {
    let (node, cluster) = (broker.node().to_string(), broker.identity.cluster.to_string());
    let version = env!("CARGO_PKG_VERSION");
    gauge!(names::NODE_INFO.name, "node" => node, "cluster" => cluster, "version" => version).set(1.0);
    let mut lags = Lags::default();
    loop {
        set(&broker, &mut lags);
        let config = broker.reloader.as_ref().map_or_else(|| config.clone(), |reloader| reloader.config());
        let others = (broker.metadata().nodes().len() as u64).saturating_sub(1);
        gauge!(names::MEMORY_BUDGET_BYTES.name).set(config.memory_bytes(others) as f64);
        sleep(INTERVAL).await;
    }
}

fn set(broker: &Broker, lags: &mut Lags) {
    let now = clock::instant();
    let mut lag_max = Duration::ZERO;
    let metadata = broker.metadata();
    let down: BTreeSet<NodeId> = metadata.nodes().keys().copied().filter(|node| !broker.is_alive(*node)).collect();
    // A replica that is lost counts until another is there in its place. One whose node is down falls behind only once
    // something is written: it counts from the first moment.
    let lame: BTreeSet<TopicPartition> = metadata
        .topics()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.id, partition)))
        .filter(|(_, partition)| {
            let is_lame = |replica: &Replica| down.contains(&replica.node) || partition.lost.contains(&replica.id);
            partition.replicas.iter().any(is_lame)
        })
        .map(|(topic, partition)| TopicPartition { topic, partition: partition.partition })
        .collect();
    let partitions = broker.view.partitions();
    let (mut led, mut committed, mut under_replicated, mut behind_max) = (0u64, 0, 0u64, 0);
    for partition in &partitions {
        let state = *partition.state.borrow();
        if !state.leading {
            continue;
        }
        led += 1;
        committed += state.high_watermark.get();
        let worst = partition.behind().into_values().max().unwrap_or(0);
        behind_max = worst.max(behind_max);
        lag_max = lag_max.max(lags.look(partition.partition, now, partition.log.stats().last_index, worst));
        under_replicated += u64::from(worst > BEHIND_TOLERATED || lame.contains(&partition.partition));
    }
    lags.end_of_look();
    let groups: BTreeSet<GroupId> =
        metadata.topics().flat_map(|topic| &topic.partitions).map(|partition| partition.group).collect();
    let leaderless = groups.iter().filter(|group| broker.leader(**group).is_none()).count();
    gauge!(names::PARTITIONS.name).set(partitions.len() as f64);
    gauge!(names::PARTITIONS_LED.name).set(led as f64);
    gauge!(names::RECORDS_COMMITTED.name).set(committed as f64);
    gauge!(names::PARTITIONS_UNDER_REPLICATED.name).set(under_replicated as f64);
    gauge!(names::REPLICA_BEHIND_MAX.name).set(behind_max as f64);
    gauge!(names::REPLICA_SECONDS_BEHIND_MAX.name).set(lag_max.as_secs_f64());
    gauge!(names::PARTITIONS_LEADERLESS.name).set(leaderless as f64);
    gauge!(names::IN_FLIGHT_BYTES.name).set(broker.requests.held() as f64);
    gauge!(names::CONTROLLER.name).set(f64::from(u8::from(broker.is_controller())));
    let upkeep = broker.view.upkeep();
    gauge!(names::SEGMENTS_DAMAGED.name).set(upkeep.damaged_segments as f64);
    gauge!(names::REPLICAS_LOST.name).set(upkeep.lost_replicas as f64);
    gauge!(names::REPLICAS_COPYING.name).set(upkeep.copying as f64);
    counter!(names::SEGMENTS_MENDED.name).absolute(upkeep.mended_segments);
    counter!(names::COPIED_BYTES.name).absolute(upkeep.copied_bytes);
    counter!(names::SCRUB_BYTES.name).absolute(upkeep.scrubbed_bytes);
    counter!(names::SCRUB_PASSES.name).absolute(upkeep.scrub_passes);
    counter!(names::SCRUB_DAMAGE.name).absolute(upkeep.scrub_found);
}
