//! Writes a few records and says where they are: `cargo run -p levada-client --example produce -- HOST:PORT TOPIC`.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;

use levada_client::{Compression, Producer, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "localhost:9170".to_owned());
    let topic = args.next().unwrap_or_else(|| "orders".to_owned());

    let producer = Producer::builder(&bootstrap).compression(Compression::Zstd).build().await?;
    let mut deliveries = Vec::new();
    for number in 0..10 {
        let (key, value) = (format!("customer-{}", number % 3), format!("order {number}"));
        // Taken at once; durable when its delivery resolves.
        deliveries.push(producer.send(&topic, Record::new(&value).with_key(&key)).await?);
    }
    for delivery in deliveries {
        let delivered = delivery.await?;
        println!("partition {} offset {}", delivered.partition, delivered.offset);
    }
    producer.close().await?;
    Ok(())
}
