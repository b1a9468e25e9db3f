//! What a client asks for: a path, or a command in JSON.

use arrow_flight::{FlightDescriptor, flight_descriptor::DescriptorType};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{Offset, PartitionId, ProducerEpoch, ProducerId},
    limits::KIB,
    source::ProducerIdentity,
};
use serde::Deserialize;
use serde_json::Value;

/// The longest command.
const COMMAND_BYTES_MAX: usize = 64 * KIB;

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidRequest, why)
}

/// A point in a partition, as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The log's start.
    Earliest,
    /// The log's end at the time of asking.
    Latest,
    /// An offset.
    Offset(Offset),
    /// The first record not older than this, in milliseconds since 1970.
    Time(i64),
}

impl Point {
    fn parse(key: &str, text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            invalid(format!("{key} is {text:?}, {why}; use earliest, latest, offset:N or time:2024-02-29T12:00:00Z"))
        };
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "latest" => Ok(Self::Latest),
            Some(("offset", number)) => match number.parse() {
                Ok(offset) if i64::try_from(offset).is_ok() => Ok(Self::Offset(Offset(offset))),
                _ => Err(wrong("which names no offset")),
            },
            Some(("time", time)) => match time.parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Self::Time(time.as_millisecond())),
                Err(_) => Err(wrong("which is not a time of RFC 3339")),
            },
            _ => Err(wrong("which is not a place in a log")),
        }
    }
}

/// Where a read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// There.
    Point(Point),
    /// Never.
    Follow,
}

/// A read of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadOptions {
    pub(crate) topic: String,
    /// All if none is named.
    pub(crate) partitions: Vec<PartitionId>,
    pub(crate) from: Point,
    pub(crate) until: Until,
    pub(crate) columns: Vec<String>,
    pub(crate) max_batch_rows: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadCommand {
    topic: String,
    #[serde(default)]
    partitions: Vec<u32>,
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    max_batch_rows: u32,
}

impl ReadOptions {
    pub(crate) fn parse(descriptor: Option<&FlightDescriptor>) -> Result<Self> {
        match Descriptor::parse(descriptor)? {
            Descriptor::Path { topic, partition } => Ok(Self {
                topic,
                partitions: partition.into_iter().collect(),
                from: Point::Earliest,
                until: Until::Point(Point::Latest),
                columns: Vec::new(),
                max_batch_rows: 0,
            }),
            Descriptor::Command(command) => {
                let command: ReadCommand = from_json(command)?;
                let until = match (command.follow, command.to) {
                    (true, None) => Until::Follow,
                    (true, Some(_)) => return Err(invalid("a read that follows has no end: give follow or to")),
                    (false, to) => Until::Point(Point::parse("to", to.as_deref().unwrap_or("latest"))?),
                };
                Ok(Self {
                    topic: command.topic,
                    partitions: command.partitions.into_iter().map(PartitionId).collect(),
                    from: Point::parse("from", command.from.as_deref().unwrap_or("earliest"))?,
                    until,
                    columns: command.columns,
                    max_batch_rows: command.max_batch_rows,
                })
            }
        }
    }
}

/// A write to one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) topic: String,
    pub(crate) partition: Option<PartitionId>,
    /// Who writes, and the sequence of the first record, if the client keeps count itself.
    pub(crate) producer: Option<(ProducerIdentity, i32)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteCommand {
    topic: String,
    partition: Option<u32>,
    producer_id: Option<i64>,
    epoch: Option<i16>,
    sequence: Option<i32>,
}

impl WriteOptions {
    pub(crate) fn parse(descriptor: Option<&FlightDescriptor>) -> Result<Self> {
        let command = match Descriptor::parse(descriptor)? {
            Descriptor::Path { topic, partition } => return Ok(Self { topic, partition, producer: None }),
            Descriptor::Command(command) => from_json::<WriteCommand>(command)?,
        };
        let producer = match (command.producer_id, command.epoch, command.sequence) {
            (None, None, None) => None,
            (Some(id @ 0..), Some(epoch @ 0..), Some(sequence @ 0..)) if command.partition.is_some() => {
                Some((ProducerIdentity { id: ProducerId(id), epoch: ProducerEpoch(epoch) }, sequence))
            }
            _ => {
                let why = "producer_id, epoch, sequence and partition belong together, none of them negative";
                return Err(invalid(why));
            }
        };
        Ok(Self { topic: command.topic, partition: command.partition.map(PartitionId), producer })
    }
}

enum Descriptor<'a> {
    Path { topic: String, partition: Option<PartitionId> },
    Command(&'a [u8]),
}

impl<'a> Descriptor<'a> {
    fn parse(descriptor: Option<&'a FlightDescriptor>) -> Result<Self> {
        let descriptor =
            descriptor.ok_or_else(|| invalid("no descriptor: give a path of topic and partition, or a command"))?;
        if descriptor.r#type == DescriptorType::Cmd as i32 {
            return Ok(Self::Command(&descriptor.cmd));
        }
        match descriptor.path.as_slice() {
            [topic] => Ok(Self::Path { topic: topic.clone(), partition: None }),
            [topic, partition] => {
                let partition = partition
                    .parse()
                    .map_err(|_| invalid(format!("{partition:?} is not a partition; a path is topic, partition")))?;
                Ok(Self::Path { topic: topic.clone(), partition: Some(PartitionId(partition)) })
            }
            path => Err(invalid(format!("a path is topic, or topic and partition, not {} parts", path.len()))),
        }
    }
}

/// A command's JSON; unknown keys are refused by name.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    if json.len() > COMMAND_BYTES_MAX {
        return Err(invalid(format!("a command of {} bytes; at most {COMMAND_BYTES_MAX} are taken", json.len())));
    }
    let json = if json.is_empty() { b"{}" } else { json };
    serde_json::from_slice(json).map_err(|error| invalid(format!("the command is not what is expected: {error}")))
}

/// JSON for a client.
pub(crate) fn to_json(value: &Value) -> bytes::Bytes {
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(json: &str) -> FlightDescriptor {
        FlightDescriptor::new_cmd(json.to_owned().into_bytes())
    }

    fn path(parts: &[&str]) -> FlightDescriptor {
        FlightDescriptor::new_path(parts.iter().map(|part| (*part).to_owned()).collect())
    }

    #[test]
    fn paths_and_commands() {
        let options = ReadOptions::parse(Some(&path(&["orders"]))).unwrap();
        let by_command = ReadOptions::parse(Some(&command(r#"{"topic":"orders"}"#))).unwrap();
        assert_eq!(options, by_command);
        assert_eq!((options.from, options.until), (Point::Earliest, Until::Point(Point::Latest)));
        let options = ReadOptions::parse(Some(&path(&["orders", "3"]))).unwrap();
        assert_eq!(options.partitions, [PartitionId(3)]);
        let options = ReadOptions::parse(Some(&command(
            r#"{"topic":"t","partitions":[1,2],"from":"offset:7","to":"time:1970-01-01T00:00:01Z",
                "columns":["a"],"max_batch_rows":9}"#,
        )));
        let expected = ReadOptions {
            topic: "t".to_owned(),
            partitions: vec![PartitionId(1), PartitionId(2)],
            from: Point::Offset(Offset(7)),
            until: Until::Point(Point::Time(1000)),
            columns: vec!["a".to_owned()],
            max_batch_rows: 9,
        };
        assert_eq!(options, Ok(expected));
        let follow = ReadOptions::parse(Some(&command(r#"{"topic":"t","from":"latest","follow":true}"#))).unwrap();
        assert_eq!((follow.from, follow.until), (Point::Latest, Until::Follow));
    }

    #[test]
    fn writes() {
        let options = WriteOptions::parse(Some(&path(&["t", "1"]))).unwrap();
        assert_eq!((options.partition, options.producer), (Some(PartitionId(1)), None));
        let options = WriteOptions::parse(Some(&command(
            r#"{"topic":"t","partition":1,"producer_id":5,"epoch":0,"sequence":77}"#,
        )))
        .unwrap();
        let identity = ProducerIdentity { id: ProducerId(5), epoch: ProducerEpoch(0) };
        assert_eq!(options.producer, Some((identity, 77)));
        for json in [
            r#"{"topic":"t","producer_id":5,"epoch":0,"sequence":77}"#,
            r#"{"topic":"t","partition":1,"producer_id":5,"epoch":0}"#,
            r#"{"topic":"t","partition":1,"producer_id":-1,"epoch":0,"sequence":0}"#,
        ] {
            let error = WriteOptions::parse(Some(&command(json))).unwrap_err();
            assert!(error.message.contains("belong together"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (descriptor, says) in [
            (None, "no descriptor"),
            (Some(path(&[])), "not 0 parts"),
            (Some(path(&["t", "1", "2"])), "not 3 parts"),
            (Some(path(&["t", "x"])), "\"x\" is not a partition"),
            (Some(command("")), "missing field `topic`"),
            (Some(command("[")), "the command is not what is expected"),
            (Some(command(r#"{"topic":"t","isolation":"committed"}"#)), "unknown field `isolation`"),
            (Some(command(r#"{"topic":"t","from":"tomorrow"}"#)), "from is \"tomorrow\""),
            (Some(command(r#"{"topic":"t","from":"offset:-1"}"#)), "names no offset"),
            (Some(command(r#"{"topic":"t","from":"offset:18446744073709551615"}"#)), "names no offset"),
            (Some(command(r#"{"topic":"t","to":"time:noon"}"#)), "to is \"time:noon\", which is not a time"),
            (Some(command(r#"{"topic":"t","to":"latest","follow":true}"#)), "give follow or to"),
            (Some(command(&" ".repeat(COMMAND_BYTES_MAX + 1))), "bytes; at most"),
        ] {
            let error = ReadOptions::parse(descriptor.as_ref()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert!(error.message.contains(says), "{says}: {error}");
        }
    }
}
