//! One partition: what each node has of it, which records stay, and which go.

use anyhow::{Context, Result};
use levada_client::PartitionId;
use levada_protocol::messages::native::{RecoverPartitionResponse, RecoverableReplica};
use serde_json::{Value, json};

use crate::{
    args::Global,
    print::{self, Column},
};

/// The state of a replica that has lost some of what it had.
const LOST: u32 = 2;

pub(super) async fn run(global: &Global, topic: &str, partition: u32, accept_data_loss: bool) -> Result<()> {
    let admin = global.admin().await?;
    let number = PartitionId(partition);
    let what = || format!("cannot recover partition {partition} of {topic:?}");
    let found = admin.recover_partition(topic, number, accept_data_loss).await.with_context(what)?;
    let now = if accept_data_loss {
        let late = "it has begun, but the partition has no leader yet; `levada cluster status` shows when it has";
        Some(admin.list_offsets(topic, number, None).await.context(late)?)
    } else {
        None
    };
    if global.is_json() {
        let end = now.map(|now| now.high_watermark.get());
        return print::json(&in_json(topic, partition, &found, end));
    }
    print::line(&format!("{}\n", replicas(&found)))?;
    for line in fate(&found) {
        print::line(&line)?;
    }
    match now {
        Some(now) => print::line(&format!(
            "\nThe partition goes on: node {} leads it, and the next record gets offset {}. The other replicas are copied from \
             there; `levada cluster status` shows when they are back.",
            found.survivor_node, now.high_watermark
        )),
        None => print::line(&format!(
            "\nNothing has been changed. If nodes that do not answer can come back with their data, start them instead. \
             Otherwise: levada partition recover {topic} {partition} --accept-data-loss"
        )),
    }
}

pub(crate) fn state(replica: &RecoverableReplica) -> &'static str {
    match replica.report.as_ref().map(|report| report.state) {
        None => "no answer",
        Some(1) => "sound",
        Some(LOST) => "lost",
        Some(3) => "being copied",
        Some(_) => "nothing there",
    }
}

fn replicas(found: &RecoverPartitionResponse) -> String {
    let columns = [
        Column::Number("node"),
        Column::Text("replica"),
        Column::Number("from offset"),
        Column::Number("committed to"),
        Column::Number("ends at"),
    ];
    let rows = found.replicas.iter().map(|replica| {
        let of = |number: u64| if replica.report.is_some() { number.to_string() } else { "?".to_owned() };
        let report = replica.report.clone().unwrap_or_default();
        let numbers = [report.log_start_offset, report.high_watermark, report.end_offset].map(of);
        let words = if replica.replica_id == found.survivor { "sound, goes on" } else { state(replica) };
        let mut row = vec![replica.node_id.to_string(), words.to_owned()];
        row.extend(numbers);
        row
    });
    print::table(&columns, rows)
}

/// Which records stay, and which go.
fn fate(found: &RecoverPartitionResponse) -> Vec<String> {
    let (start, end, known) = (found.log_start_offset, found.end_offset, found.known_end_offset);
    let (stays, stay, go) =
        if found.recovered { ("stays", "stay", "are gone") } else { ("would stay", "would stay", "would be gone") };
    let node = found.survivor_node;
    let mut lines = vec![match end.saturating_sub(start) {
        0 => format!("Nothing {stays}: the replica of node {node} has no record."),
        count => format!("Offsets {start} to {} {stay}: {count}, as node {node} has them.", end - 1),
    }];
    for replica in &found.replicas {
        let Some(report) = &replica.report else { continue };
        for range in &report.damaged {
            let (node, last) = (replica.node_id, range.to.saturating_sub(1));
            let copies = if replica.replica_id == found.survivor {
                "; if no other replica that answers has them soundly, they are gone"
            } else {
                ""
            };
            lines.push(format!("Offsets {} to {last}: node {node} has them in a damaged segment{copies}.", range.from));
        }
    }
    if known > end {
        let count = known - end;
        let at_least = if found.known_lost_is_a_lower_bound { "at least " } else { "" };
        lines.push(format!(
            "Offsets {end} to {} {go}: {at_least}{count}, which another replica says that it had.",
            known - 1
        ));
    }
    lines.extend(uncounted(found));
    if found.replicas.iter().any(|replica| replica.report.is_none()) {
        let from = known.max(end);
        lines.push(format!("All from offset {from} on {go} that only those had that do not answer."));
    }
    lines
}

/// Who has lost some of what it had: how much that was, nobody knows.
fn uncounted(found: &RecoverPartitionResponse) -> Option<String> {
    let others = found.replicas.iter().filter(|replica| replica.replica_id != found.survivor);
    let lost = others.filter(|replica| replica.report.as_ref().is_some_and(|report| report.state == LOST));
    let nodes: Vec<String> = lost.map(|replica| replica.node_id.to_string()).collect();
    let who = match &nodes[..] {
        _ if !found.known_lost_is_a_lower_bound => return None,
        [] => return None,
        [node] => format!("Node {node} has lost part of its journal"),
        [others @ .., last] => format!("Nodes {} and {last} have lost part of their journals", others.join(", ")),
    };
    Some(format!("{who}, and what was in there is not counted."))
}

pub(super) fn in_json(topic: &str, partition: u32, found: &RecoverPartitionResponse, end: Option<u64>) -> Value {
    let replica = |replica: &RecoverableReplica| {
        let report = replica.report.as_ref();
        json!({
            "replica": replica.replica_id,
            "node": replica.node_id,
            "state": state(replica),
            "log_start_offset": report.map(|report| report.log_start_offset),
            "high_watermark": report.map(|report| report.high_watermark),
            "end_offset": report.map(|report| report.end_offset),
            "damaged": report.map(|report| report.damaged.iter().map(|range| json!({"from": range.from, "to": range.to})).collect::<Vec<_>>()),
        })
    };
    json!({
        "topic": topic,
        "partition": partition,
        "replicas": found.replicas.iter().map(replica).collect::<Vec<_>>(),
        "survivor": found.survivor,
        "survivor_node": found.survivor_node,
        "kept": {"from": found.log_start_offset, "to": found.end_offset},
        "known_lost": {"from": found.end_offset, "to": found.known_end_offset.max(found.end_offset)},
        "known_lost_is_a_lower_bound": found.known_lost_is_a_lower_bound,
        "recovered": found.recovered,
        "high_watermark": end,
    })
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::ReplicaReport;

    use super::*;

    fn found(end: u64, known: u64) -> RecoverPartitionResponse {
        let replica = |id, report| RecoverableReplica { replica_id: id, node_id: id, report };
        let sound = ReplicaReport { state: 1, replica_id: 2, end_offset: end, ..Default::default() };
        let lost = ReplicaReport { state: 2, replica_id: 3, end_offset: known, ..Default::default() };
        RecoverPartitionResponse {
            replicas: vec![replica(1, None), replica(2, Some(sound)), replica(3, Some(lost))],
            survivor: 2,
            survivor_node: 2,
            end_offset: end,
            known_end_offset: known,
            ..Default::default()
        }
    }

    #[test]
    fn what_stays_and_what_goes_is_said_by_offset() {
        let expected = [
            "Offsets 0 to 39 would stay: 40, as node 2 has them.",
            "Offsets 40 to 59 would be gone: 20, which another replica says that it had.",
            "All from offset 60 on would be gone that only those had that do not answer.",
        ];
        assert_eq!(fate(&found(40, 60)), expected);
        let mut rotten = found(40, 40);
        let report = rotten.replicas[1].report.as_mut().unwrap();
        report.damaged = vec![levada_protocol::messages::native::OffsetRange { from: 10, to: 20 }];
        assert!(fate(&rotten)[1].starts_with("Offsets 10 to 19: node 2 has them in a damaged segment; if no other"));
        let uncounted = RecoverPartitionResponse { known_lost_is_a_lower_bound: true, ..found(40, 60) };
        let expected = [
            "Offsets 40 to 59 would be gone: at least 20, which another replica says that it had.",
            "Node 3 has lost part of its journal, and what was in there is not counted.",
        ];
        assert_eq!(fate(&uncounted)[1..3], expected);
        let words = fate(&RecoverPartitionResponse { recovered: true, ..found(0, 0) });
        assert_eq!(words[0], "Nothing stays: the replica of node 2 has no record.");
        assert!(replicas(&found(40, 60)).contains("sound, goes on"));
    }
}
