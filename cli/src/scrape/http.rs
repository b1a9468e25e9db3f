//! `GET` over plain HTTP: all that a node's HTTP door is asked for.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer is a page of numbers; what is longer is not from a node.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 200 and so on.
    pub(crate) status: u16,
    /// Without the headers.
    pub(crate) body: String,
}

/// Asks `host:port` for a path.
pub(crate) async fn get(address: &str, path: &str, within: Duration) -> Result<Answer> {
    let asked = timeout(within, ask(address, path)).await;
    asked.with_context(|| format!("{address} did not answer within {within:?}"))?
}

async fn ask(address: &str, path: &str) -> Result<Answer> {
    let stream = TcpStream::connect(address).await;
    let mut stream = stream.with_context(|| format!("cannot connect to {address}"))?;
    // In 1.0 the body ends where the connection does.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    let mut bounded = stream.take(ANSWER_BYTES_MAX);
    bounded.read_to_end(&mut bytes).await.with_context(|| format!("{address} broke off its answer"))?;
    if bounded.limit() == 0 {
        bail!("{address} answers with more than {ANSWER_BYTES_MAX} bytes");
    }
    parse(&bytes).with_context(|| format!("{address} does not speak HTTP"))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    Some(Answer { status: words.next()?.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_http_is_an_answer() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\nx: y\r\n\r\n{\"ready\":false}").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "{\"ready\":false}".to_owned() });
        for other in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b""] {
            assert_eq!(parse(other), None);
        }
    }

    #[tokio::test]
    async fn who_is_silent_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let error = get(&address, "/", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("did not answer within 50ms"), "{error}");
        drop(silent);
        let error = get(&address, "/", Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("cannot connect"), "{error}");
    }
}
