//! `levada cluster recover`: the metadata goes on from what one node has, when a majority of those who vote on it is gone for good.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use levada_client::{Admin, ErrorCode};
use levada_protocol::messages::native::{RecoverMetadataResponse, RecoverableReplica};
use serde_json::json;

use crate::{
    args::Global,
    partition::one::state,
    print::{self, Column},
};

/// How long the survivor may take to lead.
const LEADS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it does.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(global: &Global, admin: &Admin, accept_data_loss: bool) -> Result<()> {
    let found = match admin.recover_metadata(accept_data_loss).await {
        Err(error) if error.code == ErrorCode::NotNeeded => {
            let said = json!({"recovered": false, "needed": false, "why": error.message});
            return if global.is_json() { print::json(&said) } else { print::line(&error.message) };
        }
        found => found.context("cannot recover the cluster's metadata")?,
    };
    if accept_data_loss {
        until_it_leads(admin, found.survivor_node).await?;
    }
    if global.is_json() {
        return print::json(&in_json(&found));
    }
    print::line(&format!("{}\n", replicas(&found)))?;
    for line in fate(&found) {
        print::line(&line)?;
    }
    Ok(())
}

async fn until_it_leads(admin: &Admin, survivor: u64) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < LEADS_WITHIN {
        let status = admin.cluster_status(false).await.ok();
        if status.and_then(|status| status.controller) == Some(survivor) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    anyhow::bail!(
        "it has begun, but node {survivor} does not lead the metadata yet; `levada cluster status` shows when it does"
    )
}

fn replicas(found: &RecoverMetadataResponse) -> String {
    let columns = [Column::Number("node"), Column::Text("replica"), Column::Number("term"), Column::Number("changes")];
    let rows = found.replicas.iter().map(|replica: &RecoverableReplica| {
        let of = |number: u64| if replica.report.is_some() { number.to_string() } else { "?".to_owned() };
        let report = replica.report.clone().unwrap_or_default();
        let words = if replica.replica_id == found.survivor { "sound, goes on" } else { state(replica) };
        vec![replica.node_id.to_string(), words.to_owned(), of(report.last_term), of(report.last_index)]
    });
    print::table(&columns, rows)
}

fn fate(found: &RecoverMetadataResponse) -> Vec<String> {
    let (node, last) = (found.survivor_node, found.last_index);
    if found.recovered {
        return vec![
            format!("The metadata goes on: node {node} is the controller, with {last} changes. What others had behind that is gone."),
            "The other nodes get copies of it when they are there. Next: `levada partition recover --all` for partitions without a \
             leader, and `levada cluster replace N` for nodes that have lost their directories."
                .to_owned(),
        ];
    }
    vec![
        format!(
            "The metadata would go on with {last} changes, as node {node} has them. Topics that were made behind that would be gone \
             with their records, and those that were deleted would be there again; so would other changes."
        ),
        "Nothing has been changed. If nodes that do not answer can come back with their data, start them instead. Otherwise: levada \
         cluster recover --accept-data-loss"
            .to_owned(),
    ]
}

fn in_json(found: &RecoverMetadataResponse) -> serde_json::Value {
    let replica = |replica: &RecoverableReplica| {
        let report = replica.report.as_ref();
        json!({
            "replica": replica.replica_id,
            "node": replica.node_id,
            "state": state(replica),
            "last_term": report.map(|report| report.last_term),
            "last_index": report.map(|report| report.last_index),
        })
    };
    json!({
        "replicas": found.replicas.iter().map(replica).collect::<Vec<_>>(),
        "survivor": found.survivor,
        "survivor_node": found.survivor_node,
        "last_term": found.last_term,
        "last_index": found.last_index,
        "recovered": found.recovered,
    })
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::ReplicaReport;

    use super::*;

    #[test]
    fn what_would_go_is_said() {
        let report =
            ReplicaReport { state: 1, replica_id: 2, last_term: 3, last_index: 70, ..ReplicaReport::default() };
        let replica = |id, report| RecoverableReplica { replica_id: id, node_id: id, report };
        let found = RecoverMetadataResponse {
            replicas: vec![replica(1, None), replica(2, Some(report))],
            survivor: 2,
            survivor_node: 2,
            last_term: 3,
            last_index: 70,
            recovered: false,
        };
        let table = replicas(&found);
        assert!(table.contains("no answer") && table.contains("sound, goes on"), "{table}");
        assert!(fate(&found)[0].contains("70 changes") && fate(&found)[1].contains("Nothing has been changed"));
        assert!(fate(&RecoverMetadataResponse { recovered: true, ..found.clone() })[0].contains("goes on: node 2"));
        assert_eq!(in_json(&found)["replicas"][0]["last_index"], serde_json::Value::Null);
    }
}
