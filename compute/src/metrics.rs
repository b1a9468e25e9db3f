//! The metrics of this crate, by name.

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
