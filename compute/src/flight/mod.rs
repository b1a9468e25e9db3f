//! The Arrow Flight service: every topic as record batches, to read and to write.
//!
//! - `options`: what a client asks for. `info`: tickets, one for each partition.
//! - **Reading** (`stream`, `body`, `doget`): a ticket becomes a reader of one partition; the reader makes one
//!   message at a time, when the client has room for it, and its buffers go out as they are, in front of tonic's codec
//!   (which would copy every byte). A reader that stalls keeps nothing for long: what it holds is dropped and made
//!   again when it goes on (`stalls`).
//! - **Writing** (`ingest`, `incoming`, `append`): batches are checked, cut into batches of the log, signed with
//!   a producer's identity and appended, a bounded number at a time; an answer means they are durable.
//! - `actions`: topics, offsets, producer ids, as JSON. `service` has all of it behind gRPC, `server` behind a
//!   listener. Every door asks the authorizer, and so does every use of a ticket.

mod actions;
mod append;
mod body;
mod calls;
mod doget;
mod follow;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod incoming;
mod info;
mod ingest;
mod listener;
mod message;
mod options;
mod progress;
mod server;
mod service;
mod stalls;
mod status;
mod stream;

pub use server::{FlightConfig, FlightDeps, FlightServer, ServeError};
pub use status::status_of;
