//! What the broker needs to know of columns without knowing Arrow.

use bytes::Bytes;

use crate::{error::Result, source::TopicSchema};

/// Checks and converts the payload of typed topics. Injected into the broker, which refuses columns without one.
///
/// Conversions keep what identifies a batch: producer id, epoch, base sequence, record count, timestamps.
pub trait PayloadCodec: Send + Sync {
    /// Checks an Arrow schema given as JSON; answers its canonical form.
    ///
    /// # Errors
    /// `InvalidConfig` with words that name the field.
    fn check_schema(&self, json: &str) -> Result<String>;

    /// Checks that a columns batch (header, schema id, Arrow IPC message) fits the schema and is sound in itself.
    ///
    /// # Errors
    /// `SchemaMismatch` with words that name field and row; `CorruptBatch`.
    fn validate(&self, schema: &TopicSchema, batch: &Bytes) -> Result<()>;

    /// A rows batch, whose values are JSON objects, as a columns batch of the schema.
    ///
    /// # Errors
    /// `SchemaMismatch` with words that name field and row; `CorruptBatch`.
    fn to_columns(&self, schema: &TopicSchema, batch: &Bytes) -> Result<Bytes>;

    /// A columns batch as a rows batch whose values are JSON objects.
    ///
    /// # Errors
    /// `CorruptBatch`.
    fn to_rows(&self, schema: &TopicSchema, batch: &Bytes) -> Result<Bytes>;
}
