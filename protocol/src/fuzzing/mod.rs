//! Doors for fuzzers: one function for each decoder, which takes any bytes and panics where the decoder breaks its word.
//!
//! `fuzz/` calls them, with bytes that a fuzzer makes up and with those that it once found interesting. What a checksum
//! guards is decoded twice: as it is, and with the checksum put right, as a fuzzer does not guess one.

#![allow(clippy::unwrap_used, reason = "a panic is the answer")]

mod batches;
mod messages;
pub mod seeds;

use bytes::{BufMut as _, BytesMut};

use crate::{
    frame::{FrameDecoder, HEAD_BYTES, PREFACE_BYTES, Preface},
    limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX},
    ticket::Ticket,
};

pub use batches::{batch, compression};
pub use messages::message;

/// Prefaces, and frames one after another.
pub fn frame(bytes: &[u8]) {
    if let Some(preface) = bytes.first_chunk::<PREFACE_BYTES>()
        && let Ok(decoded) = Preface::decode(*preface)
    {
        assert_eq!(decoded.encode(), *preface);
        let _ = decoded.negotiate();
    }
    frames(BytesMut::from(bytes));
    let mut whole = BytesMut::with_capacity(bytes.len() + 4);
    whole.put_u32_le(u32::try_from(bytes.len()).unwrap());
    whole.put_slice(bytes);
    frames(whole);
}

fn frames(mut input: BytesMut) {
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    loop {
        let before = input.clone().freeze();
        let Ok(Some(frame)) = decoder.decode(&mut input) else { return };
        let total = HEAD_BYTES + frame.header.len() + frame.payload.len();
        assert!(frame.header.len() <= FRAME_HEADER_BYTES_MAX);
        assert_eq!(before.len() - input.len(), total, "a frame takes what it announces");
        let mut again = BytesMut::with_capacity(total);
        again.put_u32_le(u32::try_from(total - 4).unwrap());
        again.put_u16_le(frame.api);
        again.put_u16_le(frame.flags);
        again.put_u64_le(frame.correlation_id);
        again.put_u32_le(u32::try_from(frame.header.len()).unwrap());
        again.put_slice(&frame.header);
        again.put_slice(&frame.payload);
        assert_eq!(again, before[..total]);
    }
}

/// What a Flight client asks for.
pub fn ticket(bytes: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(ticket) = Ticket::decode(bytes) {
            assert_eq!(Ticket::decode(&ticket.encode()).unwrap(), ticket);
        }
    };
    check(bytes);
    check(&[&[1], bytes].concat());
}
