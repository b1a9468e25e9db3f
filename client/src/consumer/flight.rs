//! Flight as the consumer uses it: channels to nodes, and errors out of gRPC statuses.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use arrow_flight::{
    Ticket as FlightTicket, decode::FlightDataDecoder, error::FlightError, flight_service_client::FlightServiceClient,
};
use futures::TryStreamExt;
use levada_protocol::{
    error::{Error, ErrorCode, GRPC_ERROR_KEY, Result},
    limits::MIB,
    ticket::Ticket,
    trace::TraceContext,
};
use tokio::time::timeout;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    config::{ClientConfig, Tracing},
    error::disconnected,
};

/// The header of W3C's trace context.
const TRACEPARENT: &str = "traceparent";
/// What may be on its way to one reader, and to one node's readers together. HTTP/2's default costs half the throughput.
const WINDOW_BYTES: u32 = 16 << 20;
/// The largest HTTP/2 frame: each has a cost of its own.
const HTTP2_FRAME_BYTES: u32 = 256 << 10;
/// The largest message; a server makes them of a few MiB.
const MESSAGE_BYTES_MAX: usize = 64 * MIB;
/// A node that does not answer a ping hangs.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// One channel per node.
#[derive(Debug)]
pub(super) struct Channels {
    connect_timeout: Duration,
    response_timeout: Duration,
    user_agent: String,
    pub(super) tracing: Tracing,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Channels {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self {
            connect_timeout: config.connect_timeout,
            response_timeout: config.request_timeout,
            user_agent: config.client_id.clone(),
            tracing: config.tracing.clone(),
            channels: Mutex::default(),
        }
    }

    /// Asks a node for the rows of a ticket.
    ///
    /// # Errors
    /// What the server answers; `Disconnected` when none does.
    pub(super) async fn do_get(
        &self,
        address: &str,
        ticket: &Ticket,
        context: Option<TraceContext>,
    ) -> Result<FlightDataDecoder> {
        let mut client = FlightServiceClient::new(self.get(address)?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = tonic::Request::new(FlightTicket { ticket: ticket.encode() });
        if let Some(value) = context.and_then(|context| context.to_string().parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, value);
        }
        let response = client.do_get(request);
        let response = timeout(self.response_timeout, response)
            .await
            .map_err(|_| disconnected(address, format_args!("no answer within {:?}", self.response_timeout)))?;
        let messages = response.map_err(|status| error_of_status(address, &status))?.into_inner();
        Ok(FlightDataDecoder::new(messages.map_err(FlightError::from)))
    }

    /// The channel to an address; it connects when it is used, and again after it broke.
    fn get(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let unusable = |error: tonic::transport::Error| disconnected(address, error);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(unusable)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let endpoint = match endpoint.clone().user_agent(self.user_agent.clone()) {
            Ok(named) => named,
            // A client id that is no header value is left out.
            Err(_) => endpoint,
        };
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// What a stream of messages failed with.
pub(super) fn error_of(address: &str, error: &FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => error_of_status(address, status),
        other => Error::new(ErrorCode::BadFrame, format!("{address} sends a stream that is not understood: {other}")),
    }
}

/// Levada's servers say what they mean in the metadata; everybody else in the gRPC code.
fn error_of_status(address: &str, status: &Status) -> Error {
    if let Some(wire) = status.metadata().get_bin(GRPC_ERROR_KEY).and_then(|value| value.to_bytes().ok()) {
        return Error::decode(wire);
    }
    let code = match status.code() {
        Code::NotFound => ErrorCode::UnknownTopic,
        // Levada says what it means: this one is of our own decoder, about a message that is too large.
        Code::OutOfRange => ErrorCode::RecordTooLarge,
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::Unauthorized,
        Code::InvalidArgument => ErrorCode::InvalidRequest,
        Code::Unimplemented => ErrorCode::UnknownApi,
        _ => return disconnected(address, status.message()),
    };
    Error::new(code, format!("{address}: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use levada_protocol::error::NodeAddresses;
    use prost::Message;
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;

    #[test]
    fn a_status_says_what_the_server_meant() {
        let error = Error::new(ErrorCode::NotLeader, "elsewhere").redirect(Some(NodeAddresses::default()));
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(GRPC_ERROR_KEY, MetadataValue::from_bytes(&error.to_wire().encode_to_vec()));
        let status = Status::with_metadata(Code::FailedPrecondition, "text", metadata);
        assert_eq!(error_of_status("a:1", &status), error);

        let bare = |code| error_of_status("a:1", &Status::new(code, "text")).code;
        assert_eq!(bare(Code::Unavailable), ErrorCode::Disconnected);
        assert_eq!(bare(Code::Internal), ErrorCode::Disconnected);
        assert_eq!(bare(Code::OutOfRange), ErrorCode::RecordTooLarge, "tonic's own");
        assert_eq!(bare(Code::PermissionDenied), ErrorCode::Unauthorized);
    }
}
