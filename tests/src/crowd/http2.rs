//! HTTP/2, as far as such connections speak it: clients that are made for it would not misbehave so.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use levada_protocol::{
    ids::{Offset, TopicPartition},
    ticket::{End, Start, Ticket},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a connection takes that says nothing about it.
pub(super) const WINDOW_BYTES: u32 = 65_535;
/// More than sockets take.
pub(super) const WINDOW_BYTES_LARGE: u32 = 256 << 20;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;

pub(super) fn half_of_the_preface() -> Bytes {
    Bytes::from_static(PREFACE.split_at(PREFACE.len() / 2).0)
}

/// The preface, and how much room each stream has.
pub(super) fn hello(window_bytes: u32) -> Bytes {
    let mut out = BytesMut::from(PREFACE);
    let mut settings = Vec::new();
    settings.put_u16(INITIAL_WINDOW_SIZE);
    settings.put_u32(window_bytes);
    put_frame(&mut out, (SETTINGS, 0), 0, &settings);
    if window_bytes > WINDOW_BYTES {
        put_frame(&mut out, (WINDOW_UPDATE, 0), 0, &(window_bytes - WINDOW_BYTES).to_be_bytes());
    }
    out.freeze()
}

/// The same, and a read of a partition from its beginning, which ends never.
pub(super) fn do_get(authority: &str, partition: TopicPartition, window_bytes: u32) -> Bytes {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/arrow.flight.protocol.FlightService/DoGet"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal without a table, and as it is: names and values are shorter than the 127 bytes that need no more.
        headers.put_u8(0);
        for text in [name, value] {
            headers.put_u8(u8::try_from(text.len()).unwrap_or(0));
            headers.put_slice(text.as_bytes());
        }
    }
    let ticket = Ticket::new(partition, Start::Offset(Offset(0)), End::Follow).encode();
    // Flight's ticket is a message of one field.
    let mut message = vec![0x0A, u8::try_from(ticket.len()).unwrap_or(0)];
    message.put_slice(&ticket);
    let mut body = vec![0];
    body.put_u32(u32::try_from(message.len()).unwrap_or(0));
    body.put_slice(&message);

    let mut out = BytesMut::from(&hello(window_bytes)[..]);
    put_frame(&mut out, (HEADERS, END_HEADERS), 1, &headers);
    put_frame(&mut out, (DATA, END_STREAM), 1, &body);
    out.freeze()
}

/// Reads what comes, and answers what must be answered, until the server closes. Makes no room.
pub(super) async fn keep(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let mut answer = BytesMut::new();
        match (kind, flags & ACK) {
            (SETTINGS, 0) => put_frame(&mut answer, (SETTINGS, ACK), 0, &[]),
            (PING, 0) => put_frame(&mut answer, (PING, ACK), 0, &payload),
            _ => continue,
        }
        stream.write_all(&answer).await?;
    }
}

fn put_frame(out: &mut BytesMut, (kind, flags): (u8, u8), stream: u32, payload: &[u8]) {
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.put_slice(payload);
}
