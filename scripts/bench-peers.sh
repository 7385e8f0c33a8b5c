#!/usr/bin/env bash
# haul beside s5cmd on one server of our own: scripts/bench-peers.sh [rgw|seaweed] [ARGS of benches/peers.py...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
server=rgw
case ${1:-} in rgw | seaweed) server=$1 && shift ;; esac

cargo build --release --locked
scripts/servers.sh install tools
scripts/servers.sh install "$server"
mkdir -p target/servers
HAUL_SERVERS_DIR=$(mktemp -d "$PWD/target/servers/bench.XXXXXX")
export HAUL_SERVERS_DIR
trap 'scripts/servers.sh stop "$server"; rmdir "$HAUL_SERVERS_DIR"' EXIT
scripts/servers.sh start "$server"
settings=$(scripts/servers.sh env "$server" tools)
eval "$settings"
"$HAUL_TEST_PYTHON" benches/peers.py --s5cmd "$(dirname "$HAUL_TEST_PYTHON")/s5cmd" "$@"
