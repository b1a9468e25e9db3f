//! A log in memory behind the seams, a Flight server in front of it, and clients.

#![allow(dead_code, unreachable_pub, reason = "shared by test files, each of which uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

pub mod memory;
pub mod python;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use arrow_array::RecordBatch;
use arrow_flight::{
    FlightData, FlightDescriptor, FlightInfo, PutResult, Ticket, decode::FlightRecordBatchStream,
    encode::FlightDataEncoderBuilder, error::FlightError, flight_service_client::FlightServiceClient,
};
use futures::{StreamExt, TryStreamExt, stream};
use levada_compute::{
    codec::ArrowCodec,
    flight::{FlightConfig, FlightDeps, FlightServer},
};
use levada_protocol::{
    context::{AllowAll, Authorizer, RequestContext},
    error::{Error, GRPC_ERROR_KEY},
    source::{Catalog, NewTopic},
};
use memory::MemoryLog;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// A server and the log behind it; dropping it stops it.
pub struct Running {
    pub log: Arc<MemoryLog>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    _stop: DropGuard,
}

pub type Client = FlightServiceClient<Channel>;

impl Running {
    pub async fn start() -> Self {
        Self::start_with(FlightConfig::default(), Arc::new(AllowAll)).await
    }

    pub async fn start_with(config: FlightConfig, authorizer: Arc<dyn Authorizer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let codec = Arc::new(ArrowCodec::new());
        let log = Arc::new(MemoryLog::new(Arc::clone(&codec), address));
        let deps = FlightDeps {
            source: log.clone(),
            sink: log.clone(),
            catalog: log.clone(),
            authorizer,
            codec,
            tracer: None,
        };
        let shutdown = CancellationToken::new();
        tokio::spawn(FlightServer::serve(listener, deps, watch::Sender::new(config).subscribe(), shutdown.clone()));
        Self { log, address, shutdown: shutdown.clone(), _stop: shutdown.drop_guard() }
    }

    pub async fn topic(&self, name: &str, partitions: u32, schema: Option<&str>) {
        self.topic_with(name, partitions, schema, &[]).await;
    }

    pub async fn topic_with(&self, name: &str, partitions: u32, schema: Option<&str>, config: &[(&str, &str)]) {
        let config: BTreeMap<_, _> = config.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let schema_json = schema.map(str::to_owned);
        let new = NewTopic { name: name.to_owned(), partitions, replicas: 1, config, schema_json };
        self.log.create_topic(&RequestContext::internal("test"), new).await.unwrap();
    }

    pub async fn client(&self) -> Client {
        self.client_with(16 << 20).await
    }

    pub async fn client_with(&self, window_bytes: u32) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .initial_stream_window_size(window_bytes)
            .initial_connection_window_size(window_bytes)
            .connect_timeout(Duration::from_secs(5));
        FlightServiceClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(usize::MAX)
    }
}

/// A command in JSON.
pub fn command(json: &str) -> FlightDescriptor {
    FlightDescriptor::new_cmd(json.to_owned().into_bytes())
}

/// A path.
pub fn path(parts: &[&str]) -> FlightDescriptor {
    FlightDescriptor::new_path(parts.iter().map(|part| (*part).to_owned()).collect())
}

pub async fn info(client: &mut Client, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    client.get_flight_info(descriptor).await.map(tonic::Response::into_inner)
}

pub fn tickets(info: &FlightInfo) -> Vec<Ticket> {
    info.endpoint.iter().map(|endpoint| endpoint.ticket.clone().unwrap()).collect()
}

pub async fn get(client: &mut Client, ticket: Ticket) -> Result<FlightRecordBatchStream, Status> {
    let stream = client.do_get(ticket).await?.into_inner();
    Ok(FlightRecordBatchStream::new_from_flight_data(stream.map_err(FlightError::from)))
}

/// All batches of a read of one partition.
pub async fn read(client: &mut Client, descriptor: FlightDescriptor) -> Result<Vec<RecordBatch>, Status> {
    let info = info(client, descriptor).await?;
    let mut batches = Vec::new();
    for ticket in tickets(&info) {
        batches.extend(get(client, ticket).await?.try_collect::<Vec<_>>().await.map_err(status)?);
    }
    Ok(batches)
}

/// The same as one batch.
pub async fn read_all(client: &mut Client, descriptor: FlightDescriptor) -> RecordBatch {
    let batches = read(client, descriptor).await.unwrap();
    arrow_select::concat::concat_batches(&batches.first().expect("a batch").schema(), &batches).unwrap()
}

pub fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => panic!("{other}"),
    }
}

/// The error in a status.
pub fn error_of(status: &Status) -> Error {
    Error::decode(status.metadata().get_bin(GRPC_ERROR_KEY).expect("the error").to_bytes().unwrap())
}

/// Writes batches as Arrow's own client does.
pub async fn put(
    client: &mut Client,
    descriptor: FlightDescriptor,
    batches: Vec<RecordBatch>,
) -> Result<Vec<serde_json::Value>, Status> {
    let data = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor))
        .with_max_flight_data_size(usize::MAX)
        .build(stream::iter(batches.into_iter().map(Ok)));
    let data: Vec<FlightData> = data.try_collect().await.unwrap();
    put_data(client, data).await
}

pub async fn put_data(client: &mut Client, data: Vec<FlightData>) -> Result<Vec<serde_json::Value>, Status> {
    let mut results = client.do_put(stream::iter(data)).await?.into_inner();
    let mut answers = Vec::new();
    while let Some(result) = results.next().await {
        let PutResult { app_metadata } = result?;
        answers.push(serde_json::from_slice(&app_metadata).unwrap());
    }
    Ok(answers)
}
