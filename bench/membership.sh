#!/usr/bin/env bash
# Nodes come and go under a steady load: five nodes, 20 MB/s; a node is added, one decommissioned, a wiped one replaced, all
# are restarted one by one. Prints what the load saw before and meanwhile, what was moved in what time, and in the end how many
# records are read back, each at its offset, of those that were acknowledged.
#
#   bash bench/membership.sh            # about 5 minutes, 20 GB of disk, nothing else running; needs jq
#
# LEVADA: the binary (a release build by default). RATE: MB/s. DIR: where data goes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
levada=${LEVADA:-$target/release/levada}
rate=${RATE:-20}
# Beside the build: a directory for temporary files may be memory, whose fsync costs nothing.
dir=$(mktemp -d "${DIR:-$target}/membership.XXXXXX")
declare -A pids
trap 'for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

port() { echo $((21000 + $1 * 10)); }
seeds=$(for n in 1 2 3 4 5; do printf '%s@127.0.0.1:%s,' "$n" "$(port "$n")"; done)
seeds=${seeds%,}
bootstrap=$(for n in 1 2 3 4 5 6; do printf '127.0.0.1:%s,' "$(port "$n")"; done)
export LEVADA_BOOTSTRAP=${bootstrap%,}

start() {
    local p
    p=$(port "$1")
    env -u LEVADA_BOOTSTRAP "$levada" server --node-id "$1" --data-dir "$dir/node-$1" --seed-nodes "$seeds" \
        --listen-native "127.0.0.1:$p" --listen-flight "127.0.0.1:$((p + 1))" --listen-http "127.0.0.1:$((p + 2))" \
        --log-filter warn >>"$dir/node-$1.log" 2>&1 &
    pids[$1]=$!
}
ready() {
    for _ in $(seq 300); do
        curl -sf "http://127.0.0.1:$(($(port "$1") + 2))/health/ready" >/dev/null && return
        sleep 0.1
    done
    echo "node $1 does not become ready" >&2
    tail -5 "$dir/node-$1.log" >&2
    exit 1
}
gone() {
    while kill -0 "${pids[$1]}" 2>/dev/null; do sleep 0.1; done
    unset "pids[$1]"
}
load() { "$levada" bench produce --topic load --partitions 12 --replicas 3 --rate "$rate" --output json "$@"; }

for n in 1 2 3 4 5; do start "$n"; done
for n in 1 2 3 4 5; do ready "$n"; done

before=$(load --duration 30s)
echo "before: $before"
sleep 5
load --duration "${DURATION:-150s}" --keep >"$dir/load.json" 2>"$dir/load.err" &
loading=$!
sleep 15
start 6
echo "add 6: $("$levada" cluster add 6 --output json)"
sleep 3
echo "decommission 5: $("$levada" cluster decommission 5 --output json)"
gone 5
sleep 3
kill -9 "${pids[4]}"
gone 4
rm -rf "$dir/node-4"
(sleep 1; echo) && "$levada" cluster replace 4 --no-wait --output json >/dev/null
start 4
ready 4
began=$(date +%s%N)
until "$levada" cluster status --output json | grep -q '"moving_to":\[[0-9]' ; do sleep 0.2; [ $(($(date +%s%N) - began)) -gt 3000000000 ] && break; done
while "$levada" cluster status --output json | grep -q '"moving_to":\[[0-9]'; do sleep 0.2; done
took=$((($(date +%s%N) - began) / 1000000))
copied=$("$levada" cluster status --output json | jq '.nodes[] | select(.id == 4).copied_bytes')
echo "replace 4: back with all replicas after $took ms, $copied bytes copied"
sleep 3
for n in 1 2 3 4 6; do
    kill "${pids[$n]}"
    gone "$n"
    start "$n"
    ready "$n"
    sleep 2
done
echo "all restarted"
wait "$loading" || { cat "$dir/load.err" >&2; exit 1; }
meanwhile=$(cat "$dir/load.json")
echo "meanwhile: $meanwhile"
jq -nr --argjson before "$before" --argjson meanwhile "$meanwhile" \
    '"p99 meanwhile is \($meanwhile.p99_ms / $before.p99_ms * 100 | round / 100) times that before"'
ends=$("$levada" cluster status --output json | jq '[.partitions[] | select(.topic == "load").high_watermark] | add')
read=$("$levada" consume load --columns partition,offset --format csv | tail -n +2 | sort -u | wc -l)
echo "read back: $read records, $ends offsets, acknowledged $(jq .acknowledged_in_all <<<"$meanwhile")"
[ "$read" -eq "$ends" ] && [ "$read" -ge "$(jq .acknowledged_in_all <<<"$meanwhile")" ]
"$levada" cluster status | sed -n 1,10p
