//! Plain HTTP, as much of it as a test needs.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// `GET` of a path (with its query) at `host:port`; the body.
///
/// # Errors
/// Nobody answers within ten seconds, or not with 200.
pub fn get(address: &str, path: &str) -> Result<String> {
    let at = address.to_socket_addrs()?.next().with_context(|| format!("{address} is no address"))?;
    // Where packets are dropped nobody says no.
    let socket = TcpStream::connect_timeout(&at, Duration::from_secs(10));
    let mut socket = socket.with_context(|| format!("cannot reach {address}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    // In 1.0 the body ends where the connection does.
    write!(socket, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer}"))?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "GET {path} at {address}: {status}: {body}");
    Ok(body.to_owned())
}

/// The value of a metric at `host:port`, of its only series.
///
/// # Errors
/// Nobody answers, or has no such metric.
pub fn metric(address: &str, name: &str) -> Result<f64> {
    let text = get(address, "/metrics")?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(series, _)| *series == name).with_context(|| format!("{address} has no {name}"))?;
    Ok(found.1.parse()?)
}

/// A text as a part of a query.
#[must_use]
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
