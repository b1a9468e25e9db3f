//! Only a controller can recover partitions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use levada_client::{Admin, Error, ErrorCode};
use levada_protocol::messages::native::ClusterStatusResponse;

use crate::args::Global;

/// An election takes no longer than this, if a majority of those is there that vote.
const ELECTED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether there is one.
const PAUSE: Duration = Duration::from_millis(250);

/// The status of a cluster that has a controller.
///
/// # Errors
/// It has none, and what helps then.
pub(super) async fn status(global: &Global, admin: &Admin) -> Result<ClusterStatusResponse> {
    let begun = Instant::now();
    loop {
        let status = admin.cluster_status(true).await.context("cannot ask for the cluster's status")?;
        if status.controller.is_some() {
            return Ok(status);
        }
        if begun.elapsed() > ELECTED_WITHIN.min(global.timeout()) {
            return Err(none().into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn none() -> Error {
    Error::new(
        ErrorCode::NotController,
        "the cluster has no controller, and only that can recover partitions. Start the nodes that vote on metadata; if a majority of \
         them is gone for good, `levada cluster recover` comes first",
    )
}
