//! One produce and one read as a collector sees them that is none of ours: OpenTelemetry's own messages and service.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use levada_tests::{nodes::Nodes, tools};
use serde::Deserialize;
use serde_json::Value;

const COLLECTOR: &str = include_str!("../src/collector.py");
/// A trace that somebody else began: whoever runs the command.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// As OTLP numbers them.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

#[derive(Clone, Debug, Deserialize)]
struct Span {
    resource: BTreeMap<String, Value>,
    scope: String,
    trace: String,
    span: String,
    parent: String,
    name: String,
    kind: u8,
    begun: u64,
    ended: u64,
    attributes: BTreeMap<String, Value>,
    error: Option<String>,
}

struct Collector {
    process: Child,
    endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Result<Self> {
        let python = tools::python_with_opentelemetry()?;
        let mut process =
            Command::new(python).args(["-c", COLLECTOR]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("no output")?).lines();
        let port = lines.next().context("the collector does not start")??;
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span: Span = serde_json::from_str(&line).expect("the collector prints spans");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(span);
            }
        });
        Ok(Self { process, endpoint: format!("http://127.0.0.1:{port}"), spans })
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a span.
    fn eventually(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Result<Span> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = self.spans().into_iter().find(&is_it) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("no span of {what}: {:#?}", self.spans());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The parts of a span, by their names. They come before it.
    fn parts(&self, of: &Span) -> BTreeMap<String, Span> {
        let parts = self.spans().into_iter().filter(|span| span.parent == of.span && span.trace == of.trace);
        parts.map(|span| (span.name.clone(), span)).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn levada(nodes: &Nodes, environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(tools::levada());
    command.args(arguments).env("LEVADA_BOOTSTRAP", nodes.bootstrap()).envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    ensure!(child.wait()?.success(), "levada {arguments:?} failed");
    Ok(())
}

#[test]
fn a_produce_and_a_read_are_followed_from_the_client_to_the_disk() -> Result<()> {
    let collector = Collector::start()?;
    let directory = tempfile::tempdir()?;
    let data: Vec<_> = (1..=3).map(|id| directory.path().join(format!("node-{id}"))).collect();
    let settings =
        [("LEVADA_TRACING_OTLP_ENDPOINT", &*collector.endpoint), ("LEVADA_TRACING_SAMPLES_PER_MILLION", "0")];
    let nodes = Nodes::start_with(tools::levada(), &data, directory.path(), &settings)?;
    levada(&nodes, &[], &["topic", "create", "t", "--partitions", "1"], "")?;
    let before = now();

    // Nobody wants it followed, or whoever began the trace does not.
    levada(&nodes, &[], &["produce", "t"], "unfollowed\n")?;
    levada(&nodes, &[("TRACEPARENT", &format!("00-{TRACE}-{SPAN}-00"))], &["produce", "t"], "not wanted\n")?;
    // Somebody does: the command tells of its part itself.
    let followed =
        [("TRACEPARENT", &*format!("00-{TRACE}-{SPAN}-01")), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint)];
    levada(&nodes, &followed, &["produce", "t"], "one\ntwo\nthree\n")?;
    let client = collector.eventually("the client", |span| span.kind == CLIENT && span.name == "produce")?;
    assert_eq!((client.trace.as_str(), client.parent.as_str()), (TRACE, SPAN));
    let server = collector.eventually("the server", |span| span.kind == SERVER && span.name == "produce")?;
    assert_eq!((&server.trace, &server.parent), (&client.trace, &client.span), "it is a part of the client's");
    assert_eq!((server.resource["service.name"].as_str(), server.scope.as_str()), (Some("levada"), "levada"));
    assert_eq!(server.resource["service.instance.id"], server.attributes["levada.node"].to_string());
    let number = |name: &str| server.attributes[name].as_u64();
    assert_eq!((number("levada.records"), number("levada.base_offset")), (Some(3), Some(2)));
    assert_eq!((server.attributes["levada.topic"].as_str(), server.error.as_deref()), (Some("t"), None));

    // One stage after the other, within the whole.
    let parts = collector.parts(&server);
    let stage = |name: &str| parts.get(name).with_context(|| format!("no {name} in {parts:?}"));
    let stages = [stage("produce.admit")?, stage("produce.queue")?, stage("replicate")?, stage("produce.answer")?];
    assert!(stages.iter().all(|part| part.kind == INTERNAL));
    for two in stages.windows(2) {
        assert!(two[0].begun <= two[0].ended && near(two[0].ended, two[1].begun), "{two:#?}");
    }
    assert!(before <= server.begun && near(server.begun, stages[0].begun) && near(stages[3].ended, server.ended));
    assert!(server.ended <= now() && client.begun < client.ended);

    levada(&nodes, &followed, &["consume", "t"], "")?;
    let client = collector.eventually("the reader", |span| span.kind == CLIENT && span.name == "read")?;
    let server = collector.eventually("the read", |span| span.kind == SERVER && span.name == "read")?;
    assert_eq!((server.trace.as_str(), &server.parent), (TRACE, &client.span));
    assert_eq!(server.attributes["levada.records"], 5);
    assert!(server.attributes["levada.bytes"].as_u64() > Some(100) && server.attributes["levada.batches"] == 1);
    assert!(!server.attributes.contains_key("levada.left"), "it was read to its end: {server:?}");
    let parts = collector.parts(&server);
    let names: Vec<&str> = parts.keys().map(String::as_str).collect();
    assert_eq!(names, ["read.first_batch", "read.stream", "read.ticket"]);
    assert!(near(parts["read.ticket"].ended, parts["read.first_batch"].begun), "{parts:#?}");

    let strangers: Vec<_> = collector.spans().into_iter().filter(|span| span.trace != TRACE).collect();
    assert!(strangers.is_empty(), "nobody wanted these: {strangers:#?}");
    Ok(())
}

/// Of requests that bring no trace all are picked; the disk's part shows where nobody else could have been faster; a
/// refused request says why; what is picked changes while it runs.
#[test]
fn requests_are_picked_and_failures_are_told() -> Result<()> {
    let collector = Collector::start()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("levada.toml");
    std::fs::write(&file, "[tracing]\nsamples_per_million = 1000000\n")?;
    let config = file.to_string_lossy().into_owned();
    let settings = [("LEVADA_TRACING_OTLP_ENDPOINT", &*collector.endpoint), ("LEVADA_CONFIG", &config)];
    let data = [directory.path().join("node-1")];
    let mut nodes = Nodes::start_with(tools::levada(), &data, directory.path(), &settings)?;
    levada(&nodes, &[], &["topic", "create", "t"], "")?;
    levada(&nodes, &[], &["produce", "t"], "one\n")?;
    let produce = collector.eventually("a produce", |span| span.name == "produce")?;
    assert_eq!((produce.kind, produce.parent.as_str()), (SERVER, ""), "nobody began it but the server");
    let parts = collector.parts(&produce);
    let (sync, replicate) = (&parts["journal.sync"], &parts["replicate"]);
    assert!(near(sync.begun, replicate.begun) && sync.ended <= replicate.ended + 1_000_000, "{parts:#?}");

    // A read from where nothing is.
    let read = ["consume", "t", "--from", "offset:99", "--to", "offset:100"];
    ensure!(levada(&nodes, &[], &read, "").is_err(), "it is there");
    let failed = collector.eventually("the failure", |span| span.error.is_some())?;
    assert_eq!((failed.name.as_str(), failed.kind), ("read", SERVER));
    assert!(failed.error.as_deref().is_some_and(|error| error.starts_with("OFFSET_OUT_OF_RANGE")), "{failed:?}");

    std::fs::write(&file, "[tracing]\nsamples_per_million = 0\n")?;
    levada(&nodes, &[], &["config", "reload"], "")?;
    levada(&nodes, &[], &["produce", "t"], "two\n")?;
    // What was picked before is sent when the node ends, at the latest.
    nodes.stop(1)?;
    let batches = collector.spans().iter().filter(|span| span.name == "produce" && span.error.is_none()).count();
    assert_eq!(batches, 1, "the last one was not to be followed");
    Ok(())
}

fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Each span's times come from the process's clock by way of the system's, looked at anew: within some microseconds.
fn near(a: u64, b: u64) -> bool {
    a.abs_diff(b) < 2_000_000
}
