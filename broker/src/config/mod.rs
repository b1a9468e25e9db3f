//! The server's configuration: defaults < `levada.toml` < environment < flags.
//!
//! [`KEYS`] lists every key with its default and meaning; a key that is not there is an error that names it.

mod address;
mod keys;
mod live;
mod load;
mod memory;
mod reload;
mod source;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use crate::node::Watermarks;
use levada_protocol::{error::NodeAddresses, ids::NodeId};
use levada_storage_engine::{
    config::{SegmentConfig, StoreConfig},
    journal::JournalConfig,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use keys::{KEYS, Key};
pub use live::LiveLimits;
pub use reload::{Change, Outcome, Reloader, ValueInForce};
pub use source::{Loaded, Origin, Source};

/// What is wrong with the configuration, and with which key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {why}", subject(key), place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default())]
pub struct ConfigError {
    /// The key, or the environment variable.
    pub key: String,
    /// Where that was set: a file and its line, an environment variable, a flag.
    pub place: Option<String>,
    /// What is wrong.
    pub why: String,
}

/// What stands for the key where the file itself is wrong.
pub(crate) const WHOLE_FILE: &str = "levada.toml";

fn subject(key: &str) -> String {
    if key == WHOLE_FILE { "configuration file".to_owned() } else { format!("configuration key `{key}`") }
}

impl ConfigError {
    pub(crate) fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), place: None, why: why.into() }
    }
}

/// A node's configuration. [`KEYS`] says what each key means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct ServerConfig {
    pub node_id: u64,
    pub data_dir: PathBuf,
    pub rack: String,
    #[serde(deserialize_with = "list")]
    pub seed_nodes: Vec<SeedNode>,
    pub insecure: bool,
    pub default_replicas: u32,
    pub listen: Doors,
    pub advertised: Doors,
    pub limits: LimitsConfig,
    pub scrub: ScrubSettings,
    pub flight: FlightSettings,
    pub journal: JournalSettings,
    pub segment: SegmentSettings,
    pub disk: DiskSettings,
    pub tail: TailSettings,
    pub tracing: TracingSettings,
    pub log: LogConfig,
}

/// An address for each door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct Doors {
    pub native: String,
    pub flight: String,
    pub http: String,
}

/// What connections may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct LimitsConfig {
    pub connections_max: u64,
    pub connection_requests_max: u64,
    pub connection_bytes_max: u64,
    pub request_bytes_max: u64,
    pub handshake_ms: u64,
    pub frame_ms: u64,
    pub idle_ms: u64,
    pub produce_ms: u64,
    pub copy_bytes_per_s: u64,
}

/// The scrub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct ScrubSettings {
    pub bytes_per_s: u64,
    pub interval_s: u64,
}

/// The Flight door, which somebody else than the broker serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct FlightSettings {
    pub connections_max: u64,
    pub stalled_ms: u64,
    pub held_bytes_max: u64,
    pub append_ms: u64,
}

/// The journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct JournalSettings {
    pub file_bytes: u64,
    pub files_keep: u64,
    pub gather_bytes: u64,
    pub queue_ms: u64,
    pub held_bytes_max: u64,
    pub checkpoint_bytes: u64,
}

/// Segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct SegmentSettings {
    #[serde(deserialize_with = "list")]
    pub dirs: Vec<PathBuf>,
    pub write_bytes_min: u64,
    pub write_bytes_max: u64,
    pub writeback_bytes: u64,
}

/// How the disk is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct DiskSettings {
    pub direct: bool,
    pub reserve_bytes: u64,
    pub reserve_percent: u64,
    pub slow_ms: u64,
}

/// Tails: fresh entries in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct TailSettings {
    pub bytes_max: u64,
    pub keep_bytes: u64,
}

/// Spans of some requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct TracingSettings {
    pub otlp_endpoint: String,
    pub samples_per_million: u32,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS is the documentation of every key")]
pub struct LogConfig {
    pub format: String,
    pub filter: String,
}

/// One of the nodes that found the cluster: `id@host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedNode {
    /// The node.
    pub node: NodeId,
    /// Its native address.
    pub native: String,
}

impl FromStr for SeedNode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is not id@host:port ({why})");
        let (id, native) = text.trim().split_once('@').ok_or_else(|| wrong("no @"))?;
        let id: u64 = id.parse().map_err(|_| wrong("the id is not a number"))?;
        let (_, port) = address::split(native).map_err(|why| wrong(&why))?;
        if id == 0 || port == 0 {
            return Err(wrong("neither id nor port is 0"));
        }
        Ok(Self { node: NodeId(id), native: native.to_owned() })
    }
}

impl fmt::Display for SeedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.native)
    }
}

impl Serialize for SeedNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A list, or one string with commas as flags and environment have it.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Texts::deserialize(deserializer)? {
        Texts::One(text) => {
            text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
        }
        Texts::Many(texts) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

impl ServerConfig {
    /// A node for tests and development: everything on free ports of this machine.
    ///
    /// # Panics
    /// If the node's id is 0: the defaults are sound.
    #[must_use]
    pub fn local(node: NodeId, data_dir: impl Into<PathBuf>) -> Self {
        let free = "127.0.0.1:0";
        let mut flags = figment::value::Dict::new();
        flags.insert("node_id".into(), node.get().into());
        flags.insert("data_dir".into(), data_dir.into().to_string_lossy().into_owned().into());
        let listen: figment::value::Dict =
            ["native", "flight", "http"].into_iter().map(|door| (door.to_owned(), free.into())).collect();
        flags.insert("listen".into(), listen.into());
        let flags = figment::providers::Serialized::defaults(flags);
        Self::load(None, [], flags).expect("the defaults are sound, and node ids start at 1")
    }

    /// The node's id.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        NodeId(self.node_id)
    }

    /// The addresses under which others reach this node, given where its doors really listen.
    #[must_use]
    pub fn addresses(&self, bound: &Doors) -> NodeAddresses {
        let door = |advertised: &String, bound: &String| {
            if advertised.is_empty() { bound.clone() } else { advertised.clone() }
        };
        NodeAddresses {
            node: self.node(),
            native: door(&self.advertised.native, &bound.native),
            flight: door(&self.advertised.flight, &bound.flight),
            http: door(&self.advertised.http, &bound.http),
        }
    }

    /// How storage is set up.
    #[must_use]
    pub fn store(&self) -> StoreConfig {
        let usize = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        StoreConfig {
            journal: JournalConfig {
                file_bytes: self.journal.file_bytes,
                files_keep: usize(self.journal.files_keep),
                gather_bytes: usize(self.journal.gather_bytes),
            },
            segment: SegmentConfig {
                write_bytes_min: self.segment.write_bytes_min,
                write_bytes_max: self.segment.write_bytes_max,
                writeback_bytes: self.segment.writeback_bytes,
                ..SegmentConfig::default()
            },
            checkpoint_bytes: self.journal.checkpoint_bytes,
            tail_bytes_max: self.tail.bytes_max,
            tail_keep_bytes: self.tail.keep_bytes,
            journal_held_bytes_max: self.journal.held_bytes_max,
            ..StoreConfig::default()
        }
    }

    /// When the disk is full.
    #[must_use]
    pub const fn watermarks(&self) -> Watermarks {
        Watermarks { reserve_bytes: self.disk.reserve_bytes, reserve_percent: self.disk.reserve_percent }
    }

    /// What is in force, as TOML-like lines `key = value`, in the order of [`KEYS`].
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let all = figment::value::Value::serialize(self).ok();
        let find = |key: &Key| all.as_ref().and_then(|all| all.find_ref(key.name)).map(text);
        KEYS.iter().map(|key| format!("{} = {}", key.name, find(key).unwrap_or_default())).collect()
    }
}

fn text(value: &figment::value::Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl LimitsConfig {
    /// How long a new connection may take to say who it is.
    #[must_use]
    pub const fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }

    /// How long a frame may take, and a write may stand still.
    #[must_use]
    pub const fn frame(&self) -> Duration {
        Duration::from_millis(self.frame_ms)
    }

    /// When a connection without requests is closed.
    #[must_use]
    pub const fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// How long a produce may take at most.
    #[must_use]
    pub const fn produce(&self) -> Duration {
        Duration::from_millis(self.produce_ms)
    }
}
