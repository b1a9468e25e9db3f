//! One partition: what each node has of it, which records stay, and which go.

use anyhow::{Context, Result};
use levada_client::{Error, ErrorCode, PartitionId};
use levada_protocol::messages::native::{RecoverPartitionResponse, RecoverableReplica, ReplicaReport};
use serde_json::{Value, json};

use super::controller;
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
    controller::status(global, &admin).await.with_context(what)?;
    let found = match admin.recover_partition(topic, number, accept_data_loss).await {
        Err(error) if error.code == ErrorCode::NotNeeded => {
            let said = not_needed(topic, partition, &error);
            return if global.is_json() { print::json(&said) } else { print::line(&error.message) };
        }
        found => found.with_context(what)?,
    };
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
            "\nNothing has been changed. {}levada partition recover {topic} {partition} --accept-data-loss",
            instead(&found)
        )),
    }
}

/// What would lose less, if it can be done.
fn instead(found: &RecoverPartitionResponse) -> &'static str {
    let is_silent = found.replicas.iter().any(|replica| replica.report.is_none());
    match (found.in_doubt, is_silent) {
        (false, true) => "If nodes that do not answer can come back with their data, start them instead. Otherwise: ",
        (true, true) => {
            "If nodes that do not answer, or copies of directories from before the damage, can come back with their data, start them \
             instead. Otherwise: "
        }
        (true, false) => {
            "If copies of directories from before the damage can be brought back, do that instead. Otherwise: "
        }
        (false, false) => "All nodes have answered. To go on with that: ",
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
        let committed = committed(&report).map_or_else(|| "?".to_owned(), of);
        let numbers = [of(report.log_start_offset), committed, of(report.end_offset)];
        let words = state(replica);
        let words = if replica.replica_id == found.survivor { format!("{words}, goes on") } else { words.to_owned() };
        let mut row = vec![replica.node_id.to_string(), words];
        row.extend(numbers);
        row
    });
    print::table(&columns, rows)
}

/// Up to where a replica knows its records to be committed; one whose journal has lost that does not.
fn committed(report: &ReplicaReport) -> Option<u64> {
    let is_lost = report.state == LOST && report.high_watermark <= report.log_start_offset;
    (!is_lost).then_some(report.high_watermark)
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
        let who = if found.in_doubt {
            "which a journal shows that there were"
        } else {
            "which another replica says that it had"
        };
        lines.push(format!("Offsets {end} to {} {go}: {count}, {who}.", known - 1));
    }
    if let Some(from) = unknown_from(found) {
        let who = uncounted(found).join(", or ");
        lines.push(format!("All from offset {from} on {go} {who}: how many that were, nobody knows."));
    }
    if found.in_doubt {
        lines.push(format!(
            "No sound replica answers. The journal of node {node} is damaged: what is above is what it has in front of the damage."
        ));
    }
    lines
}

/// A partition that has a leader, or will have one.
pub(super) fn not_needed(topic: &str, partition: u32, why: &Error) -> Value {
    json!({"topic": topic, "partition": partition, "recovered": false, "needed": false, "why": why.message})
}

/// From here on there may have been records that nobody who answers knows of.
pub(super) fn unknown_from(found: &RecoverPartitionResponse) -> Option<u64> {
    (!uncounted(found).is_empty()).then_some(found.known_end_offset.max(found.end_offset))
}

/// Which records nobody can count.
fn uncounted(found: &RecoverPartitionResponse) -> Vec<String> {
    let mut which = Vec::new();
    if found.in_doubt {
        which.push(format!("that node {} had, and has lost", found.survivor_node));
    }
    let others = found.replicas.iter().filter(|replica| replica.replica_id != found.survivor);
    let has_lost = |replica: &&RecoverableReplica| replica.report.as_ref().is_some_and(|report| report.state == LOST);
    let nodes: Vec<String> = others.filter(has_lost).map(|replica| replica.node_id.to_string()).collect();
    match &nodes[..] {
        [] => {}
        [node] => which.push(format!("that node {node} had in the part of its journal that is lost")),
        nodes => {
            which.push(format!("that nodes {} had in the parts of their journals that are lost", nodes.join(", ")))
        }
    }
    if found.replicas.iter().any(|replica| replica.report.is_none()) {
        which.push("that only those had that do not answer".to_owned());
    }
    which
}

pub(super) fn in_json(topic: &str, partition: u32, found: &RecoverPartitionResponse, end: Option<u64>) -> Value {
    let replica = |replica: &RecoverableReplica| {
        let report = replica.report.as_ref();
        json!({
            "replica": replica.replica_id,
            "node": replica.node_id,
            "state": state(replica),
            "log_start_offset": report.map(|report| report.log_start_offset),
            "high_watermark": report.and_then(committed),
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
        "unknown_from": unknown_from(found),
        "in_doubt": found.in_doubt,
        "recovered": found.recovered,
        "high_watermark": end,
    })
}

#[cfg(test)]
mod tests {
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
            "All from offset 60 on would be gone that node 3 had in the part of its journal that is lost, or that only those had that do not \
             answer: how many that were, nobody knows.",
        ];
        assert_eq!(fate(&found(40, 60)), expected);
        let mut rotten = found(40, 40);
        let report = rotten.replicas[1].report.as_mut().unwrap();
        report.damaged = vec![levada_protocol::messages::native::OffsetRange { from: 10, to: 20 }];
        assert!(fate(&rotten)[1].starts_with("Offsets 10 to 19: node 2 has them in a damaged segment; if no other"));
        assert!(instead(&found(40, 60)).starts_with("If nodes that do not answer"));
        let mut all = found(40, 60);
        all.replicas.retain(|replica| replica.report.is_some());
        assert!(instead(&all).starts_with("All nodes have answered"), "nobody is to be started");
        let words = fate(&RecoverPartitionResponse { recovered: true, ..found(0, 0) });
        assert_eq!(words[0], "Nothing stays: the replica of node 2 has no record.");
        assert!(replicas(&found(40, 60)).contains("sound, goes on"));
        let table = replicas(&found(40, 60));
        let lost: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(lost, ["3", "lost", "0", "?", "60"], "what was committed its journal does not know any more");
    }

    #[test]
    fn of_a_replica_in_doubt_it_is_said_that_nobody_knows_what_it_has_lost() {
        let mut found = RecoverPartitionResponse { survivor: 3, survivor_node: 3, in_doubt: true, ..found(40, 60) };
        found.replicas.retain(|replica| replica.replica_id == 3);
        let expected = [
            "Offsets 0 to 39 would stay: 40, as node 3 has them.",
            "Offsets 40 to 59 would be gone: 20, which a journal shows that there were.",
            "All from offset 60 on would be gone that node 3 had, and has lost: how many that were, nobody knows.",
            "No sound replica answers. The journal of node 3 is damaged: what is above is what it has in front of the damage.",
        ];
        assert_eq!(fate(&found), expected);
        assert!(replicas(&found).contains("lost, goes on"));
        let json = in_json("orders", 0, &found, None);
        assert_eq!((&json["in_doubt"], &json["unknown_from"]), (&true.into(), &60.into()));
        found.replicas.push(RecoverableReplica { replica_id: 1, node_id: 1, report: None });
        assert!(
            fate(&found)[2].ends_with("or that only those had that do not answer: how many that were, nobody knows.")
        );
        // A sound one that everybody answers with has lost nothing.
        let sound = RecoverPartitionResponse { in_doubt: false, replicas: Vec::new(), ..found };
        assert_eq!(in_json("orders", 0, &sound, None)["unknown_from"], Value::Null);
    }
}
