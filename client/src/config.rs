//! What a program may say about its client: where the cluster is, and how long to wait for what.

use std::{sync::Arc, time::Duration};

use levada_protocol::trace::{Followed, TraceContext, Tracer};

use crate::error::{Error, ErrorCode, Result};

/// Which requests are followed across processes: produce requests and reads.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    /// What they are a part of: goes to the servers with every request.
    pub parent: Option<TraceContext>,
    /// Tells of them on this side, too.
    pub tracer: Option<Arc<Tracer>>,
}

impl Tracing {
    /// Begins to follow a request, if it is to be, and gives what to tell the server.
    pub(crate) fn follow(&self) -> (Option<Followed>, Option<TraceContext>) {
        let followed = self.tracer.as_ref().and_then(|tracer| tracer.follow(self.parent));
        let context = followed.as_ref().map(Followed::context).or(self.parent);
        (followed, context)
    }
}

/// How to reach a cluster. Shared by producer, consumer and admin.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of some nodes; one that answers is enough, the others are learned from it.
    pub bootstrap: Vec<String>,
    /// A name for the servers' logs and metrics.
    pub client_id: String,
    /// How long opening a connection may take, handshake included.
    pub connect_timeout: Duration,
    /// How long an answer may take before the connection counts as dead.
    pub request_timeout: Duration,
    /// How long an operation may take in all, with its retries (produce has its own `delivery_timeout`).
    pub operation_timeout: Duration,
    /// Bytes that may be on their way to one node without an answer; more wait here.
    pub in_flight_bytes_max: usize,
    /// Which requests are followed.
    pub tracing: Tracing,
}

impl ClientConfig {
    /// Defaults, with the nodes to ask first: `host:port`, several separated by commas.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidConfig`] when that is not what `bootstrap` says.
    pub fn new(bootstrap: &str) -> Result<Self> {
        Ok(Self {
            bootstrap: parse_bootstrap(bootstrap)?,
            client_id: "levada-client".to_owned(),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(30),
            in_flight_bytes_max: 32 << 20,
            tracing: Tracing::default(),
        })
    }

    /// The same under another name in the servers' logs.
    #[must_use]
    pub fn with_client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }
}

fn parse_bootstrap(text: &str) -> Result<Vec<String>> {
    let addresses: Vec<String> =
        text.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect();
    for address in &addresses {
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
        if !valid {
            return Err(Error::new(
                ErrorCode::InvalidConfig,
                format!("bootstrap address {address:?} is not host:port (several are separated by commas)"),
            ));
        }
    }
    if addresses.is_empty() {
        return Err(Error::new(
            ErrorCode::InvalidConfig,
            "no bootstrap address given; say host:port of at least one node",
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_addresses() {
        assert_eq!(
            ClientConfig::new(" a:1, b.example:65535,[::1]:9 ,").unwrap().bootstrap,
            ["a:1", "b.example:65535", "[::1]:9"]
        );
        for bad in ["", " , ", "localhost", "a:0", "a:70000", ":1", "a:1,b", "http://a"] {
            let error = ClientConfig::new(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidConfig, "{bad:?}");
        }
    }
}
