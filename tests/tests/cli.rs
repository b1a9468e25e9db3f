//! The command against a cluster that `levada dev` runs: what is written is read, in every form; what is stopped resumes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result};
use levada_tests::{dev::Dev, tools};
use serde_json::{Value, json};

const FREE_PORTS: [&str; 2] = ["--port-base", "0"];

fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn write_schema(directory: &Path) -> Result<String> {
    let path = directory.join("schema.json");
    let schema = r#"{"fields":[{"name":"household","type":"int64","nullable":false},
        {"name":"product","type":"utf8"},{"name":"price","type":"float64"},{"name":"raw","type":"binary"}]}"#;
    std::fs::write(&path, schema)?;
    Ok(path.display().to_string())
}

#[test]
fn records_go_in_and_come_out_in_every_form() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &[&["--nodes", "3"], &FREE_PORTS[..]].concat())?;
    assert_eq!(dev.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    let file: Value = serde_json::from_slice(&std::fs::read(directory.path().join("cluster.json"))?)?;
    assert_eq!(file["nodes"][2]["native"], json!(dev.nodes[2].native));

    untyped(&dev)?;
    typed(&dev, directory.path())?;
    places(&dev)?;
    refusals(&dev)?;
    following(&dev)?;

    let status: Value = serde_json::from_str(&dev.ok(&["cluster", "status", "--output", "json"], b"")?)?;
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3), "{status}");
    assert!(dev.stop()?.success());
    assert!(!directory.path().join("cluster.json").exists());
    Ok(())
}

fn untyped(dev: &Dev) -> Result<()> {
    dev.ok(&["topic", "create", "events", "--partitions", "2", "--config", "retention.ms=-1"], b"")?;
    let described: Value = serde_json::from_str(&dev.ok(&["topic", "describe", "events", "--output", "json"], b"")?)?;
    assert_eq!(described["config"]["retention.ms"], "-1", "{described}");
    assert_eq!(described["partitions"][1]["replicas"].as_array().map(Vec::len), Some(3), "{described}");

    let input = b"{\"id\":\"a\",\"at\":1000}\n{\"id\":\"b\",\"at\":\"1970-01-01T00:00:02Z\"}\n";
    let produce = ["produce", "events", "--format", "jsonl", "--key", "id", "--timestamp", "at", "--output", "json"];
    let said: Value = serde_json::from_str(&dev.ok(&produce, input)?)?;
    assert_eq!((&said["records"], &said["bytes"]), (&json!(2), &json!(input.len() - 2 + 2)), "{said}");
    assert!(said["elapsed_s"].as_f64().is_some_and(|elapsed| elapsed > 0.0));

    let mut read = lines(&dev.ok(&["consume", "events", "--format", "jsonl"], b"")?)?;
    read.sort_by_key(|record| record["key"].to_string());
    assert_eq!(read[0]["key"], "a");
    assert_eq!(read[0]["value"], r#"{"id":"a","at":1000}"#);
    assert_eq!(read[0]["timestamp"], "1970-01-01T00:00:01.000Z");
    assert_eq!(read[0]["headers"], json!([]));
    assert_eq!(read[1]["timestamp"], "1970-01-01T00:00:02.000Z");
    assert!(read.iter().all(|record| record["partition"].is_u64() && record["offset"].is_u64()));

    dev.ok(&["topic", "create", "bytes"], b"")?;
    dev.ok(&["produce", "bytes"], b"text\n\xff\x00\n\nno end")?;
    let read = lines(&dev.ok(&["consume", "bytes", "--format", "jsonl", "--columns", "offset,value"], b"")?)?;
    let expected = [json!("text"), json!({"base64": "/wA="}), json!(""), json!("no end")]
        .into_iter()
        .zip(0..)
        .map(|(value, offset)| json!({"offset": offset, "value": value}));
    assert_eq!(read, expected.collect::<Vec<_>>());
    let raw = dev.run(&["consume", "bytes", "--format", "raw"], b"")?;
    assert_eq!(raw.stdout, b"text\n\xff\x00\n\nno end\n");
    let table = dev.ok(&["consume", "bytes", "--limit", "1"], b"")?;
    assert!(table.starts_with("PARTITION  OFFSET") && table.contains("text") && table.lines().count() == 2, "{table}");
    Ok(())
}

fn typed(dev: &Dev, directory: &Path) -> Result<()> {
    let schema = write_schema(directory)?;
    dev.ok(&["topic", "create", "purchases", "--schema", &schema], b"")?;
    let row = br#"{"household": 7, "product": "bread", "price": 2.5, "raw": "/wA="}"#;
    dev.ok(&["produce", "purchases", "--format", "jsonl", "--key", "household"], row)?;
    dev.ok(&["produce", "purchases", "--format", "csv", "--key", "product"], b"product,household,price\nmilk,8,\n")?;
    let read = lines(&dev.ok(&["consume", "purchases", "--format", "jsonl"], b"")?)?;
    let own = |record: &Value| {
        ["household", "product", "price", "raw", "_partition", "_offset", "_key"].map(|name| record[name].clone())
    };
    assert_eq!(own(&read[0]), [json!(7), json!("bread"), json!(2.5), json!("/wA="), json!(0), json!(0), json!("7")]);
    assert_eq!(own(&read[1]), [json!(8), json!("milk"), json!(null), json!(null), json!(0), json!(1), json!("milk")]);
    assert!(read[0]["_timestamp"].is_string());
    let csv = dev.ok(&["consume", "purchases", "--format", "csv", "--columns", "product,price"], b"")?;
    assert_eq!(csv, "product,price\nbread,2.5\nmilk,\n");

    // The Arrow stream, read by somebody else.
    let arrow = dev.run(&["consume", "purchases", "--format", "arrow"], b"")?.stdout;
    let path = directory.join("stream.arrow");
    std::fs::write(&path, arrow)?;
    let script =
        "import sys, pyarrow as pa; t = pa.ipc.open_stream(sys.argv[1]).read_all(); print(t['household'].to_pylist())";
    let output = std::process::Command::new(tools::python()).args(["-c", script]).arg(&path).output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[7, 8]", "{output:?}");
    Ok(())
}

fn places(dev: &Dev) -> Result<()> {
    dev.ok(&["topic", "create", "places"], b"")?;
    let input: String = (0..100).map(|n| format!("{{\"n\":{n},\"at\":{}}}\n", n * 1000)).collect();
    dev.ok(&["produce", "places", "--format", "jsonl", "--timestamp", "at"], input.as_bytes())?;
    let offsets = |arguments: &[&str]| -> Result<Vec<u64>> {
        let read =
            dev.ok(&[&["consume", "places", "--format", "jsonl", "--columns", "offset"], arguments].concat(), b"")?;
        lines(&read)?.iter().map(|record| record["offset"].as_u64().context("no offset")).collect()
    };
    assert_eq!(offsets(&[])?, (0..100).collect::<Vec<_>>());
    assert_eq!(offsets(&["--from", "offset:90", "--to", "offset:93"])?, [90, 91, 92]);
    assert_eq!(offsets(&["--from", "offset:95", "--limit", "2"])?, [95, 96]);
    assert_eq!(offsets(&["--from", "time:1970-01-01T00:01:37Z"])?, [97, 98, 99]);
    assert_eq!(offsets(&["--from", "offset:40", "--to", "time:1970-01-01T00:00:42Z"])?, [40, 41]);
    assert_eq!(offsets(&["--from", "latest"])?, [0; 0]);
    Ok(())
}

fn refusals(dev: &Dev) -> Result<()> {
    let cases: [(&[&str], &str, i32, &str); 8] = [
        (&["consume", "nothing"], "", 3, "levada topic list"),
        (&["produce", "nothing"], "x\n", 3, "UNKNOWN_TOPIC"),
        (&["topic", "create", "a/b"], "", 3, "INVALID_NAME"),
        (&["topic", "create", "events"], "", 3, "TOPIC_EXISTS"),
        (&["topic", "create", "x", "--replicas", "4"], "", 3, "NOT_ENOUGH_NODES"),
        (&["topic", "create", "x", "--config", "colour=red"], "", 3, "colour"),
        (&["consume", "events", "--from", "offset:1000000"], "", 3, "OFFSET_OUT_OF_RANGE"),
        (
            &["produce", "purchases", "--format", "jsonl"],
            "{\"household\":1}\n{\"household\":\"many\"}\n",
            3,
            "household",
        ),
    ];
    for (arguments, input, code, says) in cases {
        let output = dev.run(arguments, input.as_bytes())?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    dev.ok(&["topic", "create", "events", "--if-not-exists"], b"")?;
    dev.ok(&["topic", "delete", "nothing", "--if-exists"], b"")?;
    let half = dev.run(&["produce", "bytes", "--format", "jsonl", "--output", "json"], b"{\"a\":1}\nno json\n")?;
    assert_eq!(half.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&half.stdout)?;
    assert_eq!(said["records"], 1, "what stands before the wrong line is written");
    Ok(())
}

fn following(dev: &Dev) -> Result<()> {
    dev.ok(&["topic", "create", "live"], b"")?;
    let arguments = ["consume", "live", "--from", "latest", "--follow", "--limit", "2", "--format", "raw"];
    let mut reader = dev.command(&arguments).stdout(Stdio::piped()).spawn()?;
    let mut read = BufReader::new(reader.stdout.take().context("no output")?);
    let mut writer = dev.command(&["produce", "live"]).stdin(Stdio::piped()).spawn()?;
    let mut input = writer.stdin.take().context("no input")?;
    // The reader begins at the end as it is when it begins: write until it sees something.
    let (first, second) = std::thread::scope(|scope| -> Result<(String, String)> {
        let writing = scope.spawn(|| {
            while input.write_all(b"tick\n").and_then(|()| input.flush()).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let mut line = || -> Result<String> {
            let mut line = String::new();
            read.read_line(&mut line)?;
            Ok(line)
        };
        let seen = (line()?, line()?);
        assert!(reader.wait()?.success(), "it ends with its limit, without an end of its input");
        writer.kill()?;
        writer.wait()?;
        writing.join().ok().context("writing failed")?;
        Ok(seen)
    })?;
    assert_eq!((first.as_str(), second.as_str()), ("tick\n", "tick\n"));
    Ok(())
}

#[test]
fn a_development_cluster_resumes_and_belongs_to_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &FREE_PORTS)?;
    let addresses = |dev: &Dev| dev.nodes.iter().map(|node| node.native.clone()).collect::<Vec<_>>();
    let before = addresses(&dev);
    dev.ok(&["topic", "create", "kept", "--partitions", "4"], b"")?;
    let input: String = (0..1000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    dev.ok(&["produce", "kept", "--format", "jsonl", "--key", "n"], input.as_bytes())?;

    let second = Dev::start(tools::levada(), directory.path(), &FREE_PORTS);
    assert!(second.is_err(), "two clusters on one directory");
    // A node's directory belongs to its process alone, whoever else wants it.
    let data_dir = dev.nodes[0].data_dir.display().to_string();
    let listen = ["--listen-native=127.0.0.1:0", "--listen-flight=127.0.0.1:0", "--listen-http=127.0.0.1:0"];
    let intruder = dev.run(&[&["server", "--node-id", "1", "--data-dir", &data_dir], &listen[..]].concat(), b"")?;
    let said = String::from_utf8_lossy(&intruder.stderr);
    assert_eq!(intruder.status.code(), Some(1), "{said}");
    assert!(said.contains(&data_dir), "{said}");

    assert!(dev.stop()?.success());
    let dev = Dev::start(tools::levada(), directory.path(), &[])?;
    assert_eq!(addresses(&dev), before);
    let mut read = lines(&dev.ok(&["consume", "kept", "--format", "jsonl", "--columns", "value"], b"")?)?;
    read.sort_by_key(|record| record["value"].as_str().map(|value| (value.len(), value.to_owned())));
    let expected: Vec<Value> = (0..1000).map(|n| json!({"value": format!("{{\"n\":{n}}}")})).collect();
    assert_eq!(read, expected);
    Ok(())
}

#[test]
fn a_killed_node_is_told_and_the_others_go_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &FREE_PORTS)?;
    dev.ok(&["topic", "create", "t", "--partitions", "6"], b"")?;
    dev.kill(2)?;
    let input: String = (0..600).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    dev.ok(&["produce", "t", "--format", "jsonl", "--key", "n"], input.as_bytes())?;
    let read = dev.ok(&["consume", "t", "--format", "jsonl", "--columns", "value"], b"")?;
    assert_eq!(lines(&read)?.len(), 600);
    let status: Value = serde_json::from_str(&dev.ok(&["cluster", "status", "--nodes", "--output", "json"], b"")?)?;
    let alive: Vec<bool> = status["nodes"].as_array().into_iter().flatten().map(|node| node["alive"] == true).collect();
    assert_eq!(alive, [true, false, true], "{status}");
    Ok(())
}
