//! A libFuzzer program for the target whose name the program has.
#![no_main]

use levada_fuzz::{Target, find, run};
use libfuzzer_sys::fuzz_target;

const TARGET: Target = find(env!("CARGO_BIN_NAME"));

fuzz_target!(|bytes: &[u8]| run(&TARGET, bytes));
