//! Connections by address, made when first asked for and again after they broke.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use levada_protocol::ids::ClusterId;

use crate::{config::ClientConfig, connection::Connection};

/// One connection per address.
///
/// Produce has a pool of its own, so that a question about metadata never waits behind megabytes of batches.
#[derive(Debug)]
pub(crate) struct Pool {
    config: ClientConfig,
    cluster: Arc<OnceLock<ClusterId>>,
    connections: Mutex<BTreeMap<String, Connection>>,
}

impl Pool {
    pub(crate) fn new(config: ClientConfig, cluster: Arc<OnceLock<ClusterId>>) -> Self {
        Self { config, cluster, connections: Mutex::default() }
    }

    /// The connection to an address; a new one, not open yet, if there is none that works.
    pub(crate) fn get(&self, address: &str) -> Connection {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|_, connection| connection.is_usable());
        if let Some(connection) = connections.get(address) {
            return connection.clone();
        }
        let connection = Connection::open(address, &self.config, Arc::clone(&self.cluster));
        connections.insert(address.to_owned(), connection.clone());
        connection
    }
}
