//! The columns that every stored batch has behind the topic's own: time, key and headers of each record.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, TimestampMillisecondArray,
    builder::{BinaryBuilder, ListBuilder, StringBuilder, StructBuilder},
};
use arrow_schema::Field;
use bytes::Bytes;
use levada_protocol::batch::{BatchError, BatchProducer, ColumnsInfo, ColumnsPayload};

use crate::{
    ipc::parts::Parts,
    schema::{TypedSchema, header_fields},
};

/// Hidden columns under construction.
#[derive(Debug)]
pub(crate) struct HiddenRows {
    timestamps: Vec<i64>,
    keys: BinaryBuilder,
    headers: ListBuilder<StructBuilder>,
}

impl HiddenRows {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let fields = header_fields();
        let item = Arc::new(Field::new_list_field(arrow_schema::DataType::Struct(fields.clone()), false));
        let structs = StructBuilder::new(fields, vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())]);
        Self {
            timestamps: Vec::with_capacity(rows),
            keys: BinaryBuilder::with_capacity(rows, 0),
            headers: ListBuilder::with_capacity(structs, rows).with_field(item),
        }
    }

    /// Adds a record's.
    pub(crate) fn push<'a>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) {
        self.timestamps.push(timestamp_ms);
        self.keys.append_option(key);
        let structs = self.headers.values();
        for (key, value) in headers {
            if let Some(keys) = structs.field_builder::<StringBuilder>(0) {
                keys.append_value(key);
            }
            if let Some(values) = structs.field_builder::<BinaryBuilder>(1) {
                values.append_option(value);
            }
            structs.append(true);
        }
        self.headers.append(true);
    }

    /// The finished columns.
    pub(crate) fn finish(mut self) -> Hidden {
        Hidden {
            timestamps: self.timestamps.into(),
            keys: Arc::new(self.keys.finish()),
            headers: Arc::new(self.headers.finish()),
        }
    }
}

/// Time, key and headers of some records.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    pub(crate) timestamps: TimestampMillisecondArray,
    pub(crate) keys: ArrayRef,
    pub(crate) headers: ArrayRef,
}

/// A columns batch to store: the topic's own columns, and the hidden ones.
///
/// # Errors
/// There are no rows, or too many bytes.
pub(crate) fn columns_batch(
    schema: &TypedSchema,
    own: &[ArrayRef],
    hidden: &Hidden,
    producer: BatchProducer,
    transactional: bool,
) -> Result<Bytes, BatchError> {
    let times = hidden.timestamps.values();
    let mut parts = Parts::new(times.len(), None);
    own.iter().for_each(|column| parts.array(column));
    parts.array(&hidden.timestamps.clone().with_timezone("UTC"));
    parts.array(&hidden.keys);
    parts.array(&hidden.headers);
    let encoded = parts.finish();
    let info = ColumnsInfo {
        record_count: u32::try_from(times.len()).unwrap_or(u32::MAX),
        base_timestamp_ms: times.first().copied().unwrap_or(0),
        max_timestamp_ms: times.iter().copied().max().unwrap_or(0),
        producer,
        transactional,
    };
    let body = encoded.body.concat().into();
    ColumnsPayload { schema_id: schema.id(), metadata: encoded.metadata.into(), body }.build(&info)
}
