#!/usr/bin/env bash
# The figures of the write and read path, on three nodes of this machine and in one run: see README.md here.
#   bench/figures.sh [--short]
# Needs Rust; for the last line python3 with pyarrow in $PYTHON (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=60 paced=300 step=20
[ "${1:-}" = --short ] && seconds=5 paced=5 step=3
cargo build --release --package levada
levada="${CARGO_TARGET_DIR:-target}/release/levada"
python="${PYTHON:-python3}"
# Beside the build: a directory for temporary files may be memory, whose fsync costs nothing.
dir=$(mktemp -d "${CARGO_TARGET_DIR:-target}/figures.XXXXXX")
dev=
end() {
  [ -n "$dev" ] && kill -INT "$dev" && wait "$dev" || true
  rm -rf "$dir"
}
trap end EXIT

# Nodes of its own for each figure: what one leaves behind (journal files, and blocks that are discarded when files of
# gigabytes go, for seconds) is not the next one's.
fresh() {
  if [ -n "$dev" ]; then kill -INT "$dev"; wait "$dev" || true; rm -rf "$dir/nodes"; sync; sleep 10; fi
  "$levada" dev --nodes 3 --data-dir "$dir/nodes" --port-base 0 >"$dir/dev.log" 2>&1 &
  dev=$!
  for _ in $(seq 100); do
    LEVADA_BOOTSTRAP=$(sed -n 's/.*"native": *"\([^"]*\)".*/\1/p' "$dir/nodes/cluster.json" 2>/dev/null | head -n 1) || true
    export LEVADA_BOOTSTRAP
    [ -n "$LEVADA_BOOTSTRAP" ] && "$levada" cluster status >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "the nodes do not start:" >&2
  cat "$dir/dev.log" >&2
  exit 1
}

figure() {
  local name=$1
  shift
  fresh
  printf '%s\t' "$name"
  "$levada" --output json bench "$@" 2>/dev/null
}

disk=(--disk-dir "$dir")
figure "produce, no rate" produce "${disk[@]}" --duration "${seconds}s"
figure "produce, 50 MB/s" produce "${disk[@]}" --rate 50 --duration "${paced}s"
for partitions in 1 64 512; do
  figure "produce, 20 MB/s, $partitions partitions" \
    produce "${disk[@]}" --rate 20 --partitions "$partitions" --duration "${step}s"
done
figure "produce, unloaded" produce "${disk[@]}" --in-flight 1 --partitions 1 --linger 0ms --duration 10s
figure "consume, rows" consume --duration 10s
figure "consume, typed" consume --typed --duration 10s

# One partition, read by the Rust reader and by pyarrow from the same node in the same minute.
for kind in rows typed; do
  typed=() column=value
  [ "$kind" = typed ] && typed=(--typed) column=payload
  figure "consume, $kind, 1 partition" consume "${typed[@]}" --topic read --partitions 1 --keep --duration 10s
  flight=$(sed -n 's/.*"flight": *"\([^"]*\)".*/\1/p' "$dir/nodes/cluster.json" | head -n 1)
  printf 'pyarrow and stalled readers, %s, 1 partition\t' "$kind"
  "$python" bench/readers.py "$flight" read "$column" "$dir/nodes/cluster.json"
done
