//! The examples of `docs/flight.md` and the README, run by a real pyarrow against a real server.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use arrow_array::{Array, cast::AsArray, types::Int64Type};
use levada_protocol::batch::{Attributes, BatchProducer, Compression, NewRecord, RowsBuilder};
use support::{Running, path, python::python, read_all};

/// The first block of Python in the page that contains `marker`.
fn example(page: &str, marker: &str) -> String {
    let blocks = page.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.into_iter().find(|block| block.contains(marker)).expect("the example").to_owned()
}

const PAGE: &str = include_str!("../../docs/flight.md");

#[tokio::test(flavor = "multi_thread")]
async fn ten_lines_write_and_read_a_topic() {
    let running = Running::start().await;
    running.topic("greetings", 1, None).await;
    let script = example(PAGE, "do_put").replace("127.0.0.1:9171", &running.address.to_string());
    assert!(script.contains(&running.address.to_string()));
    let lines = script.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 10, "{lines} lines");
    let printed = python(&script, &[]).await;
    assert!(printed.contains("hello") && printed.contains("levada"), "{printed}");
    let mut client = running.client().await;
    assert_eq!(read_all(&mut client, path(&["greetings"])).await.num_rows(), 2);
}

const TYPES: &str = r#"
import sys, datetime, decimal
import pyarrow as pa, pyarrow.flight as fl
client = fl.connect("grpc://" + sys.argv[1])
schema = pa.schema([("i", pa.int64()), ("s", pa.string()), ("b", pa.binary()), ("t", pa.timestamp("us", tz="UTC")),
    ("d", pa.date32()), ("m", pa.decimal128(10, 2)), ("l", pa.list_(pa.int32())), ("f", pa.list_(pa.float32(), 2)),
    ("o", pa.struct([("p", pa.string()), ("q", pa.bool_())])), ("x", pa.bool_())])
def row(n):
    return {"i": n, "s": f"s{n}" if n % 3 else None, "b": bytes([n % 256]) * (n % 7),
        "t": datetime.datetime(2024, 2, 29, 12, 0, n % 60, n % 1000, tzinfo=datetime.timezone.utc),
        "d": datetime.date(2024, 1, 1 + n % 28), "m": decimal.Decimal(n) / 4, "l": list(range(n % 4)) if n % 5 else None,
        "f": [n / 2, -1.0], "o": {"p": str(n), "q": n % 2 == 0} if n % 4 else None, "x": n % 2 == 0 if n % 9 else None}
rows = [row(n) for n in range(30_000)]
table = pa.Table.from_pylist(rows, schema=schema)
for compression in [None, "lz4", "zstd"]:
    options = fl.FlightCallOptions(write_options=pa.ipc.IpcWriteOptions(compression=compression))
    writer, answers = client.do_put(fl.FlightDescriptor.for_path("typed"), schema, options)
    writer.write_table(table, max_chunksize=9_000)
    writer.done_writing()
    count = 0
    while (answer := answers.read()) is not None:
        import json
        count += json.loads(answer.to_pybytes())["records"]
    writer.close()
    assert count == 30_000, count
for options in ["", ',"max_batch_rows":700', ',"from":"offset:100"']:
    info = client.get_flight_info(fl.FlightDescriptor.for_command('{"topic":"typed"' + options + "}"))
    read = pa.concat_tables(client.do_get(e.ticket).read_all() for e in info.endpoints)
    read.validate(full=True)
    start = 100 if "from" in options else 0
    assert read["_offset"].to_pylist() == list(range(start, 90_000))
    assert read.select(schema.names).to_pylist() == (rows * 3)[start:], options
    assert read.schema.field("t").type == pa.timestamp("us", tz="UTC")
print(read.schema.names)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_type_survives_pyarrow_both_ways() {
    let running = Running::start().await;
    let schema = r#"{"fields":[{"name":"i","type":"int64","nullable":false},{"name":"s","type":"utf8"},
        {"name":"b","type":"binary"},{"name":"t","type":"timestamp(us, UTC)"},{"name":"d","type":"date32"},
        {"name":"m","type":"decimal128(10, 2)"},{"name":"l","type":"list","items":"int32"},
        {"name":"f","type":"fixed_size_list(2)","items":"float32"},
        {"name":"o","type":"struct","fields":[{"name":"p","type":"utf8"},{"name":"q","type":"bool"}]},
        {"name":"x","type":"bool"}]}"#;
    running.topic("typed", 1, Some(schema)).await;
    let printed = python(TYPES, &[&running.address.to_string()]).await;
    assert!(printed.contains("'x', '_partition', '_offset', '_timestamp', '_key', '_headers'"), "{printed}");
}

const ROWS: &str = r#"
import sys
import pyarrow as pa, pyarrow.flight as fl
client = fl.connect("grpc://" + sys.argv[1])
table = client.do_get(client.get_flight_info(fl.FlightDescriptor.for_path("t")).endpoints[0].ticket).read_all()
table.validate(full=True)
assert table.schema == pa.schema([pa.field("partition", pa.int32(), False), pa.field("offset", pa.int64(), False),
    pa.field("timestamp", pa.timestamp("ms", tz="UTC"), False), ("key", pa.binary()), ("value", pa.binary()),
    pa.field("headers", pa.list_(pa.field("item", pa.struct([pa.field("key", pa.string(), False),
        ("value", pa.binary())]), False)), False)]), table.schema
rows = table.to_pylist()
assert [row["offset"] for row in rows] == list(range(5000))
for n, row in enumerate(rows):
    assert row["key"] == (b"k%d" % n if n % 2 else None), row
    assert row["value"] == (b"v" * (n % 3000) if n % 7 else None)
    assert row["headers"] == [{"key": "n", "value": str(n).encode()}, {"key": "none", "value": None}][: n % 3], row
try:
    client.get_flight_info(fl.FlightDescriptor.for_path("nope"))
except pa.ArrowKeyError as error:
    print(error)
try:
    client.get_flight_info(fl.FlightDescriptor.for_command('{"topic":"t","what":1}'))
except pa.ArrowInvalid as error:
    print(error)
writer, _ = client.do_put(fl.FlightDescriptor.for_path("t"), pa.schema([("value", pa.binary()), ("wrong", pa.int8())]))
try:
    writer.write_table(pa.table({"value": [b"x"], "wrong": pa.array([1], pa.int8())}))
    writer.close()
except pa.ArrowInvalid as error:
    print(error)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn pyarrow_reads_rows_and_sees_errors() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    for (first, compression) in [(0, Compression::None), (2500, Compression::Lz4)] {
        let mut builder = RowsBuilder::new();
        for number in first..first + 2500_usize {
            let (key, value) = (format!("k{number}"), "v".repeat(number % 3000));
            let text = number.to_string();
            let headers = [("n", Some(text.as_bytes())), ("none", None)];
            builder
                .push(&NewRecord {
                    timestamp_ms: 7,
                    key: (number % 2 > 0).then_some(key.as_bytes()),
                    value: (number % 7 > 0).then_some(value.as_bytes()),
                    headers: &headers[..number % 3],
                })
                .unwrap();
        }
        let attributes = Attributes::default().with_compression(compression);
        running.log.push("t", 0, &builder.finish(attributes, BatchProducer::NONE).unwrap());
    }
    let printed = python(ROWS, &[&running.address.to_string()]).await;
    assert!(printed.contains("UNKNOWN_TOPIC: there is no topic \"nope\""), "{printed}");
    assert!(
        printed.contains("INVALID_REQUEST: the command is not what is expected: unknown field `what`"),
        "{printed}"
    );
    assert!(printed.contains("SCHEMA_MISMATCH: field `wrong`: the topic has no such column"), "{printed}");
    let mut client = running.client().await;
    let all = read_all(&mut client, path(&["t"])).await;
    assert_eq!((all.num_rows(), all.column(1).as_primitive::<Int64Type>().null_count()), (5000, 0));
}

const NOBODY_READS_ANSWERS: &str = r#"
import sys
import pyarrow as pa, pyarrow.flight as fl
client = fl.connect("grpc://" + sys.argv[1])
batch = pa.record_batch({"value": [b"x"]})
writer, _ = client.do_put(fl.FlightDescriptor.for_path("t"), batch.schema)
for _ in range(20_000):
    writer.write_batch(batch)
writer.close()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_reads_no_answers_is_served_all_the_same() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let address = running.address.to_string();
    let arguments = [address.as_str()];
    let written = python(NOBODY_READS_ANSWERS, &arguments);
    tokio::time::timeout(std::time::Duration::from_secs(120), written).await.expect("no deadlock");
    let mut client = running.client().await;
    assert_eq!(read_all(&mut client, path(&["t"])).await.num_rows(), 20_000);
}
