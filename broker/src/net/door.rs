//! The door check: what a batch must be before it goes to a leader.
//!
//! Everything that can be judged without the partition's state is judged here, off the worker's thread: size, checksum,
//! records, and for typed topics the schema. Rows for a typed topic become columns here, once. What passes is
//! readable by every reader.

use std::sync::Arc;

use bytes::Bytes;
use levada_protocol::{
    batch::{ColumnsPayload, Compression, validate_produced},
    codec::PayloadCodec,
    context::{Action, RequestContext},
    error::{Error, ErrorCode, Result},
    ids::TopicPartition,
    source::TopicSchema,
};
use tokio::task::spawn_blocking;

use crate::{
    broker::{Broker, partition_of},
    cluster::metadata::Topic,
};

/// Batches larger than this are judged on a thread for such work, if judging needs more than a look at them.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// A batch that may be appended.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) batch: Bytes,
    pub(crate) records: u32,
}

impl Broker {
    /// Judges a batch for a partition.
    pub(crate) async fn admit(&self, ctx: &RequestContext, place: TopicPartition, batch: Bytes) -> Result<Admitted> {
        let topic = self.topic(ctx, Action::Write, place.topic)?;
        partition_of(&topic, place)?;
        let codec = self.codec.clone();
        if batch.len() <= INLINE_BYTES_MAX || (topic.schema.is_none() && is_plain(&batch)) {
            return judge(&topic, codec.as_deref(), batch);
        }
        let judged = spawn_blocking(move || judge(&topic, codec.as_deref(), batch)).await;
        judged.unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "judging the batch failed; the log says more")))
    }
}

/// Whether judging a rows batch is one pass over its bytes.
fn is_plain(batch: &[u8]) -> bool {
    use levada_protocol::batch::BatchHeader;
    BatchHeader::parse(batch).is_ok_and(|header| header.attributes.compression() == Compression::None)
}

fn judge(topic: &Arc<Topic>, codec: Option<&dyn PayloadCodec>, batch: Bytes) -> Result<Admitted> {
    let header = validate_produced(&batch, topic.config.max_message_bytes)?;
    let records = header.record_count;
    let batch = match (&topic.schema, header.is_columns()) {
        (None, false) => batch,
        (None, true) => {
            let why = format!("topic {} has no schema and takes rows, not columns", topic.name);
            return Err(Error::new(ErrorCode::SchemaMismatch, why));
        }
        (Some(schema), true) => {
            check_schema_id(topic, schema, &batch)?;
            needed(codec)?.validate(schema, &batch)?;
            batch
        }
        (Some(schema), false) => needed(codec)?.to_columns(schema, &batch)?,
    };
    Ok(Admitted { batch, records })
}

fn check_schema_id(topic: &Topic, schema: &TopicSchema, batch: &Bytes) -> Result<()> {
    let id = ColumnsPayload::parse(batch)?.schema_id;
    if id == schema.id {
        return Ok(());
    }
    let why =
        format!("the columns are of schema {id}, topic {} has schema {}; describe it again", topic.name, schema.id);
    Err(Error::new(ErrorCode::SchemaMismatch, why))
}

/// The codec, which whoever runs a broker with typed topics gives to it.
pub(crate) fn needed(codec: Option<&dyn PayloadCodec>) -> Result<&dyn PayloadCodec> {
    codec.ok_or_else(|| {
        Error::new(ErrorCode::InvalidRequest, "this server was started without support for typed topics")
    })
}
