#!/usr/bin/env bash
# What many idle partitions cost: three nodes on this machine, PARTITIONS partitions with three replicas each. Prints one line
# of JSON: how long creation took, what each node takes while nothing happens, how long until every partition has a leader
# again after one node was killed, how long the killed one takes to be ready again, and how long all three take when they
# are killed at once.
#
#   bash bench/partitions.sh                        # 2,000 partitions, about two minutes, nothing else running
#   PARTITIONS=10000 bash bench/partitions.sh
#
# LEVADA: the binary (a release build by default). TOPICS: of how many topics they are (1). IDLE_S: how long to watch (20).
# SETTLE_S: how long to wait before (30). DIR: where data goes. PORT: the first of thirty ports. WITHIN_S: when to give up
# waiting for a step (120).
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
levada=${LEVADA:-$target/release/levada}
partitions=${PARTITIONS:-2000}
topics=${TOPICS:-1}
idle_s=${IDLE_S:-20}
settle_s=${SETTLE_S:-30}
within_s=${WITHIN_S:-120}
base=${PORT:-23000}
# Beside the build: a directory for temporary files may be memory, whose fsync costs nothing.
dir=$(mktemp -d "${DIR:-$target}/partitions.XXXXXX")
declare -A pids
trap 'for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

port() { echo $((base + $1 * 10)); }
seeds=$(for n in 1 2 3; do printf '%s@127.0.0.1:%s,' "$n" "$(port "$n")"; done)
seeds=${seeds%,}
bootstrap=$(for n in 1 2 3; do printf '127.0.0.1:%s,' "$(port "$n")"; done)
export LEVADA_BOOTSTRAP=${bootstrap%,}

start() {
    local p
    p=$(port "$1")
    env -u LEVADA_BOOTSTRAP "$levada" server --node-id "$1" --data-dir "$dir/node-$1" --seed-nodes "$seeds" \
        --listen-native "127.0.0.1:$p" --listen-flight "127.0.0.1:$((p + 1))" --listen-http "127.0.0.1:$((p + 2))" \
        --log-filter warn >>"$dir/node-$1.log" 2>&1 &
    pids[$1]=$!
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
is_ready() { curl -sf "http://127.0.0.1:$(($(port "$1") + 2))/health/ready" >/dev/null 2>&1; }
# The value of a metric of a node, 0 if it is not there.
metric() {
    curl -sf "http://127.0.0.1:$(($(port "$1") + 2))/metrics" 2>/dev/null |
        awk -v name="$2" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { printf "%.0f", sum }'
}
# Waits until something is so; how many milliseconds after $1 that was.
until_ms() {
    local began=$1
    shift
    until "$@"; do
        if [ $(($(now_ms) - began)) -gt $((within_s * 1000)) ]; then
            echo "not within $within_s s: $*" >&2
            tail -n 3 "$dir"/node-*.log >&2
            exit 1
        fi
        sleep 0.05
    done
    echo $(($(now_ms) - began))
}
all_ready() { for n in "$@"; do is_ready "$n" || return 1; done; }
# Whether these nodes together lead every partition. One that is dead leads nothing.
all_led() {
    local led=0
    for n in "$@"; do led=$((led + $(metric "$n" levada_partitions_led))); done
    [ "$led" -ge "$partitions" ]
}
cpu_ticks() { awk '{ print $14 + $15 }' "/proc/${pids[$1]}/stat"; }
anonymous_kb() { awk '/^RssAnon/ { print $2 }' "/proc/${pids[$1]}/status"; }
# A list of one figure of each node.
each() {
    local command=$1 list=
    for n in 1 2 3; do list="$list,$("$command" "$n")"; done
    echo "[${list#,}]"
}
anonymous_mb() { echo $(($(anonymous_kb "$1") / 1024)); }
disk_mb() { du -sm "$dir/node-$1" | cut -f1; }
open_files() { find "/proc/${pids[$1]}/fd" -mindepth 1 | wc -l; }
maps() { wc -l <"/proc/${pids[$1]}/maps"; }
asleep() { metric "$1" levada_groups_asleep; }
# What a node took of one core while nothing happened, in percent.
idle() {
    declare -A before
    for n in 1 2 3; do before[$n]=$(cpu_ticks "$n"); done
    sleep "$idle_s"
    local list=
    for n in 1 2 3; do
        list="$list,$(awk -v ticks=$(($(cpu_ticks "$n") - before[$n])) -v hz="$(getconf CLK_TCK)" -v s="$idle_s" \
            'BEGIN { printf "%.1f", 100 * ticks / hz / s }')"
    done
    echo "[${list#,}]"
}

for n in 1 2 3; do start "$n"; done
until_ms "$(now_ms)" all_ready 1 2 3 >/dev/null
bare_mb=$(each anonymous_mb)

began=$(now_ms)
for topic in $(seq "$topics"); do
    "$levada" topic create "many-$topic" --partitions $((partitions / topics)) --replicas 3 --timeout "${within_s}s" >/dev/null
done
answered_ms=$(($(now_ms) - began))
created_ms=$(until_ms "$began" all_led 1 2 3)
sleep "$settle_s"
idle_percent=$(idle)
asleep=$(each asleep)
idle_mb=$(each anonymous_mb)
disk=$(each disk_mb)
files=$(each open_files)
maps=$(each maps)

kill -9 "${pids[3]}"
began=$(now_ms)
led_ms=$(until_ms "$began" all_led 1 2)
wait "${pids[3]}" 2>/dev/null || true
sleep 5
began=$(now_ms)
start 3
back_ms=$(until_ms "$began" is_ready 3)
sleep "$settle_s"
idle_after_percent=$(idle)

for n in 1 2 3; do kill -9 "${pids[$n]}"; done
wait 2>/dev/null || true
began=$(now_ms)
for n in 1 2 3; do start "$n"; done
all_ready_ms=$(until_ms "$began" all_ready 1 2 3)
all_led_ms=$(until_ms "$began" all_led 1 2 3)
restarted_mb=$(each anonymous_mb)

printf '{"partitions":%s,"topics":%s,"replicas":3,"nodes":3,"cores":%s,"idle_s":%s,' \
    "$partitions" "$topics" "$(nproc)" "$idle_s"
printf '"create_answered_ms":%s,"create_all_led_ms":%s,' "$answered_ms" "$created_ms"
printf '"idle_cpu_percent_of_a_core":%s,"groups_asleep":%s,' "$idle_percent" "$asleep"
printf '"bare_anonymous_mb":%s,"idle_anonymous_mb":%s,"disk_mb":%s,"open_files":%s,"maps":%s,' \
    "$bare_mb" "$idle_mb" "$disk" "$files" "$maps"
printf '"killed_node_all_led_ms":%s,"killed_node_ready_ms":%s,"idle_cpu_percent_after":%s,' \
    "$led_ms" "$back_ms" "$idle_after_percent"
printf '"restart_all_ready_ms":%s,"restart_all_led_ms":%s,"restarted_anonymous_mb":%s}\n' \
    "$all_ready_ms" "$all_led_ms" "$restarted_mb"
