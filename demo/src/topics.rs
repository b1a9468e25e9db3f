//! The two topics, and who leads them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use levada_client::{Admin, NewTopic, NodeId};

/// A topic of the demo.
pub(crate) struct DemoTopic {
    pub(crate) name: &'static str,
    pub(crate) partitions: u32,
    /// Its Arrow schema, if it is typed.
    pub(crate) schema: Option<&'static str>,
}

/// Typed: stored as Arrow.
pub(crate) const PURCHASES: DemoTopic = DemoTopic {
    name: "purchases",
    partitions: 6,
    schema: Some(
        r#"{"fields": [
            {"name": "row", "type": "int64", "nullable": false},
            {"name": "household", "type": "int64", "nullable": false},
            {"name": "store", "type": "int64", "nullable": false},
            {"name": "basket", "type": "int64", "nullable": false},
            {"name": "product", "type": "int64", "nullable": false},
            {"name": "department", "type": "utf8", "nullable": false},
            {"name": "quantity", "type": "int32", "nullable": false},
            {"name": "sales", "type": "float64", "nullable": false},
            {"name": "discount", "type": "float64", "nullable": false}
        ]}"#,
    ),
};

/// Untyped: JSON objects, as they are.
pub(crate) const FLIGHTS: DemoTopic = DemoTopic { name: "flights", partitions: 3, schema: None };

const TOPICS: [&DemoTopic; 2] = [&PURCHASES, &FLIGHTS];

/// Of all topics.
pub(crate) fn partitions() -> u32 {
    TOPICS.iter().map(|topic| topic.partitions).sum()
}

pub(crate) async fn create(admin: &Admin) -> Result<()> {
    for topic in TOPICS {
        let new = NewTopic {
            name: topic.name.to_owned(),
            partitions: topic.partitions,
            replicas: 3,
            // The records are from years ago, and are to stay all the same.
            config: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
            schema_json: topic.schema.map(str::to_owned),
        };
        admin.create_topic(new).await.with_context(|| format!("cannot create topic {}", topic.name))?;
    }
    Ok(())
}

/// The node that leads the most partitions, and how many.
pub(crate) async fn busiest_node(admin: &Admin) -> Result<(u64, usize)> {
    let mut led = BTreeMap::<NodeId, usize>::new();
    for topic in TOPICS {
        let described = admin.describe_topic(topic.name).await?;
        for leader in described.partitions.iter().filter_map(|partition| partition.leader) {
            *led.entry(leader).or_default() += 1;
        }
    }
    let (node, count) = led.into_iter().max_by_key(|(_, count)| *count).context("no partition has a leader")?;
    Ok((node.get(), count))
}

/// The partitions of a topic that a node leads.
pub(crate) async fn led_by(admin: &Admin, topic: &DemoTopic, node: u64) -> Result<Vec<u32>> {
    let described = admin.describe_topic(topic.name).await?;
    let led = (0..).zip(&described.partitions).filter(|(_, partition)| partition.leader == Some(NodeId(node)));
    Ok(led.map(|(number, _)| number).collect())
}
