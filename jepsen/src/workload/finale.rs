//! After everything: every node that has a replica shows all of it.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use anyhow::Result;
use futures::future::join_all;
use levada_checkers::history::{Key, Op};
use levada_client::{Admin, PartitionId};
use levada_protocol::ids::TopicId;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    Orders, TOPIC,
    flight::columns,
    log::{PATIENCE, admin},
    queue::failed,
    records::Damaged,
};
use crate::stage::Stage;

/// How long to wait before a node is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Notes what each replica of each key has, up to the end as its leader tells it. A replica may need a moment to get there; one that
/// does not in time is noted as failed.
///
/// # Errors
/// Nobody answers questions about the topic within this time.
pub(super) async fn read_all(stage: &Arc<Stage>, orders: &Orders, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let (admin, topic) = loop {
        let asked = async {
            let admin = admin(stage, "jepsen-finale").await?;
            let topic = timeout(PATIENCE, admin.describe_topic(TOPIC)).await??;
            anyhow::Ok((admin, topic))
        };
        match asked.await {
            Ok(answer) => break answer,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    };
    for key in 0..orders.keys {
        let nodes = replicas(stage, &admin, orders, key, deadline).await;
        join_all(nodes.into_iter().map(|node| read_one(stage, &admin, topic.id, key, node, deadline))).await;
    }
    Ok(())
}

/// The nodes that have a replica of a key. All that it should have: those on the way are waited for.
async fn replicas(stage: &Stage, admin: &Admin, orders: &Orders, key: Key, deadline: Instant) -> BTreeSet<u64> {
    loop {
        let described = timeout(PATIENCE, admin.describe_topic(TOPIC)).await;
        let topic = described.ok().and_then(Result::ok);
        let partition = topic.as_ref().and_then(|topic| topic.partition(PartitionId(key)));
        let nodes: BTreeSet<u64> =
            partition.into_iter().flat_map(|partition| &partition.replicas).map(|replica| replica.node.get()).collect();
        if nodes.len() >= orders.replicas as usize {
            return nodes;
        }
        if Instant::now() > deadline {
            let what = format!("it has replicas on the nodes {nodes:?} where {} were asked for", orders.replicas);
            stage.recorder.wrong("missing-replica", key, None, what);
            return nodes;
        }
        sleep(PAUSE).await;
    }
}

async fn read_one(stage: &Stage, admin: &Admin, topic: TopicId, key: Key, node: u64, deadline: Instant) {
    let process = stage.recorder.process();
    let begun = Op::Final { key, range: None, records: Vec::new() };
    let invocation = stage.recorder.invoke(process, Some(node), begun.clone());
    loop {
        let attempt = async {
            let bounds = timeout(PATIENCE, admin.list_offsets(TOPIC, PartitionId(key), None)).await??;
            let address = stage.flight(node).unwrap_or_default();
            let range = bounds.log_start.get()..bounds.high_watermark.get();
            anyhow::Ok((columns(&address, topic, key, range.clone()).await?, range))
        };
        match timeout_at(deadline, attempt).await.unwrap_or_else(|late| Err(late.into())) {
            Ok((records, range)) if shows_all(&records, &range) || Instant::now() > deadline => {
                let told = Op::Final { key, range: Some(range), records };
                return stage.recorder.ok(process, Some(node), invocation, told);
            }
            Ok(_) => sleep(PAUSE).await,
            Err(error) if Instant::now() > deadline || error.is::<Damaged>() => {
                return failed(stage, process, invocation, begun, &error);
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Whether records go up to the end of a log.
fn shows_all(records: &[(u64, u64)], range: &Range<u64>) -> bool {
    records.last().map_or(range.is_empty(), |(offset, _)| offset + 1 == range.end)
}
