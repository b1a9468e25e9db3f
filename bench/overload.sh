#!/usr/bin/env bash
# What a polite client notices of an overload, and what a node's memory does meanwhile (tests/examples/overload). Prints one
# line of JSON: p50 and p99 of `levada bench e2e` in a baseline and in the overload, in turn and several times, the ratio,
# the most RssAnon that a node had, and what its configuration lets it have.
#
#   bash bench/overload.sh                          # one node, three rounds, about four minutes, nothing else running
#   NODES=3 bash bench/overload.sh
#
# LEVADA: the binary (a release build by default). NODES (1). ROUNDS (3). SECONDS_EACH, WARMUP_S: how long a phase is
# measured, and before (20, 5). RECORDS_PER_S: what the polite client sends, of 1 KiB (1000). IDLE: idle native connections;
# beside them a twentieth to Flight and a hundredth to HTTP (10000). HALF_OPEN: connections that say half of what
# they should, over all doors (1000). STALLED: readers that stop, native and Flight (100). HALF_FRAMES: requests of 60 MiB that do
# not come (0). FLOOD: 0 for no producer without rate. SETTINGS: more of the nodes' environment, KEY=VALUE with spaces
# between. DIR: where data goes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
export LEVADA=${LEVADA:-$target/release/levada}
cargo build --quiet --release --package levada-tests --example overload
# Beside the build: a directory for temporary files may be memory, whose fsync costs nothing.
dir=$(mktemp -d "${DIR:-$target}/overload.XXXXXX")
trap 'rm -rf "$dir"' EXIT
DIR=$dir "$target/release/examples/overload"
