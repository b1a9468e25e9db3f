//! The fake cluster's side of a connection.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use levada_client::{Error, ErrorCode};
use levada_protocol::{
    frame::{self, Api, Frame, FrameDecoder, PREFACE_BYTES, Preface},
    limits::FRAME_BYTES_MAX,
    messages::native::*,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{FakeTopic, Fault, State};

type Shared = Arc<Mutex<State>>;

/// Serves until aborted; its connections go with it.
pub(super) async fn listen(node: u64, listener: TcpListener, state: Shared) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(node, stream, Arc::clone(&state)));
    }
}

/// Ends the connection on any error.
async fn serve(node: u64, mut stream: TcpStream, state: Shared) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut preface = [0; PREFACE_BYTES];
    stream.read_exact(&mut preface).await.ok()?;
    let negotiated = Preface::decode(preface).and_then(Preface::negotiate);
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut input = BytesMut::new();
    loop {
        while let Some(frame) = decoder.decode(&mut input).ok()? {
            while state.lock().unwrap().hanging.contains(&node) {
                sleep(Duration::from_millis(5)).await;
            }
            if let Err(error) = &negotiated {
                let answer = frame::encode_error(frame.api, frame.correlation_id, error);
                stream.write_all(&answer).await.ok()?;
                return None;
            }
            let answer = match Api::from_u16(frame.api) {
                Some(Api::Produce) => produce(node, &frame, &state, &mut stream).await?,
                _ => answer(node, &frame, &mut state.lock().unwrap())?,
            };
            for bytes in answer {
                stream.write_all(&bytes).await.ok()?;
            }
        }
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
}

async fn produce(node: u64, frame: &Frame, state: &Shared, stream: &mut TcpStream) -> Option<Vec<Bytes>> {
    let request: ProduceRequest = frame.message().unwrap();
    let fault = {
        let mut state = state.lock().unwrap();
        let seen = state.produced;
        state.produced += 1;
        (state.plan)(request.partition, seen)
    };
    let apply = || apply(node, &request, &frame.payload, &mut state.lock().unwrap());
    let say = |code: ErrorCode| vec![error(frame, Error::new(code, "as planned"))];
    let answer = |applied: Result<ProduceResponse, Error>| match applied {
        Ok(response) => vec![frame::encode_answer(frame.api, frame.correlation_id, &response, 0)],
        Err(failed) => vec![error(frame, failed)],
    };
    match fault {
        Fault::None => Some(answer(apply())),
        Fault::Refuse(code) => Some(say(code)),
        Fault::ApplyAndSay(code) => {
            let _ = apply();
            Some(say(code))
        }
        Fault::Disconnect => None,
        Fault::ApplyAndDisconnect => {
            let _ = apply();
            None
        }
        Fault::ApplyAndForget => {
            let _ = apply();
            Some(Vec::new())
        }
        Fault::Delay(delay) => {
            sleep(delay).await;
            Some(answer(apply()))
        }
        Fault::Garbage => {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok()?;
            sleep(Duration::from_secs(5)).await;
            None
        }
        Fault::HugeLength => {
            stream.write_all(&u32::MAX.to_le_bytes()).await.ok()?;
            sleep(Duration::from_secs(5)).await;
            None
        }
        Fault::Mislead => {
            let state = state.lock().unwrap();
            let wrong = state.addresses.keys().copied().find(|&other| other != node).unwrap_or(node);
            let hint = Error::new(ErrorCode::NotLeader, "misleading").redirect(Some(state.node(wrong).into()));
            Some(vec![error(frame, hint)])
        }
    }
}

fn apply(node: u64, request: &ProduceRequest, batch: &Bytes, state: &mut State) -> Result<ProduceResponse, Error> {
    let log = led(node, &request.topic_id, request.partition, state)?;
    let (base_offset, duplicate) = log.produce(batch).map_err(|code| Error::new(code, "refused by the log"))?;
    Ok(ProduceResponse { base_offset, duplicate })
}

fn led<'a>(node: u64, topic: &[u8], partition: u32, state: &'a mut State) -> Result<&'a mut super::Log, Error> {
    let of = |topic: &&FakeTopic, id: &[u8]| topic.id.to_bytes() == id;
    let unknown = || Error::new(ErrorCode::UnknownTopic, "no such topic here");
    let found = state.topics.values().find(|found| of(found, topic)).ok_or_else(unknown)?;
    let leader = found
        .partitions
        .get(partition as usize)
        .ok_or_else(|| Error::new(ErrorCode::UnknownPartition, "no such partition"))?
        .leader;
    if leader != node {
        let hint = state.node(leader).into();
        return Err(Error::new(ErrorCode::NotLeader, "another node leads").redirect(Some(hint)));
    }
    let topic = state.topics.values_mut().find(|found| found.id.to_bytes() == topic).ok_or_else(unknown)?;
    Ok(&mut topic.partitions[partition as usize])
}

fn error(frame: &Frame, error: Error) -> Bytes {
    frame::encode_error(frame.api, frame.correlation_id, &error)
}

/// Everything but produce. None breaks the connection.
fn answer(node: u64, frame: &Frame, state: &mut State) -> Option<Vec<Bytes>> {
    state.requests.push((node, frame.api));
    let mut payload = Bytes::new();
    let result = match Api::from_u16(frame.api).unwrap() {
        Api::Handshake => Ok(encode(
            frame,
            &HandshakeResponse {
                version: state.version,
                cluster_id: state.cluster_id.to_bytes().to_vec().into(),
                node_id: node,
                server_version: "fake".into(),
                incarnation: Bytes::new(),
                waiting: String::new(),
            },
        )),
        Api::Metadata => Ok(encode(frame, &metadata(frame, state))),
        Api::InitProducer => {
            state.identities += 1;
            Ok(encode(frame, &InitProducerResponse { producer_id: state.identities, producer_epoch: 0 }))
        }
        Api::CreateTopic | Api::AlterTopic | Api::DeleteTopic => {
            if state.controller == node && state.lose_controller_answers > 0 {
                state.lose_controller_answers -= 1;
                let _ = change(node, frame, state);
                return None;
            }
            change(node, frame, state).map(|topic| encode(frame, &TopicResponse { topic: Some(topic) }))
        }
        Api::ListOffsets => list_offsets(node, frame, state).map(|response| encode(frame, &response)),
        Api::Fetch => fetch(node, frame, state).map(|(response, batches)| {
            payload = batches;
            frame::encode_answer(frame.api, frame.correlation_id, &response, payload.len())
        }),
        Api::ClusterStatus => Ok(encode(
            frame,
            &ClusterStatusResponse {
                controller: Some(state.controller),
                nodes: state
                    .addresses
                    .keys()
                    .map(|&id| NodeStatus { addresses: Some(state.node(id)), ..NodeStatus::default() })
                    .collect(),
                ..ClusterStatusResponse::default()
            },
        )),
        Api::TransferLeader => transfer(node, frame, state).map(|()| encode(frame, &TransferLeaderResponse {})),
        _ => Err(Error::new(ErrorCode::UnknownApi, "the fake cluster does not know this")),
    };
    Some(match result {
        Ok(head) => vec![head, payload],
        Err(failed) => vec![error(frame, failed)],
    })
}

fn encode(frame: &Frame, message: &impl prost::Message) -> Bytes {
    frame::encode_answer(frame.api, frame.correlation_id, message, 0)
}

fn metadata(frame: &Frame, state: &State) -> MetadataResponse {
    let request: MetadataRequest = frame.message().unwrap();
    let wanted: Vec<String> = if request.all_topics { state.topics.keys().cloned().collect() } else { request.topics };
    let (known, unknown): (Vec<String>, Vec<String>) =
        wanted.into_iter().partition(|name| state.topics.contains_key(name));
    MetadataResponse {
        cluster_id: state.cluster_id.to_bytes().to_vec().into(),
        controller: Some(state.controller),
        nodes: state.addresses.keys().map(|&id| state.node(id)).collect(),
        topics: known.iter().map(|name| state.describe(name)).collect(),
        unknown,
    }
}

fn change(node: u64, frame: &Frame, state: &mut State) -> Result<TopicInfo, Error> {
    if state.controller != node {
        let hint = state.node(state.controller).into();
        return Err(Error::new(ErrorCode::NotController, "another node").redirect(Some(hint)));
    }
    let unknown = || Error::new(ErrorCode::UnknownTopic, "no such topic");
    if frame.api == Api::CreateTopic as u16 {
        let request: CreateTopicRequest = frame.message().unwrap();
        if state.topics.contains_key(&request.name) {
            return Err(Error::new(ErrorCode::TopicExists, "there is one"));
        }
        state.create_topic(&request.name, request.partitions);
        let topic = state.topics.get_mut(&request.name).unwrap();
        topic.config.clone_from(&request.config);
        topic.id = levada_protocol::ids::TopicId::of_request(
            uuid::Uuid::from_slice(&request.request_id).unwrap(),
            &request.name,
        );
        let info = state.describe(&request.name);
        if request.dry_run {
            state.topics.remove(&request.name);
        }
        Ok(info)
    } else if frame.api == Api::AlterTopic as u16 {
        let request: AlterTopicRequest = frame.message().unwrap();
        let topic = state.topics.get_mut(&request.name).ok_or_else(unknown)?;
        assert_eq!(request.request_id.len(), 16);
        if topic.altered_by.insert(request.request_id) {
            topic.config.extend(request.set);
            topic.config.retain(|key, _| !request.unset.contains(key));
        }
        Ok(state.describe(&request.name))
    } else {
        let request: DeleteTopicRequest = frame.message().unwrap();
        let is_it =
            state.topics.get(&request.name).is_some_and(|topic| topic.id.to_bytes()[..] == request.topic_id[..]);
        let info = is_it.then(|| state.describe(&request.name)).ok_or_else(unknown)?;
        state.topics.remove(&request.name);
        Ok(info)
    }
}

fn list_offsets(node: u64, frame: &Frame, state: &mut State) -> Result<ListOffsetsResponse, Error> {
    let request: ListOffsetsRequest = frame.message().unwrap();
    let log = led(node, &request.topic_id, request.partition, state)?;
    Ok(ListOffsetsResponse {
        log_start_offset: log.start,
        high_watermark: log.end,
        offset_for_time: request.timestamp_ms.map(|_| log.end),
        leader_epoch: log.epoch,
        bytes: log.batches.iter().map(|batch| batch.bytes.len() as u64).sum(),
    })
}

fn fetch(node: u64, frame: &Frame, state: &mut State) -> Result<(FetchResponse, Bytes), Error> {
    let request: FetchRequest = frame.message().unwrap();
    let log = led(node, &request.topic_id, request.partition, state)?;
    if request.offset > log.end {
        return Err(Error::new(ErrorCode::OffsetOutOfRange, "past the end"));
    }
    let first = log.batches.partition_point(|batch| batch.base_offset <= request.offset).saturating_sub(1);
    let mut batches = BytesMut::new();
    for batch in log.batches.iter().skip(first) {
        if request.offset == log.end
            || (!batches.is_empty() && batches.len() + batch.bytes.len() > request.max_bytes as usize)
        {
            break;
        }
        batches.extend_from_slice(&batch.bytes);
    }
    Ok((FetchResponse { high_watermark: log.end, log_start_offset: 0 }, batches.freeze()))
}

fn transfer(node: u64, frame: &Frame, state: &mut State) -> Result<(), Error> {
    let request: TransferLeaderRequest = frame.message().unwrap();
    if request.group == 0 {
        if state.controller != node {
            let hint = state.node(state.controller).into();
            return Err(Error::new(ErrorCode::NotController, "another node").redirect(Some(hint)));
        }
        state.controller = request.node_id;
    }
    Ok(())
}
