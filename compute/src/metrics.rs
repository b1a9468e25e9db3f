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
pub const FLIGHT_HELD_BYTES: Metric = Metric::gauge("levada_flight_held_bytes", "bytes")
    .means("messages and batches read ahead that are held for Flight readers, of every second")
    .when_high("past `flight.held_bytes_max` whoever has not moved for a second loses what is held for it, and has it read again");
pub const FLIGHT_WRITTEN_BYTES_TOTAL: Metric =
    Metric::counter("levada_flight_written_bytes_total", "bytes").means("batches appended for Flight writers");
pub const FLIGHT_WRITTEN_RECORDS_TOTAL: Metric =
    Metric::counter("levada_flight_written_records_total", "records").means("records appended for Flight writers");
pub const FLIGHT_WRITE_RETRIES_TOTAL: Metric = Metric::counter("levada_flight_write_retries_total", "appends")
    .means("appends that were tried again for Flight writers")
    .when_high("leaders move, or are slow: look at `levada_partitions_leaderless` and `levada_journal_sync_seconds`");
pub const FLIGHT_CONNECTIONS: Metric =
    Metric::gauge("levada_flight_connections", "connections").means("connections to the Flight port").when_high(
        "at `flight.connections_max` idle ones make room for others, and others wait when none is idle: raise it, let clients share connections, or spread them over nodes",
    );
pub const FLIGHT_CONNECTIONS_DROPPED_TOTAL: Metric =
    Metric::counter("levada_flight_connections_dropped_total", "connections")
        .by(&["reason"])
        .means(
            "connections to the Flight port that were closed because they did nothing: `silent` ones did not say that they speak \
             HTTP/2, in time or before there was no place for another; `made_room` were without a call for two seconds, and another needed the place",
        )
        .when_high("`made_room`: raise `flight.connections_max`, or let clients share connections; `silent`: somebody knocks who speaks something else");
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
    FLIGHT_HELD_BYTES,
    FLIGHT_WRITTEN_BYTES_TOTAL,
    FLIGHT_WRITTEN_RECORDS_TOTAL,
    FLIGHT_WRITE_RETRIES_TOTAL,
    FLIGHT_CONNECTIONS,
    FLIGHT_CONNECTIONS_DROPPED_TOTAL,
    FLIGHT_ERRORS_TOTAL,
];
