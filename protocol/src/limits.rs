//! What the protocol and the core are bounded by: sizes of frames, batches, names, queues. (Doors and Flight have bounds of
//! their own beside their code.) A decoder checks a length against these, and against the bytes that are there, before it
//! allocates.

/// One kibibyte.
pub const KIB: usize = 1024;
/// One mebibyte.
pub const MIB: usize = 1024 * KIB;

/// The largest frame on a native connection, header included.
pub const FRAME_BYTES_MAX: usize = 64 * MIB;
/// The largest protobuf header within a frame (the payload stands outside it).
pub const FRAME_HEADER_BYTES_MAX: usize = 4 * MIB;
/// The largest frame before the handshake is done: an unknown peer makes nobody allocate more than this.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * KIB;

/// The largest record batch a topic may allow (`max.message.bytes`).
pub const BATCH_BYTES_MAX: usize = 32 * MIB;
/// `max.message.bytes` of a topic that does not say.
pub const BATCH_BYTES_DEFAULT: usize = 8 * MIB;
/// The largest batch once decompressed.
pub const BATCH_DECOMPRESSED_BYTES_MAX: usize = 64 * MIB;
/// How many times its size a batch may decompress to, where that is more than [`BATCH_BYTES_DEFAULT`] (which might have
/// come without compression just as well): a small batch must not unfold into a large one.
pub const BATCH_DECOMPRESSED_RATIO_MAX: usize = 256;
/// The most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 1 << 20;
/// The most headers of one record.
pub const RECORD_HEADERS_MAX: usize = 1024;
/// The lowest timestamp of a record, in milliseconds since 1970: Kafka's "none".
pub const TIMESTAMP_MS_MIN: i64 = -1;
/// The highest one, the end of the year 9999: microseconds taken for milliseconds are noticed.
pub const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;
/// Where a batch starts within a file, and a columns body within its batch: a multiple of this.
pub const BATCH_ALIGN: usize = 64;

/// The largest payload of one raft entry: a few batches that waited together, or one large one.
pub const ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX + MIB;
/// Small batches are packed into one raft entry up to about this size.
pub const ENTRY_PACK_BYTES: usize = 256 * KIB;

/// A journal block stands on this boundary.
pub const JOURNAL_BLOCK_ALIGN: usize = 4 * KIB;
/// The largest journal block: what one group commit may gather.
pub const JOURNAL_BLOCK_BYTES_MAX: usize = 48 * MIB;
/// The most frames in one journal block.
pub const JOURNAL_BLOCK_FRAMES_MAX: usize = 64 * KIB;

/// The largest protobuf header of a client's request: much smaller than what nodes send each other and what answers may
/// have, as a header of many small fields takes many times its size once it is parsed.
pub const REQUEST_HEADER_BYTES_MAX: usize = 512 * KIB;
/// The most topics that one metadata request names.
pub const METADATA_NAMES_MAX: usize = 10_000;
/// What of an error's words crosses the wire: names that a client made up are echoed in them.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 2 * KIB;

/// The longest topic name, in bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// The most partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 10_000;
/// The most replicas of one partition.
pub const REPLICAS_MAX: usize = 9;
/// The largest Arrow schema of a typed topic, as JSON, and its most fields.
pub const SCHEMA_BYTES_MAX: usize = 256 * KIB;
/// The most columns of a typed topic.
pub const SCHEMA_FIELDS_MAX: usize = 2_000;

/// The batches of one producer that a partition remembers, and so the most a producer may have in flight to it.
pub const PRODUCER_BATCHES_REMEMBERED: usize = 5;
/// The most producers a partition remembers; past it the one that wrote least recently is forgotten.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 20_000;

/// Raft messages to one peer node that may wait for its connection; beyond it they are dropped and reported unreachable.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * MIB;

const _: () = assert!(BATCH_BYTES_DEFAULT <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= BATCH_DECOMPRESSED_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + FRAME_HEADER_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(SCHEMA_BYTES_MAX < REQUEST_HEADER_BYTES_MAX);
const _: () = assert!(REQUEST_HEADER_BYTES_MAX <= FRAME_HEADER_BYTES_MAX);
const _: () = assert!(METADATA_NAMES_MAX * (TOPIC_NAME_BYTES_MAX + 4) <= FRAME_HEADER_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX < JOURNAL_BLOCK_BYTES_MAX);
const _: () = assert!(ENTRY_PACK_BYTES < ENTRY_BYTES_MAX);
const _: () = assert!(JOURNAL_BLOCK_ALIGN.is_multiple_of(BATCH_ALIGN));
