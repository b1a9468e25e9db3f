//! After everything: every node that has a replica shows all of it.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use levada_checkers::history::{Key, Op, Phase};
use levada_client::{Admin, PartitionId};
use levada_protocol::ids::TopicId;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Orders, TOPIC,
    flight::columns,
    log::{PATIENCE, admin},
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
        let replicas = topic.partition(PartitionId(key)).map(|partition| partition.replicas.clone());
        for replica in replicas.unwrap_or_default() {
            read_one(stage, &admin, topic.id, key, replica.node.get(), deadline).await;
        }
    }
    Ok(())
}

async fn read_one(stage: &Stage, admin: &Admin, topic: TopicId, key: Key, node: u64, deadline: Instant) {
    let process = stage.recorder.process();
    let begun = Op::Final { key, records: Vec::new() };
    let invocation = stage.recorder.invoke(process, Some(node), begun.clone());
    loop {
        let attempt = async {
            let bounds = timeout(PATIENCE, admin.list_offsets(TOPIC, PartitionId(key), None)).await??;
            let address = stage.flight(node).unwrap_or_default();
            let range = bounds.log_start.get()..bounds.high_watermark.get();
            timeout(PATIENCE * 6, columns(&address, topic, key, range)).await?
        };
        match attempt.await {
            Ok(records) => return stage.recorder.ok(process, Some(node), invocation, Op::Final { key, records }),
            Err(error) if Instant::now() > deadline => {
                return stage.recorder.ended(process, invocation, Phase::Fail, begun, format!("{error:#}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
