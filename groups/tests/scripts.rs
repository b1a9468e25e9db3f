//! Golden scripts: stories of one group's coordinator, told by what it writes down and answers.
//!
//! `topics NAME=PARTITIONS..` says what there is besides, `only` that there is nothing else any more, and `old` what a node knows
//! that has heard of nothing since. `join M topics=a/b` has member M join (`instance=`, `assignor=`, `session=`,
//! `rebalance=`), `beat M` says that it is there with what it was told last (`epoch=`, `seen=`, `topics=` say otherwise; `join`
//! of a member that has joined comes once more), `lost M` does the same and loses the answer. `leave M` (`returns`). `commit M
//! a/0=5` commits (`nobody` for no member, `epoch=`, `metadata=`); `forget a/0` deletes an offset, `delete` the group. `wait MS` lets
//! time pass and looks after what is due; `hours N` lets hours pass and tells of the last, `clock MS` has the time of day jump. `failover` has another coordinator begin with what was written down. `show` tells
//! who has what.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    fmt::Write as _,
};

use goldenscript::{ArgumentConsumer, Command as Line, Context};
use levada_groups::{
    assign::Assignor,
    command::{Answer, Command, Heartbeat, Now, Outcome, Position},
    coordinator::Coordinator,
    record::Record,
    state::{Held, MemberId, State},
    topics::{TopicShape, Topics, Version},
    wire,
};
use levada_protocol::ids::{PartitionId, TopicId, TopicPartition};
use uuid::Uuid;

type Failure = Box<dyn StdError>;

/// The metadata that a coordinator knows.
#[derive(Default)]
struct Known {
    shapes: BTreeMap<String, TopicShape>,
    version: Version,
    newest: u64,
}

impl Topics for Known {
    fn version(&self) -> Version {
        self.version
    }

    fn shape(&self, name: &str) -> Option<TopicShape> {
        self.shapes.shape(name)
    }
}

struct Runner {
    now: Now,
    topics: Known,
    coordinator: Coordinator,
    /// What followers have: only what was written down.
    written: State,
    /// Epoch and version that each member was told last.
    told: BTreeMap<String, (u64, u64)>,
}

impl Runner {
    fn new() -> Self {
        let now = Now { mono_ms: 0, wall_ms: 1_000_000_000_000 };
        Self {
            now,
            topics: Known::default(),
            coordinator: Coordinator::new(State::default(), now),
            written: State::default(),
            told: BTreeMap::new(),
        }
    }

    fn place(&self, text: &str) -> Result<TopicPartition, Failure> {
        let (topic, partition) = text.split_once('/').ok_or("a partition is TOPIC/NUMBER")?;
        let topic = self.topics.shapes.get(topic).ok_or("which topic?")?.id;
        Ok(TopicPartition { topic, partition: PartitionId(partition.parse()?) })
    }

    fn name(&self, place: TopicPartition) -> String {
        let name = self.topics.shapes.iter().find(|(_, shape)| shape.id == place.topic).map_or("?", |(name, _)| name);
        format!("{name}/{}", place.partition)
    }

    fn names(&self, places: impl IntoIterator<Item = TopicPartition>) -> String {
        places.into_iter().map(|place| self.name(place)).collect::<Vec<_>>().join(" ")
    }

    fn held(&self, held: &Held) -> String {
        held.iter().map(|(place, epoch)| format!("{}@{epoch}", self.name(*place))).collect::<Vec<_>>().join(" ")
    }

    fn describe(&self, record: &Record) -> String {
        match record {
            Record::Head { head, .. } => {
                let topics: Vec<String> =
                    head.topics.iter().map(|(name, shape)| format!("{name}:{}", shape.partitions)).collect();
                let empty = head.idle_hours.map_or_else(String::new, |hours| format!(", empty for {hours} h"));
                format!("epoch {} {} [{}]{empty}", head.epoch, head.assignor.name(), topics.join(" "))
            }
            Record::GroupGone { .. } => "the group is gone".to_owned(),
            Record::Member { id, member, .. } => {
                let away = if member.away { ", away" } else { "" };
                let (owned, revoking) = (self.held(&member.owned), self.held(&member.revoking));
                let (epoch, version) = (member.epoch, member.version);
                format!("{id}: epoch {epoch} version {version} owns [{owned}] revoking [{revoking}]{away}")
            }
            Record::MemberGone { id, .. } => format!("{id} is gone"),
            Record::Target { id, places, .. } => format!("{id} is to have [{}]", self.names(places.iter().copied())),
            Record::Offset { place, committed, .. } => {
                format!("offset {} = {} {:?}", self.name(*place), committed.offset, committed.metadata)
            }
            Record::OffsetGone { place, .. } => format!("offset {} is gone", self.name(*place)),
        }
    }

    fn take(&mut self, records: &[Record], out: &mut String) -> Result<(), Failure> {
        for record in records {
            writeln!(out, "writes {}", self.describe(record))?;
        }
        for record in wire::decode_change(wire::encode_change(records))? {
            self.written.apply(&record);
        }
        assert_eq!(&self.written, self.coordinator.state(), "followers have what the leader has");
        Ok(())
    }

    fn step(&mut self, command: Command, hears: Option<&str>, out: &mut String) -> Result<(), Failure> {
        let Outcome { records, answer } = match self.coordinator.step(self.now, command, &self.topics) {
            Ok(outcome) => outcome,
            Err(error) => {
                assert_eq!(&self.written, self.coordinator.state(), "a refusal changes nothing");
                writeln!(out, "answer: {error}")?;
                return Ok(());
            }
        };
        self.take(&records, out)?;
        match (answer, hears) {
            (_, None) => writeln!(out, "answer: lost")?,
            (Answer::Done, _) => writeln!(out, "answer: done")?,
            (Answer::Beat(beat), Some(member)) => {
                self.told.insert(member.to_owned(), (beat.epoch, beat.version));
                let assignment = beat
                    .assignment
                    .map_or_else(|| "as before".to_owned(), |places| format!("[{}]", self.names(places)));
                writeln!(out, "answer: epoch {} version {}, {assignment}", beat.epoch, beat.version)?;
            }
        }
        Ok(())
    }

    fn heartbeat(&self, member: &str, args: &mut ArgumentConsumer<'_>, joins: bool) -> Result<Heartbeat, Failure> {
        let (epoch, seen) = self.told.get(member).copied().filter(|_| !joins).unwrap_or_default();
        let topics = args.take_key("topics");
        Ok(Heartbeat {
            group: "g".into(),
            member: MemberId::new(member),
            epoch: args.take_key("epoch").map_or(Ok(epoch), str::parse)?,
            seen: args.take_key("seen").map_or(Ok(seen), str::parse)?,
            instance: args.take_key("instance").map(str::to_owned),
            client: String::new(),
            session_timeout_ms: args.take_key("session").map_or(Ok(10_000), str::parse)?,
            rebalance_timeout_ms: args.take_key("rebalance").map_or(Ok(60_000), str::parse)?,
            topics: topics.map(|topics| topics.split('/').map(str::to_owned).collect::<BTreeSet<_>>()),
            wish: u64::from(!joins),
            assignor: args.take_key("assignor").and_then(Assignor::from_name),
        })
    }

    fn commit(&self, member: &str, args: &mut ArgumentConsumer<'_>) -> Result<Command, Failure> {
        let epoch = args.take_key("epoch").map(str::parse).transpose()?;
        let metadata = args.take_key("metadata").unwrap_or_default().to_owned();
        let epoch = epoch.unwrap_or_else(|| self.told.get(member).map_or(0, |told| told.0));
        let mut offsets = BTreeMap::new();
        while let Some((place, offset)) = args.next_key() {
            let position = Position { offset: offset.parse()?, leader_epoch: None, metadata: metadata.clone() };
            offsets.insert(self.place(place)?, position);
        }
        let member = (member != "nobody").then(|| (MemberId::new(member), epoch));
        Ok(Command::Commit { group: "g".into(), member, offsets })
    }

    fn wait(&mut self, millis: u64, out: &mut String) -> Result<(), Failure> {
        let until = self.now.mono_ms + millis;
        while self.now.mono_ms < until {
            // As often as a node ticks, or in a few steps where nothing but days pass.
            let pause = 50.max(millis / 100).min(until - self.now.mono_ms);
            self.pass(pause, out)?;
        }
        Ok(())
    }

    /// Hours pass, each with a tick at its end.
    fn hours(&mut self, hours: u32, out: &mut String) -> Result<(), Failure> {
        // What is counted is counted from the first look on.
        self.pass(0, out)?;
        let mut last = String::new();
        for _ in 0..hours {
            last.clear();
            self.pass(3_600_000, &mut last)?;
        }
        out.push_str(&last);
        Ok(())
    }

    /// Time passes, and then a tick looks after what is due.
    fn pass(&mut self, millis: u64, out: &mut String) -> Result<(), Failure> {
        self.now.mono_ms += millis;
        self.now.wall_ms += i64::try_from(millis)?;
        let upkeep = self.coordinator.tick(self.now, &self.topics);
        for fenced in upkeep.fenced {
            let why = if fenced.held_on { "it held on to what it had" } else { "it was not heard" };
            writeln!(out, "fences {} after {} ms: {why}", fenced.member, self.now.mono_ms)?;
        }
        let records = upkeep.changes.concat();
        self.take(&records, out)?;
        Ok(())
    }

    fn show(&self, out: &mut String) -> Result<(), Failure> {
        let Some(group) = self.written.group("g") else {
            writeln!(out, "no group")?;
            return Ok(());
        };
        let stable = if group.is_stable() { ", stable" } else { "" };
        writeln!(out, "epoch {}{stable}", group.head.epoch)?;
        for (id, member) in &group.members {
            let (owned, target) = (self.held(&member.owned), self.names(group.target(id)));
            writeln!(out, "{id} in epoch {} has [{owned}] of [{target}]", member.epoch)?;
        }
        for (place, committed) in &group.offsets {
            writeln!(out, "{} = {}", self.name(*place), committed.offset)?;
        }
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &Context) -> Result<String, Failure> {
        let mut args = line.consume_args();
        let mut out = String::new();
        let member = if ["join", "beat", "lost", "leave", "commit"].contains(&line.name.as_str()) {
            args.next_pos().ok_or("who?")?.to_owned()
        } else {
            String::new()
        };
        match line.name.as_str() {
            "topics" | "only" | "old" => {
                if line.name != "topics" {
                    self.topics.shapes.clear();
                }
                self.topics.newest += 1;
                self.topics.version.applied = if line.name == "old" { 0 } else { self.topics.newest };
                while let Some((name, partitions)) = args.next_key() {
                    let id = TopicId(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()));
                    self.topics.shapes.insert(name.to_owned(), TopicShape { id, partitions: partitions.parse()? });
                }
            }
            "join" | "beat" | "lost" => {
                let heartbeat = self.heartbeat(&member, &mut args, line.name == "join")?;
                let hears = (line.name != "lost").then_some(member.as_str());
                self.step(Command::Heartbeat(heartbeat), hears, &mut out)?;
            }
            "leave" => {
                let returns = args.next_pos().is_some_and(|word| word == "returns");
                let epoch = self.told.get(&member).map_or(0, |told| told.0);
                let id = MemberId::new(&member);
                self.step(Command::Leave { group: "g".into(), member: id, epoch, returns }, Some(""), &mut out)?;
            }
            "commit" => {
                let commit = self.commit(&member, &mut args)?;
                self.step(commit, Some(""), &mut out)?;
            }
            "forget" => {
                let places = BTreeSet::from([self.place(args.next_pos().ok_or("which?")?)?]);
                self.step(Command::DeleteOffsets { group: "g".into(), places }, Some(""), &mut out)?;
            }
            "delete" => self.step(Command::DeleteGroup { group: "g".into() }, Some(""), &mut out)?,
            "hours" => self.hours(args.next_pos().ok_or("how many?")?.parse()?, &mut out)?,
            "clock" => self.now.wall_ms += args.next_pos().ok_or("how far?")?.parse::<i64>()?,
            "wait" => self.wait(args.next_pos().ok_or("how long?")?.parse()?, &mut out)?,
            "failover" => {
                let encoded = wire::encode_state(&self.written);
                assert!(encoded.len() <= self.written.bytes(), "it takes no more than was counted");
                let state = wire::decode_state(encoded)?;
                assert_eq!(state, self.written, "a snapshot has all of it");
                self.coordinator = Coordinator::new(state, self.now);
            }
            "show" => self.show(&mut out)?,
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(out)
    }
}

fn script(name: &str) {
    let path = format!("{}/tests/testscripts/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Runner::new(), path).unwrap();
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { script(stringify!($name)); })*
    };
}

scripts!(joining, revoking, fencing, lost_answers, static_members, offsets, expiry, topics_change, bad_input);
