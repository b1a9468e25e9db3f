//! The metrics of this crate, by name. The operator's guide lists them.

use metrics::{Unit, describe_counter, describe_gauge};

/// Counter: bytes of Arrow data handed to Flight readers.
pub const FLIGHT_READ_BYTES_TOTAL: &str = "levada_flight_read_bytes_total";
/// Counter: records handed to Flight readers.
pub const FLIGHT_READ_RECORDS_TOTAL: &str = "levada_flight_read_records_total";
/// Gauge: Flight reads under way.
pub const FLIGHT_READERS: &str = "levada_flight_readers";
/// Counter: batches that were let go of because their reader had stalled, to be read again when it goes on.
pub const FLIGHT_STALLED_DROPPED_TOTAL: &str = "levada_flight_stalled_dropped_total";
/// Counter: bytes of batches appended for Flight writers.
pub const FLIGHT_WRITTEN_BYTES_TOTAL: &str = "levada_flight_written_bytes_total";
/// Counter: records appended for Flight writers.
pub const FLIGHT_WRITTEN_RECORDS_TOTAL: &str = "levada_flight_written_records_total";
/// Counter: appends that were tried again for Flight writers.
pub const FLIGHT_WRITE_RETRIES_TOTAL: &str = "levada_flight_write_retries_total";
/// Gauge: connections to the Flight port.
pub const FLIGHT_CONNECTIONS: &str = "levada_flight_connections";
/// Counter: Flight calls that ended in an error, by `code`.
pub const FLIGHT_ERRORS_TOTAL: &str = "levada_flight_errors_total";

/// Tells the installed recorder what the metrics mean.
pub fn describe() {
    describe_counter!(FLIGHT_READ_BYTES_TOTAL, Unit::Bytes, "Arrow data handed to Flight readers");
    describe_counter!(FLIGHT_READ_RECORDS_TOTAL, "Records handed to Flight readers");
    describe_gauge!(FLIGHT_READERS, "Flight reads under way");
    describe_counter!(FLIGHT_STALLED_DROPPED_TOTAL, "Batches let go of because their reader had stalled");
    describe_counter!(FLIGHT_WRITTEN_BYTES_TOTAL, Unit::Bytes, "Batches appended for Flight writers");
    describe_counter!(FLIGHT_WRITTEN_RECORDS_TOTAL, "Records appended for Flight writers");
    describe_counter!(FLIGHT_WRITE_RETRIES_TOTAL, "Appends that were tried again for Flight writers");
    describe_gauge!(FLIGHT_CONNECTIONS, "Connections to the Flight port");
    describe_counter!(FLIGHT_ERRORS_TOTAL, "Flight calls that ended in an error, by code");
}
