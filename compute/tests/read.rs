//! Reading topics through Arrow's own Rust client.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use std::time::Duration;

use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
use futures::{StreamExt, TryStreamExt};
use levada_compute::schema::UNTYPED;
use levada_protocol::{
    batch::{Attributes, BatchHeader, BatchProducer, Compression, NewRecord, RowsBuilder, seal},
    error::ErrorCode,
    ids::{PartitionId, TopicId, TopicPartition},
    ticket::{End, Start, Ticket},
};
use support::{Running, command, error_of, get, info, path, read, read_all, status, tickets};

fn offsets(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn values(batch: &RecordBatch) -> Vec<Vec<u8>> {
    let values = batch.column_by_name("value").unwrap().as_binary::<i32>();
    values.iter().map(|value| value.unwrap().to_vec()).collect()
}

#[tokio::test]
async fn an_untyped_topic_has_its_six_columns() {
    let running = Running::start().await;
    running.topic("t", 2, None).await;
    let mut builder = RowsBuilder::new();
    let headers = [("h", Some(&b"1"[..])), ("h", None)];
    let record = NewRecord { timestamp_ms: 5, key: Some(b"k"), value: Some(b"v"), headers: &headers };
    builder.push(&record).unwrap();
    builder.push(&NewRecord { timestamp_ms: 6, ..NewRecord::default() }).unwrap();
    let attributes = Attributes::default().with_compression(Compression::Zstd);
    running.log.push("t", 1, &builder.finish(attributes, BatchProducer::NONE).unwrap());

    let mut client = running.client().await;
    let batch = read_all(&mut client, path(&["t", "1"])).await;
    assert_eq!(batch.schema().fields(), UNTYPED.fields());
    assert_eq!(batch.column(0).as_primitive::<Int32Type>().values(), &[1, 1]);
    assert_eq!(offsets(&batch, "offset"), [0, 1]);
    assert_eq!(batch.column(2).as_primitive::<TimestampMillisecondType>().values(), &[5, 6]);
    assert!(batch.column(3).as_binary::<i32>().iter().eq([Some(&b"k"[..]), None]));
    assert!(batch.column(4).as_binary::<i32>().iter().eq([Some(&b"v"[..]), None]));
    let lists = batch.column(5).as_list::<i32>();
    assert_eq!((lists.value_length(0), lists.value_length(1)), (2, 0));

    // The other partition is empty: a schema and no batch.
    assert!(read(&mut client, path(&["t", "0"])).await.unwrap().is_empty());
}

#[tokio::test]
async fn large_and_small_batches_arrive_in_order_whatever_the_cut() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut expected = Vec::new();
    for round in 0..60_u32 {
        let sizes: &[usize] = match round % 3 {
            0 => &[10; 50],
            1 => &[1024; 700],
            _ => &[50_000, 3, 400_000, 70_000, 0],
        };
        let values: Vec<Vec<u8>> = sizes.iter().map(|size| vec![u8::try_from(round).unwrap(); *size]).collect();
        let refs: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        running.log.push_values("t", 0, &refs);
        expected.extend(values);
    }
    let mut client = running.client().await;
    for options in ["", r#","max_batch_rows":100"#] {
        let batches = read(&mut client, command(&format!(r#"{{"topic":"t"{options}}}"#))).await.unwrap();
        assert!(batches.iter().all(|batch| options.is_empty() || batch.num_rows() <= 100));
        let read: Vec<_> = batches.iter().flat_map(values).collect();
        assert!(read == expected, "{options}");
        let numbers: Vec<_> = batches.iter().flat_map(|batch| offsets(batch, "offset")).collect();
        assert!(numbers.into_iter().eq(0..i64::try_from(expected.len()).unwrap()));
        let size = |batch: &RecordBatch| batch.column(4).as_binary::<i32>().value_data().len();
        let sizes: Vec<_> = batches.iter().map(size).collect();
        assert!(sizes.iter().all(|size| *size < 2 << 20), "messages stay small: {sizes:?}");
    }
}

#[tokio::test]
async fn ranges_by_offset_and_time() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    // Times 1000, 1001, 1002 in each of three batches; offsets 0 to 8.
    for _ in 0..3 {
        running.log.push_values("t", 0, &[b"a", b"b", b"c"]);
    }
    let mut client = running.client().await;
    for (options, expected) in [
        (r#""from":"earliest","to":"latest""#, 0..9),
        (r#""from":"offset:4""#, 4..9),
        (r#""from":"offset:4","to":"offset:5""#, 4..5),
        (r#""from":"offset:4","to":"offset:4""#, 0..0),
        (r#""from":"offset:2","to":"offset:7""#, 2..7),
        (r#""from":"offset:7","to":"offset:100""#, 7..9),
        (r#""from":"offset:9""#, 0..0),
        (r#""from":"latest""#, 0..0),
        (r#""from":"time:1970-01-01T00:00:01.001Z""#, 1..9),
        (r#""to":"time:1970-01-01T00:00:01.002Z""#, 0..2),
        (r#""from":"time:1970-01-01T00:00:02Z""#, 0..0),
    ] {
        let batches = read(&mut client, command(&format!(r#"{{"topic":"t",{options}}}"#))).await.unwrap();
        let read: Vec<_> = batches.iter().flat_map(|batch| offsets(batch, "offset")).collect();
        assert_eq!(read, expected.collect::<Vec<_>>(), "{options}");
    }
}

#[tokio::test]
async fn columns_come_as_chosen() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    running.log.push_values("t", 0, &[b"a", b"b"]);
    let mut client = running.client().await;
    let batch = read_all(&mut client, command(r#"{"topic":"t","columns":["value","offset"]}"#)).await;
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["value", "offset"]);
    assert_eq!((values(&batch), offsets(&batch, "offset")), (vec![b"a".to_vec(), b"b".to_vec()], vec![0, 1]));
    for (columns, says) in [(r#"["nope"]"#, "there is no column \"nope\""), (r#"["key","key"]"#, "twice")] {
        let json = format!(r#"{{"topic":"t","columns":{columns}}}"#);
        let error = error_of(&read(&mut client, command(&json)).await.unwrap_err());
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        assert!(error.message.contains(says), "{error}");
    }
}

#[tokio::test]
async fn who_follows_gets_records_as_they_come() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    running.log.push_values("t", 0, &[b"old"]);
    let mut client = running.client().await;
    let info = info(&mut client, command(r#"{"topic":"t","from":"latest","follow":true}"#)).await.unwrap();
    assert_eq!((info.total_records, info.total_bytes), (-1, -1));
    let mut stream = get(&mut client, tickets(&info).remove(0)).await.unwrap();
    for number in 0..5_u8 {
        let waited = tokio::time::timeout(Duration::from_millis(30), stream.next()).await;
        assert!(waited.is_err(), "nothing is there yet");
        running.log.push_values("t", 0, &[&[number]]);
        let batch = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(values(&batch), [[number]]);
    }
    running.shutdown.cancel();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap();
    assert_eq!(error_of(&status(end.unwrap_err())).code, ErrorCode::ShuttingDown);
}

const ORDERS: &str = r#"{"fields":[{"name":"id","type":"int64","nullable":false},{"name":"name","type":"utf8"},
    {"name":"tags","type":"list","items":"utf8"},{"name":"price","type":"decimal128(9, 2)"}]}"#;

fn orders(count: usize, first: usize) -> Vec<(i64, String)> {
    let row = |id: usize| {
        let name = if id.is_multiple_of(4) { "null".to_owned() } else { format!("\"name {id}\"") };
        let time = i64::try_from(id * 10).unwrap();
        (time, format!(r#"{{"id":{id},"name":{name},"tags":["a","{id}"],"price":"{id}.25"}}"#))
    };
    (first..first + count).map(row).collect()
}

#[tokio::test]
async fn a_typed_topic_has_its_own_columns_and_the_hidden_ones() {
    let running = Running::start().await;
    running.topic("orders", 1, Some(ORDERS)).await;
    // One that goes out as it is stored, many that go out together, one that is cut by rows.
    let mut first = 0;
    for count in [20_000, 3, 3, 3, 1, 9_000, 5] {
        let rows = orders(count, first);
        let rows: Vec<_> = rows.iter().map(|(time, row)| (*time, row.as_str())).collect();
        running.log.push_json("orders", 0, &rows);
        first += count;
    }
    let mut client = running.client().await;
    for (options, expected) in [
        ("", 0..first),
        (r#","max_batch_rows":777"#, 0..first),
        (r#","from":"offset:19990","to":"offset:20009""#, 19_990..20_009),
        (r#","from":"time:1970-01-01T00:03:20.005Z","to":"time:1970-01-01T00:03:20.050Z""#, 20_001..20_005),
    ] {
        let batch = read_all(&mut client, command(&format!(r#"{{"topic":"orders"{options}}}"#))).await;
        let ids: Vec<i64> = expected.clone().map(|id| i64::try_from(id).unwrap()).collect();
        assert_eq!(offsets(&batch, "id"), ids, "{options}");
        assert_eq!(offsets(&batch, "_offset"), ids);
        let times = batch.column_by_name("_timestamp").unwrap().as_primitive::<TimestampMillisecondType>();
        assert!(times.values().iter().copied().eq(ids.iter().map(|id| id * 10)));
        assert!(
            batch.column_by_name("_partition").unwrap().as_primitive::<Int32Type>().values().iter().all(|p| *p == 0)
        );
        let names = batch.column_by_name("name").unwrap().as_string::<i32>();
        let tags = batch.column_by_name("tags").unwrap().as_list::<i32>();
        let prices = batch.column_by_name("price").unwrap().as_primitive::<Decimal128Type>();
        for (row, id) in expected.enumerate() {
            let name = format!("name {id}");
            assert_eq!(names.is_valid(row).then(|| names.value(row)), (id % 4 > 0).then_some(name.as_str()));
            assert!(tags.value(row).as_string::<i32>().iter().eq([Some("a"), Some(id.to_string().as_str())]));
            assert_eq!(prices.value(row), i128::try_from(id * 100 + 25).unwrap());
        }
        assert_eq!(batch.column_by_name("_key").unwrap().null_count(), batch.num_rows());
        assert_eq!(batch.num_columns(), 9);
    }
    let json = r#"{"topic":"orders","columns":["_offset","price","id"],"from":"offset:5"}"#;
    let batch = read_all(&mut client, command(json)).await;
    assert_eq!((batch.num_rows(), batch.num_columns()), (first - 5, 3));
    assert_eq!(offsets(&batch, "_offset"), offsets(&batch, "id"));
}

#[tokio::test]
async fn markers_are_passed_over() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    running.log.push_values("t", 0, &[b"a"]);
    let mut builder = RowsBuilder::new();
    builder.push(&NewRecord { key: Some(b"\0\0\0\x01"), ..NewRecord::default() }).unwrap();
    let mut marker = builder.finish(Attributes::default(), BatchProducer::NONE).unwrap().to_vec();
    let control = Attributes::default().with_control(true).bits();
    marker[21..23].copy_from_slice(&control.to_be_bytes());
    seal(&mut marker);
    assert!(BatchHeader::parse(&marker).unwrap().attributes.is_control());
    running.log.push("t", 0, &marker.clone().into());
    running.log.push_values("t", 0, &[b"b"]);
    running.log.push("t", 0, &marker.into());
    let mut client = running.client().await;
    let batch = read_all(&mut client, path(&["t"])).await;
    assert_eq!(offsets(&batch, "offset"), [0, 2]);
}

#[tokio::test]
async fn every_message_says_where_to_read_on() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    running.log.push_values("t", 0, &[b"a", b"b", b"c"]);
    let mut client = running.client().await;
    let info = info(&mut client, command(r#"{"topic":"t","max_batch_rows":2}"#)).await.unwrap();
    assert_eq!((info.total_records, info.endpoint.len()), (3, 1));
    assert!(info.total_bytes > 0);
    assert_eq!(info.endpoint[0].location[0].uri, format!("grpc://{}", running.address));
    let data: Vec<_> = client.do_get(tickets(&info).remove(0)).await.unwrap().into_inner().try_collect().await.unwrap();
    let progress: Vec<_> = data.iter().map(|data| std::str::from_utf8(&data.app_metadata).unwrap()).collect();
    assert_eq!(progress, ["", r#"{"next_offset":2,"high_watermark":3}"#, r#"{"next_offset":3,"high_watermark":3}"#]);
}

#[tokio::test]
async fn what_cannot_be_read_is_said() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    running.log.push_values("t", 0, &[b"a", b"b", b"c"]);
    let mut client = running.client().await;
    for (descriptor, code) in [
        (path(&["nope"]), ErrorCode::UnknownTopic),
        (path(&["t", "1"]), ErrorCode::UnknownPartition),
        (path(&["t", "x"]), ErrorCode::InvalidRequest),
        (command(r#"{"topic":"t","form":"earliest"}"#), ErrorCode::InvalidRequest),
        (command(r#"{"topic":"t","from":"offset:4"}"#), ErrorCode::OffsetOutOfRange),
    ] {
        let status = read(&mut client, descriptor).await.unwrap_err();
        assert_eq!(error_of(&status).code, code, "{status}");
    }
    for ticket in [&b""[..], b"\x01\xff", &[1; 300_000]] {
        let status = get(&mut client, arrow_flight::Ticket::new(ticket.to_vec())).await.unwrap_err();
        assert_eq!(error_of(&status).code, ErrorCode::InvalidTicket, "{status}");
    }
    let gone = TopicPartition { topic: TopicId::from_bytes([3; 16]), partition: PartitionId(0) };
    let ticket = Ticket::new(gone, Start::Latest, End::Follow).encode();
    let status = get(&mut client, arrow_flight::Ticket::new(ticket)).await.unwrap_err();
    assert_eq!(error_of(&status).code, ErrorCode::UnknownTopic);

    // The log lost its beginning after the ticket was made.
    let info = info(&mut client, command(r#"{"topic":"t","from":"offset:0"}"#)).await.unwrap();
    running.log.with("t", 0, |partition| partition.log_start = 2);
    let status = get(&mut client, tickets(&info).remove(0)).await.unwrap_err();
    assert_eq!(error_of(&status).code, ErrorCode::OffsetOutOfRange);
    let batch = read_all(&mut client, path(&["t"])).await;
    assert_eq!(offsets(&batch, "offset"), [2], "whoever asks for the earliest gets what is there");
}

#[tokio::test]
async fn a_topic_that_goes_ends_those_who_follow_it() {
    use levada_protocol::{context::RequestContext, source::Catalog};
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut client = running.client().await;
    let info = info(&mut client, command(r#"{"topic":"t","follow":true}"#)).await.unwrap();
    let mut stream = get(&mut client, tickets(&info).remove(0)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(30), stream.next()).await.is_err());
    running.log.delete_topic(&RequestContext::internal("test"), "t").await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap();
    assert_eq!(error_of(&status(end.unwrap_err())).code, ErrorCode::UnknownTopic);
}

#[tokio::test]
async fn a_partition_led_elsewhere_gets_a_ticket_that_its_leader_resolves() {
    let running = Running::start().await;
    running.topic("t", 2, None).await;
    running.log.push_values("t", 0, &[b"a"]);
    running.log.push_values("t", 1, &[b"b", b"c"]);
    running.log.elsewhere.lock().unwrap().push(PartitionId(1));
    let mut client = running.client().await;
    let info = info(&mut client, path(&["t"])).await.unwrap();
    assert_eq!((info.endpoint.len(), info.total_records), (2, -1));
    let status = get(&mut client, tickets(&info).remove(1)).await.unwrap_err();
    assert_eq!(error_of(&status).code, ErrorCode::NotLeader);
    running.log.elsewhere.lock().unwrap().clear();
    let batches: Vec<_> = get(&mut client, tickets(&info).remove(1)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(offsets(&batches[0], "offset"), [0, 1]);
}
