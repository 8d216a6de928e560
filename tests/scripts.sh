#!/usr/bin/env bash
# start_servers.sh and stop_servers.sh as a person uses them: what they print is run as it stands.
#
# Usage: tests/scripts.sh [BINARY]
# BINARY is target/release/proxy-herd by default. The scripts are copied, and build nothing: a herd
# that was started from here is not disturbed. Needs nc (OpenBSD's), python3 and openssl.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(realpath "${1:-target/release/proxy-herd}")
patience=10 # seconds that any single step may take

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

[ -x "$binary" ] || die "there is no $binary: build it with cargo build --release"
mkdir -p "$dir/bin" "$dir/target/release"
cp -r scripts "$dir"
ln -s "$binary" "$dir/target/release/proxy-herd"
printf '#!/bin/sh\n' >"$dir/bin/cargo" # all is built
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

# start EXIT [OPTION…]: what start_servers.sh prints, on both outputs, is in $said.
start() {
    local expected=$1 status=0
    shift
    said=$("$dir/scripts/start_servers.sh" -c "$dir/config.yml" "$@" 2>&1) || status=$?
    [ "$status" -eq "$expected" ] || die "start_servers.sh $*: exit $status instead of $expected: $said"
}

says() { # says WHAT TEXT
    [[ $said == *"$2"* ]] || die "$1"$'\n'"     got: $said"$'\n'"expected: $2"
    echo "ok: $1"
}

says_not() { # says_not WHAT TEXT
    [[ $said != *"$2"* ]] || die "$1: $said"
    echo "ok: $1"
}

halt() { said=$("$dir/scripts/stop_servers.sh" 2>&1) || die "stop_servers.sh: exit $?: $said"; }

# The two commands that it gives to try, and places whose names hold NAME.
try_it() { # try_it WHAT NAME
    local iamat whatsat reply deadline=$((SECONDS + patience))
    iamat=$(sed -n "s/^  \(printf 'IAMAT .*\)/\1/p" <<<"$said")
    whatsat=$(sed -n "s/^  \(printf 'WHATSAT .*\)/\1/p" <<<"$said")
    # Again until an update crosses: the first may come before the nodes are linked.
    until [[ $(eval "$iamat") == "AT Jaquez "* ]] && reply=$(eval "$whatsat") && [[ $reply == AT* ]]; do
        [ "$SECONDS" -lt "$deadline" ] || die "$1: what is to be tried does not work: $reply"
    done
    [ "$(grep -c "\"name\": \".*$2" <<<"$reply")" -eq 5 ] || die "$1: not five places: $reply"
    echo "ok: $1"
}

start 2 --bogus
says "an option that there is not" "usage: scripts/start_servers.sh"

start 0
for node in Bailey Bona Campbell Clark Jaquez; do says "$node is started" "$dir/logs/$node.log"; done
try_it "what it says to try" "" # on one line each, as they are pasted
start 1
says "it runs already" "already running: Bailey (pid"

kill -9 "$(<"$dir/run/nodes/Bona.pid")"
start 1
says "all but one run already" "already running: Bailey (pid"
says "and one does not" "not running any more: Bona"
says_not "which is not said to be started" "started again"
halt
says "the one that has ended is told of" "not running any more: Bona"
says "the others are stopped" "stopped: Bailey, Campbell, Clark, Jaquez"
halt
says "there is nothing to stop" "nothing is running"

start 0
for file in "$dir"/run/nodes/*.pid; do kill -9 "$(<"$file")"; done
deadline=$((SECONDS + patience))
for port in "${ports[@]}"; do
    while accepts "$port"; do [ "$SECONDS" -lt "$deadline" ] || die "the nodes do not end"; done
done
start 0
says "nodes that have ended are started again" "Clark has ended since it was started"
halt

nc -lk 127.0.0.1 "${ports[4]}" >/dev/null &
listener=$!
deadline=$((SECONDS + patience))
until accepts "${ports[4]}"; do [ "$SECONDS" -lt "$deadline" ] || die "nc does not listen"; done
start 1
says "a port is taken" "port ${ports[4]}, which is to be that of Jaquez"
kill "$listener"
listener=
halt
says "and nothing was left running" "nothing is running"

for provider in google google_legacy overpass; do
    start 0 "--emulator=$provider"
    says "emulator of $provider" "Places: emulated $provider at https://localhost:"
    try_it "places of $provider" "[Ee]mulated"
    halt
    says "the emulator is stopped" "the emulator"
done
(cd "$dir/bin" && exec ../scripts/demo.sh -c ../config.yml 12) >"$dir/demo" 2>&1 &
demo=$!
# A vehicle told Bailey, then was somewhere else, and Jaquez knows both.
knows() { printf 'WHATSAT van000.la.example.org 0 0\n' | nc -N 127.0.0.1 "${ports[4]}" 2>/dev/null | head -n 1; }
deadline=$((SECONDS + patience + patience))
until [[ $(knows) == "AT Bailey "* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "no vehicle of the demonstration is heard of: $(<"$dir/demo")"
done
first=$(knows)
until [[ $(knows) != "$first" ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the vehicle stands still: $first"
done
said=$(<"$dir/demo")
says "the demonstration is under way" "12 vehicles are on their way."
kill "$demo"
wait "$demo" || die "the demonstration ends with exit $?: $(<"$dir/demo")"
demo=
said=$(<"$dir/demo")
says "and is stopped" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"
halt
says "all of it" "nothing is running"

# Interrupted while it builds: nothing is left that would keep the next one away.
printf '#!/bin/sh\necho $$ >"%s"\nexec sleep 100\n' "$dir/cargo.pid" >"$dir/bin/cargo"
"$dir/scripts/start_servers.sh" -c "$dir/config.yml" >"$dir/interrupted" 2>&1 &
starting=$!
deadline=$((SECONDS + patience))
until [ -s "$dir/cargo.pid" ]; do [ "$SECONDS" -lt "$deadline" ] || die "it does not build"; done
kill "$starting"
status=0
wait "$starting" || status=$?
[ "$status" -eq 130 ] || die "an interrupted build: exit $status: $(<"$dir/interrupted")"
deadline=$((SECONDS + patience))
while kill -0 "$(<"$dir/cargo.pid")" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || die "cargo is still there"
done
printf '#!/bin/sh\n' >"$dir/bin/cargo"
start 0
halt
says "a build that was interrupted leaves nothing behind" "stopped: Bailey"

! grep -rqs EMULATOR_KEY "$dir/logs" || die "the key is in a log"
echo "scripts: all went as they say"
