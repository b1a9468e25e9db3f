//! Clients: what they ask nodes, and how a client is stepped.
//!
//! A client is a state machine like a node: it is woken or gets an answer, and puts out calls. The world carries the
//! calls over the network; an answer may come late, out of order, or never, so whoever waits keeps a deadline.

pub mod admin;
pub mod auditor;
pub mod mover;
pub mod producer;
pub mod reader;
pub mod recoverer;
pub mod renewal;

use std::{fmt, sync::Arc};

use levada_broker::{
    cluster::metadata::Topic,
    node::event::{Answer, Request},
};
use levada_protocol::{
    error::Error,
    ids::{NodeId, Offset, TopicPartition},
};

use self::mover::{Sight, Wish};
use crate::{
    checker::{Checker, Chunk},
    dice::Dice,
};

/// After this a client gives an answer up.
pub const PATIENCE_US: u64 = 2_000_000;

/// A call's number, unique in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What a client asks of a node.
#[derive(Clone, Debug)]
pub enum Call {
    /// Something that the node core answers.
    Request(Request),
    /// Committed records, from whatever the node has.
    Read {
        /// Where from.
        partition: TopicPartition,
        /// The first of interest.
        offset: Offset,
        /// About how much.
        bytes_max: usize,
    },
    /// A topic by its name, from the controller's metadata, no older than the call.
    Topic {
        /// The name.
        name: String,
    },
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(Request::Produce { partition, batch }) => {
                write!(f, "produce p{} {} bytes", partition.partition, batch.len())
            }
            Self::Request(Request::Bounds { partition }) => write!(f, "bounds p{}", partition.partition),
            Self::Request(request) => write!(f, "{request:?}"),
            Self::Read { partition, offset, .. } => write!(f, "read p{} from {offset}", partition.partition),
            Self::Topic { name } => write!(f, "topic {name}"),
        }
    }
}

/// What a node says.
#[derive(Clone, Debug)]
pub enum Response {
    /// The node core's answer.
    Answer(Answer),
    /// To [`Call::Read`].
    Chunk(Chunk),
    /// To [`Call::Topic`].
    Topic(Option<Arc<Topic>>),
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(Answer::Topic(topic)) => write!(f, "topic {}", topic.name),
            Self::Answer(Answer::Joined(state)) => write!(f, "joined, metadata as of {}", state.applied),
            Self::Answer(answer) => write!(f, "{answer:?}"),
            Self::Chunk(chunk) => {
                write!(f, "{} batches, {}..{}", chunk.batches.len(), chunk.log_start, chunk.high_watermark)
            }
            Self::Topic(topic) => write!(f, "topic {}", if topic.is_some() { "known" } else { "unknown" }),
        }
    }
}

/// What happens to a client.
#[derive(Debug)]
pub enum Input {
    /// Its time has come (see [`Context::wake_after_us`]).
    Wake,
    /// An answer.
    Response {
        /// To which call.
        call: CallId,
        /// Whose.
        from: NodeId,
        /// The answer.
        result: Result<Response, Error>,
    },
}

/// What a client sees of the world, and what it wants from it.
#[derive(Debug)]
pub struct Context<'a> {
    /// The time.
    pub now_us: u64,
    /// The client's own chance.
    pub dice: &'a mut Dice,
    /// Who hears what the client hears.
    pub checker: &'a mut Checker,
    /// All nodes.
    pub nodes: &'a [NodeId],
    /// Numbers for calls.
    pub next_call: &'a mut u64,
    /// Numbers for streams of values.
    pub next_stream: &'a mut u32,
    /// The cluster as a whole.
    pub sight: &'a Sight,
    /// What is to become of machines.
    pub wishes: Vec<Wish>,
    /// Nothing new is to be begun any more, only brought to an end.
    pub settling: bool,
    /// Calls to make.
    pub calls: Vec<(NodeId, CallId, Call)>,
    /// When to wake it again.
    pub wake_after_us: Option<u64>,
}

impl Context<'_> {
    /// Asks a node something.
    pub fn call(&mut self, to: NodeId, call: Call) -> CallId {
        *self.next_call += 1;
        let id = CallId(*self.next_call);
        self.calls.push((to, id, call));
        id
    }

    /// A node, any.
    pub fn any_node(&mut self) -> NodeId {
        self.dice.pick(self.nodes).unwrap_or(NodeId(1))
    }

    /// Where to ask after an error: where it points, or any node.
    pub fn redirected(&mut self, error: &Error) -> NodeId {
        let hint = error.leader.as_ref().map(|leader| leader.node);
        hint.filter(|node| self.nodes.contains(node)).unwrap_or_else(|| self.any_node())
    }
}

/// A client.
pub trait Client: fmt::Debug {
    /// Takes what happens to it.
    fn step(&mut self, input: Input, ctx: &mut Context<'_>);

    /// What it still has to bring to an end, if anything.
    fn unfinished(&self) -> Option<String>;

    /// How many things it has begun that matter for how much a world has seen.
    fn begun(&self) -> u64 {
        0
    }

    /// Whether it rests at night ([`crate::options::Options::day_us`]).
    fn rests(&self) -> bool {
        true
    }
}
