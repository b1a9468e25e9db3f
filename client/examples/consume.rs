//! Reads a topic from its beginning and goes on with what comes:
//! `cargo run -p levada-client --example consume -- HOST:PORT TOPIC`.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;

use levada_client::{Consumer, Start};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "localhost:9170".to_owned());
    let topic = args.next().unwrap_or_else(|| "orders".to_owned());

    let mut consumer = Consumer::builder(&bootstrap).topic(topic).start(Start::Earliest).follow().build().await?;
    while let Some(batch) = consumer.next().await {
        let batch = batch?;
        let (rows, columns) = (batch.records.num_rows(), batch.records.num_columns());
        println!("partition {} from offset {}: {rows} rows of {columns} columns", batch.partition, batch.first_offset);
    }
    Ok(())
}
