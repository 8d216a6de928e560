#!/usr/bin/env bash
# Tests interactive sessions with nc and telnet against five running nodes, byte for byte.
#
# Usage: tests/nc_telnet.sh [BINARY]
#
# BINARY defaults to target/release/proxy-herd. The nodes use free ports, so a running herd is not
# affected. Requires OpenBSD nc and telnet; as root, missing ones are installed with apt-get.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(realpath "${1:-target/release/proxy-herd}")
nodes=(Bailey Bona Campbell Clark Jaquez)
step_timeout=10 # seconds

die() {
    echo "nc_telnet: $*" >&2
    exit 1
}

require() { # require COMMAND PACKAGE
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "nc_telnet: installing $2"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2"; } \
            >"$dir/apt.log" 2>&1 || { cat "$dir/apt.log" >&2; die "apt-get could not install $2"; }
        command -v "$1" >/dev/null && return
    fi
    die "$1 not found: install it (apt-get install $2) and run this again"
}

accepts() { # accepts PORT
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# expect WHAT PATTERN TEXT: checks that PATTERN, an extended regular expression, matches all of TEXT.
expect() {
    [[ $3 =~ ^$2$ ]] || die "$1"$'\n'"     got: $(printf %q "$3")"$'\n'"expected: $2"
    echo "ok: $1"
}

# Prints the reply followed by a dot, because $() strips trailing newlines.
talk() { # talk NODE [nc OPTION…], input on stdin
    local node=$1
    shift
    timeout "$step_timeout" nc -N "$@" 127.0.0.1 "${port[$node]}" || die "nc to $node: exit $?"
    printf .
}

dir=$(mktemp -d)
pids=()
stop() {
    local status=$?
    [ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ "$status" -eq 0 ]; then rm -rf "$dir"; else echo "nc_telnet: logs are in $dir" >&2; fi
}
trap stop EXIT

[ -x "$binary" ] || die "$binary not found: build it with cargo build --release"
require nc netcat-openbsd
require telnet telnet
nc -h 2>&1 | grep -q -- -N || die "this nc does not support -N: install netcat-openbsd"

# A herd on ports below the kernel's ephemeral range, configured in the original format.
declare -A port
candidate=$((10000 + $$ % 20000))
for node in "${nodes[@]}"; do
    while accepts "$candidate"; do candidate=$((candidate + 1)); done
    port[$node]=$candidate
    candidate=$((candidate + 1))
done
cat >"$dir/config.yml" <<END
ports: {$(for node in "${nodes[@]}"; do printf '%s: %s, ' "$node" "${port[$node]}"; done | sed 's/, $//')}
neighbors:
  Bailey: ["Bona", "Campbell"]
  Bona: ["Bailey", "Clark", "Campbell"]
  Campbell: ["Bailey", "Bona", "Jaquez"]
  Clark: ["Jaquez", "Bona"]
  Jaquez: ["Clark", "Campbell"]
logging: {level: "INFO", directory: "$dir/logs"}
END
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG
for node in "${nodes[@]}"; do
    "$binary" -c "$dir/config.yml" "$node" 2>"$dir/$node.stderr" &
    pids+=($!)
done
deadline=$((SECONDS + step_timeout))
for node in "${nodes[@]}"; do
    until accepts "${port[$node]}"; do
        [ "$SECONDS" -lt "$deadline" ] || die "$node does not accept connections: $(cat "$dir/$node.stderr")"
        sleep 0.01
    done
done

kiwi='kiwi.cs.ucla.edu +34.068930-118.445127 1621464827.959498503'
pattern_kiwi='AT Clark \+[0-9]+\.[0-9]{9} kiwi\.cs\.ucla\.edu \+34\.068930-118\.445127 1621464827\.959498503'

# Wait until Bailey receives Clark's updates. An update sent before the nodes were linked may arrive
# late, so each attempt uses a new client name.
deadline=$((SECONDS + step_timeout))
try=0
until reply=$(printf 'IAMAT linked%s +0+0 1\n' "$try" | talk Clark) &&
    found=$(printf 'WHATSAT linked%s 0 0\n' "$try" | talk Bailey) && [[ $found == AT* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "no update from Clark reaches Bailey: $reply $found"
    try=$((try + 1))
done
reply=$(printf 'IAMAT %s\n' "$kiwi" | talk Clark)
expect "nc: IAMAT to Clark" "$pattern_kiwi"$'\n\\.' "$reply"
at=${reply%$'\n.'}

until reply=$(printf 'WHATSAT kiwi.cs.ucla.edu 10 5\n' | talk Bailey) && [[ $reply == AT* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "Bailey does not know kiwi.cs.ucla.edu: $reply"
done
[ "${reply%%$'\n'*}" = "$at" ] || die "Bailey's AT line differs from Clark's: ${reply%%$'\n'*}"
echo "ok: nc: the same AT line from Bailey"
[ "$(grep -c '"name": "..*"' <<<"$reply")" -eq 5 ] || die "not five places: $reply"
[[ $reply == *$'}\n\n.' ]] || die "the reply does not end with two newlines: $(printf %q "$reply")"
[ "$(grep -c '^$' <<<"$reply")" -eq 1 ] || die "an empty line within the document: $reply"
echo "ok: nc: five places near UCLA from Bailey, followed by one empty line"

expect "nc: an invalid command" $'\\? hello  there\n\\.' "$(printf '  hello  there \n' | talk Bona)"
expect "nc: a final line without a newline" "$pattern_kiwi"$'\n\\.' \
    "$(printf 'IAMAT %s' "$kiwi" | talk Clark)"
expect "nc -C: lines that end with CR LF" $'AT Jaquez \\+[0-9.]+ a \\+1\\+1 5\n\\? b\n\\.' \
    "$(printf 'IAMAT a +1+1 5\n\n \nb\n' | talk Jaquez -C)"
expect "nc: pipelined commands" \
    $'AT Bona \\+[0-9.]+ m \\+1-1/ \\.5\n\\? IAMAT m 1\n\\? WHATSAT m 51 5\n\\? WHATSAT m 5 21\n\\.' \
    "$(printf 'IAMAT m +1-1/ .5\nIAMAT m 1\nWHATSAT m 51 5\nWHATSAT m 5 21\n' | talk Bona)"
expect "nc: no command, no reply" '\.' "$(printf '' | talk Campbell)"
expect "nc: an HTTP request is rejected" $'\\? GET / HTTP/1\\.1\n\\.' \
    "$(printf 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\nIAMAT evil +1+1 1\r\n' | talk Campbell)"
expect "nc: and its body is not executed" $'\\? WHATSAT evil 0 0\n\\.' \
    "$(printf 'WHATSAT evil 0 0\n' | talk Campbell)"

# converse WHAT IN OUT: runs a session in which each command waits for the previous reply.
converse() {
    local what=$1 in=$2 out=$3 line
    request() { # request COMMAND PATTERN
        printf '%s\n' "$1" >&"$in"
        IFS= read -r -t "$step_timeout" line <&"$out" || die "$what: no reply to $1"
        expect "$what: $1" "$2" "${line%$'\r'}"
    }
    request "IAMAT $what +34.068930-118.445127 1621464827" \
        "AT Campbell \\+[0-9]+\\.[0-9]{9} $what \\+34\\.068930-118\\.445127 1621464827"
    request "hello" '\? hello'
    request "WHATSAT $what 10 2" "AT Campbell \\+[0-9]+\\.[0-9]{9} $what .*"
    local names=0
    until [ -z "${line%$'\r'}" ]; do # an empty line ends the document
        IFS= read -r -t "$step_timeout" line <&"$out" || die "$what: incomplete document"
        [[ $line != *'"name":'* ]] || names=$((names + 1))
    done
    [ "$names" -eq 2 ] || die "$what: $names places instead of two"
    echo "ok: $what: two places and an empty line"
    request "GET / HTTP/1.1" '\? GET / HTTP/1\.1' # not the first line, so the session continues
    request "bye" '\? bye'
}

coproc NC { exec nc -N 127.0.0.1 "${port[Campbell]}"; }
nc_pid=$NC_PID
converse nc "${NC[1]}" "${NC[0]}"
eval "exec ${NC[1]}>&-"
wait "$nc_pid" || die "nc exited with $?"
echo "ok: nc: the node closes after a half-close"

coproc TELNET { exec telnet 127.0.0.1 "${port[Campbell]}" 2>&1; }
telnet_pid=$TELNET_PID
pids+=("$telnet_pid")
greeting=
until [[ $greeting == Escape\ character* ]]; do
    IFS= read -r -t "$step_timeout" greeting <&"${TELNET[0]}" || die "telnet does not connect: $greeting"
done
converse telnet "${TELNET[1]}" "${TELNET[0]}"
eval "exec ${TELNET[1]}>&-"
wait "$telnet_pid" || true # telnet exits with an error at the end of its input

for pid in "${pids[@]:0:5}"; do kill "$pid"; done
for pid in "${pids[@]:0:5}"; do
    wait "$pid" || die "a node exited with $?"
done
pids=()
echo "nc_telnet: all sessions passed"
