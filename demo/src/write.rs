//! Writes a data set through the native client.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use levada_client::{Error, Producer, Record};

use crate::ledger::Ledger;

/// Lines are read ahead in pieces of so many.
const LINES_AT_ONCE: usize = 1000;

/// Writes every line; completes when every one is acknowledged.
pub(crate) async fn write(
    bootstrap: String,
    topic: &'static str,
    path: &Path,
    ledger: Arc<Ledger>,
    bar: ProgressBar,
) -> Result<()> {
    let producer = Producer::builder(&bootstrap).client_id("levada-demo").build().await?;
    let (pieces, mut read) = tokio::sync::mpsc::channel::<std::io::Result<Vec<String>>>(4);
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    std::thread::spawn(move || {
        let mut lines = BufReader::with_capacity(1 << 20, file).lines();
        loop {
            let piece: std::io::Result<Vec<String>> = lines.by_ref().take(LINES_AT_ONCE).collect();
            let is_last = piece.as_ref().map_or(true, Vec::is_empty);
            if pieces.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    let mut rows = 0..ledger.rows();
    while let Some(piece) = read.recv().await {
        for (line, row) in piece?.iter().zip(&mut rows) {
            let (key, rest) = line.split_once('\t').context("a line has no key")?;
            let (time, value) = rest.split_once('\t').context("a line has no time")?;
            let record = Record::new(value).with_key(key).with_timestamp_ms(time.parse()?);
            let ledger = Arc::clone(&ledger);
            let count = move |outcome: Result<_, levada_client::DeliveryError>| {
                // What is not acknowledged is told by `close`.
                if let Ok(delivered) = outcome {
                    ledger.acknowledge(row, &delivered);
                }
            };
            producer.send_with_callback(topic, record, count).await?;
        }
        bar.set_position(ledger.acknowledged());
    }
    let closed = producer.close().await.map_err(Error::from);
    closed.with_context(|| format!("a record of {topic} was not acknowledged"))?;
    bar.set_position(ledger.acknowledged());
    bar.finish();
    Ok(())
}
