//! A node's configuration: shown, and read again. Which node is named in the request; another one is asked from here.

use std::sync::Arc;

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::NodeId,
    messages::native::{
        ConfigChange, ConfigValue, DescribeConfigRequest, DescribeConfigResponse, ReloadConfigRequest,
        ReloadConfigResponse,
    },
};
use tokio::task::spawn_blocking;

use super::{connection::Session, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    config::{Change, Reloader, ValueInForce},
    runtime::clock,
};

impl Broker {
    fn reloader(&self) -> Result<&Arc<Reloader>> {
        let why =
            || format!("node {} was started by a program that does not read its configuration again", self.node());
        self.reloader.as_ref().ok_or_else(|| Error::new(ErrorCode::UnknownApi, why()))
    }

    /// The other node that a request names.
    fn other(&self, named: Option<u64>) -> Result<Option<NodeId>> {
        match named.map(NodeId).filter(|node| *node != self.node()) {
            Some(node) if self.node_addresses(node).is_none() => {
                Err(Error::new(ErrorCode::UnknownNode, format!("there is no node {node} in this cluster")))
            }
            other => Ok(other),
        }
    }

    async fn describe_config(&self, ctx: &RequestContext, named: Option<u64>) -> Result<DescribeConfigResponse> {
        self.authorize(ctx, Action::Describe, Resource::Cluster)?;
        if let Some(other) = self.other(named)? {
            let request = DescribeConfigRequest { node_id: Some(other.get()) };
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            return Ok(self.forwarder.call(other, Api::DescribeConfig, request, Bytes::new(), deadline).await?);
        }
        let values = self.reloader()?.values().into_iter().map(value).collect();
        Ok(DescribeConfigResponse { node_id: self.node().get(), values })
    }

    async fn reload_config(&self, ctx: &RequestContext, named: Option<u64>) -> Result<ReloadConfigResponse> {
        self.authorize(ctx, Action::Alter, Resource::Cluster)?;
        if let Some(other) = self.other(named)? {
            let request = ReloadConfigRequest { node_id: Some(other.get()) };
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            return Ok(self.forwarder.call(other, Api::ReloadConfig, request, Bytes::new(), deadline).await?);
        }
        let reloader = Arc::clone(self.reloader()?);
        let node = self.node();
        match spawn_blocking(move || reloader.reload()).await {
            Ok(Ok(outcome)) => Ok(ReloadConfigResponse {
                node_id: node.get(),
                applied: outcome.applied.into_iter().map(change).collect(),
                needs_restart: outcome.needs_restart.into_iter().map(change).collect(),
            }),
            Ok(Err(error)) => {
                let why = format!("node {node} keeps its configuration as it was, as the new one is wrong: {error}");
                Err(Error::new(ErrorCode::InvalidConfig, why))
            }
            Err(error) => Err(Error::new(ErrorCode::Internal, error.to_string())),
        }
    }
}

fn value(value: ValueInForce) -> ConfigValue {
    ConfigValue {
        key: value.key.name.to_owned(),
        origin: value.origin.of(value.key),
        live: value.key.live,
        value: value.value,
        after_restart: value.after_restart,
    }
}

fn change(change: Change) -> ConfigChange {
    ConfigChange { key: change.key.to_owned(), from: change.from, to: change.to }
}

/// On the native door.
pub(crate) async fn describe_config(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: DescribeConfigRequest,
    responder: Responder,
) {
    responder.answer(broker.describe_config(&session.context(), request.node_id).await);
}

/// On the native door.
pub(crate) async fn reload_config(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: ReloadConfigRequest,
    responder: Responder,
) {
    responder.answer(broker.reload_config(&session.context(), request.node_id).await);
}
