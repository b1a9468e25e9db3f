//! What is around a node is not as it should be: directories of somebody else or another release, wrong clocks, no
//! descriptors, no memory. Each is a clear refusal or a node that goes on; nothing that was acknowledged is lost.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, NewTopic};
use levada_protocol::{
    frame::{Api, Preface, encode_request},
    messages::native::HandshakeRequest,
};
use levada_tests::{
    clock::FakeClock,
    groups::MemoryGroup,
    http,
    ledger::{Ledger, Load},
    nodes::Nodes,
    tools,
};
use serde_json::Value;

const TOPIC: &str = "t";
const PARTITIONS: u32 = 4;

/// Every file with its bytes, but for the lock, which names the process that looked last.
fn files(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else if path.file_name().is_some_and(|name| name != "lock") {
            all.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(all)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "{} cannot be copied", from.display());
    Ok(())
}

fn levada(nodes: &Nodes, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(tools::levada());
    command.args(arguments).env("LEVADA_BOOTSTRAP", nodes.bootstrap());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "levada {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// How a command that is to end did so, and what it said. One that goes on is killed.
fn ended(command: &mut Command) -> Result<(Option<i32>, String)> {
    let mut log = tempfile::tempfile()?;
    let mut child = command.stdout(Stdio::null()).stderr(log.try_clone()?).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let exit = loop {
        if let Some(exit) = child.try_wait()? {
            break Some(exit);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    log.seek(SeekFrom::Start(0))?;
    log.read_to_string(&mut said)?;
    Ok((exit.with_context(|| format!("it goes on:\n{said}"))?.code(), said))
}

/// Puts other bytes in the place of some, wherever they stand in a file. They stand in so many places.
fn overwrite(file: &Path, from: &[u8], to: &[u8], times: usize) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, window)| *window == from).map(|(place, _)| place).collect();
    ensure!(places.len() == times, "{} has them {} times", file.display(), places.len());
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to);
    }
    Ok(fs::write(file, bytes)?)
}

type Change = fn(&Path) -> Result<()>;

/// Each is what another release, or another node, would have left there.
const DIRECTORIES: [(&str, &str, Change, &str, &str); 9] = [
    ("another node's", "2", |_| Ok(()), "WRONG_INCARNATION", "belongs to node 1, not to node 2; check data_dir"),
    (
        "a newer identity",
        "1",
        |dir| overwrite(&dir.join("identity"), b"LVDAID\0\x02", b"LVDAID\0\x03", 2),
        "UNSUPPORTED_VERSION",
        "the identity is in format 3, which this build does not know (identity). Nothing was changed: start a build that",
    ),
    (
        "an older identity",
        "1",
        |dir| overwrite(&dir.join("identity"), b"LVDAID\0\x02", b"LVDAID\0\x01", 2),
        "UNSUPPORTED_VERSION",
        "the identity is in format 1",
    ),
    (
        "a newer founding record",
        "1",
        |dir| overwrite(&dir.join("founding"), b"LVDAFND\x01", b"LVDAFND\x02", 2),
        "UNSUPPORTED_VERSION",
        "the founding record is in format 2",
    ),
    (
        "a newer checkpoint",
        "1",
        |dir| {
            let mut bytes = fs::read(dir.join("checkpoint"))?;
            let half = bytes.len() / 2;
            let at = "LVDACKP".len();
            for copy in [0, half] {
                bytes[copy + at] = 99;
            }
            Ok(fs::write(dir.join("checkpoint"), bytes)?)
        },
        "UNSUPPORTED_VERSION",
        "the checkpoint is in format 99",
    ),
    (
        "a newer journal",
        "1",
        |dir| {
            let changed = Command::new("python3").args(["-c", NEWER_JOURNAL]).arg(dir.join("journal")).status()?;
            ensure!(changed.success(), "the journal cannot be changed");
            Ok(())
        },
        "UNSUPPORTED_VERSION",
        "is in format 9, which this release does not know",
    ),
    (
        "one that has lost who it is",
        "1",
        |dir| fs::remove_file(dir.join("identity")).map_err(Into::into),
        "STORAGE_FAILED",
        "the data directory is not empty, and has no file `identity`, which says whose it is. Nothing was changed",
    ),
    (
        "one that has lost its founding record",
        "1",
        |dir| fs::remove_file(dir.join("founding")).map_err(Into::into),
        "STORAGE_FAILED",
        "the data directory is not empty, and has no file `founding`",
    ),
    (
        "one that has lost both",
        "1",
        |dir| {
            fs::remove_file(dir.join("founding"))?;
            Ok(fs::remove_file(dir.join("identity"))?)
        },
        "STORAGE_FAILED",
        "the data directory is not empty, and has no file `founding`",
    ),
];

/// Gives every block of a journal another version, and the checksum that its header has with that (docs/format.md).
const NEWER_JOURNAL: &str = "
import os, struct, sys, zlib
for name in os.listdir(sys.argv[1]):
    path = os.path.join(sys.argv[1], name)
    data = bytearray(open(path, 'rb').read())
    for at in range(0, len(data), 4096):
        if data[at + 4:at + 8] == b'LVJB':
            length = struct.unpack_from('<I', data, at + 12)[0]
            assert struct.unpack_from('<I', data, at)[0] == zlib.crc32(data[at + 4:at + length]), 'another layout'
            struct.pack_into('<H', data, at + 8, 9)
            struct.pack_into('<I', data, at, zlib.crc32(data[at + 4:at + length]))
    open(path, 'wb').write(data)
";

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_as_it_is() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = [directory.path().join("node-1")];
    let mut nodes = Nodes::start(tools::levada(), &data, directory.path())?;
    levada(&nodes, &["topic", "create", TOPIC], "")?;
    levada(&nodes, &["produce", TOPIC], &(1..=500).map(|n| format!("{n}\n")).collect::<String>())?;
    nodes.stop(1)?;
    let sound = nodes.nodes[&1].data_dir.clone();
    for (what, node, change, code, says) in DIRECTORIES {
        let changed = directory.path().join("changed");
        copy(&sound, &changed)?;
        change(&changed).context(what)?;
        let before = files(&changed)?;
        let mut command = Command::new(tools::levada());
        command.args(["server", "--node-id", node, "--log-format", "json", "--data-dir"]).arg(&changed);
        command.args([
            "--listen-native",
            "127.0.0.1:0",
            "--listen-flight",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
        ]);
        let (exit, said) = ended(command.env("LEVADA_JOURNAL_FILES_KEEP", "3")).context(what)?;
        let last: Value = serde_json::from_str(said.lines().last().context("it says nothing")?)?;
        assert_eq!((exit, &last["event"]), (Some(1), &"server.ended".into()), "{what}: {said}");
        assert_eq!(last["code"], code, "{what}: {said}");
        let error = last["error"].as_str().unwrap_or_default();
        assert_eq!(error.matches(says).count(), 1, "{what}: {error}");
        let after = files(&changed)?;
        let changes: Vec<_> =
            before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changes.is_empty(), "{what}: these have changed: {changes:?}");
        fs::remove_dir_all(&changed)?;
    }
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    let read = levada(&nodes, &["consume", TOPIC, "--format", "raw"], "")?;
    assert_eq!(
        read.lines().map(str::to_owned).collect::<Vec<_>>(),
        (1..=500).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn a_directory_of_another_cluster_ends_its_node_and_nothing_else() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let cluster = |name: &str| -> Result<Nodes> {
        let logs = directory.path().join(name);
        let data: Vec<_> = (1..=3).map(|id| logs.join(format!("node-{id}"))).collect();
        data.iter().try_for_each(fs::create_dir_all)?;
        Nodes::start(tools::levada(), &data, &logs)
    };
    let mut theirs = cluster("theirs")?;
    levada(&theirs, &["topic", "create", TOPIC], "")?;
    levada(&theirs, &["produce", TOPIC], "of theirs\n")?;
    for id in theirs.ids() {
        theirs.stop(id)?;
    }
    let mut ours = cluster("ours")?;
    levada(&ours, &["topic", "create", TOPIC], "")?;
    levada(&ours, &["produce", TOPIC], "of ours\n")?;

    ours.stop(2)?;
    let own = std::mem::replace(&mut node(&mut ours, 2)?.data_dir, theirs.nodes[&2].data_dir.clone());
    ours.spawn(2)?;
    let last = ours.wait_ended(2)?;
    assert!(last.contains("the cluster refuses this node: WRONG_CLUSTER: the data directory is of cluster"), "{last}");
    assert!(
        last.contains("the other seed nodes (1, 3) are all of another one; check data_dir and seed_nodes"),
        "{last}"
    );
    levada(&ours, &["produce", TOPIC], "without the second\n")?;

    node(&mut ours, 2)?.data_dir = own;
    ours.spawn(2)?;
    ours.wait_ready()?;
    for id in theirs.ids() {
        theirs.spawn(id)?;
    }
    theirs.wait_ready()?;
    assert_eq!(levada(&ours, &["consume", TOPIC, "--format", "raw"], "")?, "of ours\nwithout the second\n");
    assert_eq!(levada(&theirs, &["consume", TOPIC, "--format", "raw"], "")?, "of theirs\n");
    Ok(())
}

fn node(nodes: &mut Nodes, id: u64) -> Result<&mut levada_tests::nodes::NodeProcess> {
    nodes.nodes.get_mut(&id).with_context(|| format!("no node {id}"))
}

#[test]
fn wrong_values_are_named_with_what_is_allowed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for (arguments, key, says) in [
        (&["--limits-idle-ms", "5"][..], "limits.idle_ms` (--limits-idle-ms)", "a number from 100 to 86400000, not 5"),
        (&["--limits-idle-ms", "soon"], "limits.idle_ms` (--limits-idle-ms)", "found string \"soon\", expected u64"),
        (&["--tail-keep-bytes", "999999999"], "tail.keep_bytes` (--tail-keep-bytes)", "a number from 0 to 67108864"),
        (&["--listen-native", "0.0.0.0:1"], "listen.native` (--listen-native)", "can be reached from other machines"),
        (&["--listen-http", "nowhere"], "listen.http` (--listen-http)", "\"nowhere\" is not host:port"),
        (&["--seed-nodes", "1@a:1,1@b:2"], "seed_nodes` (--seed-nodes)", "node 1 is listed twice"),
        (&["--log-format", "xml"], "log.format` (--log-format)", "text or json, not \"xml\""),
        (&["--log-filter", "levada=loud"], "log.filter` (--log-filter)", "error parsing level filter"),
        (&["--default-replicas", "10"], "default_replicas` (--default-replicas)", "1 to 9, not 10"),
        (&["--tracing-otlp-endpoint", "x:1"], "tracing.otlp_endpoint` (--tracing-otlp-endpoint)", "http://host:port"),
        (&["--node-id", "0"], "node_id` (--node-id)", "node ids start at 1"),
    ] {
        let mut command = Command::new(tools::levada());
        command.args(["server", "--output", "json", "--data-dir"]).arg(directory.path().join("data"));
        if !arguments.contains(&"--node-id") {
            command.args(["--node-id", "1"]);
        }
        let output = command.args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let error: Value = serde_json::from_str(&said).with_context(|| said.clone().into_owned())?;
        let error = &error["error"];
        assert_eq!((output.status.code(), &error["code"]), (Some(2), &"INVALID_CONFIG".into()), "{said}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(&format!("configuration key `{key}: ")) && message.contains(says), "{message}");
        assert!(!directory.path().join("data").exists(), "{arguments:?} made a directory");
    }
    Ok(())
}

async fn topic(nodes: &Nodes, replicas: u32) -> Result<Admin> {
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    // Small segments: files are opened all the time.
    let (config, schema_json) = (BTreeMap::from([("segment.bytes".to_owned(), "1048576".to_owned())]), None);
    let new = NewTopic { name: TOPIC.into(), partitions: PARTITIONS, replicas, config, schema_json };
    admin.create_topic(new).await?;
    Ok(admin)
}

async fn progress(ledger: &Ledger, more: u64) -> Result<()> {
    let (before, deadline) = (ledger.acknowledged(), Instant::now() + Duration::from_secs(60));
    while ledger.acknowledged() < before + more {
        ensure!(Instant::now() < deadline, "writes do not go on: {} since {before}", ledger.acknowledged());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Clocks are set forward and back by an hour under load, one, then all. Nothing that is acknowledged depends on them:
/// nobody is elected, nothing pauses, nothing is lost, and records are where their times say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_by_an_hour_lose_nothing_and_elect_nobody() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data: Vec<_> = (1..=3).map(|id| dir.path().join(format!("node-{id}"))).collect();
    let clocks: Vec<FakeClock> =
        (1..=3).map(|id| FakeClock::new(&dir.path().join(format!("clock-{id}")))).collect::<Result<_>>()?;
    let mut nodes = Nodes::unstarted(tools::levada(), &data, dir.path())?;
    for (id, clock) in (1..).zip(&clocks) {
        node(&mut nodes, id)?.environment = clock.environment();
    }
    nodes.spawn_all()?;
    let admin = topic(&nodes, 3).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, 2, &ledger).await?;
    progress(&ledger, 2_000).await?;
    // Leaders settle first: the controller spreads them.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let terms = async || -> Result<BTreeMap<u32, u64>> {
        let status = admin.cluster_status(true).await?;
        Ok(status.partitions.iter().map(|partition| (partition.partition, partition.leader_epoch)).collect())
    };
    let before = terms().await?;
    ledger.take_pause();
    let http: Vec<String> = nodes.nodes.values().map(|node| node.http.clone()).collect();
    for (offset, seconds, of) in [
        ("+1h", 3600.0, 0..1),
        ("-1h", -3600.0, 0..1),
        ("+0", 0.0, 0..1),
        ("+1h", 3600.0, 0..3),
        ("-1h", -3600.0, 0..3),
    ] {
        clocks[of.clone()].iter().try_for_each(|clock| clock.set(offset))?;
        http[of].iter().try_for_each(|http| FakeClock::bites(http, seconds))?;
        progress(&ledger, 2_000).await?;
    }
    clocks.iter().try_for_each(|clock| clock.set("+0"))?;
    http.iter().try_for_each(|http| FakeClock::bites(http, 0.0))?;
    progress(&ledger, 2_000).await?;
    let pause = ledger.take_pause();
    load.stop().await?;
    assert_eq!(terms().await?, before, "somebody was elected because of a clock");
    assert!(pause < Duration::from_secs(3), "writes paused for {pause:?}");
    assert_eq!(ledger.unknown(), 0);
    let said = ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?;
    writeln!(std::io::stderr(), "clocks: {said}; longest pause {pause:?}")?;
    // It is as well after a restart, with a clock that is an hour back.
    clocks.iter().try_for_each(|clock| clock.set("-1h"))?;
    for id in nodes.ids() {
        nodes.kill(id)?;
    }
    nodes.spawn_all()?;
    ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?;
    Ok(())
}

/// Somebody takes every descriptor that a node may have. It says so, serves whom it has, takes others again when there is
/// room, and has everything after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_descriptors_serves_whom_it_has() -> Result<()> {
    const FILES_MAX: u64 = 160;
    let dir = tempfile::tempdir()?;
    let data = [dir.path().join("node-1")];
    let mut nodes = Nodes::unstarted(tools::levada(), &data, dir.path())?;
    node(&mut nodes, 1)?.wrapper = vec!["prlimit".to_owned(), format!("--nofile={FILES_MAX}:{FILES_MAX}")];
    nodes.spawn_all()?;
    let metrics = http::get(&nodes.nodes[&1].http, "/metrics")?;
    ensure!(metrics.contains(&format!("\nlevada_process_open_files_max {FILES_MAX}\n")), "the limit does not bite");
    let admin = topic(&nodes, 1).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, 1, &ledger).await?;
    progress(&ledger, 500).await?;

    let (native, flight) = (nodes.nodes[&1].native.clone(), nodes.nodes[&1].flight.clone());
    let mut held = Vec::new();
    for (door, event) in [(&native, "listener.accept.failed"), (&flight, "flight.accept.failed")] {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !nodes.log(1)?.contains(event) {
            ensure!(Instant::now() < deadline, "{} connections, and no {event}", held.len());
            held.push(TcpStream::connect(door)?);
            if held.len() % 16 == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    ensure!(held.len() > 20, "only {} connections", held.len());
    ensure!(nodes.log(1)?.contains("no descriptor is left for connections"), "it does not say why");
    // Whom it has it serves, and it stays up, also where that takes files that were not open.
    progress(&ledger, 100_000).await?;
    let metrics = http::get(&nodes.nodes[&1].http, "/metrics").context("nobody can look at it")?;
    ensure!(metrics.contains("levada_connections_refused_total{reason=\"descriptors\"}"), "nobody counts them");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shake_hands(&native).is_err() {
        ensure!(Instant::now() < deadline, "it takes nobody again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    progress(&ledger, 500).await?;
    load.stop().await?;
    assert_eq!(ledger.unknown(), 0);
    drop(admin);
    nodes.kill(1)?;
    node(&mut nodes, 1)?.wrapper = Vec::new();
    nodes.spawn_all()?;
    ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?;
    Ok(())
}

fn shake_hands(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(&Preface::OURS.encode())?;
    stream.write_all(&encode_request(Api::Handshake, 1, &HandshakeRequest::default(), 0))?;
    stream.read_exact(&mut [0; 20]).context("no answer to the handshake")
}

/// The system ends a node that has used up its memory, in the middle of everything. The others go on, and it comes back with
/// all that it acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_ended_for_want_of_memory_comes_back_with_everything() -> Result<()> {
    let Some(group) = MemoryGroup::create("levada-test", 1 << 30)? else {
        writeln!(std::io::stderr(), "SKIPPED: no control group for memory can be made here")?;
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let data: Vec<_> = (1..=3).map(|id| dir.path().join(format!("node-{id}"))).collect();
    let mut nodes = Nodes::unstarted(tools::levada(), &data, dir.path())?;
    node(&mut nodes, 1)?.wrapper = group.wrapper();
    nodes.spawn_all()?;
    topic(&nodes, 3).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, 2, &ledger).await?;
    progress(&ledger, 2_000).await?;
    // It may have a little more than it has, then less and less of that, until the kernel finds nothing to give it.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut more = 8 << 20;
    let held = loop {
        ensure!(Instant::now() < deadline, "the limit does not bite, with {} bytes", group.held()?);
        let held = group.held()?;
        // The kernel refuses a limit below what it cannot take away.
        if group.limit(held + more).is_ok() {
            more = more / 4 * 3;
        }
        if nodes.wait_ended_within(1, Duration::from_millis(500)).is_ok() {
            break held;
        }
    };
    ensure!(group.ended()? == 1, "node 1 ended for another reason: {}", nodes.log(1)?);
    // Two of three go on.
    progress(&ledger, 2_000).await?;
    node(&mut nodes, 1)?.wrapper = Vec::new();
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    progress(&ledger, 2_000).await?;
    load.stop().await?;
    let said = ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?;
    writeln!(std::io::stderr(), "ended with {} MiB: {said}, {} unknown", held >> 20, ledger.unknown())?;
    Ok(())
}

/// No address space is left for maps and buffers. Whatever that does to the node, it says so, what it had acknowledged is
/// there, and no map that could not be made passes for damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_address_space_takes_nothing_for_damage() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = [dir.path().join("node-1")];
    let mut nodes = Nodes::start(tools::levada(), &data, dir.path())?;
    topic(&nodes, 1).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, 2, &ledger).await?;
    progress(&ledger, 100_000).await?;
    load.stop().await?;
    // A node that was just started has mapped and read nothing of its segments.
    nodes.stop(1)?;
    nodes.spawn_all()?;
    // What is there now is all there will be: everything that is mapped or allocated anew fails.
    let pid = nodes.pid(1).context("node 1 does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).context("VmSize")?;
    let kib: u64 = size.trim().trim_end_matches(" kB").parse()?;
    let limit = format!("--as={0}:{0}", kib << 10);
    ensure!(Command::new("prlimit").arg(limit).args(["--pid", &pid.to_string()]).status()?.success(), "no prlimit");
    let read = || {
        let mut command = Command::new(tools::levada());
        command.args(["consume", TOPIC, "--format", "raw", "--timeout", "3s"]);
        command.env("LEVADA_BOOTSTRAP", nodes.bootstrap()).stdout(Stdio::null()).output()
    };
    let answers: Vec<_> = (0..10).map(|_| read()).collect::<std::io::Result<_>>()?;
    // What cannot be mapped is read.
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    ensure!(!maps.contains(".seg"), "the limit does not bite: a segment is mapped");
    let answered = answers.iter().filter(|answer| answer.status.success()).count();
    let words = answers.iter().find(|answer| !answer.status.success()).map(|answer| answer.stderr.clone());
    writeln!(std::io::stderr(), "{answered} of 10 reads: {:?}", words.map(String::from_utf8))?;
    let log = nodes.log(1)?;
    for word in ["damaged", "scrub.damage"] {
        ensure!(!log.contains(word), "want of memory was taken for damage:\n{log}");
    }
    nodes.kill(1)?;
    nodes.spawn_all()?;
    ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?;
    Ok(())
}
