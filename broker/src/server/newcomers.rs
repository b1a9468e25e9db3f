//! Asking the nodes that are known here who has joined, whenever one comes of whose joining the metadata here does not know.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::NodeId,
    messages::peer::{NewcomersRequest, NewcomersResponse},
};
use tokio::time::sleep;

use crate::{
    broker::Broker,
    cluster::newcomers::Newcomer,
    net::dial::{self, Caller},
};

/// Between two rounds: whoever reaches the door can ask for one.
const PAUSE: Duration = Duration::from_millis(500);
/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 8;

/// Asks all nodes that are known here, whenever that is wanted, for ever. One of them may be behind itself, another out of reach.
pub(super) async fn ask_around(broker: Arc<Broker>) {
    let mut attempt = 0;
    loop {
        broker.book.newcomers.wanted().await;
        let others = stream::iter(broker.book.others());
        others.for_each_concurrent(ASKED_AT_ONCE, |node| learn_from(&broker, node, attempt)).await;
        attempt += 1;
        sleep(PAUSE).await;
    }
}

async fn learn_from(broker: &Broker, node: NodeId, attempt: usize) {
    let said = match ask(broker, node, attempt).await {
        Ok(said) => said.newcomers,
        Err(error) => {
            tracing::debug!(node = node.get(), %error, "newcomers.not_told");
            return;
        }
    };
    let metadata = broker.metadata();
    for newcomer in said.into_iter().filter_map(Newcomer::from_wire) {
        let (id, incarnation) = (newcomer.addresses.node, newcomer.incarnation);
        if broker.book.newcomers.learn(newcomer, &metadata) {
            tracing::info!(node = id.get(), %incarnation, from = node.get(), "newcomers.told: it joined while this node was away");
        }
    }
}

async fn ask(broker: &Broker, node: NodeId, attempt: usize) -> Result<NewcomersResponse> {
    let unknown = || Error::new(ErrorCode::Disconnected, format!("the address of node {node} is not known here"));
    let address = broker.book.native(node, attempt).ok_or_else(unknown)?;
    let connection = dial::dial(&address, node, Caller::of(&broker.identity)).await?;
    broker.book.check_answerer(node, &address, &connection.hello.incarnation)?;
    let request = NewcomersRequest { members_from: broker.metadata().next_member().get() };
    connection.ask(&address, Api::Newcomers, &request).await
}
