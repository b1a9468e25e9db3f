//! The methods of Flight, each at its door: who asks, what for, and the answer or the error as gRPC has them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_flight::{
    Action as FlightAction, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult, Ticket,
    flight_service_server::FlightService,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{Extensions, HeaderMap, header::USER_AGENT};
use levada_protocol::{
    context::{Action, Principal, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{
    actions,
    calls::ConnectionInfo,
    info, ingest,
    server::Shared,
    status::{counted, status_of},
};

/// How many answers to a writer wait for it to read them; past that its stream is not read either.
const PUT_RESULTS_MAX: usize = 8192;
/// The header of W3C's trace context.
const TRACEPARENT: &str = "traceparent";
/// What a client calls itself is cut to this.
const CLIENT_NAME_CHARS_MAX: usize = 128;

type Answer<T> = std::result::Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, std::result::Result<T, Status>>;

/// The service.
pub(crate) struct Flight {
    shared: Arc<Shared>,
}

impl Flight {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn list(&self, ctx: &RequestContext, criteria: &Criteria) -> Result<Vec<FlightInfo>> {
        let deps = &self.shared.deps;
        let mut infos = Vec::new();
        for topic in deps.catalog.topics(ctx).await? {
            let asked_for = topic.name.as_bytes().starts_with(&criteria.expression);
            if asked_for && deps.authorizer.authorize(ctx, Action::Describe, Resource::Topic(&topic.name)).is_ok() {
                infos.push(info::listed(deps, &topic)?);
            }
        }
        Ok(infos)
    }
}

/// Who asks, and for how long.
pub(crate) fn context_of(headers: &HeaderMap, extensions: &Extensions) -> RequestContext {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("unknown");
    let agent: String = agent.chars().take(CLIENT_NAME_CHARS_MAX).collect();
    let peer: Option<SocketAddr> = extensions.get::<ConnectionInfo>().and_then(|info| info.tcp.remote_addr());
    let client = peer.map_or_else(|| agent.clone(), |peer| format!("{agent} at {peer}"));
    let timeout = headers.get("grpc-timeout").and_then(|timeout| timeout.to_str().ok()).and_then(timeout_of);
    RequestContext {
        principal: Principal::anonymous(),
        client: client.into(),
        deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        trace: headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()?.parse().ok()),
    }
}

/// gRPC's timeouts: up to eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The request's context and what it carries.
fn open<T>(request: Request<T>) -> (RequestContext, T) {
    let (metadata, extensions, message) = request.into_parts();
    (context_of(metadata.as_ref(), &extensions), message)
}

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(|error| status_of(&counted(error)))
}

fn each<T: Send + 'static>(items: Vec<T>) -> Answers<T> {
    stream::iter(items.into_iter().map(Ok)).boxed()
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<ActionResult>;
    type ListActionsStream = Answers<ActionType>;

    /// There is nobody to be yet: every handshake succeeds and means nothing.
    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        let (_, mut requests) = open(request);
        let first = requests.message().await?.unwrap_or_default();
        let response = HandshakeResponse { protocol_version: first.protocol_version, ..HandshakeResponse::default() };
        Ok(Response::new(each(vec![response])))
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        let (ctx, criteria) = open(request);
        answer(self.list(&ctx, &criteria).await.map(each))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        let (ctx, descriptor) = open(request);
        answer(info::info(&self.shared.deps, &ctx, Some(descriptor)).await)
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        answer(Err(Error::new(ErrorCode::UnknownApi, "every read is ready at once; use GetFlightInfo")))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        let (ctx, descriptor) = open(request);
        let schema = info::schema(&self.shared.deps, &ctx, Some(&descriptor)).await;
        answer(schema.map(|schema| SchemaResult { schema }))
    }

    /// Answered before it comes here, by [`super::doget`].
    async fn do_get(&self, _: Request<Ticket>) -> Answer<Self::DoGetStream> {
        answer(Err(Error::new(ErrorCode::Internal, "DoGet is not answered here")))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        let (ctx, messages) = open(request);
        let (sender, mut results) = mpsc::channel(PUT_RESULTS_MAX);
        // A task of its own: what is under way is finished even if the writer goes away.
        tokio::spawn(ingest::run(Arc::clone(&self.shared), ctx, messages, sender));
        Ok(Response::new(stream::poll_fn(move |cx| results.poll_recv(cx)).boxed()))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        answer(Err(Error::new(ErrorCode::UnknownApi, "DoExchange is not served")))
    }

    async fn do_action(&self, request: Request<FlightAction>) -> Answer<Self::DoActionStream> {
        let (ctx, action) = open(request);
        let result = actions::act(&self.shared.deps, &ctx, &action).await;
        answer(result.map(|body| each(vec![ActionResult { body }])))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Ok(Response::new(each(actions::list())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_and_names() {
        assert_eq!(timeout_of("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout_of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout_of("250m"), Some(Duration::from_millis(250)));
        for wrong in ["", "S", "5", "5x", "-5S", "123456789S", "5é"] {
            assert_eq!(timeout_of(wrong), None, "{wrong}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, "x".repeat(1000).parse().unwrap());
        let ctx = context_of(&headers, &Extensions::new());
        assert_eq!((ctx.client.len(), ctx.deadline), (CLIENT_NAME_CHARS_MAX, None));
    }
}
