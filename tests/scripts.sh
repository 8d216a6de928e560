#!/usr/bin/env bash
# Tests start_servers.sh, stop_servers.sh and demo.sh, including the commands they print.
#
# Usage: tests/scripts.sh [BINARY]
#
# BINARY defaults to target/release/proxy-herd. The scripts run from a copy and build nothing, so a
# running herd is not affected. Requires OpenBSD nc, python3, openssl and pgrep.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/.."

binary=$(realpath "${1:-target/release/proxy-herd}")
step_timeout=10 # seconds

die() {
    echo "scripts: $*" >&2
    exit 1
}

base=$(mktemp -d)
dir="$base/proxy herd" # a path with a space
mkdir "$dir"
listener=
demo=
stranger=
was=
stop() {
    local status=$?
    [ -z "$listener" ] || kill "$listener" 2>/dev/null || true
    [ -z "$demo" ] || kill "$demo" 2>/dev/null || true
    [ -z "$stranger" ] || kill "$stranger" 2>/dev/null || true
    [ -z "$was" ] || kill "$was" 2>/dev/null || true
    "$dir/scripts/stop_servers.sh" >/dev/null || true
    if [ "$status" -eq 0 ]; then rm -rf "$base"; else echo "scripts: logs are in $dir" >&2; fi
}
trap stop EXIT

[ -x "$binary" ] || die "$binary not found: build it with cargo build --release"
for tool in nc python3 openssl pgrep; do
    command -v "$tool" >/dev/null || die "$tool not found"
done
mkdir -p "$dir/bin" "$dir/target/release"
cp -r scripts conf "$dir"
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

# Waits until a process has exited.
gone() { # gone PID
    local deadline=$((SECONDS + step_timeout))
    while kill -0 "$1" 2>/dev/null && [ -n "$(tr -d '\0' 2>/dev/null <"/proc/$1/cmdline")" ]; do
        [ "$SECONDS" -lt "$deadline" ] || die "process $1 still runs"
    done
}

crash() { # crash NODE
    local pid
    pid=$(<"$dir/run/nodes/$1.pid")
    kill -9 "$pid"
    gone "$pid"
}

# Waits until a node replies to a WHATSAT with a record.
knows() { # knows PORT CLIENT
    local deadline=$((SECONDS + step_timeout))
    until [[ $(printf 'WHATSAT %s 0 0\n' "$2" | nc -N 127.0.0.1 "$1" 2>/dev/null) == "AT "* ]]; do
        [ "$SECONDS" -lt "$deadline" ] || die "port $1 does not have the record of $2"
    done
}

# The usual way to stop the server on a port: `lsof` lists every process that uses the port, whether
# local or remote.
if command -v lsof >/dev/null; then
    names=(Bailey Bona Campbell Clark Jaquez)
    for at in "${!names[@]}"; do
        pid=$(<"$dir/run/nodes/${names[at]}.pid")
        deadline=$((SECONDS + step_timeout))
        until [ "$(lsof "-ti:${ports[at]}")" = "$pid" ]; do
            [ "$SECONDS" -lt "$deadline" ] || die "not only ${names[at]} uses port ${ports[at]}"
        done
        lsof "-ti:${ports[at]}" | xargs kill
        gone "$pid"
        for name in "${names[@]}"; do
            [ "$name" = "${names[at]}" ] || kill -0 "$(<"$dir/run/nodes/$name.pid")" ||
                die "$name ended with ${names[at]}"
        done
        start 0
        prints "${names[at]} is the only node that ends by its port" "${names[at]} is no longer running"
    done
else
    echo "skipped: nodes are not stopped by their ports, because lsof is not installed"
fi

before=$(<"$dir/run/nodes/Clark.pid")
crash Bona
start 0
prints "one node that had exited is started again" "Bona is no longer running (stale pid file); starting it again"
prints "while the others run" "already running: Bailey (pid"
[ "$(<"$dir/run/nodes/Clark.pid")" = "$before" ] || die "Clark has another pid"
knows "${ports[1]}" kiwi.cs.ucla.edu
echo "ok: and it receives the records"
crash Bona
sed 's/^ports:/logging: {level: WARNING}\n&/' "$dir/config.yml" >"$dir/other.yml"
printed=$("$dir/scripts/start_servers.sh" -c "$dir/other.yml" 2>&1) && die "a second configuration is accepted: $printed"
prints "a node is not added with another configuration" "runs with $dir/config.yml"
nc -lk 127.0.0.1 "${ports[1]}" >/dev/null &
listener=$!
deadline=$((SECONDS + step_timeout))
until accepts "${ports[1]}"; do [ "$SECONDS" -lt "$deadline" ] || die "nc does not listen"; done
start 1
prints "a node whose port is taken is not started again" "port ${ports[1]} of Bona is in use"
kill "$listener"
gone "$listener"
listener=
kill -0 "$before" || die "a failed start stopped Clark"
echo "ok: and the others keep running"
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
    crash Bona
    start 1
    prints "a node is not added without the emulator" "runs with $dir/run/emulator/config.yml"
    start 0 "--emulator=$provider"
    prints "a node is started again with the emulator that runs" "starting it again"
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
crash Bailey
deadline=$((SECONDS + 3 * step_timeout))
until [[ $(position) == "AT "* && $(position) != "AT Bailey "* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the vehicle does not use another node: $(<"$dir/demo")"
done
echo "ok: vehicles survive the failure of their node"
start 0
until [[ $(position) == "AT Bailey "* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the vehicle does not return to its node: $(<"$dir/demo")"
done
echo "ok: and return to it"
kill -STOP "$(<"$dir/run/nodes/Bailey.pid")"
until [[ $(position) != "AT Bailey "* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the vehicle waits for a node that does not reply: $(<"$dir/demo")"
done
kill -CONT "$(<"$dir/run/nodes/Bailey.pid")"
echo "ok: a node that does not reply is replaced as well"
kill "$demo"
wait "$demo" || die "demo.sh: exit $?: $(<"$dir/demo")"
demo=
printed=$(<"$dir/demo")
prints "the demo stops its herd" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"

# The commands that the demo prints: the same nearest vehicles on two nodes, and a vehicle that enters
# the depot.
"$binary" -c conf/demo.yml --check >/dev/null || die "conf/demo.yml is not valid"
web=()
while [ "${#web[@]}" -lt 2 ]; do
    accepts "$candidate" || web+=("$candidate")
    candidate=$((candidate + 1))
done
{
    cat "$dir/config.yml"
    echo "http: {ports: {Bailey: ${web[0]}, Jaquez: ${web[1]}}}"
    echo "fences: {file: conf/demo.geojson}"
} >"$dir/fenced.yml"
: >"$dir/demo"
"$dir/scripts/demo.sh" -c "$dir/fenced.yml" 50 >"$dir/demo" 2>&1 &
demo=$!
deadline=$((SECONDS + 3 * step_timeout))
until [[ $(<"$dir/demo") == *"Ctrl-C stops everything."* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the demo does not start: $(<"$dir/demo")"
done
nearest=$(sed -n "s/^  curl -s '\(.*\)'$/\1/p" "$dir/demo")
events=$(sed -n "s/^  curl -sN '\(.*\)'$/\1/p" "$dir/demo")
python3 - "$nearest" "${web[0]}" "${web[1]}" "$events" "$step_timeout" <<'END' || die "the commands of the demo: exit $?"
import json, sys, time, urllib.request
nearest, first, second, events, timeout = sys.argv[1:]
deadline = time.monotonic() + 6 * int(timeout)
def names(url):
    features = json.load(urllib.request.urlopen(url, timeout=10))["features"]
    return [(it["id"], it["geometry"]["coordinates"]) for it in features]
def agree():  # between two reports of the vehicles
    here, there = names(nearest), names(nearest.replace(first, second))
    return len(here) == 3 and here == there
while not agree():
    assert time.monotonic() < deadline, f"{names(nearest)} and {names(nearest.replace(first, second))}"
seen = set()
for line in urllib.request.urlopen(events, timeout=6 * int(timeout)):
    if line.startswith(b"event: "):
        seen.add(line.split()[1])
    if seen >= {b"enter", b"leave"}:
        break
    assert time.monotonic() < deadline, f"only {seen}"
END
echo "ok: every node names the same nearest vehicles, and vehicles enter and leave the depot"
kill "$demo"
wait "$demo" || die "demo.sh: exit $?: $(<"$dir/demo")"
demo=
halt
prints "and leaves nothing running" "nothing is running"

# After an interrupted build, the next start succeeds.
# cargo.pid is that of a compiler, which cargo started.
printf '#!/bin/sh\nsleep 100 &\necho $! >"%s"\nwait\n' "$dir/cargo.pid" >"$dir/bin/cargo"
"$dir/scripts/start_servers.sh" -c "$dir/config.yml" >"$dir/interrupted" 2>&1 &
starting=$!
deadline=$((SECONDS + step_timeout))
until [ -s "$dir/cargo.pid" ]; do [ "$SECONDS" -lt "$deadline" ] || die "the build does not start"; done
kill "$starting"
status=0
wait "$starting" || status=$?
[ "$status" -eq 130 ] || die "an interrupted build: exit $status: $(<"$dir/interrupted")"
gone "$(<"$dir/cargo.pid")"
printf '#!/bin/sh\n' >"$dir/bin/cargo"
start 0
halt
prints "an interrupted build does not prevent the next start" "stopped: Bailey"

# Runs a command as the foreground process group of a terminal would: with default signals and in its own
# session, so that signals can be sent to the group. To be called with &.
python=$(python3 -c 'import sys; print(sys.executable)') # not a script that selects one
foreground() { # foreground COMMAND…
    exec "$python" -c 'import os, signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_DFL)
os.setsid()
os.execvp(sys.argv[1], sys.argv[1:])' "$@"
}

no_node_accepts() { # no_node_accepts WHAT
    local port
    for port in "${ports[@]}"; do ! accepts "$port" || die "$1: a node still runs on port $port"; done
    echo "ok: $1"
}

# Ctrl-C at every command: the shims count the commands that start_servers.sh runs, and one sends SIGINT to
# the process group although the command itself succeeds.
mkdir "$dir/shims"
for tool in awk basename dirname flock grep mkdir readlink sed setsid sleep; do
    cat >"$dir/shims/$tool" <<END
#!/bin/bash
trap '' INT
exec 8>>"$dir/count"
$(command -v flock) 8
echo >&8
number=\$(wc -l <"$dir/count")
exec 8>&-
[ "\$number" -ne "\$INTERRUPT_AT" ] || kill -INT 0
trap - INT
exec $(command -v "$tool") "\$@"
END
    chmod +x "$dir/shims/$tool"
done
at=0
while :; do
    at=$((at + 1)) status=0
    : >"$dir/count"
    foreground env INTERRUPT_AT="$at" PATH="$dir/shims:$PATH" "$dir/scripts/start_servers.sh" -c "$dir/config.yml" \
        >"$dir/interrupted" 2>&1 &
    wait $! || status=$?
    if [ "$(wc -l <"$dir/count")" -lt "$at" ]; then break; fi # nothing was interrupted
    [ "$status" -eq 130 ] || die "Ctrl-C at command $at: exit $status: $(<"$dir/interrupted")"
    halt
    [ "$printed" = "nothing is running" ] || die "Ctrl-C at command $at leaves: $printed"
done
[ "$((status == 0 && at > 20))" -eq 1 ] || die "start_servers.sh: exit $status after $at commands"
halt
no_node_accepts "Ctrl-C at any of $at commands ends start_servers.sh and what it started"

# The demo. A stopped node makes stopping take its full time, in which further signals arrive.
driving() {
    local deadline=$((SECONDS + step_timeout))
    until [[ $(<"$dir/demo") == *"Ctrl-C stops everything."* ]]; do
        [ "$SECONDS" -lt "$deadline" ] || die "the demo does not start: $(<"$dir/demo")"
    done
}
for first in INT HUP QUIT; do
    : >"$dir/demo"
    foreground "$dir/scripts/demo.sh" -c "$dir/config.yml" 12 >"$dir/demo" 2>&1 &
    demo=$!
    driving
    deadline=$((SECONDS + step_timeout))
    until fleet=$(pgrep -P "$demo" -f fleet.py); do # forked, but not yet Python
        [ "$SECONDS" -lt "$deadline" ] || die "the demo has no fleet: $(<"$dir/demo")"
    done
    kill -STOP "$(<"$dir/run/nodes/Bona.pid")"
    kill "-$first" -- "-$demo"
    gone "$fleet" # the demo is stopping the herd
    for next in INT INT QUIT HUP TERM; do kill "-$next" -- "-$demo" 2>/dev/null || true; done
    wait "$demo" || die "demo.sh: exit $? after SIG$first: $(<"$dir/demo")"
    demo=
    no_node_accepts "SIG$first and further signals stop the demo and its herd"
done

# A signal at the very moment at which the trap of EXIT begins: the shell sends it to itself. The node of
# Jaquez cannot start, because a file has the name of its directory.
cat >"$dir/at_exit" <<'END'
set -T
sent=
trap 'case $sent${FUNCNAME-} in finish | stop_started) sent=yes && kill -TERM $$ ;; esac' DEBUG
END
mkdir "$dir/blocked"
: >"$dir/blocked/Jaquez"
{ cat "$dir/config.yml" && printf 'storage:\n  directory: "%s"\n' "$dir/blocked"; } >"$dir/fails.yml"
foreground env BASH_ENV="$dir/at_exit" "$dir/scripts/start_servers.sh" -c "$dir/fails.yml" >"$dir/interrupted" 2>&1 &
wait $! && die "a herd starts without the storage of a node"
[[ $(<"$dir/interrupted") == *"Jaquez did not start"* ]] || die "start_servers.sh fails otherwise: $(<"$dir/interrupted")"
no_node_accepts "a signal when start_servers.sh has begun to end does not prevent that"
foreground env BASH_ENV="$dir/at_exit" "$dir/scripts/demo.sh" -c "$dir/config.yml" 12 >"$dir/demo" 2>&1 &
demo=$!
driving
deadline=$((SECONDS + step_timeout))
until fleet=$(pgrep -P "$demo" -f fleet.py); do
    [ "$SECONDS" -lt "$deadline" ] || die "the demo has no fleet: $(<"$dir/demo")"
done
kill "$fleet"
wait "$demo" || true
demo=
no_node_accepts "nor the end of the demo"

# The end of the terminal: a hang-up, and writes that fail from then on.
python3 - "$dir/scripts/demo.sh" -c "$dir/config.yml" 12 <<'END' || die "the demo on a terminal: exit $?"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
printed = b""
while b"Ctrl-C stops everything." not in printed:
    printed += os.read(terminal, 4096)
os.close(terminal)
os.waitpid(pid, 0)
END
no_node_accepts "the end of the terminal stops the demo and its herd"
{ "$dir/scripts/demo.sh" -c "$dir/config.yml" 12 2>/dev/null || true; } | head -n 1 >/dev/null
no_node_accepts "a closed output stops the demo and its herd"
start 0
printed=$("$dir/scripts/demo.sh" -c "$dir/config.yml" 12 2>&1) && die "the demo takes over a herd: $printed"
prints "the demo does not take over a herd" "Bailey is already running"
halt
prints "nor stop it" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"

# Settings of the caller's shell must not matter, nor how the scripts are called.
printf 'export CDPATH=%q\nset -C -f\nshopt -s failglob\ncd() { builtin cd "$@" && pwd; }\n' "$base" >"$dir/bash_env"
for setting in "CDPATH=$base" "CDPATH=.:$base" "BASH_ENV=$dir/bash_env" SHELLOPTS=noglob SHELLOPTS=noclobber \
    SHELLOPTS=monitor BASHOPTS=failglob BASHOPTS=nocasematch:nullglob POSIXLY_CORRECT=1 LC_ALL=tr_TR.UTF-8 \
    'BASH_FUNC_cd%%=() { builtin cd "$@" && pwd; }'; do
    cd "$base"
    printed=$(env "$setting" "proxy herd/scripts/start_servers.sh" -c "proxy herd/config.yml" 2>&1) || die "with $setting: exit $?: $printed"
    printed=$(env "$setting" "proxy herd/scripts/start_servers.sh" -c "proxy herd/config.yml" 2>&1) && die "with $setting: started twice"
    prints "start_servers.sh with ${setting%%=*} = ${setting#*=}" "already running: Bailey (pid"
    printed=$(env "$setting" "proxy herd/scripts/stop_servers.sh" 2>&1) || die "with $setting: exit $?: $printed"
    prints "stop_servers.sh with it" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"
    printed=$(env "$setting" "proxy herd/scripts/stop_servers.sh" 2>&1) || die "with $setting: exit $?: $printed"
    prints "also if nothing runs" "nothing is running"
    cd "$OLDPWD"
done
mkdir "$base/links"
ln -s "$dir/scripts/start_servers.sh" "$base/links/start-herd"
ln -s ../links/start-herd "$base/links/again"
ln -s "$dir/scripts/stop_servers.sh" "$base/links/stop-herd"
ln -s "$dir" "$base/checkout"
printed=$("$base/links/again" -c "$base/checkout/config.yml" 2>&1) || die "a symbolic link: exit $?: $printed"
printed=$("$base/links/again" --help) && prints "--help through a symbolic link" "Usage: scripts/start_servers.sh"
start 1
prints "the same configuration through a symbolic link" "all nodes run"
printed=$("$base/links/stop-herd" 2>&1)
prints "scripts called through symbolic links" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"

# Pid files that name something else: a node of another checkout, another program, no process.
mkdir "$base/other"
sed "s/Bona: ${ports[1]}/Bona: $candidate/" "$dir/config.yml" >"$base/other/config.yml"
(cd "$base/other" && exec "$dir/target/release/proxy-herd" -c config.yml Bona) 2>/dev/null &
stranger=$!
deadline=$((SECONDS + step_timeout))
until accepts "$candidate"; do [ "$SECONDS" -lt "$deadline" ] || die "the other node does not start"; done
echo "$stranger" >"$dir/run/nodes/Bona.pid"
echo $$ >"$dir/run/nodes/Bailey.pid"
echo -1 >"$dir/run/nodes/Clark.pid"
: >"$dir/run/nodes/Jaquez.pid"
start 0
prints "pid files of other processes are stale" "Bona is no longer running (stale pid file)"
halt
prints "nodes started in spite of them are stopped" "stopped: Bailey, Bona, Campbell, Clark, Jaquez"
echo "$stranger" >"$dir/run/nodes/Bona.pid"
echo $$ >"$dir/run/nodes/Bailey.pid"
halt
prints "and other processes are not" "no longer running: Bailey, Bona"
kill -0 "$stranger" || die "the node of another checkout was stopped"
kill "$stranger"
gone "$stranger"
# A node that runs in this checkout, but is not the one that the pid file was written for.
start 0
read -r was started <"$dir/run/nodes/Bona.started"
[ "$was" = "$(<"$dir/run/nodes/Bona.pid")" ] || die "Bona.started names another process: $was"
(cd "$dir" && exec "$dir/target/release/proxy-herd" -c "$base/other/config.yml" Bona) 2>/dev/null &
stranger=$!
until accepts "$candidate"; do [ "$SECONDS" -lt "$deadline" ] || die "the other node does not start"; done
echo "$stranger" >"$dir/run/nodes/Bona.pid"
echo "$stranger $started" >"$dir/run/nodes/Bona.started"
halt
prints "nor a later node of this checkout" "no longer running: Bona"
kill -0 "$stranger" || die "a node that was started by hand was stopped"
kill "$stranger"
stranger=
kill "$was"
gone "$was"
was=

# A directory that cannot be written; root needs a read-only mount.
if unshare -m true 2>/dev/null; then
    mv "$dir/run" "$dir/run.old"
    mkdir "$dir/run"
    status=0
    # shellcheck disable=SC2016 # for the inner shell
    printed=$(unshare -m bash -c 'mount -t tmpfs -o ro none "$1/run" && exec "$1/scripts/start_servers.sh" -c "$1/config.yml"' \
        - "$dir" 2>&1) || status=$?
    prints "a read-only checkout is reported" "cannot write to $dir/run/nodes"
    [ "$status" -eq 1 ] || die "a read-only checkout: exit $status"
    rmdir "$dir/run"
    mv "$dir/run.old" "$dir/run"
fi

# Every block of the quick start in README.md works when pasted in one go, and again when pasted twice.
cp conf/config.yml "$dir/conf"
free=()
while [ "${#free[@]}" -lt 10 ]; do
    candidate=$((candidate + 1))
    accepts "$candidate" || free+=("$candidate")
done
mapfile -t fixed < <(grep -E '^[^#]*: *\{|^ +[A-Z][a-z]+: [0-9]+' conf/config.yml | grep -oE '\b[0-9]{4,5}\b' | sort -u)
changes=()
for i in "${!fixed[@]}"; do changes+=(-e "s/\\b${fixed[i]}\\b/${free[i]}/g"); done
sed -i "${changes[@]}" "$dir/conf/config.yml"
# Prints the shell blocks of a document in the range of a sed address, each followed by a NUL byte.
shell_blocks() { # shell_blocks FILE ADDRESS
    sed -n "$2p" "$1" | sed "${changes[@]}" | awk '/^```sh$/ { on = 1; next } /^```$/ && on { on = 0; printf "%c", 0 } on'
}

# Runs a block as if it were pasted in one go, and sets $reply to what it prints.
paste_block() { # paste_block BLOCK
    (cd "$dir" && timeout 60 bash) <<<"$1" >"$dir/block" 2>&1 || die "exit $? of the block:"$'\n'"$1$(<"$dir/block")"
    reply=$(<"$dir/block")
    [[ $reply != *"? "* ]] || die "a command is refused:"$'\n'"$1$reply"
    case $1 in
    *kill\ -9*start_servers.sh*) grep -q '^AT Clark ' "$dir/block" || die "no record:"$'\n'"$1$reply" ;;
    *kill\ -9*) [ "$(grep -c '^AT Clark ' "$dir/block")" -eq 2 ] || die "not two records:"$'\n'"$1$reply" ;;
    *WHATSAT*) grep -q '"status": "OK"' "$dir/block" || die "no places:"$'\n'"$1$reply" ;;
    *IAMAT*) [[ $reply == "AT Clark "* ]] || die "no reply:"$'\n'"$1$reply" ;;
    esac
}

mapfile -d '' -t blocks < <(shell_blocks README.md '/^## Quick start/,/^## Install/')
[ "${#blocks[@]}" -ge 4 ] || die "README.md: only ${#blocks[@]} blocks in the quick start"
for block in "${blocks[@]}"; do paste_block "$block"; done
echo "ok: every block of the quick start works when pasted"
for block in "${blocks[@]}"; do
    case $block in *start_servers.sh*) continue ;; esac # refuses to start a herd that runs
    paste_block "$block"
    paste_block "$block"
done
echo "ok: and when pasted again"

# The configuration in README.md is valid.
awk '/^## /{ here = /Configuration/ } /^```/ { on = here && /yaml$/; next } on' README.md >"$dir/several.yml"
(umask 077 && openssl rand -hex 32 >"$dir/secret")
printed=$("$dir/target/release/proxy-herd" -c "$dir/several.yml" --check 2>&1) || die "the configuration in README.md: $printed"
prints "the configuration in README.md is valid" "several.yml: 3 nodes, 3 edges"
prints_not "and --check has no warning about it" "warning"

# The line with the counters is that of this signal, not of an earlier one.
mapfile -d '' -t blocks < <(shell_blocks docs/logging.md '/^## Counters/,/^## Writing/')
[ "${#blocks[@]}" -eq 1 ] || die "docs/logging.md: ${#blocks[@]} blocks about counters"
clark=$(sed -n 's/^ *Clark: \([0-9]*\).*/\1/p' "$dir/conf/config.yml" | head -n 1)
for ((accepted = 0, turn = 0; turn < 4; turn++)); do
    paste_block "${blocks[0]}"
    [ "$(wc -l <"$dir/block")" -eq 1 ] || die "not one line with counters: $reply"
    before=$accepted accepted=$(grep -o 'connections_accepted_total=[0-9]*' "$dir/block" | grep -o '[0-9]*$') ||
        die "no counters: $reply"
    [ "$turn" -eq 0 ] || [ "$accepted" -gt "$before" ] || die "previous counters: $accepted after $before"
    printf 'WHATSAT bus-12 0 0\n' | nc -N 127.0.0.1 "$clark" >/dev/null
done
echo "ok: the counters of a signal are shown"
halt

[ -s "$dir/logs/Clark.log" ] || die "there are no logs to search for the key"
! grep -rq EMULATOR_KEY "$dir/logs" || die "the key is in a log"
echo "scripts: all tests passed"
