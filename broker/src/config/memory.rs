//! What a configuration lets a node take of its own memory: that of the process without mapped files (`RssAnon`).

use levada_protocol::limits::{BATCH_DECOMPRESSED_BYTES_MAX, MIB, PEER_QUEUE_BYTES_MAX};

use super::ServerConfig;
use crate::net::door::UNFOLDED_AT_ONCE;

/// A connection that does nothing, with its buffers.
const CONNECTION_BYTES: u64 = 32 << 10;
/// What is bounded by other things than the configuration: code, stacks, metadata, what the allocator keeps.
const BESIDES: u64 = 256 * MIB as u64;

impl ServerConfig {
    /// The parts, in bytes, where there are so many other nodes. What Flight's writers have under way is not among them but
    /// for what is on its way into the log: their messages are as large as they make them (`docs/operations.md`).
    #[must_use]
    pub fn memory_parts(&self, other_nodes: u64) -> [(&'static str, u64); 7] {
        let connections = self.limits.connections_max + self.flight.connections_max;
        let (peer_queue, unfolded) = (PEER_QUEUE_BYTES_MAX as u64, BATCH_DECOMPRESSED_BYTES_MAX as u64);
        [
            ("fresh entries (tail.bytes_max)", self.tail.bytes_max),
            ("requests and answers (twice limits.request_bytes_max)", 2 * self.limits.request_bytes_max),
            ("Flight readers (flight.held_bytes_max)", self.flight.held_bytes_max),
            ("connections (limits.connections_max, flight.connections_max)", connections * CONNECTION_BYTES),
            ("other nodes", 2 * peer_queue * other_nodes),
            ("batches that are unfolded", unfolded * UNFOLDED_AT_ONCE as u64),
            ("besides", BESIDES),
        ]
    }

    /// Their sum: what a node is to have, besides page cache.
    #[must_use]
    pub fn memory_bytes(&self, other_nodes: u64) -> u64 {
        self.memory_parts(other_nodes).iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::NodeId;

    use super::*;

    #[test]
    fn every_part_is_somebodys_to_set_or_known() {
        let mut config = ServerConfig::local(NodeId(1), "/unused");
        let before = config.memory_bytes(2);
        assert_eq!(before, (256 + 512 + 256 + 160 + 256 + 256 + 256) << 20);
        assert_eq!(before - config.memory_bytes(0), 256 << 20);
        config.tail.bytes_max += 1;
        config.limits.request_bytes_max += 10;
        config.flight.held_bytes_max += 100;
        config.limits.connections_max += 1000;
        assert_eq!(config.memory_bytes(2) - before, 1 + 20 + 100 + 1000 * CONNECTION_BYTES);
    }
}
