//! Tickets: what there is of a topic, one endpoint for each partition.
//!
//! Where the log of a partition begins and ends its leader is asked, wherever it is. If it does not answer, the ticket says
//! so in words that are resolved when it is used: the first record, the end as it is then.

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket as FlightTicket};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorClass, ErrorCode, Result},
    ids::{Offset, TopicPartition},
    source::{LogBounds, PartitionDescription, TopicDescription},
    ticket::{End, Start, Ticket},
};
use serde_json::json;

use super::{
    options::{Point, ReadOptions, Until, to_json},
    server::FlightDeps,
};
use crate::{convert::view::View, ipc::schema::write_framed};

/// How many partitions are asked at a time where they begin and end.
const PARTITIONS_AT_ONCE: usize = 64;
/// Unknown, where Flight wants a number.
const UNKNOWN: i64 = -1;

/// What a read would give, and the tickets for it.
///
/// # Errors
/// The topic, a partition or a column is not there; the reader may not read it.
pub(crate) async fn info(
    deps: &FlightDeps,
    ctx: &RequestContext,
    descriptor: Option<FlightDescriptor>,
) -> Result<FlightInfo> {
    let options = ReadOptions::parse(descriptor.as_ref())?;
    let topic = deps.catalog.topic(ctx, &options.topic).await?;
    deps.authorizer.authorize(ctx, Action::Read, Resource::Topic(&topic.name))?;
    let view = View::new(&topic, &options.columns, &deps.codec)?;
    let partitions = chosen(&topic, &options)?;
    let id_of = |partition: &PartitionDescription| TopicPartition { topic: topic.id, partition: partition.partition };
    let asked: Vec<_> = partitions.iter().map(|partition| bounds_of(deps, ctx, id_of(partition))).collect();
    let bounds: Vec<_> = stream::iter(asked).buffered(PARTITIONS_AT_ONCE).try_collect().await?;
    let mut estimate = Some(Estimate::default());
    let mut endpoints = Vec::new();
    for (partition, bounds) in partitions.into_iter().zip(bounds) {
        let id = id_of(partition);
        let ticket = ticket(id, &options, bounds.as_ref());
        estimate =
            estimate.zip(bounds.as_ref().and_then(|bounds| Estimate::of(&ticket, bounds))).map(|(a, b)| a.plus(b));
        endpoints.push(endpoint(partition, &ticket));
    }
    let estimate = estimate.unwrap_or(Estimate { records: UNKNOWN, bytes: UNKNOWN });
    Ok(FlightInfo {
        schema: write_framed(view.output()).into(),
        flight_descriptor: descriptor,
        endpoint: endpoints,
        total_records: estimate.records,
        total_bytes: estimate.bytes,
        ordered: false,
        app_metadata: Bytes::new(),
    })
}

/// Where a partition begins and ends, if that can be known here and now.
async fn bounds_of(deps: &FlightDeps, ctx: &RequestContext, partition: TopicPartition) -> Result<Option<LogBounds>> {
    match deps.source.bounds(ctx, partition).await {
        Ok(bounds) => Ok(Some(bounds)),
        Err(error) if matches!(error.class(), ErrorClass::Redirect | ErrorClass::Retry) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A topic in a list: its schema, and tickets for all of it.
pub(crate) fn listed(deps: &FlightDeps, topic: &TopicDescription) -> Result<FlightInfo> {
    let view = View::new(topic, &[], &deps.codec)?;
    let descriptor = FlightDescriptor::new_path(vec![topic.name.clone()]);
    let options = ReadOptions::parse(Some(&descriptor))?;
    let endpoints = topic.partitions.iter().map(|partition| {
        let id = TopicPartition { topic: topic.id, partition: partition.partition };
        endpoint(partition, &ticket(id, &options, None))
    });
    Ok(FlightInfo {
        schema: write_framed(view.output()).into(),
        endpoint: endpoints.collect(),
        flight_descriptor: Some(descriptor),
        total_records: UNKNOWN,
        total_bytes: UNKNOWN,
        ordered: false,
        app_metadata: Bytes::new(),
    })
}

/// The schema of a read.
///
/// # Errors
/// As [`info`].
pub(crate) async fn schema(
    deps: &FlightDeps,
    ctx: &RequestContext,
    descriptor: Option<&FlightDescriptor>,
) -> Result<Bytes> {
    let options = ReadOptions::parse(descriptor)?;
    let topic = deps.catalog.topic(ctx, &options.topic).await?;
    deps.authorizer.authorize(ctx, Action::Describe, Resource::Topic(&topic.name))?;
    Ok(write_framed(View::new(&topic, &options.columns, &deps.codec)?.output()).into())
}

fn chosen<'a>(topic: &'a TopicDescription, options: &ReadOptions) -> Result<Vec<&'a PartitionDescription>> {
    if options.partitions.is_empty() {
        return Ok(topic.partitions.iter().collect());
    }
    let find = |wanted| {
        topic.partitions.iter().find(|partition| partition.partition == wanted).ok_or_else(|| {
            let why = format!("{} has no partition {wanted}; it has {}", topic.name, topic.partitions.len());
            Error::new(ErrorCode::UnknownPartition, why)
        })
    };
    options.partitions.iter().map(|wanted| find(*wanted)).collect()
}

fn ticket(partition: TopicPartition, options: &ReadOptions, bounds: Option<&LogBounds>) -> Ticket {
    let start = match (options.from, bounds) {
        // The log may be cut before the ticket is used, so it is not pinned down.
        (Point::Earliest, _) => Start::Time(i64::MIN),
        (Point::Latest, Some(bounds)) => Start::Offset(bounds.high_watermark),
        (Point::Latest, None) => Start::Latest,
        (Point::Offset(offset), _) => Start::Offset(offset),
        (Point::Time(time), _) => Start::Time(time),
    };
    let end = match (options.until, bounds) {
        (Until::Follow, _) => End::Follow,
        (Until::Point(Point::Latest), Some(bounds)) => End::Offset(bounds.high_watermark),
        (Until::Point(Point::Latest), None) => End::Time(i64::MAX),
        (Until::Point(Point::Earliest), _) => End::Time(i64::MIN),
        (Until::Point(Point::Offset(offset)), _) => End::Offset(offset),
        (Until::Point(Point::Time(time)), _) => End::Time(time),
    };
    let (columns, max_batch_rows) = (options.columns.clone(), options.max_batch_rows);
    Ticket { columns, max_batch_rows, ..Ticket::new(partition, start, end) }
}

fn endpoint(partition: &PartitionDescription, ticket: &Ticket) -> FlightEndpoint {
    let endpoint = FlightEndpoint::new()
        .with_ticket(FlightTicket::new(ticket.encode()))
        .with_app_metadata(to_json(&json!({"partition": partition.partition.get()})));
    match &partition.leader {
        Some(leader) if !leader.flight.is_empty() => endpoint.with_location(format!("grpc://{}", leader.flight)),
        _ => endpoint,
    }
}

/// How much a read gives, as far as offsets tell: markers and what compaction took away count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Estimate {
    records: i64,
    bytes: i64,
}

impl Estimate {
    /// `None` for a read without an end, or one whose ends only the log can find.
    fn of(ticket: &Ticket, bounds: &LogBounds) -> Option<Self> {
        let (start, end) = match (ticket.start, ticket.end) {
            (Start::Offset(start), End::Offset(end)) => (start, end),
            (Start::Time(i64::MIN), End::Offset(end)) => (bounds.log_start, end),
            _ => return None,
        };
        let clamp = |offset: Offset| offset.clamp(bounds.log_start, bounds.high_watermark).get();
        let records = clamp(end).saturating_sub(clamp(start));
        let all = (bounds.high_watermark.get() - bounds.log_start.get()).max(1);
        let bytes = u128::from(bounds.bytes) * u128::from(records) / u128::from(all);
        Some(Self { records: i64::try_from(records).ok()?, bytes: i64::try_from(bytes).ok()? })
    }

    const fn plus(self, other: Self) -> Self {
        Self { records: self.records.saturating_add(other.records), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::{PartitionId, Term, TopicId};

    use super::*;

    const BOUNDS: LogBounds =
        LogBounds { log_start: Offset(100), high_watermark: Offset(300), bytes: 1000, leader_epoch: Term(1) };

    fn options(json: &str) -> ReadOptions {
        ReadOptions::parse(Some(&FlightDescriptor::new_cmd(json.as_bytes().to_vec()))).unwrap()
    }

    #[test]
    fn the_leader_resolves_what_only_it_knows() {
        let partition = TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: PartitionId(0) };
        for (json, local, elsewhere) in [
            (
                r#"{"topic":"t"}"#,
                (Start::Time(i64::MIN), End::Offset(Offset(300))),
                (Start::Time(i64::MIN), End::Time(i64::MAX)),
            ),
            (
                r#"{"topic":"t","from":"latest","follow":true}"#,
                (Start::Offset(Offset(300)), End::Follow),
                (Start::Latest, End::Follow),
            ),
            (
                r#"{"topic":"t","from":"offset:7","to":"time:1970-01-01T00:00:01Z"}"#,
                (Start::Offset(Offset(7)), End::Time(1000)),
                (Start::Offset(Offset(7)), End::Time(1000)),
            ),
        ] {
            let made = ticket(partition, &options(json), Some(&BOUNDS));
            assert_eq!((made.start, made.end), local, "{json}");
            let made = ticket(partition, &options(json), None);
            assert_eq!((made.start, made.end), elsewhere, "{json}");
        }
    }

    #[test]
    fn estimates_stay_within_the_log() {
        let partition = TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: PartitionId(0) };
        let estimate = |start, end| Estimate::of(&Ticket::new(partition, start, end), &BOUNDS);
        let at = |offset| Start::Offset(Offset(offset));
        let whole = Some(Estimate { records: 200, bytes: 1000 });
        assert_eq!(estimate(Start::Time(i64::MIN), End::Offset(Offset(300))), whole);
        assert_eq!(estimate(at(100), End::Offset(Offset(300))), Some(Estimate { records: 200, bytes: 1000 }));
        assert_eq!(estimate(at(0), End::Offset(Offset(200))), Some(Estimate { records: 100, bytes: 500 }));
        assert_eq!(estimate(at(250), End::Offset(Offset(200))), Some(Estimate { records: 0, bytes: 0 }));
        assert_eq!(estimate(at(0), End::Follow), None);
        assert_eq!(estimate(Start::Latest, End::Offset(Offset(1))), None);
    }
}
