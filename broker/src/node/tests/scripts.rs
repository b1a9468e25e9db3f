//! Golden scripts: stories of one partition, told by what its three nodes say to each other and to producers.
//!
//! `topic [key=value..]` makes it, with node 1 its preferred leader. `produce VALUE seq=N` sends a batch to the leader;
//! `at=N` to that node. `cut N..` parts nodes from the others, `heal` ends that. `crash N`, `restart N`, `stop N`; `move N`
//! asks for another leader. `run TICKS` lets time pass, and `quietly` tells answers only. `show` tells what every node has.

use std::{error::Error as StdError, fmt::Write as _};

use goldenscript::{Command, Context};

use super::{super::*, batch, world::World};

struct Runner {
    world: World,
    place: Option<TopicPartition>,
}

impl Runner {
    fn leader(&self) -> Result<NodeId, Box<dyn StdError>> {
        let place = self.place.ok_or("make the topic first")?;
        Ok(self.world.leader(place).ok_or("nobody leads")?)
    }

    fn show(&self, out: &mut String) -> Result<(), Box<dyn StdError>> {
        let place = self.place.ok_or("make the topic first")?;
        for (id, node) in &self.world.nodes {
            let Some(view) = node.view.partition(place) else { continue };
            let state = *view.state.borrow();
            let leads = if state.leading { ", leads" } else { "" };
            let values = self.world.values(*id, place).join(" ");
            writeln!(out, "{id} in term {}{leads}: [{values}], {} in the log", state.term, view.log.last_index())?;
        }
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn StdError>> {
        let mut args = command.consume_args();
        let mut out = String::new();
        let world = &mut self.world;
        world.story.clear();
        match command.name.as_str() {
            "topic" => {
                let mut settings: Vec<(&str, &str)> = Vec::new();
                while let Some(setting) = args.next_key() {
                    settings.push(setting);
                }
                self.place = world.create_topic(1, &settings).pop();
                world.story.clear();
            }
            "produce" => {
                let value = args.next_pos().ok_or("what?")?.to_owned();
                let sequence: i32 = args.take_key("seq").ok_or("which sequence?")?.parse()?;
                let at = args.take_key("at").map(str::parse).transpose()?.map(NodeId);
                let at = at.map_or_else(|| self.leader(), Ok)?;
                let partition = self.place.ok_or("make the topic first")?;
                self.world.send(at, Request::Produce { partition, batch: batch(&[&value], sequence) });
                self.world.settle();
            }
            "cut" => {
                while let Some(node) = args.next_pos() {
                    world.cut.insert(NodeId(node.parse()?));
                }
            }
            "heal" => world.cut.clear(),
            "crash" => world.crash(NodeId(args.next_pos().ok_or("which?")?.parse()?)),
            "restart" => {
                world.restart(NodeId(args.next_pos().ok_or("which?")?.parse()?));
                world.settle();
            }
            "stop" => {
                world.events.push_back((NodeId(args.next_pos().ok_or("which?")?.parse()?), Event::Shutdown));
                world.settle();
            }
            "move" => {
                let to = NodeId(args.next_pos().ok_or("where to?")?.parse()?);
                let (at, place) = (self.leader()?, self.place.ok_or("make the topic first")?);
                let group = self.world.nodes[&at].places[&place];
                self.world.send(at, Request::TransferLeader { group, to });
                self.world.settle();
            }
            "run" | "quietly" => {
                let ticks: u32 = args.next_pos().ok_or("how long?")?.parse()?;
                (0..ticks).for_each(|_| world.step());
                if command.name == "quietly" {
                    world.story.retain(|line| line.starts_with("answer"));
                }
            }
            "show" => self.show(&mut out)?,
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        for line in std::mem::take(&mut self.world.story) {
            writeln!(out, "{line}")?;
        }
        Ok(out)
    }
}

fn script(name: &str) {
    let path = format!("{}/src/node/testscripts/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Runner { world: World::new(3), place: None }, path).unwrap();
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { script(stringify!($name)); })*
    };
}

scripts!(replication, a_deposed_leader, producers, moving);
