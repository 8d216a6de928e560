#!/usr/bin/env bash
# Sessions of a person with nc and telnet against five running nodes, checked to the byte.
#
# Usage: tests/nc_telnet.sh [BINARY]
# BINARY is target/release/proxy-herd by default. The nodes use ports of their own, so a herd that
# runs already is not disturbed. Needs nc (OpenBSD's) and telnet; root gets them from apt.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(realpath "${1:-target/release/proxy-herd}")
nodes=(Bailey Bona Campbell Clark Jaquez)
patience=10 # seconds that any single step may take

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
    die "$1 is missing: install the package $2 (apt-get install $2) and run this again"
}

accepts() { # accepts PORT
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# expect WHAT PATTERN TEXT: the whole of TEXT must match the extended regular expression PATTERN.
expect() {
    [[ $3 =~ ^$2$ ]] || die "$1"$'\n'"     got: $(printf %q "$3")"$'\n'"expected: $2"
    echo "ok: $1"
}

# The reply with a mark at its end, since $() drops the newlines there.
talk() { # talk NODE [nc OPTION…], input on stdin
    local node=$1
    shift
    timeout "$patience" nc -N "$@" 127.0.0.1 "${port[$node]}" || die "nc to $node: exit $?"
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

[ -x "$binary" ] || die "there is no $binary: build it with cargo build --release"
require nc netcat-openbsd
require telnet telnet
nc -h 2>&1 | grep -q -- -N || die "this nc has no -N: install the package netcat-openbsd"

# A herd in the seed's format, on ports below those that the kernel gives to clients.
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
deadline=$((SECONDS + patience))
for node in "${nodes[@]}"; do
    until accepts "${port[$node]}"; do
        [ "$SECONDS" -lt "$deadline" ] || die "$node does not accept: $(cat "$dir/$node.stderr")"
        sleep 0.01
    done
done

kiwi='kiwi.cs.ucla.edu +34.068930-118.445127 1621464827.959498503'
pattern_kiwi='AT Clark \+[0-9]+\.[0-9]{9} kiwi\.cs\.ucla\.edu \+34\.068930-118\.445127 1621464827\.959498503'

# First until Bailey hears of Clark's updates: one that was sent before the nodes were linked may
# come late, so each try has a name of its own.
deadline=$((SECONDS + patience))
try=0
until reply=$(printf 'IAMAT linked%s +0+0 1\n' "$try" | talk Clark) &&
    found=$(printf 'WHATSAT linked%s 0 0\n' "$try" | talk Bailey) && [[ $found == AT* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "Bailey hears nothing of Clark: $reply $found"
    try=$((try + 1))
done
reply=$(printf 'IAMAT %s\n' "$kiwi" | talk Clark)
expect "nc: IAMAT to Clark" "$pattern_kiwi"$'\n\\.' "$reply"
at=${reply%$'\n.'}

until reply=$(printf 'WHATSAT kiwi.cs.ucla.edu 10 5\n' | talk Bailey) && [[ $reply == AT* ]]; do
    [ "$SECONDS" -lt "$deadline" ] || die "Bailey does not know kiwi.cs.ucla.edu: $reply"
done
[ "${reply%%$'\n'*}" = "$at" ] || die "Bailey's AT line is not Clark's: ${reply%%$'\n'*}"
echo "ok: nc: the same AT line from Bailey"
[ "$(grep -c '"name": "..*"' <<<"$reply")" -eq 5 ] || die "not five places: $reply"
[[ $reply == *$'}\n\n.' ]] || die "the reply does not end with two newlines: $(printf %q "$reply")"
[ "$(grep -c '^$' <<<"$reply")" -eq 1 ] || die "an empty line inside: $reply"
echo "ok: nc: five places around UCLA from Bailey, an empty line at the end and none before"

expect "nc: what is no command" $'\\? hello  there\n\\.' "$(printf '  hello  there \n' | talk Bona)"
expect "nc: a last line without its newline" "$pattern_kiwi"$'\n\\.' \
    "$(printf 'IAMAT %s' "$kiwi" | talk Clark)"
expect "nc -C: lines that end with CR LF" $'AT Jaquez \\+[0-9.]+ a \\+1\\+1 5\n\\? b\n\\.' \
    "$(printf 'IAMAT a +1+1 5\n\n \nb\n' | talk Jaquez -C)"
expect "nc: several commands in one go" \
    $'AT Bona \\+[0-9.]+ m \\+1-1/ \\.5\n\\? IAMAT m 1\n\\? WHATSAT m 51 5\n\\? WHATSAT m 5 21\n\\.' \
    "$(printf 'IAMAT m +1-1/ .5\nIAMAT m 1\nWHATSAT m 51 5\nWHATSAT m 5 21\n' | talk Bona)"
expect "nc: no command, no reply" '\.' "$(printf '' | talk Campbell)"
expect "nc: HTTP is turned away" $'\\? GET / HTTP/1\\.1\n\\.' \
    "$(printf 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\nIAMAT evil +1+1 1\r\n' | talk Campbell)"
expect "nc: and drives nothing" $'\\? WHATSAT evil 0 0\n\\.' \
    "$(printf 'WHATSAT evil 0 0\n' | talk Campbell)"

# converse WHAT IN OUT: a session in which each command waits for the reply to the one before.
converse() {
    local what=$1 in=$2 out=$3 line
    say() { # say COMMAND PATTERN
        printf '%s\n' "$1" >&"$in"
        IFS= read -r -t "$patience" line <&"$out" || die "$what: no reply to $1"
        expect "$what: $1" "$2" "${line%$'\r'}"
    }
    say "IAMAT $what +34.068930-118.445127 1621464827" \
        "AT Campbell \\+[0-9]+\\.[0-9]{9} $what \\+34\\.068930-118\\.445127 1621464827"
    say "hello" '\? hello'
    say "WHATSAT $what 10 2" "AT Campbell \\+[0-9]+\\.[0-9]{9} $what .*"
    local names=0
    until [ -z "${line%$'\r'}" ]; do # the document ends with an empty line
        IFS= read -r -t "$patience" line <&"$out" || die "$what: a document without its end"
        [[ $line != *'"name":'* ]] || names=$((names + 1))
    done
    [ "$names" -eq 2 ] || die "$what: $names places instead of two"
    echo "ok: $what: two places and an empty line"
    say "GET / HTTP/1.1" '\? GET / HTTP/1\.1' # not the first line: the session goes on
    say "bye" '\? bye'
}

coproc NC { exec nc -N 127.0.0.1 "${port[Campbell]}"; }
nc_pid=$NC_PID
converse nc "${NC[1]}" "${NC[0]}"
eval "exec ${NC[1]}>&-"
wait "$nc_pid" || die "nc ended with $?"
echo "ok: nc: the node closes after the client has"

coproc TELNET { exec telnet 127.0.0.1 "${port[Campbell]}" 2>&1; }
telnet_pid=$TELNET_PID
pids+=("$telnet_pid")
greeting=
until [[ $greeting == Escape\ character* ]]; do
    IFS= read -r -t "$patience" greeting <&"${TELNET[0]}" || die "telnet does not connect: $greeting"
done
converse telnet "${TELNET[1]}" "${TELNET[0]}"
eval "exec ${TELNET[1]}>&-"
wait "$telnet_pid" || true # telnet calls the end of its input an error

for pid in "${pids[@]:0:5}"; do kill "$pid"; done
for pid in "${pids[@]:0:5}"; do
    wait "$pid" || die "a node ended with exit $?"
done
pids=()
echo "nc and telnet: all sessions went as the contract says"
