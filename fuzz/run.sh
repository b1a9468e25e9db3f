#!/bin/sh
# Gives each target EXECUTIONS inputs (10,000,000), one target after another, and prints what that took. Targets can be
# named; without names it takes all of them. Ends with 1 if one of them broke. Needs the nightly toolchain, `cargo install
# cargo-fuzz`, and g++.
#
#   fuzz/run.sh journal                 one target
#   EXECUTIONS=100000 fuzz/run.sh       all of them, for a few minutes
#
# SANITIZER=address finds more in code that is unsafe or not Rust (zstd), at a fifth of the speed. RSS_MB (512) is the most
# memory that the process may take; how much a decoder may take for its input is checked for each input (src/lib.rs).
set -eu
cd "$(dirname "$0")/.."
executions=${EXECUTIONS:-10000000}
rss_mb=${RSS_MB:-512}
directory=$(cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work=$directory/fuzz-corpus

if [ -z "${NO_BUILD:-}" ]; then
    # What is tested has the versions of the dependencies that are shipped.
    cp Cargo.lock fuzz/libfuzzer/Cargo.lock
    cargo +nightly fuzz build --fuzz-dir fuzz/libfuzzer --target-dir "$directory" --no-cfg-fuzzing \
        --strip-dead-code=true --sanitizer "${SANITIZER:-none}"
fi
cargo run --quiet --package levada-fuzz --example seeds -- "$work/seeds"
targets=$(cargo run --quiet --package levada-fuzz --example seeds -- --targets)
host=$(rustc -vV | sed -n 's/^host: //p')

broken=0
printf '%-14s %12s %8s %10s %10s\n' target executions seconds peak_rss_mb corpus
for target in ${*:-$(echo "$targets" | cut -d' ' -f1)}; do
    length=$(echo "$targets" | sed -n "s/^$target //p")
    [ -n "$length" ] || { echo "there is no target $target"; exit 2; }
    mkdir -p "$work/$target" "fuzz/corpus/$target"
    began=$(date +%s)
    "$directory/$host/release/$target" -runs="$executions" -max_len="$length" -rss_limit_mb="$rss_mb" -timeout=10 \
        -print_final_stats=1 -artifact_prefix="$work/$target-" \
        "$work/$target" "fuzz/corpus/$target" "$work/seeds/$target" 2> "$work/$target.log" || {
        broken=1
        echo "$target is broken: $work/$target.log ends with the input's file"
    }
    took=$(($(date +%s) - began))
    stat() { sed -n "s/^stat::$1: *//p" "$work/$target.log"; }
    printf '%-14s %12s %8s %10s %10s\n' "$target" "$(stat number_of_executed_units)" "$took" "$(stat peak_rss_mb)" \
        "$(find "$work/$target" -type f | wc -l)"
done
exit "$broken"
