#!/usr/bin/env bash
# haul from end to end on a real S3 server: sync, sync again, change, plan, delete, restore, check.
#   HAUL_DEMO_LARGE_MIB  size of the large file made for it (200)
#   HAUL_BIN             a haul to use instead of building one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=$PWD
servers=$repository/scripts/servers.sh
large_mib=${HAUL_DEMO_LARGE_MIB:-200}

finish() {
  "$servers" stop rgw seaweed || true
  rm -rf -- "$work"
}

headline() { printf '\n== %s\n' "$*"; }

show() { printf '\n$ %s\n' "$*"; }

haul() {
  show haul "$@"
  "$binary" "$@"
}

# large_file PATH MIB: the same bytes each time, that no compression makes smaller.
large_file() {
  python3 - "$@" <<'P'
import random, sys
stream = random.Random(2026)
with open(sys.argv[1], "wb") as file:
    for _ in range(int(sys.argv[2])):
        file.write(stream.randbytes(1 << 20))
P
}

# The last line of a run's JSON, which must say that nothing was sent.
nothing_sent() {
  python3 - "$1" <<'P'
import json, sys
last = open(sys.argv[1], encoding="utf-8").read().splitlines()[-1]
print(last)
summary = json.loads(last)
if summary["event"] != "summary" or summary["transferred"] != 0:
    sys.exit("demo: the second sync should have sent nothing")
P
}

if [[ -z ${HAUL_BIN:-} ]]; then
  cargo build --release --locked
  HAUL_BIN=${CARGO_TARGET_DIR:-target}/release/haul
fi
binary=$(realpath "$HAUL_BIN")

status=0
server=rgw
"$servers" install rgw || status=$?
if ((status == 3)); then
  server=seaweed
  "$servers" install seaweed
elif ((status != 0)); then
  exit "$status"
fi

# Servers, state and settings of its own: nothing of the person who runs it is used or changed.
mkdir -p target/servers
work=$(mktemp -d "$(realpath target/servers)/demo.XXXXXX")
trap finish EXIT
unset "${!AWS_@}" "${!HAUL_@}"
export HAUL_SERVERS_DIR=$work HAUL_STATE_DIR=$work/state XDG_CONFIG_HOME=$work/config
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost
"$servers" start "$server"
settings=$("$servers" env "$server")
eval "$settings"
case $server in
  rgw) headline "the server: Ceph RADOS Gateway ($(radosgw --version | cut -d ' ' -f 1-3)) on $AWS_ENDPOINT_URL" ;;
  seaweed) headline "the server: SeaweedFS on $AWS_ENDPOINT_URL (Ceph cannot be installed here)" ;;
esac

cd "$work"
cp -r "$repository/fixtures/dataset" dataset
large_file dataset/run10/checkpoint.bin "$large_mib"
headline "the source: $(find dataset -type f | wc -l) files, $(du -sh --apparent-size dataset | cut -f 1)"

headline "a first sync sends everything"
haul mb s3://demo-bucket
haul sync dataset s3://demo-bucket/dataset

headline "a second sync sends nothing"
show haul sync --json dataset s3://demo-bucket/dataset
"$binary" sync --json dataset s3://demo-bucket/dataset >second.json
nothing_sent second.json

headline "one file changed, one new, one gone"
echo "2024-03-02T00:00:00Z,recalibrated" >>dataset/run01/series.csv
echo "a late addition" >"dataset/run02/late note.txt"
rm dataset/run10/solver.log
haul plan --delete dataset s3://demo-bucket/dataset
haul sync --delete dataset s3://demo-bucket/dataset
haul ls -l -r s3://demo-bucket/dataset

headline "restored elsewhere, and compared"
haul sync s3://demo-bucket/dataset restored
haul check restored s3://demo-bucket/dataset
show diff -r dataset restored
diff -r dataset restored

printf '\ndemo: restored tree is identical\n'
