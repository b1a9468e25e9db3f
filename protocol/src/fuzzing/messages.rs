//! Protobuf, in every message that somebody decodes from somebody else's bytes.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;

use crate::{
    error::Error,
    messages::{metadata, native, peer},
};

type Check = fn(&[u8]);

/// Each has the number of its place for the fuzzers' corpora: new ones go to the end.
const MESSAGES: &[Check] = &[
    one::<native::HandshakeRequest>,
    one::<native::HandshakeResponse>,
    error,
    one::<native::MetadataRequest>,
    one::<native::MetadataResponse>,
    one::<native::ProduceRequest>,
    one::<native::ProduceResponse>,
    one::<native::InitProducerResponse>,
    one::<native::FetchRequest>,
    one::<native::FetchResponse>,
    one::<native::ListOffsetsRequest>,
    one::<native::ListOffsetsResponse>,
    one::<native::CreateTopicRequest>,
    one::<native::AlterTopicRequest>,
    one::<native::DeleteTopicRequest>,
    one::<native::TopicResponse>,
    one::<native::RegisterNodeRequest>,
    one::<native::AdmitNodeRequest>,
    one::<native::DrainNodeRequest>,
    one::<native::BalanceRequest>,
    one::<native::MovesResponse>,
    one::<native::ResizeTopicRequest>,
    one::<native::ClusterStatusRequest>,
    one::<native::ClusterStatusResponse>,
    one::<native::TransferLeaderRequest>,
    one::<native::DescribeReplicaRequest>,
    one::<native::DescribeReplicaResponse>,
    one::<native::RecoverPartitionRequest>,
    one::<native::RecoverPartitionResponse>,
    one::<native::RecoverMetadataRequest>,
    one::<native::RecoverMetadataResponse>,
    one::<native::DescribeConfigRequest>,
    one::<native::DescribeConfigResponse>,
    one::<native::ReloadConfigRequest>,
    one::<native::ReloadConfigResponse>,
    one::<peer::SeedStateRequest>,
    one::<peer::SeedStateResponse>,
    one::<peer::JoinClusterRequest>,
    one::<peer::JoinClusterResponse>,
    one::<peer::NewcomersRequest>,
    one::<peer::NewcomersResponse>,
    one::<peer::FoundClusterRequest>,
    one::<peer::RaftFrame>,
    one::<metadata::Command>,
    one::<metadata::PartitionCommand>,
    one::<metadata::ConfChange>,
    one::<metadata::Membership>,
    one::<metadata::State>,
    one::<metadata::PartitionState>,
];

/// The first byte says which message the others are.
pub fn message(bytes: &[u8]) {
    let Some((&number, bytes)) = bytes.split_first() else { return };
    MESSAGES[usize::from(number) % MESSAGES.len()](bytes);
}

fn one<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(Bytes::copy_from_slice(bytes)) else { return };
    let again = message.encode_to_vec();
    assert_eq!(again.len(), message.encoded_len());
    assert_eq!(M::decode(Bytes::from(again)).unwrap(), message);
}

fn error(bytes: &[u8]) {
    let error = Error::decode(Bytes::copy_from_slice(bytes));
    let wire = error.to_wire();
    // A message that is too long is clipped once.
    assert_eq!(Error::from_wire(wire.clone()).to_wire().encode_to_vec().len(), wire.encode_to_vec().len());
}
