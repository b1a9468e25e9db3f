//! Nothing is served before it is committed, and what a reader has seen stays: on real processes, at every door.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use levada_client::{Admin, Consumer, NewTopic, Offset, PartitionId, Producer, Record, Start};
use levada_tests::{nodes::Nodes, tools};
use rustix::process::Signal;

const TOPIC: &str = "commit";
const PARTITION: PartitionId = PartitionId(0);
const SEEN: &str = "seen-by-all";
const HIDDEN: &str = "not-yet-committed";
/// How long a door is waited for: without a quorum some say nothing.
const PATIENCE: Duration = Duration::from_secs(2);
const NO_ANSWER: &str = "no answer";

/// Asks the Flight doors of a node: totals, a bounded read (that ends behind what is committed) and a following one.
/// Prints a line for each: its name, and the count or the values that it showed, or why it showed nothing. Tickets that
/// were given out while there was a quorum lead to the log itself, past everything that asks for a quorum first.
const FLIGHT: &str = r#"
import json, sys
import pyarrow.flight as flight
address, topic, patience, tickets = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
client = flight.connect("grpc://" + address)
options = flight.FlightCallOptions(timeout=patience)
def ask(**more):
    command = json.dumps({"topic": topic, **more}).encode()
    return client.get_flight_info(flight.FlightDescriptor.for_command(command), options)
def read(ticket):
    values = []
    try:
        for chunk in client.do_get(ticket(), options):
            values += [value.decode() for value in chunk.data["value"].to_pylist()]
    except Exception as error:
        values.append(type(error).__name__)
    return values
for name, ticket in zip(["ticket-bounded", "ticket-follow"], tickets):
    print(name, *read(lambda: flight.Ticket(bytes.fromhex(ticket))))
try:
    print("totals", ask().total_records)
except Exception as error:
    print("totals", type(error).__name__)
print("bounded", *read(lambda: ask().endpoints[0].ticket))
print("follow", *read(lambda: ask(follow=True).endpoints[0].ticket))
"#;

/// Prints tickets for a bounded read of everything and for one that follows.
const TICKETS: &str = r#"
import json, sys
import pyarrow.flight as flight
client = flight.connect("grpc://" + sys.argv[1])
for more in {}, {"follow": True}:
    command = json.dumps({"topic": sys.argv[2], **more}).encode()
    print(client.get_flight_info(flight.FlightDescriptor.for_command(command)).endpoints[0].ticket.ticket.hex())
"#;

/// Follows a topic over Flight, and prints each value.
const FOLLOW: &str = r#"
import json, sys
import pyarrow.flight as flight
client = flight.connect("grpc://" + sys.argv[1])
command = json.dumps({"topic": sys.argv[2], "follow": True}).encode()
info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
for chunk in client.do_get(info.endpoints[0].ticket):
    for value in chunk.data["value"].to_pylist():
        print(value.decode(), flush=True)
"#;

/// A reader that was there before there was no quorum, and goes on after it.
struct Follower {
    name: &'static str,
    process: Child,
    shown: PathBuf,
}

impl Follower {
    fn start(name: &'static str, dir: &Path, command: &mut Command) -> Result<Self> {
        let shown = dir.join(name);
        let process = command.stdin(Stdio::null()).stdout(File::create(&shown)?).spawn()?;
        Ok(Self { name, process, shown })
    }

    /// One of pyarrow and one of the command, both at this node.
    fn both(nodes: &Nodes, id: u64, dir: &Path) -> Result<Vec<Self>> {
        let node = nodes.nodes.get(&id).context("no such node")?;
        let arrow = Self::start(
            "follow-pyarrow",
            dir,
            Command::new(tools::python()).args(["-c", FOLLOW, &node.flight, TOPIC]),
        )?;
        let consume = ["consume", TOPIC, "--from", "earliest", "--follow", "--format", "raw"];
        let mut command = Command::new(tools::levada());
        command.args(["--bootstrap", &node.native]).args(consume);
        Ok(vec![arrow, Self::start("follow-consume", dir, &mut command)?])
    }

    fn shows(&self, value: &str) -> Result<bool> {
        Ok(std::fs::read_to_string(&self.shown)?.contains(value))
    }

    async fn wait_for(&self, value: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.shows(value)? {
            anyhow::ensure!(Instant::now() < deadline, "{} does not show {value}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a client got while there was a quorum: it needs nothing but the leader to ask for records.
struct Client {
    admin: Admin,
    tickets: Vec<String>,
}

impl Client {
    async fn connect(nodes: &Nodes, id: u64) -> Result<Self> {
        let node = nodes.nodes.get(&id).context("no such node")?;
        let admin = Admin::connect(&node.native).await?;
        admin.fetch(TOPIC, PARTITION, Offset(0), 1 << 20, Duration::ZERO).await?;
        let output = Command::new(tools::python()).args(["-c", TICKETS, &node.flight, TOPIC]).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tickets = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
        Ok(Self { admin, tickets })
    }
}

struct Doors {
    /// A door, and what it showed.
    shown: Vec<(String, String)>,
}

impl Doors {
    /// Asks every door of a node.
    async fn ask(nodes: &Nodes, id: u64, client: &Client) -> Result<Self> {
        let node = nodes.nodes.get(&id).context("no such node")?;
        let patience = PATIENCE.as_secs().to_string();
        // The native doors first: they are asked while the node still believes that it leads.
        let fetched = client.admin.fetch(TOPIC, PARTITION, Offset(0), 1 << 20, Duration::ZERO);
        let fetch = match tokio::time::timeout(PATIENCE, fetched).await {
            Ok(Ok(fetched)) => {
                let bytes = String::from_utf8_lossy(&fetched.batches).into_owned();
                let values: Vec<_> = [SEEN, HIDDEN].into_iter().filter(|value| bytes.contains(value)).collect();
                format!("{} up to {}", values.join(" "), fetched.high_watermark)
            }
            _ => NO_ANSWER.to_owned(),
        };
        let mut shown = vec![("fetch".to_owned(), fetch)];
        let flight = Command::new(tools::python())
            .args(["-c", FLIGHT, &node.flight, TOPIC, &patience])
            .args(&client.tickets)
            .output()?;
        let said = String::from_utf8(flight.stdout)?;
        anyhow::ensure!(flight.status.success(), "{said}{}", String::from_utf8_lossy(&flight.stderr));
        for line in said.lines() {
            let (door, values) = line.split_once(' ').unwrap_or((line, ""));
            shown.push((door.to_owned(), values.to_owned()));
        }
        let asked = tokio::time::timeout(PATIENCE, client.admin.list_offsets(TOPIC, PARTITION, None)).await;
        let offsets = match asked {
            Ok(Ok(offsets)) => offsets.high_watermark.to_string(),
            _ => NO_ANSWER.to_owned(),
        };
        shown.push(("offsets".to_owned(), offsets));
        let consume = Command::new("timeout")
            .arg(patience)
            .arg(tools::levada())
            .args(["--bootstrap", &node.native, "consume", TOPIC, "--from", "earliest", "--format", "raw"])
            .output()?;
        shown.push(("consume".to_owned(), String::from_utf8(consume.stdout)?.trim().replace('\n', " ")));
        Ok(Self { shown })
    }

    fn at(&self, name: &str) -> &str {
        self.shown.iter().find(|(door, _)| door == name).map_or("", |(_, shown)| shown)
    }

    /// Every door shows this record, and counts so many.
    fn assert_all_show(&self, value: &str, count: &str) {
        for door in ["fetch", "ticket-follow", "bounded", "follow", "consume"] {
            assert!(self.at(door).contains(value), "{door}: {}", self.at(door));
        }
        assert_eq!((self.at("totals"), self.at("offsets")), (count, count));
    }
}

async fn leader(admin: &Admin) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let topic = admin.describe_topic(TOPIC).await?;
        if let Some(leader) = topic.partition(PARTITION).and_then(|partition| partition.leader) {
            return Ok(leader.get());
        }
        anyhow::ensure!(Instant::now() < deadline, "there is no leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start(dir: &std::path::Path) -> Result<(Nodes, Admin, Producer)> {
    let data_dirs: Vec<_> = (1..=3).map(|id| dir.join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    let nodes = Nodes::start(tools::levada(), &data_dirs, dir)?;
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    let topic =
        NewTopic { name: TOPIC.into(), partitions: 1, replicas: 3, config: Default::default(), schema_json: None };
    admin.create_topic(topic).await?;
    let producer = Producer::builder(&nodes.bootstrap()).build().await?;
    producer.send(TOPIC, Record::new(SEEN)).await?.await?;
    Ok((nodes, admin, producer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_shows_before_it_is_committed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (nodes, admin, producer) = start(dir.path()).await?;
    let first = leader(&admin).await?;
    let client = Client::connect(&nodes, first).await?;
    Doors::ask(&nodes, first, &client).await?.assert_all_show(SEEN, "1");

    let readers = Follower::both(&nodes, first, dir.path())?;
    for reader in &readers {
        reader.wait_for(SEEN).await?;
    }
    let followers: Vec<u64> = nodes.ids().into_iter().filter(|&id| id != first).collect();
    for &id in &followers {
        nodes.signal(id, Signal::STOP)?;
    }
    let delivery = producer.send(TOPIC, Record::new(HIDDEN)).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let during = Doors::ask(&nodes, first, &client).await?;
    assert!(delivery.now().is_none(), "acknowledged by a leader alone: {:?}", delivery.now());
    for (door, shown) in &during.shown {
        assert!(!shown.contains(HIDDEN), "{door} shows what is not committed: {shown}");
    }
    for reader in &readers {
        assert!(!reader.shows(HIDDEN)?, "{} shows what is not committed", reader.name);
    }
    // Not all of them are silent: who asks the log itself is told what there is.
    assert_eq!(during.at("fetch"), format!("{SEEN} up to 1"));
    assert!(["1", "-1"].contains(&during.at("totals")) || during.at("totals").parse::<i64>().is_err());
    assert!(["1", NO_ANSWER].contains(&during.at("offsets")), "{}", during.at("offsets"));

    for &id in &followers {
        nodes.signal(id, Signal::CONT)?;
    }
    let delivered = tokio::time::timeout(Duration::from_secs(30), delivery).await.context("not acknowledged")??;
    assert_eq!(delivered.offset, Offset(1));
    for reader in &readers {
        reader.wait_for(HIDDEN).await?;
    }
    let now = leader(&admin).await?;
    let client = Client::connect(&nodes, now).await?;
    Doors::ask(&nodes, now, &client).await?.assert_all_show(HIDDEN, "2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_has_seen_survives_any_minority() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut nodes, _admin, producer) = start(dir.path()).await?;
    let mut consumer =
        Consumer::builder(&nodes.bootstrap()).topic(TOPIC).start(Start::Earliest).follow().build().await?;
    let mut expected = format!("{SEEN}\n");
    for (victim, count) in nodes.ids().into_iter().zip(2..) {
        let value = format!("seen before node {victim} was lost");
        // Not acknowledged yet, as far as the producer is asked: to have been seen is enough.
        let delivery = producer.send(TOPIC, Record::new(&value)).await?;
        let seen = async {
            while let Some(batch) = consumer.next().await {
                if batch?.next_offset >= Offset(count) {
                    return Ok(());
                }
            }
            anyhow::bail!("a following reader ended")
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.context("the record is not seen")??;
        nodes.kill(victim)?;
        expected.push_str(&format!("{value}\n"));
        let live: Vec<String> =
            nodes.nodes.values().filter(|node| node.id != victim).map(|node| node.native.clone()).collect();
        let read = Command::new("timeout")
            .arg("30")
            .arg(tools::levada())
            .args(["--bootstrap", &live.join(","), "consume", TOPIC, "--from", "earliest", "--format", "raw"])
            .output()?;
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        assert_eq!(String::from_utf8(read.stdout)?, expected, "after the loss of node {victim}");
        delivery.await?;
        nodes.spawn(victim)?;
        nodes.wait_ready()?;
    }
    Ok(())
}
