#!/usr/bin/env bash
# Tests start_servers.sh, stop_servers.sh and demo.sh, including the commands they print.
#
# Usage: tests/scripts.sh [BINARY]
#
# BINARY defaults to target/release/proxy-herd. The scripts run from a copy and build nothing, so a
# running herd is not affected. Requires OpenBSD nc, python3 and openssl.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(realpath "${1:-target/release/proxy-herd}")
step_timeout=10 # seconds

die() {
    echo "scripts: $*" >&2
    exit 1
}

dir=$(mktemp -d)
listener=
demo=
stop() {
    local status=$?
    [ -z "$listener" ] || kill "$listener" 2>/dev/null || true
    [ -z "$demo" ] || kill "$demo" 2>/dev/null || true
    "$dir/scripts/stop_servers.sh" >/dev/null || true
    if [ "$status" -eq 0 ]; then rm -rf "$dir"; else echo "scripts: logs are in $dir" >&2; fi
}
trap stop EXIT

[ -x "$binary" ] || die "$binary not found: build it with cargo build --release"
for tool in nc python3 openssl; do
    command -v "$tool" >/dev/null || die "$tool not found"
done
mkdir -p "$dir/bin" "$dir/target/release"
cp -r scripts "$dir"
ln -s "$binary" "$dir/target/release/proxy-herd"
printf '#!/bin/sh\n' >"$dir/bin/cargo" # nothing to build
chmod +x "$dir/bin/cargo"
export PATH=$dir/bin:$PATH CARGO_TARGET_DIR=$dir/target
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

accepts() { # accepts PORT
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

candidate=$((11000 + $$ % 20000))
ports=()
while [ "${#ports[@]}" -lt 5 ]; do
    accepts "$candidate" || ports+=("$candidate")
    candidate=$((candidate + 1))
done
cat >"$dir/config.yml" <<END
ports: {Bailey: ${ports[0]}, Bona: ${ports[1]}, Campbell: ${ports[2]}, Clark: ${ports[3]}, Jaquez: ${ports[4]}}
neighbors: {Bailey: [Bona, Campbell], Bona: [Clark, Campbell], Jaquez: [Clark, Campbell]}
END

# start EXIT [OPTION…]: runs start_servers.sh and sets $printed to its standard output and error.
start() {
    local expected=$1 status=0
    shift
    printed=$("$dir/scripts/start_servers.sh" -c "$dir/config.yml" "$@" 2>&1) || status=$?
    [ "$status" -eq "$expected" ] || die "start_servers.sh $*: exit $status instead of $expected: $printed"
}

prints() { # prints WHAT TEXT
    [[ $printed == *"$2"* ]] || die "$1"$'\n'"     got: $printed"$'\n'"expected: $2"
    echo "ok: $1"
}

prints_not() { # prints_not WHAT TEXT
    [[ $printed != *"$2"* ]] || die "$1: $printed"
    echo "ok: $1"
}

halt() { printed=$("$dir/scripts/stop_servers.sh" 2>&1) || die "stop_servers.sh: exit $?: $printed"; }

# Runs the two commands that start_servers.sh printed, and checks that five places match NAME.
try_it() { # try_it WHAT NAME
    local iamat whatsat reply="" deadline=$((SECONDS + step_timeout))
    iamat=$(sed -n "s/^  \(printf 'IAMAT .*\)/\1/p" <<<"$printed")
    whatsat=$(sed -n "s/^  \(printf 'WHATSAT .*\)/\1/p" <<<"$printed")
    # Retry until the update arrives, since the first may be sent before the nodes are linked.
    until [[ $(eval "$iamat") == "AT Jaquez "* ]] && reply=$(eval "$whatsat") && [[ $reply == AT* ]]; do
        [ "$SECONDS" -lt "$deadline" ] || die "$1: the printed commands fail: $reply"
    done
    [ "$(grep -c "\"name\": \".*$2" <<<"$reply")" -eq 5 ] || die "$1: not five places: $reply"
    echo "ok: $1"
}

start 2 --bogus
prints "an unknown option is rejected" "usage: scripts/start_servers.sh"

start 0
for node in Bailey Bona Campbell Clark Jaquez; do prints "$node is started" "$dir/logs/$node.log"; done
try_it "the printed commands work" ""
start 1
prints "a second start is refused" "already running: Bailey (pid"

kill -9 "$(<"$dir/run/nodes/Bona.pid")"
start 1
prints "a start is refused if some nodes run" "already running: Bailey (pid"
prints "and the stopped node is listed" "no longer running: Bona"
prints_not "and not started" "starting it again"
halt
prints "a node that had exited is listed" "no longer running: Bona"
prints "the others are stopped" "stopped: Bailey, Campbell, Clark, Jaquez"
halt
prints "nothing to stop" "nothing is running"

start 0
for file in "$dir"/run/nodes/*.pid; do kill -9 "$(<"$file")"; done
deadline=$((SECONDS + step_timeout))
for port in "${ports[@]}"; do
    while accepts "$port"; do [ "$SECONDS" -lt "$deadline" ] || die "the nodes do not exit"; done
done
start 0
prints "nodes that have exited are started again" "Clark is no longer running (stale pid file)"
halt

nc -lk 127.0.0.1 "${ports[4]}" >/dev/null &
listener=$!
deadline=$((SECONDS + step_timeout))
until accepts "${ports[4]}"; do [ "$SECONDS" -lt "$deadline" ] || die "nc does not listen"; done
start 1
prints "a port in use is reported" "port ${ports[4]} of Jaquez is in use"
kill "$listener"
listener=
halt
prints "and no node was left running" "nothing is running"

for provider in google google_legacy overpass; do
    start 0 "--emulator=$provider"
    prints "emulator of $provider" "Places: emulated $provider at https://localhost:"
    try_it "places of $provider" "[Ee]mulated"
    halt
    prints "the emulator is stopped" "the emulator"
done
(cd "$dir/bin" && exec ../scripts/demo.sh -c ../config.yml 12) >"$dir/demo" 2>&1 &
demo=$!
# A vehicle reports to Bailey, and its updates reach Jaquez.
position() { printf 'WHATSAT van000.la.example.org 0 0\n' | nc -N 127.0.0.1 "${ports[4]}" 2>/dev/null | head -n 1; }
deadline=$((SECONDS + step_timeout + step_timeout))
until [[ $(position) == "AT Bailey "* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "no position of a vehicle reaches Jaquez: $(<"$dir/demo")"
done
first=$(position)
until [[ $(position) != "$first" ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the vehicle does not move: $first"
done
printed=$(<"$dir/demo")
prints "the demo is running" "12 vehicles are driving."
kill "$demo"
wait "$demo" || die "demo.sh: exit $?: $(<"$dir/demo")"
demo=
printed=$(<"$dir/demo")
prints "the demo stops its herd" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"
halt
prints "and leaves nothing running" "nothing is running"

# After an interrupted build, the next start succeeds.
printf '#!/bin/sh\necho $$ >"%s"\nexec sleep 100\n' "$dir/cargo.pid" >"$dir/bin/cargo"
"$dir/scripts/start_servers.sh" -c "$dir/config.yml" >"$dir/interrupted" 2>&1 &
starting=$!
deadline=$((SECONDS + step_timeout))
until [ -s "$dir/cargo.pid" ]; do [ "$SECONDS" -lt "$deadline" ] || die "the build does not start"; done
kill "$starting"
status=0
wait "$starting" || status=$?
[ "$status" -eq 130 ] || die "an interrupted build: exit $status: $(<"$dir/interrupted")"
deadline=$((SECONDS + step_timeout))
while kill -0 "$(<"$dir/cargo.pid")" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || die "cargo still runs"
done
printf '#!/bin/sh\n' >"$dir/bin/cargo"
start 0
halt
prints "an interrupted build does not prevent the next start" "stopped: Bailey"

[ -s "$dir/logs/Clark.log" ] || die "there are no logs to search for the key"
! grep -rq EMULATOR_KEY "$dir/logs" || die "the key is in a log"
echo "scripts: all tests passed"
