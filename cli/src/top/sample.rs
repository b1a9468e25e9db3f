//! What the cluster and each of its nodes say at a moment.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::future::join_all;
use levada_client::Admin;
use levada_protocol::messages::native::ClusterStatusResponse;

use crate::scrape::Scrape;

/// How long a node may take to tell its metrics.
const NODE_WITHIN: Duration = Duration::from_secs(1);

/// One look at everything.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) status: ClusterStatusResponse,
    /// When the status was there.
    pub(super) at: Instant,
    /// Of the nodes that answered.
    pub(super) nodes: BTreeMap<u64, Scrape>,
}

impl Sample {
    pub(super) async fn take(admin: &Admin) -> Result<Self> {
        let status = admin.cluster_status(true).await?;
        let at = Instant::now();
        let addresses = status.nodes.iter().filter_map(|node| node.addresses.as_ref());
        let asked = addresses
            .map(|addresses| async { (addresses.node_id, Scrape::take(&addresses.http, NODE_WITHIN).await.ok()) });
        let nodes = join_all(asked).await.into_iter().filter_map(|(node, scrape)| Some((node, scrape?))).collect();
        Ok(Self { status, at, nodes })
    }
}
