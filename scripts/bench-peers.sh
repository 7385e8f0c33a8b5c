#!/usr/bin/env bash
# haul beside other tools: scripts/bench-peers.sh [ARGS...]; benches/peers.py says what they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# build KIND NAME: builds it for release and prints where the program is
build() {
  cargo build --release --locked "--$1" "$2" --message-format=json-render-diagnostics \
    | sed -n "s/.*\"executable\":\"\([^\"]*\/$2[^\"\/]*\)\".*/\1/p"
}

# For a bench cargo builds haul as well, with features that only benches ask for; so haul comes last.
BENCH_S3SERVER=$(build bench s3server)
BENCH_HAUL=$(build bin haul)
export BENCH_HAUL BENCH_S3SERVER
scripts/servers.sh install peers
settings=$(scripts/servers.sh env tools)
eval "$settings"
exec "$HAUL_TEST_PYTHON" benches/peers.py "$@"
