//! The metrics of this crate. What each means stands in the constant, and `docs/metrics.md` is made from it.
#![allow(missing_docs, reason = "each constant says what it means")]

use levada_protocol::metric::Metric;

pub const FLIGHT_READ_BYTES_TOTAL: Metric =
    Metric::counter("levada_flight_read_bytes_total", "bytes").means("Arrow data handed to Flight readers");
pub const FLIGHT_READ_RECORDS_TOTAL: Metric =
    Metric::counter("levada_flight_read_records_total", "records").means("records handed to Flight readers");
pub const FLIGHT_READERS: Metric = Metric::gauge("levada_flight_readers", "reads")
    .means("Flight reads under way")
    .when_high("each holds up to about 2 MiB; look whether readers that nobody needs any more still follow");
pub const FLIGHT_READER_SECONDS_BEHIND_MAX: Metric = Metric::gauge("levada_flight_reader_seconds_behind_max", "seconds")
    .means("of all reads that follow, since when the worst has not had everything there is; since its beginning, if it never had")
    .when_high(
        "a reader is slower than what is written, or stands still: look at it. One that began far back has that much to \
         read first",
    );
pub const FLIGHT_STALLED_DROPPED_TOTAL: Metric = Metric::counter("levada_flight_stalled_dropped_total", "batches")
    .means("batches that were let go of because their reader had stalled, to be read again when it goes on")
    .when_high("readers do not keep up, or hang: look at them; the node is none the worse for it");
pub const FLIGHT_WRITTEN_BYTES_TOTAL: Metric =
    Metric::counter("levada_flight_written_bytes_total", "bytes").means("batches appended for Flight writers");
pub const FLIGHT_WRITTEN_RECORDS_TOTAL: Metric =
    Metric::counter("levada_flight_written_records_total", "records").means("records appended for Flight writers");
pub const FLIGHT_WRITE_RETRIES_TOTAL: Metric = Metric::counter("levada_flight_write_retries_total", "appends")
    .means("appends that were tried again for Flight writers")
    .when_high("leaders move, or are slow: look at `levada_partitions_leaderless` and `levada_journal_sync_seconds`");
pub const FLIGHT_CONNECTIONS: Metric =
    Metric::gauge("levada_flight_connections", "connections").means("connections to the Flight port").when_high(
        "past `flight.connections_max` more wait: raise it, let clients share connections, or spread them over nodes",
    );
pub const FLIGHT_ERRORS_TOTAL: Metric = Metric::counter("levada_flight_errors_total", "calls")
    .by(&["code"])
    .means("Flight calls that ended in an error, by code")
    .when_high("the code says whose fault it is: `INTERNAL` and `DAMAGED` are the node's, most others the caller's");

/// All metrics of this crate.
pub const ALL: &[Metric] = &[
    FLIGHT_READ_BYTES_TOTAL,
    FLIGHT_READ_RECORDS_TOTAL,
    FLIGHT_READERS,
    FLIGHT_READER_SECONDS_BEHIND_MAX,
    FLIGHT_STALLED_DROPPED_TOTAL,
    FLIGHT_WRITTEN_BYTES_TOTAL,
    FLIGHT_WRITTEN_RECORDS_TOTAL,
    FLIGHT_WRITE_RETRIES_TOTAL,
    FLIGHT_CONNECTIONS,
    FLIGHT_ERRORS_TOTAL,
];
