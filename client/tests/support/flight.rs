//! The fake cluster's Flight side: reads only, and misbehaves on demand.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket as FlightTicket,
    encode::FlightDataEncoderBuilder,
    flight_service_server::{FlightService, FlightServiceServer},
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use levada_client::{Error, ErrorCode};
use levada_protocol::{
    error::GRPC_ERROR_KEY,
    ticket::{End, Start, Ticket},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
    transport::{Server, server::TcpIncoming},
};

use super::{FakeCluster, State};

/// Rows of a batch, unless the ticket says less.
const BATCH_ROWS: u64 = 7;

/// What to do with one `DoGet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlightFault {
    /// Answer as it should be.
    None,
    /// Refuse it.
    Refuse(ErrorCode),
    /// Break after this many batches, with a bare gRPC error.
    BreakAfter(usize),
    /// Break after this many batches, with an error of ours.
    FailAfter(usize, ErrorCode),
    /// End politely after this many batches.
    EndAfter(usize),
    /// Begin this many rows too early.
    Overlap(u64),
    /// Send no more after this many batches, and keep the stream open.
    StallAfter(usize),
    /// Never answer.
    Hang,
    /// Offsets run backwards.
    Disorder,
}

/// Decides about `DoGet`s: called with the ticket and how many were seen before.
pub(crate) type FlightPlan = Box<dyn FnMut(&Ticket, usize) -> FlightFault + Send>;

/// Makes the batch that begins at an offset, in place of what the log has.
type Generate = Arc<dyn Fn(u64) -> RecordBatch + Send + Sync>;

/// The plan, and what was done since it was made.
struct Planned {
    plan: FlightPlan,
    asked: usize,
    batches: usize,
    generate: Option<Generate>,
}

impl Planned {
    fn new(plan: FlightPlan) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { plan, asked: 0, batches: 0, generate: None }))
    }
}

/// One node's Flight service.
struct Node {
    node: u64,
    state: Arc<Mutex<State>>,
    plan: Arc<Mutex<Planned>>,
}

/// The Flight services of a cluster. Dropping them stops them.
pub(crate) struct FakeFlight {
    servers: Vec<JoinHandle<()>>,
    plan: Arc<Mutex<Planned>>,
}

impl Drop for FakeFlight {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

impl FakeFlight {
    /// Starts one for every node.
    pub(crate) async fn start(cluster: &FakeCluster) -> Self {
        let plan = Planned::new(Box::new(|_, _| FlightFault::None));
        let nodes: Vec<u64> = cluster.state().addresses.keys().copied().collect();
        let mut servers = Vec::new();
        for node in nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.state().flight.insert(node, listener.local_addr().unwrap());
            let service = Node { node, state: cluster.shared(), plan: Arc::clone(&plan) };
            let server = Server::builder().add_service(FlightServiceServer::new(service));
            servers.push(tokio::spawn(async move {
                server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
            }));
        }
        Self { servers, plan }
    }

    /// Stops one node's.
    pub(crate) fn kill(&self, node: usize) {
        self.servers[node - 1].abort();
    }

    pub(crate) fn plan(&self, plan: impl FnMut(&Ticket, usize) -> FlightFault + Send + 'static) {
        *self.plan.lock().unwrap() = Planned { plan: Box::new(plan), asked: 0, batches: 0, generate: None };
    }

    /// Serves what `generate` makes of an offset instead of what the log has.
    pub(crate) fn generate(&self, generate: impl Fn(u64) -> RecordBatch + Send + Sync + 'static) {
        self.plan.lock().unwrap().generate = Some(Arc::new(generate));
    }

    /// How many `DoGet`s there were since the plan was made.
    pub(crate) fn asked(&self) -> usize {
        self.plan.lock().unwrap().asked
    }

    /// How many batches were made since the plan was made.
    pub(crate) fn batches(&self) -> usize {
        self.plan.lock().unwrap().batches
    }
}

fn status_of(error: &Error) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(GRPC_ERROR_KEY, MetadataValue::from_bytes(&error.to_wire().encode_to_vec()));
    Status::with_metadata(Code::Unknown, error.to_string(), metadata)
}

fn refusal(code: ErrorCode) -> Status {
    status_of(&Error::new(code, "as planned"))
}

/// What is to be sent.
struct Reading {
    state: Arc<Mutex<State>>,
    topic: String,
    ticket: Ticket,
    fault: FlightFault,
    next: u64,
    end: Option<u64>,
    sent: usize,
    values: Vec<Vec<u8>>,
    plan: Arc<Mutex<Planned>>,
}

impl Reading {
    /// The next batch; waits for it when following.
    async fn batch(&mut self) -> Option<Result<RecordBatch, Status>> {
        match self.fault {
            FlightFault::BreakAfter(after) if self.sent == after => return Some(Err(Status::unavailable("broken"))),
            FlightFault::FailAfter(after, code) if self.sent == after => return Some(Err(refusal(code))),
            FlightFault::EndAfter(after) if self.sent == after => return None,
            FlightFault::StallAfter(after) if self.sent == after => std::future::pending().await,
            _ => {}
        }
        let generate = self.plan.lock().unwrap().generate.clone();
        if let Some(generate) = generate {
            let batch = generate(self.next);
            self.next += batch.num_rows() as u64;
            return Some(Ok(batch));
        }
        loop {
            if self.next >= self.values.len() as u64 {
                let partition = self.ticket.partition.partition.get() as usize;
                self.values = self.state.lock().unwrap().topics[&self.topic].partitions[partition].values();
            }
            let end = self.end.unwrap_or(u64::MAX).min(self.values.len() as u64);
            if self.next < end {
                let rows = if self.ticket.max_batch_rows == 0 { BATCH_ROWS } else { self.ticket.max_batch_rows.into() };
                let until = end.min(self.next + rows);
                let batch = self.rows(self.next, until);
                self.next = until;
                self.sent += 1;
                self.plan.lock().unwrap().batches += 1;
                return Some(Ok(batch));
            }
            if self.end.is_some() {
                return None;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn rows(&self, from: u64, until: u64) -> RecordBatch {
        let mut offsets: Vec<i64> = (from..until).map(|offset| i64::try_from(offset).unwrap()).collect();
        if self.fault == FlightFault::Disorder {
            offsets.reverse();
        }
        let values = offsets.iter().map(|offset| Some(&self.values[usize::try_from(*offset).unwrap()][..]));
        let partition = i32::try_from(self.ticket.partition.partition.get()).unwrap();
        let schema = schema(&self.state.lock().unwrap(), &self.topic);
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| -> ArrayRef {
                match field.name().as_str() {
                    "partition" | "_partition" => Arc::new(Int32Array::from(vec![partition; offsets.len()])),
                    "offset" | "_offset" => Arc::new(Int64Array::from(offsets.clone())),
                    _ => Arc::new(values.clone().collect::<BinaryArray>()),
                }
            })
            .collect();
        project(&RecordBatch::try_new(schema, columns).unwrap(), &self.ticket.columns)
    }
}

fn schema(state: &State, topic: &str) -> SchemaRef {
    let field = |name: &str, kind| Field::new(name, kind, true);
    let typed = !state.topics[topic].schema_json.is_empty();
    Arc::new(Schema::new(if typed {
        vec![
            field("payload", DataType::Binary),
            field("_partition", DataType::Int32),
            field("_offset", DataType::Int64),
        ]
    } else {
        vec![field("partition", DataType::Int32), field("offset", DataType::Int64), field("value", DataType::Binary)]
    }))
}

fn project(batch: &RecordBatch, columns: &[String]) -> RecordBatch {
    if columns.is_empty() {
        return batch.clone();
    }
    let indices: Vec<usize> = columns.iter().map(|name| batch.schema().index_of(name).unwrap()).collect();
    batch.project(&indices).unwrap()
}

impl Node {
    fn open(&self, ticket: Ticket, fault: FlightFault) -> Result<(Reading, SchemaRef), Error> {
        let state = self.state.lock().unwrap();
        let topic = state.topics.iter().find(|(_, topic)| topic.id == ticket.partition.topic);
        let (name, topic) = topic.ok_or_else(|| Error::new(ErrorCode::UnknownTopic, "no such topic"))?;
        let log = &topic.partitions[ticket.partition.partition.get() as usize];
        if log.leader != self.node {
            return Err(Error::new(ErrorCode::NotLeader, "another node leads"));
        }
        let start = match ticket.start {
            Start::Offset(offset) => offset.get(),
            Start::Latest => log.end,
            Start::Time(time) => u64::try_from(time).unwrap(),
        };
        if start < log.start || start > log.end {
            return Err(Error::new(ErrorCode::OffsetOutOfRange, "not there"));
        }
        let end = match ticket.end {
            End::Offset(offset) => Some(offset.get().min(log.end)),
            End::Time(time) => Some(u64::try_from(time).unwrap()),
            End::Follow => None,
        };
        let early = if let FlightFault::Overlap(rows) = fault { rows } else { 0 };
        let generate = self.plan.lock().unwrap().generate.clone();
        let whole = generate.map_or_else(|| RecordBatch::new_empty(schema(&state, name)), |generate| generate(0));
        let schema = project(&whole, &ticket.columns).schema();
        let reading = Reading {
            state: Arc::clone(&self.state),
            topic: name.clone(),
            next: start.saturating_sub(early),
            end,
            sent: 0,
            values: Vec::new(),
            plan: Arc::clone(&self.plan),
            ticket,
            fault,
        };
        Ok((reading, schema))
    }
}

type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FlightService for Node {
    type HandshakeStream = BoxedStream<HandshakeResponse>;
    type ListFlightsStream = BoxedStream<FlightInfo>;
    type DoGetStream = BoxedStream<FlightData>;
    type DoPutStream = BoxedStream<PutResult>;
    type DoActionStream = BoxedStream<arrow_flight::Result>;
    type ListActionsStream = BoxedStream<ActionType>;
    type DoExchangeStream = BoxedStream<FlightData>;

    async fn do_get(&self, request: Request<FlightTicket>) -> Result<Response<Self::DoGetStream>, Status> {
        let ticket = Ticket::decode(&request.into_inner().ticket).map_err(|error| status_of(&error))?;
        let fault = {
            let mut plan = self.plan.lock().unwrap();
            plan.asked += 1;
            let seen = plan.asked - 1;
            (plan.plan)(&ticket, seen)
        };
        match fault {
            FlightFault::Refuse(code) => return Err(refusal(code)),
            FlightFault::Hang => std::future::pending().await,
            _ => {}
        }
        let (reading, schema) = self.open(ticket, fault).map_err(|error| status_of(&error))?;
        let batches = stream::unfold(reading, async |mut reading| {
            let batch = reading.batch().await?;
            Some((batch.map_err(Into::into), reading))
        });
        let messages = FlightDataEncoderBuilder::new().with_schema(schema).build(batches).map_err(Status::from);
        Ok(Response::new(messages.boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
