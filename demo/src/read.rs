//! Reads over Arrow Flight: following, and all of it at the end, compared with the ledger.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Float64Type, Int64Type},
};
use indicatif::ProgressBar;
use levada_client::{Consumer, PartitionBatch, Start};
use tokio::task::JoinHandle;

use crate::{
    data::DataSet,
    ledger::{Ledger, pack},
    topics::{DemoTopic, PURCHASES},
};

/// What the following reader saw.
pub(crate) struct Followed {
    pub(crate) records: u64,
    /// The most records by which it was behind the acknowledgements.
    pub(crate) lag_max: u64,
}

/// Follows the purchases until all are seen.
pub(crate) async fn follow(
    bootstrap: String,
    ledger: Arc<Ledger>,
    bar: ProgressBar,
) -> Result<JoinHandle<Result<Followed>>> {
    let consumer = Consumer::builder(&bootstrap).topic(PURCHASES.name).start(Start::Earliest).follow();
    let mut consumer = consumer.columns(["row"]).build().await.context("cannot follow the purchases")?;
    Ok(tokio::spawn(async move {
        let mut followed = Followed { records: 0, lag_max: 0 };
        let all = u64::try_from(ledger.rows())?;
        while followed.records < all {
            let batch = consumer.next().await.context("the reader has ended")??;
            followed.records += u64::try_from(batch.records.num_rows())?;
            let lag = ledger.acknowledged().saturating_sub(followed.records);
            followed.lag_max = followed.lag_max.max(lag);
            bar.set_position(followed.records);
            bar.set_message(format!("lag {lag}"));
        }
        bar.finish();
        Ok(followed)
    }))
}

/// What was found when everything was read again.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) records: u64,
    /// Bytes of the Arrow columns received.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    /// Acknowledged, and not there.
    pub(crate) lost: u64,
    /// There more than once, or not where it was acknowledged.
    pub(crate) wrong: u64,
    /// The sum of what the data set sums up.
    pub(crate) total: f64,
    /// Purchases: how many, and for how much, by department.
    pub(crate) departments: BTreeMap<String, (u64, f64)>,
}

impl Verdict {
    /// Whether every acknowledged record is there once, and the sum is that of the source.
    pub(crate) fn is_well(&self, data: &DataSet) -> bool {
        self.lost == 0 && self.wrong == 0 && self.records == data.rows && self.sum_is_right(data)
    }

    pub(crate) fn sum_is_right(&self, data: &DataSet) -> bool {
        // Sums of floating point numbers depend on their order.
        (self.total - data.total).abs() <= data.total.abs() * 1e-9
    }
}

/// Reads a topic to its end, and compares it with what was acknowledged.
pub(crate) async fn verify(bootstrap: &str, topic: &DemoTopic, ledger: &Ledger) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut seen = vec![false; ledger.rows()];
    let began = Instant::now();
    let mut consumer = Consumer::builder(bootstrap).topic(topic.name).build().await.context("cannot read")?;
    while let Some(batch) = consumer.next().await {
        let batch = batch.with_context(|| format!("cannot read {}", topic.name))?;
        for column in batch.records.columns() {
            verdict.bytes += u64::try_from(column.to_data().get_slice_memory_size()?)?;
        }
        let rows =
            if topic.schema.is_some() { purchases(&batch, &mut verdict)? } else { flights(&batch, &mut verdict)? };
        for (row, place) in rows {
            verdict.records += 1;
            let first_time = seen.get_mut(row).is_some_and(|seen| !std::mem::replace(seen, true));
            if !first_time || ledger.place(row) != place {
                verdict.wrong += 1;
            }
        }
    }
    verdict.took = began.elapsed();
    let acknowledged = (0..ledger.rows()).filter(|row| ledger.place(*row) != 0);
    verdict.lost = u64::try_from(acknowledged.filter(|row| seen.get(*row) == Some(&false)).count())?;
    Ok(verdict)
}

/// A row's number in its data set, and its place.
type Rows = Vec<(usize, u64)>;

fn purchases(batch: &PartitionBatch, verdict: &mut Verdict) -> Result<Rows> {
    let records = &batch.records;
    let numbers = column(records, "row")?.as_primitive::<Int64Type>();
    let offsets = column(records, "_offset")?.as_primitive::<Int64Type>();
    let sales = column(records, "sales")?.as_primitive::<Float64Type>();
    let departments = column(records, "department")?.as_string::<i32>();
    let mut rows = Rows::with_capacity(records.num_rows());
    for row in 0..records.num_rows() {
        let sold = sales.value(row);
        verdict.total += sold;
        match verdict.departments.get_mut(departments.value(row)) {
            Some((count, sum)) => (*count, *sum) = (*count + 1, *sum + sold),
            None => drop(verdict.departments.insert(departments.value(row).to_owned(), (1, sold))),
        }
        rows.push(place(numbers.value(row), batch, offsets.value(row))?);
    }
    Ok(rows)
}

fn flights(batch: &PartitionBatch, verdict: &mut Verdict) -> Result<Rows> {
    #[derive(serde::Deserialize)]
    struct Flight {
        row: i64,
        distance: f64,
    }
    let offsets = column(&batch.records, "offset")?.as_primitive::<Int64Type>();
    let values = column(&batch.records, "value")?.as_binary::<i32>();
    let mut rows = Rows::with_capacity(values.len());
    for row in 0..values.len() {
        let flight: Flight = serde_json::from_slice(values.value(row)).context("a value is not what was written")?;
        verdict.total += flight.distance;
        rows.push(place(flight.row, batch, offsets.value(row))?);
    }
    Ok(rows)
}

fn column<'a>(records: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    match records.column_by_name(name) {
        Some(column) => Ok(column),
        None => bail!("the server left out the column {name}"),
    }
}

fn place(row: i64, batch: &PartitionBatch, offset: i64) -> Result<(usize, u64)> {
    Ok((usize::try_from(row)?, pack(batch.partition.get(), u64::try_from(offset)?)))
}
