//! Doors for fuzzers: one function for each decoder, which takes any bytes and panics where the decoder breaks its word.
//!
//! `fuzz/` calls them, with bytes that a fuzzer makes up and with those that it once found interesting. What a checksum
//! guards is decoded twice: as it is, and with the checksum put right, as a fuzzer does not guess one.

#![allow(clippy::unwrap_used, reason = "a panic is the answer")]

pub mod seeds;

use bytes::Bytes;
use levada_protocol::messages::{metadata as wire, peer};
use prost::Message as _;

use crate::{
    bootstrap::record::Record,
    cluster::metadata::Metadata,
    config::Source,
    partition::producers::Producers,
    raft::{
        membership::{Membership, read_change},
        wire as raft_wire,
    },
};

/// Some bytes behind their length in two.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *bytes = rest;
    Some(part)
}

/// What nodes say to each other about their raft groups: a header, and the payload that follows it.
pub fn raft_frame(bytes: &[u8]) {
    let mut payload = bytes;
    let Some(header) = part(&mut payload) else { return };
    let Ok(frame) = peer::RaftFrame::decode(Bytes::copy_from_slice(header)) else { return };
    let Ok(messages) = raft_wire::decode(frame, Bytes::copy_from_slice(payload)) else { return };
    let bytes: usize = messages.iter().map(raft_wire::PeerMessage::wire_bytes).sum();
    assert!(bytes >= payload.len());
    let (frame, payload) = raft_wire::encode(messages.clone());
    let again = raft_wire::decode(frame, payload.concat().into()).unwrap();
    assert_eq!(again, messages);
}

/// The record of who founded the cluster.
pub fn founding(bytes: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(record) = Record::decode(bytes) {
            assert_eq!(Record::decode(&record.encode()).unwrap(), record);
        }
    };
    check(bytes);
    // The fuzzer's bytes are the message.
    let length = u32::try_from(bytes.len()).unwrap();
    check(&[b"LVDAFND\x01", &length.to_le_bytes()[..], &crc32fast::hash(bytes).to_le_bytes(), bytes].concat());
}

/// The metadata as a checkpoint keeps them; and as commands make them, one after another.
pub fn metadata(bytes: &[u8]) {
    if let Ok(metadata) = Metadata::decode(Bytes::copy_from_slice(bytes)) {
        let once = Metadata::decode(metadata.encode()).unwrap();
        assert_eq!(Metadata::decode(once.encode()).unwrap(), once);
    }
    let (mut metadata, mut rest) = (Metadata::default(), bytes);
    while let Some(command) = part(&mut rest) {
        let Ok(command) = wire::Command::decode(command) else { return };
        let before = metadata.clone();
        if metadata.apply(command).is_err() {
            assert_eq!(metadata, before, "a refused command changes nothing");
        }
    }
}

/// Who belongs to a group, and a change of that.
pub fn membership(bytes: &[u8]) {
    if let Ok(Some(membership)) = Membership::decode(bytes) {
        let again = membership.encode();
        // One that names nobody is written as none.
        assert_eq!(Membership::decode(&again).unwrap(), Some(membership).filter(|_| !again.is_empty()));
    }
    let _ = read_change(bytes);
}

/// What a checkpoint keeps of a partition, and a command to it.
pub fn partition(bytes: &[u8]) {
    let _ = wire::PartitionCommand::decode(bytes);
    let Ok(state) = wire::PartitionState::decode(bytes) else { return };
    let wire = Producers::from_wire(state.producers).to_wire();
    assert_eq!(Producers::from_wire(wire.clone()).to_wire(), wire);
}

/// The configuration file.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = Source { file: Some("levada.toml".into()), ..Source::default() };
    match source.load_text(Some(text)) {
        Ok(loaded) => {
            let shown = loaded.to_string();
            assert_eq!(source.load_text(Some(&shown)).unwrap().config, loaded.config, "what is shown can be read");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
