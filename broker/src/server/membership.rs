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
        match try_once(&broker).await {
            Ok(()) => tracing::info!(node = broker.node().get(), "node.registered"),
            Err(error) if error.code == ErrorCode::WrongIncarnation => {
                tracing::error!(%error, "node.refused");
                refuse.send_replace(Some(error));
                return;
            }
            Err(error) => tracing::debug!(%error, "node.not_registered"),
        }
        sleep(PAUSE).await;
    }
}

async fn try_once(broker: &Broker) -> Result<()> {
    let deadline = clock::instant() + DEFAULT_WAIT;
    let controller = broker.find_leader(GroupId::METADATA, deadline).await?;
    let (addresses, incarnation) = (broker.addresses.clone(), broker.identity.incarnation);
    if controller == broker.node() {
        let ctx = RequestContext::internal("register");
        return broker.register_here(&ctx, addresses, incarnation, broker.rack.clone()).await;
    }
    let request = RegisterNodeRequest {
        addresses: Some(addresses.into()),
        incarnation: Bytes::copy_from_slice(&incarnation.to_bytes()),
        rack: broker.rack.clone(),
    };
    let answer: std::result::Result<RegisterNodeResponse, CallError> =
        broker.forwarder.call(controller, Api::RegisterNode, request, Bytes::new(), deadline).await;
    Ok(answer.map(drop)?)
}

impl Broker {
    /// Whether the metadata says of this node what is true.
    pub(super) fn is_registered(&self) -> bool {
        let metadata = self.metadata();
        metadata.nodes().get(&self.node()).is_some_and(|known| {
            known.addresses == self.addresses
                && known.incarnation == self.identity.incarnation
                && known.rack == self.rack
        })
    }
}
