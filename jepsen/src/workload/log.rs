//! What all workloads over a log need.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use levada_client::{Admin, ClientConfig, NewTopic};

use super::{Orders, TOPIC};
use crate::stage::Stage;

/// How long an operation may take before its client gives up on it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How clients reach the cluster: they give up sooner than a program would, since nobody waits for them.
pub(super) fn config(stage: &Stage, name: &str) -> Result<ClientConfig> {
    let mut config = ClientConfig::new(&stage.bootstrap)?.with_client_id(name);
    config.operation_timeout = PATIENCE;
    Ok(config)
}

/// Asks until the cluster answers: it may not, when the first node that is asked is cut off.
pub(super) async fn admin(stage: &Stage, name: &str) -> Result<Admin> {
    Ok(Admin::with_config(config(stage, name)?).await?)
}

pub(super) async fn create_topic(stage: &Stage, orders: &Orders) -> Result<()> {
    let admin = admin(stage, "jepsen-set-up").await?;
    let new = NewTopic {
        name: TOPIC.to_owned(),
        partitions: orders.keys,
        replicas: orders.replicas,
        // Small segments: some are sealed, indexed and scrubbed while it runs.
        config: BTreeMap::from([("segment.bytes".to_owned(), (4 << 20).to_string())]),
        schema_json: None,
    };
    admin.create_topic(new).await?;
    Ok(())
}
