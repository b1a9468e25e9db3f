//! Readers that read the same offsets twice: as Arrow over Flight from any node, and as rows over the native protocol.

use std::{ops::Range, sync::Arc, time::Duration};

use anyhow::Result;
use arrow_flight::{FlightClient, Ticket as FlightTicket, error::FlightError};
use futures::TryStreamExt as _;
use levada_checkers::history::{Key, Op};
use levada_client::{Admin, Offset, PartitionId};
use levada_protocol::{
    ids::{TopicId, TopicPartition},
    ticket::{End, Start, Ticket},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use super::{
    Orders, Stopped, TOPIC, Work,
    log::PATIENCE,
    queue::{again, failed, poll},
    records,
};
use crate::stage::Stage;

/// Such readers.
const READERS: u64 = 4;
/// Offsets that one reads.
const OFFSETS: u64 = 500;
/// Between two reads.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn begin(work: &mut Work, stage: &Arc<Stage>, orders: &Orders) {
    for number in 0..READERS {
        work.spawn(compare(Arc::clone(stage), *orders, number, work.stopped()));
    }
}

async fn compare(stage: Arc<Stage>, orders: Orders, number: u64, stopped: Stopped) {
    let (process, mut dice) = (stage.recorder.process(), StdRng::seed_from_u64(orders.seed ^ number << 48));
    let mut asked = None;
    while !stopped.is() {
        let Some(admin) = again(&mut asked, &stage).await else { continue };
        let (key, nodes) = (dice.random_range(0..orders.keys), stage.ids());
        let Some(&node) = nodes.choose(&mut dice) else { return };
        let from = dice.random::<f64>();
        match choose(&stage, admin, key, from, node).await {
            Ok(Some(chosen)) => {
                let begun = Op::Snapshot { key, from: chosen.range.start, columns: Vec::new(), rows: Vec::new() };
                let invocation = stage.recorder.invoke(process, Some(node), begun.clone());
                match timeout(PATIENCE * 2, chosen.read(admin)).await.unwrap_or_else(|late| Err(late.into())) {
                    Ok((columns, rows)) => {
                        let op = Op::Snapshot { key, from: chosen.range.start, columns, rows };
                        stage.recorder.ok(process, Some(node), invocation, op);
                    }
                    Err(error) => {
                        failed(&stage, process, invocation, begun, &error);
                        asked = None;
                    }
                }
            }
            Ok(None) => {}
            Err(_) => asked = None,
        }
        sleep(PAUSE).await;
    }
}

type Records = Vec<(u64, u64)>;

/// What to read twice.
struct Chosen {
    topic: TopicId,
    key: Key,
    range: Range<u64>,
    /// Where the node serves Flight.
    address: String,
}

/// Some offsets of a key that are committed, if the node has a replica of it.
async fn choose(stage: &Stage, admin: &Admin, key: Key, from: f64, node: u64) -> Result<Option<Chosen>> {
    let bounds = timeout(PATIENCE, admin.list_offsets(TOPIC, PartitionId(key), None)).await??;
    let end = bounds.high_watermark.get();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of it")]
    let from = (end as f64 * from) as u64;
    let range = from..end.min(from + OFFSETS);
    let topic = timeout(PATIENCE, admin.describe_topic(TOPIC)).await??;
    let replicas = topic.partition(PartitionId(key)).map(|partition| partition.replicas.clone()).unwrap_or_default();
    if range.is_empty() || !replicas.iter().any(|replica| replica.node.get() == node) {
        return Ok(None);
    }
    Ok(stage.flight(node).map(|address| Chosen { topic: topic.id, key, range, address }))
}

impl Chosen {
    /// As the node shows it over Flight, and as the leader does natively.
    async fn read(&self, admin: &Admin) -> Result<(Records, Records)> {
        let columns = timeout(PATIENCE, columns(&self.address, self.topic, self.key, self.range.clone())).await??;
        let mut rows = Records::new();
        loop {
            let next = rows.last().map_or(self.range.start, |(offset, _)| offset + 1);
            if next >= self.range.end {
                break;
            }
            rows.extend(poll(admin, self.key, next).await?);
        }
        rows.retain(|(offset, _)| self.range.contains(offset));
        Ok((columns, rows))
    }
}

/// What a node shows of a key, over Flight. A stream that ends well before the end of the range is what it shows.
///
/// # Errors
/// It breaks off; what it shows is damaged.
pub(super) async fn columns(address: &str, topic: TopicId, key: Key, range: Range<u64>) -> Result<Records> {
    let partition = TopicPartition { topic, partition: PartitionId(key) };
    let ticket = Ticket::new(partition, Start::Offset(Offset(range.start)), End::Offset(Offset(range.end)));
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = FlightClient::new(channel);
    let mut batches = client.do_get(FlightTicket { ticket: ticket.encode() }).await?;
    let mut records = Vec::new();
    while let Some(batch) = batches.try_next().await.map_err(|error: FlightError| error)? {
        records.extend(records::of_columns(&batch)?);
    }
    Ok(records)
}
