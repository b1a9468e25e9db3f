//! Which columns a topic has, as it is described, as it is stored, and as readers see it.
//!
//! | | columns |
//! |---|---|
//! | an untyped topic, read | `partition, offset, timestamp, key, value, headers` |
//! | a typed topic, stored | its own, `_timestamp, _key, _headers` |
//! | a typed topic, read | its own, `_partition, _offset, _timestamp, _key, _headers` |
//!
//! Partition and offset are never stored: they are in the batch's header and the reader's ticket.

mod json;
mod types;

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use levada_protocol::{
    error::{Error, ErrorCode},
    source::TopicSchema,
};

pub use json::{SchemaError, parse as parse_json, write as write_json};
pub(crate) use types::{fold as fold_type, write as write_type};

/// What stands before the name of a column that every typed topic has.
pub(crate) const RESERVED: char = '_';
/// When the record was made.
pub(crate) const TIMESTAMP: &str = "_timestamp";
/// The record's key.
pub(crate) const KEY: &str = "_key";
/// The record's headers.
pub(crate) const HEADERS: &str = "_headers";
/// The record's partition: made on reading.
pub(crate) const PARTITION: &str = "_partition";
/// The record's offset: made on reading.
pub(crate) const OFFSET: &str = "_offset";

/// The schema of every untyped topic, as it is read.
pub static UNTYPED: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", timestamp_type(), false),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", headers_type(), false),
    ]))
});

/// Milliseconds in UTC.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// A list of key and value.
pub(crate) fn headers_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(header_fields()), false)))
}

/// Key and value of a header.
pub(crate) fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

/// A typed topic's columns.
#[derive(Debug)]
pub struct TypedSchema {
    id: u32,
    own: SchemaRef,
    stored: SchemaRef,
    served: SchemaRef,
}

impl TypedSchema {
    /// From the schema as the catalog has it.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidConfig`] with words that name the field.
    pub fn new(schema: &TopicSchema) -> Result<Self, Error> {
        let own = parse_json(&schema.json).map_err(|error| Error::new(ErrorCode::InvalidConfig, error.to_string()))?;
        Ok(Self::from_own(schema.id, own))
    }

    fn from_own(id: u32, own: Schema) -> Self {
        let hidden = [
            Arc::new(Field::new(TIMESTAMP, timestamp_type(), false)),
            Arc::new(Field::new(KEY, DataType::Binary, true)),
            Arc::new(Field::new(HEADERS, headers_type(), false)),
        ];
        let made = [
            Arc::new(Field::new(PARTITION, DataType::Int32, false)),
            Arc::new(Field::new(OFFSET, DataType::Int64, false)),
        ];
        let with = |more: Vec<FieldRef>| {
            let fields: Fields = own.fields().iter().cloned().chain(more).collect();
            Arc::new(Schema::new_with_metadata(fields, own.metadata().clone()))
        };
        let stored = with(hidden.to_vec());
        let served = with(made.into_iter().chain(hidden).collect());
        Self { id, own: Arc::new(own), stored, served }
    }

    /// The schema's number within its topic.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The topic's own columns.
    #[must_use]
    pub const fn own(&self) -> &SchemaRef {
        &self.own
    }

    /// The columns of a stored batch: the own ones come first.
    #[must_use]
    pub const fn stored(&self) -> &SchemaRef {
        &self.stored
    }

    /// The columns that readers see: the own ones come first.
    #[must_use]
    pub const fn served(&self) -> &SchemaRef {
        &self.served
    }

    /// How many columns are the topic's own.
    #[must_use]
    pub fn own_count(&self) -> usize {
        self.own.fields().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_views_of_a_typed_topic() {
        let json = r#"{"fields":[{"name":"a","type":"int64"},{"name":"b","type":"utf8"}]}"#;
        let schema = TypedSchema::new(&TopicSchema { id: 7, json: json.to_owned() }).unwrap();
        let names =
            |schema: &SchemaRef| -> Vec<String> { schema.fields().iter().map(|field| field.name().clone()).collect() };
        assert_eq!(names(schema.own()), ["a", "b"]);
        assert_eq!(names(schema.stored()), ["a", "b", "_timestamp", "_key", "_headers"]);
        assert_eq!(names(schema.served()), ["a", "b", "_partition", "_offset", "_timestamp", "_key", "_headers"]);
        assert_eq!((schema.id(), schema.own_count()), (7, 2));
    }
}
