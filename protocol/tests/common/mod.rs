//! Records as the tests write and read them.

#![allow(dead_code, reason = "each test file uses its part")]

use bytes::Bytes;
use levada_protocol::batch::{Attributes, BatchError, BatchProducer, Compression, NewRecord, Rows, RowsBuilder};

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Row {
    pub(crate) fn new(timestamp_ms: i64, key: Option<&str>, value: Option<&str>) -> Self {
        let owned = |text: &str| text.as_bytes().to_vec();
        Self { timestamp_ms, key: key.map(owned), value: value.map(owned), headers: Vec::new() }
    }
}

/// What the fixtures hold.
pub(crate) fn five_records() -> Vec<Row> {
    const FUNCHAL_12: Option<&str> = Some(r#"{"city":"Funchal","litres":12,"unit":"l"}"#);
    const FUNCHAL_15: Option<&str> = Some(r#"{"city":"Funchal","litres":15,"unit":"l"}"#);
    let mut rows = vec![
        Row::new(1_700_000_000_000, Some("user-1"), FUNCHAL_12),
        Row::new(1_700_000_000_007, None, FUNCHAL_15),
        Row::new(1_700_000_000_005, Some("user-1"), None),
        Row::new(1_700_000_000_100, Some(""), Some("")),
        Row::new(1_700_000_000_101, Some("ключ"), FUNCHAL_12),
    ];
    rows[1].headers = vec![
        ("trace".into(), Some(b"0af7651916cd43dd".to_vec())),
        ("flag".into(), None),
        ("trace".into(), Some(Vec::new())),
    ];
    rows
}

/// A batch that holds them.
pub(crate) fn encode(rows: &[Row], codec: Compression, producer: BatchProducer) -> Bytes {
    let mut builder = RowsBuilder::new();
    for row in rows {
        let headers: Vec<_> = row.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let record = NewRecord {
            timestamp_ms: row.timestamp_ms,
            key: row.key.as_deref(),
            value: row.value.as_deref(),
            headers: &headers,
        };
        let bytes = builder.bytes_with(&record);
        builder.push(&record).unwrap();
        assert_eq!(builder.bytes(), bytes, "the announced size");
    }
    let bytes = builder.bytes();
    let batch = builder.finish(Attributes::default().with_compression(codec), producer).unwrap();
    assert!(batch.len() <= bytes);
    batch
}

/// The records of a batch; checks on the way that their offsets are those of a batch without gaps.
pub(crate) fn decode(batch: &Bytes) -> Result<Vec<Row>, BatchError> {
    let rows = Rows::open(batch)?;
    let base = rows.header().base_offset;
    let mut read = Vec::new();
    for record in &rows {
        let record = record?;
        assert_eq!(record.offset, base.plus(read.len() as u64));
        read.push(Row {
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|(key, value)| (String::from_utf8(key.to_vec()).unwrap(), value.map(<[u8]>::to_vec)))
                .collect(),
        });
    }
    Ok(read)
}

/// The fixture of an implementation (`java`, `librdkafka`).
pub(crate) fn fixture(implementation: &str, codec: Compression) -> Bytes {
    let codec = format!("{codec:?}").to_lowercase();
    let path = format!("{}/tests/fixtures/batches/{implementation}-{codec}.hex", env!("CARGO_MANIFEST_DIR"));
    let hex = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let digits: Vec<u8> = hex.trim().chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>().into()
}

/// All of them.
pub(crate) fn fixtures() -> impl Iterator<Item = (&'static str, Compression, Bytes)> {
    ["java", "librdkafka"]
        .into_iter()
        .flat_map(|name| Compression::ALL.into_iter().map(move |codec| (name, codec, fixture(name, codec))))
}
