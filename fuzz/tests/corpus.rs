//! What fuzzers found interesting, and what once broke something, again.
//!
//! One test alone in its process, because it looks at the process's memory.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use levada_fuzz::{TARGETS, run};

fn files(target: &str) -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let listing = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = listing.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files
}

#[test]
fn every_corpus_is_replayed_and_every_seed_is_taken() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let mut inputs: Vec<(String, Vec<u8>)> = (0..)
            .zip((target.seeds)())
            .map(|(number, seed)| (format!("{}: seed {number}", target.name), seed))
            .collect();
        assert!(
            inputs.iter().all(|(_, seed)| seed.len() <= target.input_bytes_max),
            "{}: a fuzzer cuts it",
            target.name
        );
        inputs
            .extend(files(target.name).into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())));
        for (name, bytes) in inputs {
            // Every input is cut as well: that is how files and connections end.
            for length in [bytes.len(), bytes.len() / 2, bytes.len().saturating_sub(1)] {
                if catch_unwind(AssertUnwindSafe(|| run(target, &bytes[..length]))).is_err() {
                    failed.push(format!("{name}, its first {length} bytes"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
