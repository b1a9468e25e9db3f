//! Writing topics through Arrow's own Rust client.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use std::{sync::Arc, time::Duration};

use arrow_array::{
    Array, ArrayRef, BinaryArray, Int8Array, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, cast::AsArray, types::*,
};
use arrow_flight::{FlightData, encode::FlightDataEncoderBuilder};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use futures::{TryStreamExt, stream};
use levada_compute::flight::FlightConfig;
use levada_protocol::{
    context::{Action, AllowAll, Authorizer, RequestContext, Resource, refused},
    error::{ErrorCode, Result},
    partitioner::partition_of_key,
};
use support::{Client, Running, command, error_of, memory::Fault, path, put, put_data, read, read_all};

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn text<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

async fn offsets_of(client: &mut Client, topic: &str) -> Vec<i64> {
    let batches = read(client, path(&[topic])).await.unwrap();
    let offsets = batches.iter().map(|batch| batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>());
    offsets.flat_map(|offsets| offsets.values().to_vec()).collect()
}

#[tokio::test]
async fn an_untyped_topic_takes_key_value_timestamp_and_headers() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut client = running.client().await;
    // What was read of another topic, less what the log makes, can be written as it is.
    running.topic("source", 1, None).await;
    running.log.push_values("source", 0, &[b"a", b"b"]);
    let read_back =
        read_all(&mut client, command(r#"{"topic":"source","columns":["timestamp","headers","value"]}"#)).await;
    let answers = put(&mut client, path(&["t"]), vec![read_back]).await.unwrap();
    let expected = serde_json::json!([
        {"message": 0, "partition": 0, "base_offset": 0, "records": 2, "duplicate": false}
    ]);
    assert_eq!(serde_json::Value::Array(answers), expected);

    let written = batch(vec![
        ("key", text(["k1", "k2"])),
        ("value", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"v1"), None]))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(vec![7_000, 8_000]))),
    ]);
    put(&mut client, path(&["t", "0"]), vec![written]).await.unwrap();
    let all = read_all(&mut client, path(&["t"])).await;
    assert_eq!(all.column(1).as_primitive::<Int64Type>().values(), &[0, 1, 2, 3]);
    assert_eq!(all.column(2).as_primitive::<TimestampMillisecondType>().values(), &[1000, 1001, 7, 8]);
    assert!(all.column(3).as_binary::<i32>().iter().eq([None, None, Some(&b"k1"[..]), Some(b"k2")]));
    assert!(all.column(4).as_binary::<i32>().iter().eq([Some(&b"a"[..]), Some(b"b"), Some(b"v1"), None]));
}

const ORDERS: &str = r#"{"fields":[{"name":"id","type":"int64","nullable":false},{"name":"name","type":"utf8"},
    {"name":"at","type":"timestamp(ms, UTC)"},{"name":"price","type":"decimal128(4, 2)"}]}"#;

#[tokio::test]
async fn a_typed_topic_takes_its_columns_in_any_order_and_in_narrower_types() {
    let running = Running::start().await;
    running.topic("orders", 1, Some(ORDERS)).await;
    let mut client = running.client().await;
    let written = batch(vec![
        ("name", Arc::new(LargeStringArray::from(vec![Some("a"), None]))),
        ("_key", text(["x", "y"])),
        ("id", Arc::new(Int8Array::from(vec![1, 2]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![5, 6]).with_timezone("Europe/Lisbon"))),
        ("_timestamp", Arc::new(Int64Array::from(vec![Some(77), None]))),
    ]);
    put(&mut client, path(&["orders"]), vec![written]).await.unwrap();
    let all = read_all(&mut client, path(&["orders"])).await;
    let column = |name| all.column_by_name(name).unwrap();
    assert_eq!(column("id").as_primitive::<Int64Type>().values(), &[1, 2]);
    assert!(column("name").as_string::<i32>().iter().eq([Some("a"), None]));
    assert_eq!(column("at").as_primitive::<TimestampMillisecondType>().values(), &[5, 6]);
    assert_eq!(column("price").null_count(), 2);
    assert!(column("_key").as_binary::<i32>().iter().eq([Some(&b"x"[..]), Some(b"y")]));
    let times = column("_timestamp").as_primitive::<TimestampMillisecondType>();
    assert_eq!(times.value(0), 77);
    assert!(times.value(1) > 1_600_000_000_000, "a time that is not given is now");
}

#[tokio::test]
async fn what_does_not_fit_names_the_field() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    running.topic("orders", 2, Some(ORDERS)).await;
    let mut client = running.client().await;
    let id = || -> ArrayRef { Arc::new(Int64Array::from(vec![1, 2])) };
    let nanoseconds = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let at = arrow_array::new_null_array(&nanoseconds, 2);
    let price = arrow_array::Decimal128Array::from(vec![1, 99_999]).with_precision_and_scale(4, 2).unwrap();
    for (topic, columns, says) in [
        ("orders", vec![("name", text(["a", "b"]))], "field `id`: is missing"),
        (
            "orders",
            vec![("id", id()), ("nmae", text(["a", "b"]))],
            "field `nmae`: the topic has no such column; it has id,",
        ),
        ("orders", vec![("id", id()), ("_offset", id())], "field `_offset`: is made by the log"),
        ("orders", vec![("id", text(["a", "b"]))], "field `id`: utf8, where int64 is expected; cast it"),
        ("orders", vec![("id", id()), ("at", at)], "field `at`: timestamp(ns), where timestamp(ms, UTC) is expected"),
        (
            "orders",
            vec![("id", Arc::new(Int64Array::from(vec![Some(1), None])))],
            "field `id`, row 1: null, and the schema says it never is",
        ),
        (
            "orders",
            vec![("id", id()), ("price", Arc::new(price))],
            "field `price`, row 1: a decimal of more than 4 digits",
        ),
        (
            "orders",
            vec![("id", id()), ("_timestamp", Arc::new(Int64Array::from(vec![0, i64::MAX])))],
            "field `_timestamp`: row 1",
        ),
        ("t", vec![("key", text(["a"]))], "field `value`: is missing"),
        ("t", vec![("value", id())], "field `value`: int64, where binary is expected"),
        ("t", vec![("value", text(["a"])), ("offset", id().slice(0, 1))], "field `offset`: is made by the log"),
        ("t", vec![("value", text(["a"])), ("headers", id().slice(0, 1))], "field `headers`: int64"),
    ] {
        let status = put(&mut client, path(&[topic]), vec![batch(columns)]).await.unwrap_err();
        let error = error_of(&status);
        assert_eq!(error.code, ErrorCode::SchemaMismatch, "{error}");
        assert!(error.message.contains(says), "{says}: {error}");
    }
    let dictionary: ArrayRef = Arc::new(["a", "a"].into_iter().collect::<arrow_array::DictionaryArray<Int8Type>>());
    let hydrated = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(path(&["t"])))
        .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
        .build(stream::iter([Ok(batch(vec![("value", dictionary)]))]));
    let data: Vec<FlightData> = hydrated.try_collect().await.unwrap();
    let error = error_of(&put_data(&mut client, data).await.unwrap_err());
    assert!(error.message.contains("field `value`: dictionaries are not taken"), "{error}");
    for topic in ["t", "orders"] {
        assert!(read(&mut client, path(&[topic])).await.unwrap().is_empty(), "nothing was written");
    }
    for (descriptor, code) in [
        (path(&["nope"]), ErrorCode::UnknownTopic),
        (path(&["orders", "2"]), ErrorCode::UnknownPartition),
        (command(r#"{"topic":"t","acks":"all"}"#), ErrorCode::InvalidRequest),
    ] {
        let status = put(&mut client, descriptor, vec![batch(vec![("value", text(["a"]))])]).await.unwrap_err();
        assert_eq!(error_of(&status).code, code);
    }
    let error = error_of(&put_data(&mut client, Vec::new()).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn keys_decide_the_partition_and_batches_without_take_turns() {
    let running = Running::start().await;
    running.topic("t", 3, None).await;
    running.topic("orders", 3, Some(r#"{"fields":[{"name":"n","type":"int32"}]}"#)).await;
    let mut client = running.client().await;
    let keys: Vec<String> = (0..200).map(|number| format!("key {}", number % 40)).collect();
    let keys = || text(keys.iter().map(String::as_str));
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..200));
    let values: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let values = text(values.iter().map(String::as_str));
    put(&mut client, path(&["t"]), vec![batch(vec![("key", keys()), ("value", values)])]).await.unwrap();
    put(&mut client, path(&["orders"]), vec![batch(vec![("_key", keys()), ("n", numbers)])]).await.unwrap();
    let mut seen = 0;
    for partition in 0..3_u32 {
        let number = partition.to_string();
        let rows = read_all(&mut client, path(&["t", &number])).await;
        for (key, value) in rows.column(3).as_binary::<i32>().iter().zip(rows.column(4).as_binary::<i32>()) {
            assert_eq!(partition_of_key(key.unwrap(), 3).get(), partition);
            let value: u32 = std::str::from_utf8(value.unwrap()).unwrap().parse().unwrap();
            assert_eq!(key.unwrap(), format!("key {}", value % 40).as_bytes());
            seen += 1;
        }
        let typed = read_all(&mut client, path(&["orders", &number])).await;
        let values: Vec<_> = typed.column(0).as_primitive::<Int32Type>().values().to_vec();
        assert_eq!(values.len(), rows.num_rows());
        assert!(values.is_sorted(), "a partition keeps the order of what was written");
    }
    assert_eq!(seen, 200);

    let without_key = (0..6).map(|_| batch(vec![("value", text(["a"]))])).collect();
    let answers = put(&mut client, path(&["t"]), without_key).await.unwrap();
    let mut partitions: Vec<_> = answers.iter().map(|answer| answer["partition"].as_u64().unwrap()).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 0, 1, 1, 2, 2]);
}

#[tokio::test]
async fn large_batches_are_cut_to_what_the_topic_allows() {
    let running = Running::start().await;
    let small = [("max.message.bytes", "20000")];
    running.topic_with("t", 1, None, &small).await;
    running.topic_with("orders", 1, Some(r#"{"fields":[{"name":"s","type":"utf8"}]}"#), &small).await;
    let mut client = running.client().await;
    let values: Vec<String> = (0..3000).map(|number: usize| "x".repeat(number % 200) + &number.to_string()).collect();
    let column = || text(values.iter().map(String::as_str));
    for (topic, name) in [("t", "value"), ("orders", "s")] {
        let answers = put(&mut client, path(&[topic]), vec![batch(vec![(name, column())])]).await.unwrap();
        assert!(answers.len() > 10, "{}", answers.len());
        let mut next = 0;
        for answer in &answers {
            assert_eq!(answer["base_offset"].as_u64(), Some(next));
            next += answer["records"].as_u64().unwrap();
        }
        assert_eq!(next, 3000);
        let read = read_all(&mut client, command(&format!(r#"{{"topic":"{topic}","columns":["{name}"]}}"#))).await;
        let read = arrow_cast::cast(read.column(0), &DataType::Utf8).unwrap();
        assert_eq!(&read, &column());
        let huge = "y".repeat(30_000);
        let with_huge = batch(vec![(name, text(["fits", huge.as_str()]))]);
        let error = error_of(&put(&mut client, path(&[topic]), vec![with_huge]).await.unwrap_err());
        assert_eq!(error.code, ErrorCode::RecordTooLarge);
        assert!(error.message.starts_with("row 1 takes 3"), "{error}");
    }
}

fn numbered(count: usize) -> Vec<RecordBatch> {
    (0..count).map(|number| batch(vec![("value", text([number.to_string().as_str()]))])).collect()
}

#[tokio::test]
async fn lost_answers_double_nothing() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut client = running.client().await;
    running.log.faults.lock().unwrap().extend([
        None,
        Some(Fault::DoneBut(ErrorCode::OutcomeUnknown)),
        Some(Fault::Refused(ErrorCode::NotReady)),
        None,
        Some(Fault::DoneBut(ErrorCode::Disconnected)),
        Some(Fault::Refused(ErrorCode::NotLeader)),
        None,
        Some(Fault::Refused(ErrorCode::Busy)),
        Some(Fault::DoneBut(ErrorCode::Timeout)),
    ]);
    let answers = put(&mut client, path(&["t"]), numbered(20)).await.unwrap();
    let offsets: Vec<_> = answers.iter().map(|answer| answer["base_offset"].as_u64().unwrap()).collect();
    assert!(offsets.into_iter().eq(0..20), "answers come in the order of what was written");
    assert!(answers.iter().any(|answer| answer["duplicate"] == true));
    let all = read_all(&mut client, path(&["t"])).await;
    let values = all.column(4).as_binary::<i32>();
    let values: Vec<_> = values.iter().map(|value| std::str::from_utf8(value.unwrap()).unwrap()).collect();
    assert!(values.into_iter().eq((0..20).map(|number| number.to_string()).collect::<Vec<_>>().iter()));
}

#[tokio::test]
async fn a_client_that_counts_itself_may_send_again() {
    let running = Running::start().await;
    running.topic("t", 2, None).await;
    let mut client = running.client().await;
    let cmd = |sequence| {
        command(&format!(r#"{{"topic":"t","partition":1,"producer_id":9,"epoch":0,"sequence":{sequence}}}"#))
    };
    let first = put(&mut client, cmd(0), numbered(3)).await.unwrap();
    assert!(first.iter().all(|answer| answer["duplicate"] == false && answer["partition"] == 1));
    let again = put(&mut client, cmd(0), numbered(3)).await.unwrap();
    assert!(again.iter().all(|answer| answer["duplicate"] == true));
    assert_eq!(again.len(), 3);
    put(&mut client, cmd(3), numbered(1)).await.unwrap();
    let error = error_of(&put(&mut client, cmd(9), numbered(1)).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::OutOfOrderSequence);
    assert_eq!(offsets_of(&mut client, "t").await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_error_comes_after_the_answers_for_what_is_durable() {
    let running = Running::start().await;
    running.topic("orders", 1, Some(ORDERS)).await;
    *running.log.append_delay.lock().unwrap() = Duration::from_millis(50);
    let mut client = running.client().await;
    let good = || batch(vec![("id", Arc::new(Int64Array::from(vec![1])))]);
    let bad = batch(vec![("id", Arc::new(Int64Array::from(vec![None])))]);
    let data: Vec<FlightData> = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(path(&["orders"])))
        .build(stream::iter([Ok(good()), Ok(good()), Ok(bad), Ok(good())]))
        .try_collect()
        .await
        .unwrap();
    let mut results = client.do_put(stream::iter(data)).await.unwrap().into_inner();
    for offset in 0..2 {
        let answer: serde_json::Value =
            serde_json::from_slice(&results.message().await.unwrap().unwrap().app_metadata).unwrap();
        assert_eq!(answer["base_offset"], offset);
    }
    let error = error_of(&results.message().await.unwrap_err());
    assert!(error.message.contains("field `id`, row 0: null"), "{error}");
    assert_eq!(read_all(&mut client, path(&["orders"])).await.num_rows(), 2, "nothing behind the bad one is written");
}

#[tokio::test]
async fn an_append_that_never_works_ends_the_stream_in_time() {
    let config = FlightConfig { append_timeout: Duration::from_millis(200), ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    running.topic("t", 1, None).await;
    running.log.faults.lock().unwrap().extend([Some(Fault::Refused(ErrorCode::NotReady)); 100]);
    let mut client = running.client().await;
    let error = error_of(&put(&mut client, path(&["t"]), numbered(1)).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::NotReady);
}

#[tokio::test]
async fn what_is_durable_is_answered_before_the_error_of_another_partition() {
    let running = Running::start().await;
    running.topic("t", 2, None).await;
    running.log.faults.lock().unwrap().extend([Some(Fault::Refused(ErrorCode::StorageFailed)), None]);
    *running.log.append_delay.lock().unwrap() = Duration::from_millis(100);
    let mut client = running.client().await;
    let data: Vec<FlightData> = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(path(&["t"])))
        .build(stream::iter(numbered(2).into_iter().map(Ok)))
        .try_collect()
        .await
        .unwrap();
    let mut results = client.do_put(stream::iter(data)).await.unwrap().into_inner();
    let answer = results.message().await.unwrap().expect("an answer for the partition that works");
    let answer: serde_json::Value = serde_json::from_slice(&answer.app_metadata).unwrap();
    assert_eq!((&answer["message"], &answer["base_offset"]), (&1.into(), &0.into()));
    let error = error_of(&results.message().await.unwrap_err());
    assert_eq!(error.code, ErrorCode::StorageFailed);
}

/// Lets everybody read and nobody write, and nobody read `secret`.
struct ReadersOnly;

impl Authorizer for ReadersOnly {
    fn authorize(&self, ctx: &RequestContext, action: Action, resource: Resource<'_>) -> Result<()> {
        match (action, resource) {
            (Action::Read | Action::Describe, resource) if resource != Resource::Topic("secret") => Ok(()),
            _ => Err(refused(ctx, action, resource)),
        }
    }
}

#[tokio::test]
async fn every_door_asks_the_authorizer() {
    let running = Running::start_with(FlightConfig::default(), Arc::new(ReadersOnly)).await;
    running.topic("t", 1, None).await;
    running.topic("secret", 1, None).await;
    let mut client = running.client().await;
    let refused = |status: tonic::Status| assert_eq!(error_of(&status).code, ErrorCode::Unauthorized, "{status}");
    refused(put(&mut client, path(&["t"]), numbered(1)).await.unwrap_err());
    refused(read(&mut client, path(&["secret"])).await.unwrap_err());
    refused(client.get_schema(path(&["secret"])).await.unwrap_err());
    let names = ["create-topic", "delete-topic", "init-producer", "describe-topic", "offsets"];
    let bodies = [r#"{"name":"x"}"#, r#"{"name":"t"}"#, "", r#"{"name":"secret"}"#, r#"{"topic":"secret"}"#];
    for (name, body) in names.into_iter().zip(bodies) {
        let action = arrow_flight::Action::new(name, body.to_owned());
        refused(client.do_action(action).await.unwrap_err());
    }
    let listed: Vec<_> =
        client.list_flights(arrow_flight::Criteria::default()).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!(listed.len(), 1, "what may not be seen is not listed");
    // A ticket is no permission.
    use levada_protocol::source::Catalog;
    let secret = running.log.topic(&RequestContext::internal("test"), "secret").await.unwrap();
    let partition = levada_protocol::ids::TopicPartition { topic: secret.id, partition: 0.into() };
    let ticket = levada_protocol::ticket::Ticket::new(
        partition,
        levada_protocol::ticket::Start::Latest,
        levada_protocol::ticket::End::Follow,
    );
    refused(support::get(&mut client, arrow_flight::Ticket::new(ticket.encode())).await.unwrap_err());
}

#[tokio::test]
async fn a_schema_without_rows_and_rows_without_schema() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut client = running.client().await;
    let schema = Schema::new(vec![Field::new("value", DataType::Utf8, true)]);
    let empty = RecordBatch::new_empty(Arc::new(schema));
    assert!(put(&mut client, path(&["t"]), vec![empty]).await.unwrap().is_empty());
    let data = FlightData { flight_descriptor: Some(path(&["t"])), ..FlightData::default() };
    let error = error_of(&put_data(&mut client, vec![data]).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::CorruptBatch);
    assert!(error.message.contains("schema"), "{error}");
}
