//! Telling the controller where this node is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use levada_protocol::{
    context::RequestContext,
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::GroupId,
    messages::native::{RegisterNodeRequest, RegisterNodeResponse},
};
use tokio::{sync::watch, time::sleep};

use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::{
        feature::LEVEL_MAX,
        metadata::{Node, removed},
    },
    forward::CallError,
    runtime::clock,
};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Keeps this node registered, for ever: until the metadata says of it what is true. A cluster that knows the node with
/// another data directory is a reason to end, which `refuse` is told.
pub(super) async fn register(broker: Arc<Broker>, refuse: watch::Sender<Option<Error>>) {
    let mut metadata = broker.view.metadata.subscribe();
    loop {
        if broker.is_registered() {
            if metadata.changed().await.is_err() {
                return;
            }
            continue;
        }
        if broker.metadata().removed().contains(&broker.node()) {
            refuse.send_replace(Some(removed(broker.node())));
            return;
        }
        match try_once(&broker).await {
            Ok(()) => tracing::info!(node = broker.node().get(), "node.registered"),
            Err(error) if is_final(error.code) => {
                tracing::error!(%error, "node.refused");
                refuse.send_replace(Some(error));
                return;
            }
            Err(error) => tracing::debug!(%error, "node.not_registered"),
        }
        sleep(PAUSE).await;
    }
}

/// Whether asking again would not help.
const fn is_final(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::WrongIncarnation | ErrorCode::NodeRemoved | ErrorCode::UnsupportedVersion)
}

async fn try_once(broker: &Broker) -> Result<()> {
    let deadline = clock::instant() + DEFAULT_WAIT;
    let controller = broker.find_leader(GroupId::METADATA, deadline).await?;
    let node = broker.own_node();
    if controller == broker.node() {
        return broker.register_here(&RequestContext::internal("register"), node).await;
    }
    let request = RegisterNodeRequest {
        addresses: Some(node.addresses.into()),
        incarnation: Bytes::copy_from_slice(&node.incarnation.to_bytes()),
        rack: node.rack,
        feature_level_max: node.feature_level_max,
    };
    let answer: std::result::Result<RegisterNodeResponse, CallError> =
        broker.forwarder.call(controller, Api::RegisterNode, request, Bytes::new(), deadline).await;
    Ok(answer.map(drop)?)
}

impl Broker {
    /// This node, as it says of itself.
    fn own_node(&self) -> Node {
        Node::new(self.addresses.clone(), self.identity.incarnation, self.rack.clone())
    }

    /// Whether the metadata says of this node what is true.
    pub(super) fn is_registered(&self) -> bool {
        let metadata = self.metadata();
        metadata.nodes().get(&self.node()).is_some_and(|known| {
            known.addresses == self.addresses
                && known.incarnation == self.identity.incarnation
                && known.rack == self.rack
                && known.feature_level_max == LEVEL_MAX
        })
    }
}
