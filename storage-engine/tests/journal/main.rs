//! The journal on a disk that forgets: crashes at every effect, failures, bit rot.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]
#![allow(clippy::print_stdout, reason = "tests say how much they looked at")]

mod crash;
mod failure;
mod lockstep;
mod model;
mod rot;
mod rules;
mod world;
