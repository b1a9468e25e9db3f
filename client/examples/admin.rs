//! Makes a topic if there is none and describes it:
//! `cargo run -p levada-client --example admin -- HOST:PORT TOPIC`.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::{collections::BTreeMap, error::Error};

use levada_client::{Admin, ErrorCode, NewTopic, PartitionId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "localhost:9170".to_owned());
    let name = args.next().unwrap_or_else(|| "orders".to_owned());

    let admin = Admin::connect(&bootstrap).await?;
    let config = BTreeMap::from([("retention.ms".to_owned(), "86400000".to_owned())]);
    let new = NewTopic { name: name.clone(), partitions: 4, replicas: 0, config, schema_json: None };
    match admin.create_topic(new).await {
        Err(error) if error.code != ErrorCode::TopicExists => return Err(error.into()),
        _ => {}
    }
    let topic = admin.describe_topic(&name).await?;
    for number in (0..topic.partition_count()).map(PartitionId) {
        let offsets = admin.list_offsets(&name, number, None).await?;
        let leader = topic.partition(number).and_then(|partition| partition.leader);
        println!("partition {number}: leader {leader:?}, offsets {} to {}", offsets.log_start, offsets.high_watermark);
    }
    Ok(())
}
