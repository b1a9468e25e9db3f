//! Every configuration key: its name, its default, what it means. The defaults live here and nowhere else.

/// One configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, as in `levada.toml`; `a.b` is key `b` of table `a`.
    pub name: &'static str,
    /// The default, as a TOML value; empty when there is none and the key must be given.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Whether a change takes effect when the configuration is read again, without a restart.
    pub live: bool,
}

impl Key {
    /// The environment variable that sets it: `LEVADA_LISTEN_NATIVE` for `listen.native`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("LEVADA_{}", self.name.to_uppercase().replace('.', "_"))
    }

    /// The flag of `levada server` that sets it: `--listen-native` for `listen.native`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace(['.', '_'], "-"))
    }
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning, live: false }
}

/// One that can change while the server runs: whoever uses it must look again (`server/settings.rs`).
const fn live(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning, live: true }
}

/// All keys.
pub const KEYS: &[Key] = &[
    key(
        "node_id",
        "",
        "the node's number in the cluster, from 1; with another data directory it must be let in again (`levada cluster replace`)",
    ),
    key("data_dir", "", "the directory that holds everything the node keeps"),
    key("rack", r#""""#, "where the node stands; replicas of a partition are spread over racks"),
    key(
        "seed_nodes",
        "[]",
        "nodes of the cluster as id@host:port of their native addresses: those that found it, all with the same list, or for a node that joins later some that are there; empty: this node alone",
    ),
    key(
        "insecure",
        "false",
        "allow listening on addresses that other machines reach, though there is no authentication yet",
    ),
    live("default_replicas", "3", "replicas of a topic that does not say (fewer when there are fewer nodes)"),
    key(
        "listen.native",
        r#""127.0.0.1:9170""#,
        "where the native protocol listens, host:port; port 0 takes a free one",
    ),
    key("listen.flight", r#""127.0.0.1:9171""#, "where Arrow Flight listens, host:port"),
    key("listen.http", r#""127.0.0.1:9172""#, "where metrics and health listen, host:port"),
    key("advertised.native", r#""""#, "host:port under which others reach the native protocol; empty: as it listens"),
    key("advertised.flight", r#""""#, "host:port under which others reach Arrow Flight; empty: as it listens"),
    key("advertised.http", r#""""#, "host:port under which others reach metrics and health; empty: as it listens"),
    live(
        "limits.connections_max",
        "4096",
        "client connections at once; for more, those that are idle make room, or else they are told to come back",
    ),
    live(
        "limits.connection_requests_max",
        "1024",
        "requests under way on one connection; past it the connection is not read",
    ),
    live(
        "limits.connection_bytes_max",
        "67108864",
        "bytes of requests under way on one connection; past it the connection is not read",
    ),
    live(
        "limits.request_bytes_max",
        "268435456",
        "bytes of requests under way on all client connections, past it none is read; as much again for answers to fetches",
    ),
    live("limits.handshake_ms", "5000", "how long a new connection may take to say who it is"),
    live(
        "limits.frame_ms",
        "30000",
        "how long a frame may take from its first byte to its last, and a write may stand still",
    ),
    live("limits.idle_ms", "600000", "a connection without requests is closed after this"),
    live(
        "limits.copy_bytes_per_s",
        "52428800",
        "what new replicas and damaged segments on this node copy from other nodes in a second, together",
    ),
    live(
        "scrub.bytes_per_s",
        "16777216",
        "how fast all segments are read again in the background, to find what the disk has lost; 0: never",
    ),
    live("scrub.interval_s", "86400", "from the beginning of such a pass to that of the next, if it takes no longer"),
    live("limits.produce_ms", "30000", "how long a produce may take at most, whatever its client says"),
    live(
        "flight.connections_max",
        "1024",
        "Flight connections at once; for more, those that are idle make room, or else they wait",
    ),
    live("flight.stalled_ms", "30000", "what is held for a Flight reader that stands still is let go of after this"),
    live(
        "flight.held_bytes_max",
        "268435456",
        "what is held for all Flight readers together; past it, it is let go of after a second for those that stand still",
    ),
    live("flight.append_ms", "60000", "how long an append that fails is tried again for a Flight writer"),
    key("journal.file_bytes", "67108864", "length of a journal file"),
    key("journal.files_keep", "8", "journal files that are kept for use again"),
    key("journal.gather_bytes", "8388608", "about the most that one group commit gathers"),
    key(
        "journal.queue_ms",
        "3",
        "about how long the journal's disk may need for what stands in line before it; more waits in front, where each producer has its turn. More for a disk whose syncs take milliseconds; 0: no bound, and no turns",
    ),
    key(
        "journal.held_bytes_max",
        "536870912",
        "a stuck group that holds back this much of the journal has its entries written anew",
    ),
    key(
        "journal.checkpoint_bytes",
        "67108864",
        "a checkpoint begins after this much; a restart replays about that, and looks through all journal files there are",
    ),
    key(
        "segment.dirs",
        "[]",
        "more directories for segments, best each on a disk of its own: a new segment goes to where most space is, and one that fails is left alone; the journal stays in data_dir",
    ),
    key(
        "segment.write_bytes_min",
        "262144",
        "what a partition must have for a write of its own; less waits in memory, for 5 s at most (the journal has it)",
    ),
    key("segment.write_bytes_max", "2097152", "about the most that is written to one segment at once"),
    key(
        "segment.writeback_bytes",
        "262144",
        "writeback is asked for whenever this much of a segment was written; does little while disk.direct is true",
    ),
    key(
        "disk.direct",
        "true",
        "write journal and segments around the page cache, where the file system lets it; false: through it",
    ),
    key(
        "disk.reserve_bytes",
        "1073741824",
        "below this much free space no records are taken, below twice as much they are taken slowly; 0: whatever is left",
    ),
    key(
        "disk.slow_ms",
        "20",
        "a node leads nothing while its journal's blocks take longer than this (median of 10 s) and four times as long as on other nodes; 0: never mind",
    ),
    key("disk.reserve_percent", "5", "but that is not more than this share of the disk, in percent"),
    key(
        "tail.bytes_max",
        "268435456",
        "what fresh entries of all partitions may take in memory, half of it those led here; past it producers wait",
    ),
    key(
        "tail.keep_bytes",
        "33554432",
        "of that, what entries may take that are in segments already, for replicas that are a little behind",
    ),
    key(
        "tracing.otlp_endpoint",
        r#""""#,
        "http://host:port of an OpenTelemetry collector (OTLP over gRPC) that gets spans of some requests; empty: none",
    ),
    live(
        "tracing.samples_per_million",
        "1000",
        "of a million requests that bring no trace of their own, so many are followed; those that do are as their trace wants it",
    ),
    key("log.format", r#""text""#, "log lines as text or as json"),
    live("log.filter", r#""info""#, "which log events are written, as in RUST_LOG"),
];

/// Environment variables with the prefix that other parts of the binary read.
pub(super) const FOREIGN_VARIABLES: &[&str] =
    &["LEVADA_BOOTSTRAP", "LEVADA_CONFIG", "LEVADA_OUTPUT", "LEVADA_LOG", "LEVADA_TEST"];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key whose name is nearest to a wrong one, if any is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let near = KEYS.iter().map(|key| (distance(key.name, name), key.name)).min()?;
    (near.0 <= 3).then_some(near.1)
}

/// How many characters must be changed, left out or put in (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let next = (diagonal + usize::from(x != y)).min(left + 1).min(*slot + 1);
            diagonal = std::mem::replace(slot, next);
            left = next;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_typos_are_understood() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(names.len(), KEYS.len());
        assert_eq!(nearest("nodeid"), Some("node_id"));
        assert_eq!(nearest("listen.nativ"), Some("listen.native"));
        assert_eq!(nearest("something.else"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
