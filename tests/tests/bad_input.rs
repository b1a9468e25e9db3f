//! Whoever connects may send anything: every door answers or closes, takes no more memory for it, and goes on.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use levada_protocol::{
    frame::{Api, Preface, encode_request},
    messages::native::HandshakeRequest,
};
use levada_tests::{
    dev::{Dev, DevNode},
    tools,
};

/// What bad input may leave behind in a node's own memory.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Anonymous memory of a process: maps of segments do not count.
fn anonymous_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Bytes that look random and are always the same.
fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends this, says that there is no more, and waits until the other side closes; what it answered.
fn send(address: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The server may close before everything is written.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            anyhow::bail!("{address} neither answers nor closes")
        }
        // A reset is a way to close.
        _ => Ok(answer),
    }
}

fn check_alive(dev: &Dev, written: &mut u64) -> Result<()> {
    dev.ok(&["produce", "kept"], format!("record {written}\n").as_bytes())?;
    *written += 1;
    let read = dev.ok(&["consume", "kept", "--format", "raw"], b"")?;
    let expected: String = (0..*written).map(|number| format!("record {number}\n")).collect();
    assert_eq!(read, expected);
    Ok(())
}

/// A native connection that has shaken hands, and then this.
fn after_a_handshake(bytes: &[u8]) -> Vec<u8> {
    let hello = encode_request(Api::Handshake, 1, &HandshakeRequest::default(), 0);
    [&Preface::OURS.encode()[..], &hello, bytes].concat()
}

fn doors(node: &DevNode) -> [(&'static str, &str); 3] {
    [("native", &node.native), ("flight", &node.flight), ("http", &node.http)]
}

#[test]
fn garbage_at_every_door() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &["--nodes", "1", "--port-base", "0"])?;
    let mut written = 0;
    dev.ok(&["topic", "create", "kept"], b"")?;
    check_alive(&dev, &mut written)?;
    let node = &dev.nodes[0];
    let before = anonymous_bytes(node.pid)?;

    for (door, address) in doors(node) {
        for (name, bytes) in [
            ("nothing", Vec::new()),
            ("one byte", vec![0]),
            ("zeros", vec![0; 100_000]),
            ("ones", vec![0xFF; 100_000]),
            ("a length of 4 GiB", [0xFF, 0xFF, 0xFF, 0xFF].repeat(4)),
            ("garbage", garbage(7, 300_000)),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            ("half of HTTP", b"GET /heal".to_vec()),
            ("HTTP/2 and garbage", [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &garbage(9, 50_000)].concat()),
            ("TLS", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &garbage(11, 512)].concat()),
        ] {
            send(address, &bytes).with_context(|| format!("{name} at {door}"))?;
        }
        check_alive(&dev, &mut written).with_context(|| format!("after garbage at {door}"))?;
    }

    for (name, bytes) in [
        ("a frame of 4 GiB", [&u32::MAX.to_le_bytes()[..], &[0; 16]].concat()),
        ("half a frame", [&1000_u32.to_le_bytes()[..], &[0; 100]].concat()),
        ("garbage", garbage(13, 300_000)),
        ("messages of a node", encode_request(Api::Raft, 2, &HandshakeRequest::default(), 0).to_vec()),
    ] {
        let answer =
            send(&node.native, &after_a_handshake(&bytes)).with_context(|| format!("{name} after a handshake"))?;
        assert!(answer.len() > 100 || name == "half a frame", "{name} is answered with an error: {answer:?}");
    }
    check_alive(&dev, &mut written).context("after garbage behind a handshake")?;

    // Many at once that say nothing, or stop in the middle, and stay.
    let mut silent = Vec::new();
    for (_, address) in doors(node) {
        for number in 0..100 {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&garbage(number, usize::try_from(number % 4)?))?;
            silent.push(stream);
        }
    }
    check_alive(&dev, &mut written).context("with 300 silent connections")?;
    drop(silent);

    let after = anonymous_bytes(node.pid)?;
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes of memory became {after}");
    assert!(dev.stop()?.success());
    Ok(())
}
