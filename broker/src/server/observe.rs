//! Gauges that are read off the view now and then.
#![allow(clippy::cast_precision_loss, reason = "gauges are floating point, and none of these comes near 2^52")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use levada_protocol::ids::GroupId;
use metrics::gauge;
use tokio::time::sleep;

use crate::{broker::Broker, metrics as names};

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Entries that a replica may be behind in the middle of work.
const BEHIND_TOLERATED: u64 = 200;

/// Sets the gauges, for ever.
pub(super) async fn observe(broker: Arc<Broker>) {
    loop {
        set(&broker);
        sleep(INTERVAL).await;
    }
}

fn set(broker: &Broker) {
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
        under_replicated += u64::from(worst > BEHIND_TOLERATED);
    }
    let metadata = broker.metadata();
    let groups: BTreeSet<GroupId> =
        metadata.topics().flat_map(|topic| &topic.partitions).map(|partition| partition.group).collect();
    let leaderless = groups.iter().filter(|group| broker.leader(**group).is_none()).count();
    gauge!(names::PARTITIONS).set(partitions.len() as f64);
    gauge!(names::PARTITIONS_LED).set(led as f64);
    gauge!(names::RECORDS_COMMITTED).set(committed as f64);
    gauge!(names::PARTITIONS_UNDER_REPLICATED).set(under_replicated as f64);
    gauge!(names::REPLICA_BEHIND_MAX).set(behind_max as f64);
    gauge!(names::PARTITIONS_LEADERLESS).set(leaderless as f64);
    gauge!(names::IN_FLIGHT_BYTES).set(broker.requests.held() as f64);
    gauge!(names::CONTROLLER).set(f64::from(u8::from(broker.is_controller())));
}
