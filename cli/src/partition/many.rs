//! All partitions without a leader: a line each says what becomes of it.

use anyhow::{Context, Result};
use futures::{StreamExt as _, stream};
use indicatif::ProgressBar;
use levada_client::{Admin, Error, ErrorCode, PartitionId};
use levada_protocol::messages::native::RecoverPartitionResponse;
use serde_json::{Value, json};

use super::{controller, one};
use crate::{
    args::Global,
    print::{self, Column},
};

/// Each of them waits for nodes that do not answer.
const AT_ONCE: usize = 16;

struct Outcome {
    topic: String,
    partition: u32,
    /// What is left, and where the next record goes if it was recovered and has a leader.
    found: Result<(RecoverPartitionResponse, Option<u64>), Error>,
    /// It has begun, and has no leader yet.
    late: Option<Error>,
}

pub(super) async fn run(global: &Global, topic: Option<&str>, accept_data_loss: bool) -> Result<()> {
    let admin = global.admin().await?;
    let status = controller::status(global, &admin).await?;
    if let Some(topic) = topic {
        admin.describe_topic(topic).await.with_context(|| format!("cannot recover topic {topic:?}"))?;
    }
    let is_meant = |of: &str| topic.is_none_or(|topic| topic == of);
    let leaderless: Vec<(String, u32)> = status
        .partitions
        .into_iter()
        .filter(|partition| partition.leader.is_none() && is_meant(&partition.topic))
        .map(|partition| (partition.topic, partition.partition))
        .collect();
    let bar = ProgressBar::new(leaderless.len() as u64);
    let recovered = leaderless.into_iter().map(async |(topic, partition)| {
        let outcome = recover(&admin, topic, partition, accept_data_loss).await;
        bar.inc(1);
        outcome
    });
    let mut outcomes: Vec<Outcome> = stream::iter(recovered).buffer_unordered(AT_ONCE).collect().await;
    bar.finish_and_clear();
    outcomes.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
    tell(global, &outcomes, accept_data_loss)?;
    let failed = outcomes.into_iter().find_map(|outcome| {
        let error = outcome.found.err().filter(|error| error.code != ErrorCode::NotNeeded).or(outcome.late)?;
        Some(
            anyhow::Error::new(error)
                .context(format!("cannot recover partition {} of {:?}", outcome.partition, outcome.topic)),
        )
    });
    failed.map_or(Ok(()), Err)
}

async fn recover(admin: &Admin, topic: String, partition: u32, accept_data_loss: bool) -> Outcome {
    let number = PartitionId(partition);
    let (mut end, mut late) = (None, None);
    let found = admin.recover_partition(&topic, number, accept_data_loss).await;
    if accept_data_loss && found.is_ok() {
        match admin.list_offsets(&topic, number, None).await {
            Ok(now) => end = Some(now.high_watermark.get()),
            Err(error) => late = Some(error),
        }
    }
    Outcome { topic, partition, found: found.map(|found| (found, end)), late }
}

fn tell(global: &Global, outcomes: &[Outcome], accept_data_loss: bool) -> Result<()> {
    if global.is_json() {
        return print::json(&json!({"partitions": outcomes.iter().map(in_json).collect::<Vec<_>>()}));
    }
    if outcomes.is_empty() {
        return print::line("Every partition has a leader: there is nothing to recover.");
    }
    let columns = [
        Column::Text("topic"),
        Column::Number("partition"),
        Column::Number("from node"),
        Column::Text(if accept_data_loss { "kept" } else { "would keep" }),
        Column::Text("known to be lost"),
    ];
    print::line(&print::table(&columns, outcomes.iter().map(row)))?;
    print::line(&format!("\n{}", next(outcomes, accept_data_loss)))
}

/// What follows from the table.
fn next(outcomes: &[Outcome], accept_data_loss: bool) -> String {
    let found = || outcomes.iter().filter_map(|outcome| outcome.found.as_ref().ok()).map(|(found, _)| found);
    if accept_data_loss && found().next().is_some() {
        return "The other replicas are copied from there; `levada cluster status` shows when they are back."
            .to_owned();
    }
    let mut words = "Nothing has been changed.".to_owned();
    if found().any(|found| found.replicas.iter().any(|replica| replica.report.is_none())) {
        words.push_str(
            " What only those had that do not answer is not in this list. If they can come back with their data, start them instead.",
        );
    }
    if found().any(|found| found.in_doubt) {
        words.push_str(
            " Where a replica is in doubt, no sound one answers: its journal is damaged, and what it had behind the damage is lost.",
        );
    }
    if found().next().is_some() {
        words.push_str(" To go on with that, say the same with --accept-data-loss");
    }
    words
}

fn row(outcome: &Outcome) -> Vec<String> {
    let mut row = vec![outcome.topic.clone(), outcome.partition.to_string()];
    match &outcome.found {
        Ok((found, _)) => {
            let (start, end, known) = (found.log_start_offset, found.end_offset, found.known_end_offset);
            let mut lost = if known > end { format!("offsets {end} to {}", known - 1) } else { "nothing".to_owned() };
            if found.in_doubt {
                // It has lost what it had behind that, however much that was.
                lost.push_str(&format!("; in doubt, perhaps all from {} on", known.max(end)));
            } else if one::unknown_from(found).is_some() {
                lost.push_str("; perhaps more");
            }
            let late = if outcome.late.is_some() { "; it has no leader yet" } else { "" };
            let kept = if end > start { format!("offsets {start} to {}", end - 1) } else { "no record".to_owned() };
            row.extend([found.survivor_node.to_string(), format!("{kept}{late}"), lost]);
        }
        Err(error) if error.code == ErrorCode::NotNeeded => {
            row.extend([String::new(), "everything".to_owned(), format!("nothing to do: {}", error.message)]);
        }
        Err(error) => row.extend([String::new(), format!("{}: {}", error.code.name(), error.message), String::new()]),
    }
    row
}

fn in_json(outcome: &Outcome) -> Value {
    match &outcome.found {
        Ok((found, end)) => one::in_json(&outcome.topic, outcome.partition, found, *end),
        Err(error) if error.code == ErrorCode::NotNeeded => one::not_needed(&outcome.topic, outcome.partition, error),
        Err(error) => {
            let error = json!({"code": error.code.name(), "message": error.message});
            json!({"topic": outcome.topic, "partition": outcome.partition, "recovered": false, "error": error})
        }
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::{RecoverableReplica, ReplicaReport};

    use super::*;

    #[test]
    fn each_partition_has_a_line() {
        let found = RecoverPartitionResponse {
            survivor_node: 2,
            end_offset: 40,
            known_end_offset: 60,
            ..RecoverPartitionResponse::default()
        };
        let outcome = |found| Outcome { topic: "orders".to_owned(), partition: 1, found, late: None };
        let expected = ["orders", "1", "2", "offsets 0 to 39", "offsets 40 to 59"];
        assert_eq!(row(&outcome(Ok((found.clone(), None)))), expected);
        let lost = RecoverableReplica {
            replica_id: 9,
            report: Some(ReplicaReport { state: 2, ..ReplicaReport::default() }),
            ..RecoverableReplica::default()
        };
        let uncounted = RecoverPartitionResponse { replicas: vec![lost], ..found.clone() };
        assert_eq!(row(&outcome(Ok((uncounted, None))))[4], "offsets 40 to 59; perhaps more");
        let whole = RecoverPartitionResponse { known_end_offset: 40, ..found };
        assert_eq!(row(&outcome(Ok((whole, Some(40)))))[4], "nothing");
        let in_doubt =
            RecoverPartitionResponse { in_doubt: true, known_end_offset: 60, end_offset: 40, ..Default::default() };
        assert_eq!(row(&outcome(Ok((in_doubt, None))))[4], "offsets 40 to 59; in doubt, perhaps all from 60 on");
        let silent = RecoverableReplica { report: None, ..RecoverableReplica::default() };
        let silent = RecoverPartitionResponse { replicas: vec![silent], ..RecoverPartitionResponse::default() };
        let said = |found| next(&[outcome(found)], false);
        assert!(said(Ok((silent, None))).contains("start them instead"));
        let said = said(Ok((RecoverPartitionResponse::default(), None)));
        assert!(!said.contains("start them") && said.ends_with("--accept-data-loss"), "{said}");
        let refused = outcome(Err(Error::new(ErrorCode::InvalidRequest, "nothing is left")));
        assert_eq!(next(std::slice::from_ref(&refused), true), "Nothing has been changed.");
        assert_eq!(row(&refused)[3], "INVALID_REQUEST: nothing is left");
        assert_eq!(in_json(&refused)["error"]["code"], "INVALID_REQUEST");
        let elected = outcome(Err(Error::new(ErrorCode::NotNeeded, "nodes 1, 6 have a majority")));
        assert_eq!(row(&elected)[3..], ["everything", "nothing to do: nodes 1, 6 have a majority"]);
        assert_eq!((&in_json(&elected)["needed"], &in_json(&elected)["error"]), (&json!(false), &Value::Null));
    }
}
