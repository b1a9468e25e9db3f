//! The door check: what a batch must be before it goes to a leader.
//!
//! Everything that can be judged without the partition's state is judged here, outside of the core's rounds: size, checksum,
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

/// Batches that are unfolded at once, each to many times its size perhaps: budgets count bytes as they came.
pub(crate) const UNFOLDED_AT_ONCE: usize = 4;

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
        // Never closed.
        let _turn = self.unfolding.acquire().await;
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

#[cfg(test)]
mod tests {
    use levada_protocol::{
        batch::{Attributes, BatchProducer, ColumnsInfo, MAGIC_COLUMNS, NewRecord, RowsBuilder},
        ids::TopicId,
        topic::TopicConfig,
    };

    use super::*;

    /// Takes rows for columns without looking, and refuses columns that say so.
    struct FakeCodec;

    fn columns(schema_id: u32, body: &'static [u8]) -> Bytes {
        let info = ColumnsInfo {
            record_count: 1,
            base_timestamp_ms: 5,
            max_timestamp_ms: 5,
            producer: BatchProducer::NONE,
            transactional: false,
        };
        let (metadata, body) = (Bytes::from_static(b"metadata"), Bytes::from_static(body));
        ColumnsPayload { schema_id, metadata, body }.build(&info).unwrap()
    }

    impl PayloadCodec for FakeCodec {
        fn check_schema(&self, json: &str) -> Result<String> {
            Ok(json.to_owned())
        }

        fn validate(&self, _schema: &TopicSchema, batch: &Bytes) -> Result<()> {
            match &*ColumnsPayload::parse(batch)?.body {
                b"bad" => Err(Error::new(ErrorCode::SchemaMismatch, "column a, row 0")),
                _ => Ok(()),
            }
        }

        fn to_columns(&self, schema: &TopicSchema, _batch: &Bytes) -> Result<Bytes> {
            Ok(columns(schema.id, b"converted"))
        }

        fn to_rows(&self, _schema: &TopicSchema, batch: &Bytes) -> Result<Bytes> {
            Ok(batch.clone())
        }
    }

    fn rows(bytes: usize) -> Bytes {
        let value = vec![7; bytes];
        let mut builder = RowsBuilder::new();
        builder.push(&NewRecord { timestamp_ms: 5, key: None, value: Some(&value), headers: &[] }).unwrap();
        builder.finish(Attributes::default(), BatchProducer::NONE).unwrap()
    }

    fn topic(typed: bool) -> Arc<Topic> {
        Arc::new(Topic {
            name: "t".into(),
            id: TopicId::default(),
            partitions: Vec::new(),
            settings: Default::default(),
            config: TopicConfig { max_message_bytes: 2048, ..TopicConfig::default() },
            schema: typed.then(|| TopicSchema { id: 3, json: "{}".into() }),
            created_ms: 0,
            altered_by: Default::default(),
        })
    }

    fn code(result: Result<Admitted>) -> ErrorCode {
        result.unwrap_err().code
    }

    #[test]
    fn rows_pass_as_they_are_within_the_topics_bound() {
        let batch = rows(100);
        let admitted = judge(&topic(false), None, batch.clone()).unwrap();
        assert_eq!((admitted.batch, admitted.records), (batch, 1));
        assert_eq!(code(judge(&topic(false), None, rows(3000))), ErrorCode::RecordTooLarge);
        assert_eq!(code(judge(&topic(false), None, columns(3, b"x"))), ErrorCode::SchemaMismatch);
    }

    #[test]
    fn a_large_batch_stays_its_own_so_that_it_can_be_stamped_without_a_copy() {
        let batch = Bytes::from(rows(1000).to_vec());
        let admitted = judge(&topic(false), None, batch).unwrap();
        assert!(admitted.batch.try_into_mut().is_ok());
    }

    #[test]
    fn typed_topics_need_a_codec_that_agrees() {
        let (typed, codec) = (topic(true), Some(&FakeCodec as &dyn PayloadCodec));
        assert_eq!(code(judge(&typed, None, rows(10))), ErrorCode::InvalidRequest);
        assert_eq!(code(judge(&typed, None, columns(3, b"x"))), ErrorCode::InvalidRequest);
        let converted = judge(&typed, codec, rows(10)).unwrap();
        assert_eq!(converted.batch[16], MAGIC_COLUMNS.unsigned_abs());
        let kept = judge(&typed, codec, columns(3, b"good")).unwrap();
        assert_eq!(kept.batch, columns(3, b"good"));
        assert_eq!(code(judge(&typed, codec, columns(4, b"good"))), ErrorCode::SchemaMismatch);
        assert_eq!(code(judge(&typed, codec, columns(3, b"bad"))), ErrorCode::SchemaMismatch);
    }
}
