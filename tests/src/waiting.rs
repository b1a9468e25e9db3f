//! Waiting for what a cluster does in its own time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Looks again and again until something is so. A look that fails counts as "not yet".
///
/// # Errors
/// It is not so within two minutes.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so().await.unwrap_or(false) {
        ensure!(Instant::now() < deadline, "not within two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
