//! What a run came to: what `results.json` and `faults.jsonl` hold, and what the report shows.

use levada_checkers::verdict::{Check, Verdict};
use serde::{Deserialize, Serialize};

/// What a run was asked to do. Everything that it drew follows from its seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What clients do: `queue`, `register`, …
    pub workload: String,
    /// Which families of faults there are.
    pub nemeses: Vec<String>,
    /// Servers.
    pub nodes: u64,
    /// How long faults go on, in seconds.
    pub time_s: u64,
    /// Operations begun in a second, over all clients; as many as they can when 0.
    pub rate: u64,
    /// Client processes.
    pub clients: u32,
    /// Between two faults, in seconds, on average.
    pub interval_s: u64,
    /// Where nodes run: `netns` or `proxy`.
    pub env: String,
    /// What their disks are: `dir` or `loop`.
    pub disk: String,
    /// What was drawn follows from it.
    pub seed: u64,
}

/// A fault, and the proof that it was one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Its family, such as `partition`.
    pub family: String,
    /// What was done, for a person: `node 2 cut off from all others`.
    pub what: String,
    /// The nodes that it hit.
    pub nodes: Vec<u64>,
    /// When it began, in nanoseconds since the history began.
    pub from_ns: u64,
    /// When it was over; later than the history's end if it never was.
    pub to_ns: u64,
    /// What shows that it bit, such as `214 packets dropped`; `None` if nothing does.
    pub evidence: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The run's id: the name of its directory.
    pub id: String,
    /// When it began, RFC 3339.
    pub began: String,
    /// What ran: version and commit, as the binary says.
    pub build: String,
    /// What it was asked to do.
    pub plan: Plan,
    /// The command that does the same again.
    pub again: String,
    /// The worst of all checks.
    pub verdict: Verdict,
    /// What each checker said.
    pub checks: Vec<Check>,
    /// What was done to the nodes.
    pub faults: Vec<Fault>,
    /// What its history was shrunk to, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk: Option<Shrunk>,
}

/// A minimal history: it is in a file of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shrunk {
    /// The kind of anomaly that it shows.
    pub kind: String,
    /// It, told to a person.
    pub story: String,
}
