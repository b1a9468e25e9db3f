//! Every decoder with bytes that nobody would send.
//!
//! [`TARGETS`] lists the doors of the crates (their `fuzzing` modules). A fuzzer (`libfuzzer/`) makes up bytes for one of
//! them; `tests/corpus.rs` replays what fuzzers found interesting. Both go through [`run`], which also looks at how much
//! memory a decoder takes for the bytes that it is given. `README.md` says how to run them.

use levada_broker::fuzzing as broker;
use levada_compute::fuzzing as compute;
use levada_protocol::fuzzing as protocol;
use levada_storage_engine::fuzzing as storage;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// A decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it does with any bytes: panics if the decoder breaks its word.
    pub door: fn(&[u8]),
    /// What its encoder writes: where a fuzzer begins.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that a fuzzer makes.
    pub input_bytes_max: usize,
    /// The most memory that it may take at a time besides [`FACTOR`] times what it is given.
    pub memory_bytes_max: usize,
}

/// The most memory that a byte may take once it is decoded: two bytes are an empty message in protobuf, which is a few
/// hundred in memory, and lists grow by doubling.
pub const FACTOR: usize = 512;

const fn target(name: &'static str, door: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>, input_bytes_max: usize) -> Target {
    Target { name, door, seeds, input_bytes_max, memory_bytes_max: MIB }
}

/// One that decompresses: what small bytes may unfold to (`BATCH_BYTES_DEFAULT`), with lists that double.
const fn unfolding(target: Target) -> Target {
    Target { memory_bytes_max: 40 * MIB, ..target }
}

/// One whose input nobody but the operator writes, and whose every table is named in full.
const fn trusted(target: Target) -> Target {
    Target { memory_bytes_max: 8 * MIB, ..target }
}

/// Every decoder.
pub const TARGETS: &[Target] = &[
    target("frame", protocol::frame, protocol::seeds::frames, 1024),
    target("message", protocol::message, protocol::seeds::messages, 1024),
    unfolding(target("batch", protocol::batch, protocol::seeds::batches, 1024)),
    unfolding(target("compression", protocol::compression, protocol::seeds::compressed, 256)),
    target("ticket", protocol::ticket, protocol::seeds::tickets, 512),
    target("journal", storage::journal, storage::seeds::blocks, 1024),
    target("segment", storage::segment, storage::seeds::segments, 4096),
    target("read_segment", storage::read_segment, storage::seeds::changes, 64),
    target("index", storage::index, storage::seeds::indexes, 1024),
    target("checkpoint", storage::checkpoint, storage::seeds::checkpoints, 1024),
    target("owner", storage::owner, storage::seeds::owners, 64),
    target("identity", storage::identity, storage::seeds::identities, 128),
    target("snapshot", storage::snapshot, storage::seeds::snapshots, 1024),
    target("raft_frame", broker::raft_frame, broker::seeds::raft_frames, 1024),
    target("founding", broker::founding, broker::seeds::foundings, 512),
    target("metadata", broker::metadata, broker::seeds::metadata, 1024),
    target("membership", broker::membership, broker::seeds::memberships, 256),
    target("partition", broker::partition, broker::seeds::partitions, 512),
    trusted(target("config", broker::config, broker::seeds::configs, 4096)),
    unfolding(target("columns", compute::columns, compute::seeds::columns, 4096)),
    unfolding(target("put", compute::put, compute::seeds::puts, 8192)),
    target("schema_json", compute::schema_json, compute::seeds::schemas, 1024),
    target("rows", compute::rows, compute::seeds::rows, 1024),
    target("ask", compute::ask, compute::seeds::asks, 512),
];

/// The one of this name. Found by the compiler, so that a program has one decoder and not all of them: a fuzzer looks at
/// every branch of a program after every input.
///
/// # Panics
/// If there is none.
#[must_use]
pub const fn find(name: &str) -> Target {
    let mut number = 0;
    while !is_same(TARGETS[number].name.as_bytes(), name.as_bytes()) {
        number += 1;
    }
    TARGETS[number]
}

const fn is_same(ours: &[u8], theirs: &[u8]) -> bool {
    let mut at = 0;
    while at < ours.len() && at < theirs.len() && ours[at] == theirs[at] {
        at += 1;
    }
    at == ours.len() && at == theirs.len()
}

/// Gives bytes to a decoder. Only one at a time runs in a process: memory is looked at as a whole.
///
/// # Panics
/// If the decoder breaks its word, or takes more memory than it may.
pub fn run(target: &Target, bytes: &[u8]) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    (target.door)(bytes);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let allowed = target.memory_bytes_max + FACTOR * bytes.len();
    assert!(
        taken <= allowed,
        "{}: {taken} bytes of memory for {} of input, where {allowed} may be",
        target.name,
        bytes.len()
    );
}
