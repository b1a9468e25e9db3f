//! Tells the core every second what its disk has left.

use std::{sync::Arc, time::Duration};

use levada_storage_engine::disk::Disk;
use tokio::{task::spawn_blocking, time::sleep};

use crate::runtime::worker::Worker;

/// How often: a disk that takes a gigabyte in a second is the quickest that there is.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks, for ever. A file system that hangs answers nothing; then what it said last counts.
pub(super) async fn watch(disk: Arc<dyn Disk>, worker: Worker) {
    loop {
        sleep(INTERVAL).await;
        let asked = Arc::clone(&disk);
        match spawn_blocking(move || asked.space()).await {
            Ok(Ok(space)) => worker.space(space),
            Ok(Err(error)) => tracing::warn!(%error, "disk.space.unknown"),
            Err(error) => tracing::error!(%error, "disk.space.failed"),
        }
    }
}
