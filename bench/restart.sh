#!/usr/bin/env bash
# How long a node takes to serve again, by how much it holds: one node with one replica is filled with so many GB, killed, its
# files are dropped from the page cache, and it is started again. Prints a line of JSON for each size.
#
#   bash bench/restart.sh                # 1 and 8 GB, nothing else running; 12 GB of disk, deleted afterwards
#   SIZES="2 20" bash bench/restart.sh
#
# LEVADA: the binary (a release build by default). SIZES: in GB. PARTITIONS: how many, of four topics (16). DIR: where data goes. PORT: the
# first of three.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
levada=${LEVADA:-$target/release/levada}
port=${PORT:-23500}
partitions=${PARTITIONS:-16}
dir=$(mktemp -d "${DIR:-$target}/restart.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
export LEVADA_BOOTSTRAP=127.0.0.1:$port

start() {
    env -u LEVADA_BOOTSTRAP "$levada" server --node-id 1 --data-dir "$dir/node" --seed-nodes "1@127.0.0.1:$port" \
        --listen-native "127.0.0.1:$port" --listen-flight "127.0.0.1:$((port + 1))" \
        --listen-http "127.0.0.1:$((port + 2))" --log-filter warn >>"$dir/node.log" 2>&1 &
    pid=$!
}
stop() {
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
is_ready() { curl -sf "http://127.0.0.1:$((port + 2))/health/ready" >/dev/null 2>&1; }
led() { curl -sf "http://127.0.0.1:$((port + 2))/metrics" 2>/dev/null | awk '$1 == "levada_partitions_led" { print $2 }'; }
is_led() { [ "$(led)" = "$partitions" ]; }
# Waits until something is so; how many milliseconds after $1 that was. Notes the most memory on the way.
until_ms() {
    local began=$1 kb
    shift
    until "$@"; do
        if [ $(($(now_ms) - began)) -gt 120000 ]; then
            tail -n 5 "$dir/node.log" >&2
            exit 1
        fi
        kb=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 0)
        [ "${kb:-0}" -le "$(cat "$dir/most_kb")" ] || echo "$kb" >"$dir/most_kb"
        sleep 0.02
    done
    echo $(($(now_ms) - began))
}
drop() {
    python3 - "$dir/node" <<'PYTHON'
import os, sys
for root, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(root, name), "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
PYTHON
}

for gb in ${SIZES:-1 8}; do
    rm -rf "$dir/node"
    echo 0 >"$dir/most_kb"
    start
    until_ms "$(now_ms)" is_ready >/dev/null
    for topic in 1 2 3 4; do
        "$levada" bench produce --topic "data-$topic" --keep --partitions $((partitions / 4)) --replicas 1 --value-bytes 4096 \
            --rate 100 --warmup 0s --duration $((gb * 10 / 4))s --output json >/dev/null
    done
    held_mb=$(du -sm "$dir/node/segments" | cut -f1)
    segments=$(find "$dir/node/segments" -type f | wc -l)
    stop
    drop
    echo 0 >"$dir/most_kb"
    began=$(now_ms)
    start
    ready_ms=$(until_ms "$began" is_ready)
    led_ms=$(until_ms "$began" is_led)
    echo x | "$levada" produce data-1 >/dev/null
    produced_ms=$(($(now_ms) - began))
    printf '{"held_mb":%s,"segments":%s,"partitions":%s,"journal_mb":%s,"ready_ms":%s,"all_led_ms":%s,"first_record_acknowledged_ms":%s,"most_anonymous_mb":%s}\n' \
        "$held_mb" "$segments" "$partitions" "$(du -sm "$dir/node/journal" | cut -f1)" "$ready_ms" "$led_ms" "$produced_ms" \
        $(($(cat "$dir/most_kb") / 1024))
    stop
done
