//! Golden scripts: what goes into the core and what comes out, as text. `UPDATE_GOLDENFILES=1` writes them anew.
//!
//! `topic PARTITIONS`, `append`, `sleep MS`, `identity ID`, `ok TRY OFFSET`, `fail TRY CODE`, `leader PARTITION NODE
//! EPOCH`, `metadata gone`, `flush`, `abort`. Whatever the core then wants is printed.

use std::{collections::BTreeMap, error::Error as StdError, fmt::Write, str::FromStr, sync::Arc, time::Duration};

use goldenscript::{ArgumentConsumer, Command, Context};
use levada_protocol::{
    batch::BatchHeader,
    error::{Error, ErrorCode, NodeAddresses},
    ids::{GroupId, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Term, TopicId},
    source::ProducerIdentity,
};

use super::{Core, Effect, Settings, Time};
use crate::{
    error::CallError,
    producer::record::Record,
    topology::{Partition, Topic},
};

struct Runner {
    core: Core<()>,
    topic: Topic,
    now: Time,
}

impl Runner {
    fn new() -> Self {
        let settings = Settings {
            batch_bytes: 300,
            linger: Duration::from_millis(5),
            delivery_timeout: Duration::from_millis(1000),
            slow_after: Duration::from_millis(200),
            compress: false,
        };
        let topic = Topic {
            name: "t".into(),
            id: TopicId::from_bytes([1; 16]),
            partitions: Vec::new(),
            config: BTreeMap::new(),
            schema: None,
        };
        Self { core: Core::new(settings, 1), topic, now: Time::ZERO }
    }

    fn append(&mut self, partition: Option<u32>, key: Option<String>, bytes: usize, out: &mut String) {
        let value = vec![0; bytes];
        let mut record = Record::new(&value);
        if let Some(key) = &key {
            record = record.with_key(key);
        }
        if let Some(partition) = partition {
            record = record.with_partition(PartitionId(partition));
        }
        if let Err(error) = self.core.append(self.now, 0, &record, 0, bytes) {
            writeln!(out, "{error}").unwrap();
        }
    }

    fn poll(&mut self, out: &mut String) {
        let mut effects = Vec::new();
        self.core.poll(self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Seal { batch, .. } => writeln!(out, "compress batch {batch}"),
                Effect::Send { attempt, node, partition, bytes } => {
                    let header = BatchHeader::parse(&bytes).unwrap();
                    let (producer, sequence, records) = (header.producer_id, header.base_sequence, header.record_count);
                    let partition = partition.partition;
                    writeln!(
                        out,
                        "try {attempt}: partition {partition} at node {node}, {records} records, producer {producer} sequence {sequence}"
                    )
                }
                Effect::Deliver { partition, records, result, .. } => match result {
                    Ok(offset) => writeln!(out, "delivered: partition {partition}, {records} records at offset {offset}"),
                    Err(failed) => writeln!(
                        out,
                        "failed: partition {partition}, {records} records, written: {:?}, {}",
                        failed.written, failed.error
                    ),
                },
                Effect::InitProducer => writeln!(out, "wants an identity"),
                Effect::Refresh { .. } => writeln!(out, "wants metadata"),
            }
            .unwrap();
        }
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn StdError>> {
        let mut args = command.consume_args();
        let mut out = String::new();
        match command.name.as_str() {
            "topic" => {
                let count: usize = args.next_pos().ok_or("how many?")?.parse()?;
                let partition = Partition {
                    group: GroupId(1),
                    leader: Some(NodeId(1)),
                    leader_epoch: Term(1),
                    replicas: Vec::new(),
                };
                self.topic.partitions = vec![partition; count];
                if let Some(max) = take::<usize>(&mut args, "max")? {
                    self.topic.config.insert("max.message.bytes".into(), max.to_string());
                }
                self.core.add_topic(self.now, &self.topic);
            }
            "append" => {
                let count = args.next_pos().map_or(Ok(1), |count| count.parse::<usize>())?;
                let partition = take(&mut args, "partition")?;
                let key: Option<String> = take(&mut args, "key")?;
                let bytes = take(&mut args, "bytes")?.unwrap_or(80);
                for _ in 0..count {
                    self.append(partition, key.clone(), bytes, &mut out);
                }
            }
            "sleep" => self.now += Duration::from_millis(args.next_pos().ok_or("how long?")?.parse()?),
            "identity" => {
                let id = ProducerId(args.next_pos().ok_or("which?")?.parse()?);
                self.core.on_identity(self.now, Ok(ProducerIdentity { id, epoch: ProducerEpoch(0) }));
            }
            "ok" => {
                let attempt = args.next_pos().ok_or("which?")?.parse()?;
                let offset = args.next_pos().ok_or("where?")?.parse()?;
                self.core.on_answer(self.now, attempt, Ok(Offset(offset)));
            }
            "fail" => {
                let attempt = args.next_pos().ok_or("which?")?.parse()?;
                let name = args.next_pos().ok_or("why?")?;
                let code = *ErrorCode::ALL.iter().find(|code| code.name() == name).ok_or("no such code")?;
                let leader = take(&mut args, "leader")?;
                let hint = leader.map(|node| NodeAddresses { node: NodeId(node), ..NodeAddresses::default() });
                let error = Error::new(code, "says the broker").redirect(hint);
                let sent = take(&mut args, "sent")?.unwrap_or(true);
                self.core.on_answer(self.now, attempt, Err(CallError { error, sent }));
            }
            "leader" => {
                let mut number = || args.next_pos().ok_or("three numbers").map(str::parse::<u64>);
                let (partition, node, epoch) = (number()??, number()??, number()??);
                let partition = &mut self.topic.partitions[usize::try_from(partition)?];
                partition.leader = (node > 0).then_some(NodeId(node));
                partition.leader_epoch = Term(epoch);
                self.core.on_metadata(self.now, &[Arc::new(self.topic.clone())], &[]);
            }
            "partitions" => {
                let count = args.next_pos().ok_or("how many?")?.parse()?;
                let mut topic = self.topic.clone();
                topic.partitions.resize(count, self.topic.partitions[0].clone());
                self.core.on_metadata(self.now, &[Arc::new(topic)], &[]);
            }
            "metadata" => match args.next_pos() {
                Some("gone") => self.core.on_metadata(self.now, &[] as &[Arc<Topic>], &["t".into()]),
                _ => self.core.on_metadata(self.now, &[Arc::new(self.topic.clone())], &[]),
            },
            "flush" => writeln!(out, "{} batches have no outcome", self.core.flush().len())?,
            "abort" => self.core.abort(&Error::new(ErrorCode::ShuttingDown, "closed")),
            "next" => {}
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        self.poll(&mut out);
        let deadline = self.core.next_deadline();
        if command.name == "next" {
            writeln!(out, "looks again in {:?}", deadline.map(|deadline| deadline - self.now))?;
        }
        Ok(out)
    }
}

/// The value of `key=value`, if it is there.
fn take<T: FromStr<Err: StdError + 'static>>(
    args: &mut ArgumentConsumer<'_>,
    key: &str,
) -> Result<Option<T>, Box<dyn StdError>> {
    Ok(args.take_key(key).map(str::parse).transpose()?)
}

fn script(name: &str) {
    let path = format!("{}/src/producer/core/testscripts/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Runner::new(), path).unwrap();
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { script(stringify!($name)); })*
    };
}

scripts!(batching, order, identity, leaders, partitioning, deadlines, deleted_topic);
