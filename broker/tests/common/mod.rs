//! Nodes in this process, and a client that knows just enough.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses a part")]

use std::{path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use levada_broker::{
    config::ServerConfig,
    server::{Hooks, Listeners, Running, ServerError},
};
use levada_protocol::{
    batch::{Attributes, BatchProducer, NewRecord, Rows, RowsBuilder},
    error::{Error, ErrorCode, Result},
    frame::{Api, Frame, FrameDecoder, HEAD_BYTES, Preface, encode_head, encode_request},
    ids::{NodeId, ProducerEpoch, ProducerId},
    limits::FRAME_BYTES_MAX,
    messages::native::{
        CreateTopicRequest, FetchRequest, FetchResponse, HandshakeRequest, HandshakeResponse, InitProducerRequest,
        InitProducerResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, TopicInfo,
        TopicResponse,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Long enough for anything on a busy machine.
pub const LONG: Duration = Duration::from_secs(30);

/// A node, running or not.
pub struct TestNode {
    pub config: ServerConfig,
    pub running: Option<Running>,
}

impl TestNode {
    pub async fn start(config: ServerConfig) -> Self {
        let running = start(config.clone()).await.unwrap();
        Self { config, running: Some(running) }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub fn address(&self) -> &str {
        &self.config.listen.native
    }

    /// Ends it as a crash would.
    pub async fn crash(&mut self) {
        self.running.take().expect("it runs").halt().await;
    }

    /// Ends it as a signal would.
    pub async fn stop(&mut self) {
        let shutdown = tokio_util::sync::CancellationToken::new();
        shutdown.cancel();
        self.running.take().expect("it runs").run_until(shutdown).await.unwrap();
    }

    pub async fn restart(&mut self) {
        self.running = Some(start(self.config.clone()).await.unwrap());
    }
}

/// Starts a node; the directory of one that has just ended may be taken for a moment longer.
pub async fn start(config: ServerConfig) -> std::result::Result<Running, ServerError> {
    for _ in 0..200 {
        let started = async {
            let (listeners, _flight) = Listeners::bind(&config).await?;
            Running::start(config.clone(), listeners, Hooks::default()).await
        };
        match started.await {
            Err(ServerError::Bind { .. } | ServerError::DataDir(_)) => sleep(Duration::from_millis(25)).await,
            other => return other,
        }
    }
    panic!("node {} does not start", config.node_id);
}

/// Configurations of `count` nodes below a directory, which know each other.
pub async fn configs(dir: &Path, count: u64) -> Vec<ServerConfig> {
    let mut configs = Vec::new();
    let mut held = Vec::new();
    for id in 1..=count {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = ServerConfig::local(NodeId(id), dir.join(format!("node{id}")));
        config.listen.native = listener.local_addr().unwrap().to_string();
        config.journal.file_bytes = 48 << 20;
        config.journal.files_keep = 2;
        held.push(listener);
        configs.push(config);
    }
    let seeds: Vec<_> =
        configs.iter().map(|config| format!("{}@{}", config.node_id, config.listen.native).parse().unwrap()).collect();
    for config in &mut configs {
        config.seed_nodes.clone_from(&seeds);
    }
    configs
}

/// Starts all of them.
pub async fn cluster(dir: &Path, count: u64) -> Vec<TestNode> {
    let configs = configs(dir, count).await;
    let nodes = futures::future::join_all(configs.into_iter().map(TestNode::start)).await;
    for node in &nodes {
        ready(node.running()).await;
    }
    nodes
}

/// Waits until a node serves.
pub async fn ready(running: &Running) {
    let wait = async {
        while !running.readiness().ready {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{:?}", running.readiness()));
}

/// A native connection.
pub struct Client {
    stream: TcpStream,
    input: BytesMut,
    last_id: u64,
    pub hello: HandshakeResponse,
}

impl Client {
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_as(address, HandshakeRequest { client_id: "test".into(), ..Default::default() }).await
    }

    /// As whoever the request says.
    pub async fn connect_as(address: &str, request: HandshakeRequest) -> Result<Self> {
        let lost = |error: std::io::Error| Error::new(ErrorCode::Disconnected, error.to_string());
        let mut stream = TcpStream::connect(address).await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        stream.write_all(&Preface::OURS.encode()).await.map_err(lost)?;
        let mut client = Self { stream, input: BytesMut::new(), last_id: 0, hello: HandshakeResponse::default() };
        client.hello = client.call(Api::Handshake, &request, Bytes::new()).await?.0;
        Ok(client)
    }

    pub async fn send(&mut self, api: Api, request: &impl prost::Message, payload: Bytes) -> Result<u64> {
        let lost = |error: std::io::Error| Error::new(ErrorCode::Disconnected, error.to_string());
        self.last_id += 1;
        let head = encode_request(api, self.last_id, request, payload.len());
        self.stream.write_all(&head).await.map_err(lost)?;
        self.stream.write_all(&payload).await.map_err(lost)?;
        Ok(self.last_id)
    }

    pub async fn receive(&mut self) -> Result<Frame> {
        let lost = |why: &str| Error::new(ErrorCode::Disconnected, why);
        loop {
            if let Some(frame) = FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut self.input)? {
                return Ok(frame);
            }
            let read = timeout(LONG, self.stream.read_buf(&mut self.input)).await.expect("an answer or an end");
            if read.map_err(|error| lost(&error.to_string()))? == 0 {
                return Err(lost("closed"));
            }
        }
    }

    pub async fn call<M: prost::Message + Default>(
        &mut self,
        api: Api,
        request: &impl prost::Message,
        payload: Bytes,
    ) -> Result<(M, Bytes)> {
        let id = self.send(api, request, payload).await?;
        let frame = self.receive().await?;
        assert_eq!((frame.correlation_id, frame.api), (id, api as u16));
        Ok((frame.answer()?, frame.payload))
    }

    /// A request that no message type fits.
    pub async fn call_raw(&mut self, api: u16, header: Bytes) -> Result<Frame> {
        let lost = |error: std::io::Error| Error::new(ErrorCode::Disconnected, error.to_string());
        let mut frame = encode_head(api, 0, 77, &(), 0).to_vec();
        frame[..4].copy_from_slice(&u32::try_from(HEAD_BYTES - 4 + header.len()).unwrap().to_le_bytes());
        frame[16..20].copy_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(&header);
        self.stream.write_all(&frame).await.map_err(lost)?;
        let answer = self.receive().await?;
        assert_eq!(answer.correlation_id, 77);
        if answer.is_error() { Err(Error::decode(answer.header)) } else { Ok(answer) }
    }

    pub async fn create_topic(&mut self, name: &str, partitions: u32, replicas: u32) -> Result<TopicInfo> {
        let request = CreateTopicRequest { name: name.into(), partitions, replicas, ..Default::default() };
        let (response, _): (TopicResponse, _) = self.call(Api::CreateTopic, &request, Bytes::new()).await?;
        Ok(response.topic.unwrap())
    }

    pub async fn metadata(&mut self, topics: &[&str]) -> Result<MetadataResponse> {
        let topics = topics.iter().map(|name| (*name).to_owned()).collect();
        let request = MetadataRequest { topics, ..Default::default() };
        Ok(self.call(Api::Metadata, &request, Bytes::new()).await?.0)
    }

    pub async fn init_producer(&mut self) -> Result<i64> {
        let (response, _): (InitProducerResponse, _) =
            self.call(Api::InitProducer, &InitProducerRequest {}, Bytes::new()).await?;
        Ok(response.producer_id)
    }

    pub async fn produce(&mut self, topic: &TopicInfo, partition: u32, batch: Bytes) -> Result<ProduceResponse> {
        Ok(self.call(Api::Produce, &produce_request(topic, partition), batch).await?.0)
    }

    /// Values from an offset, and the high watermark.
    pub async fn fetch(
        &mut self,
        topic: &TopicInfo,
        partition: u32,
        offset: u64,
        wait_ms: u32,
    ) -> Result<(Vec<(u64, String)>, u64)> {
        let request = FetchRequest { topic_id: topic.topic_id.clone(), partition, offset, max_bytes: 1 << 20, wait_ms };
        let (response, payload): (FetchResponse, _) = self.call(Api::Fetch, &request, Bytes::new()).await?;
        let mut values = Vec::new();
        let mut rest = payload;
        while !rest.is_empty() {
            let bytes = levada_protocol::batch::batch_bytes(&rest).unwrap();
            for record in Rows::open(&rest.split_to(bytes)).unwrap().iter() {
                let record = record.unwrap();
                values.push((record.offset.get(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
        }
        values.retain(|(at, _)| *at >= offset);
        Ok((values, response.high_watermark))
    }

    /// All values of a partition up to its high watermark.
    pub async fn fetch_all(&mut self, topic: &TopicInfo, partition: u32) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let (values, high_watermark) = self.fetch(topic, partition, all.len() as u64, 0).await?;
            for (offset, value) in values {
                assert_eq!(offset, all.len() as u64, "offsets have no gaps");
                all.push(value);
            }
            if all.len() as u64 >= high_watermark {
                return Ok(all);
            }
        }
    }
}

pub fn produce_request(topic: &TopicInfo, partition: u32) -> ProduceRequest {
    ProduceRequest { topic_id: topic.topic_id.clone(), partition, ..ProduceRequest::default() }
}

/// A batch of values without a producer.
pub fn batch(values: &[&str]) -> Bytes {
    batch_of(values, BatchProducer::NONE)
}

/// A batch of values of a producer.
pub fn produced(values: &[&str], producer: i64, base_sequence: i32) -> Bytes {
    produced_in(0, values, producer, base_sequence)
}

pub fn produced_in(epoch: i16, values: &[&str], producer: i64, base_sequence: i32) -> Bytes {
    batch_of(values, BatchProducer { id: ProducerId(producer), epoch: ProducerEpoch(epoch), base_sequence })
}

fn batch_of(values: &[&str], producer: BatchProducer) -> Bytes {
    let mut builder = RowsBuilder::new();
    for (at, value) in (0..).zip(values) {
        let record = NewRecord { timestamp_ms: 1_000_000 + at, key: None, value: Some(value.as_bytes()), headers: &[] };
        builder.push(&record).unwrap();
    }
    builder.finish(Attributes::default(), producer).unwrap()
}
