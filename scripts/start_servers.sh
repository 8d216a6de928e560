#!/usr/bin/env bash
# Builds proxy-herd if necessary and starts, in the background, every node of a configuration that does
# not run.
#
# Usage: scripts/start_servers.sh [-c CONFIG] [--emulator[=PROVIDER]]
#
#   -c CONFIG              configuration file (default: conf/config.yml)
#   --emulator[=PROVIDER]  answer WHATSAT from a local emulator of a places provider, over TLS:
#                          google (default), google_legacy or overpass
#   -h, --help             print this text
#
# Requires cargo and a C compiler; the emulator also requires python3 and openssl. Works from any
# directory. The nodes keep running when the shell exits; stop them with scripts/stop_servers.sh. If some
# nodes run, only the others are started, with the same configuration. Ctrl-C stops what was started.
# A relative log directory in the configuration is relative to the root of the project. run/ holds the
# pid files and the standard error of the nodes.
set -euo pipefail
# With a trap, Ctrl-C ends the script even if the command that runs at that moment succeeds.
trap 'exit 130' INT TERM
trap 'exit 129' HUP
trap 'exit 141' PIPE
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

start_timeout=20 # seconds until a node must accept connections; it takes milliseconds
link_timeout=3   # seconds in which the nodes should be linked; it takes a fraction of one

usage() {
    say "$*"
    say "usage: scripts/start_servers.sh [-c CONFIG] [--emulator[=PROVIDER]]"
    exit 2
}

config=$root/conf/config.yml
provider=
while [ $# -gt 0 ]; do
    case $1 in
    -c | --config)
        [ $# -ge 2 ] || usage "option $1 requires a file name"
        config=$2 && shift
        ;;
    --emulator) provider=google ;;
    --emulator=google | --emulator=google_legacy | --emulator=overpass) provider=${1#*=} ;;
    --emulator=*) usage "unknown provider: ${1#*=}; use google, google_legacy or overpass" ;;
    -h | --help) print_usage && exit 0 ;;
    -*) usage "unknown option: $1" ;;
    *) usage "unexpected argument: $1" ;;
    esac
    shift
done
[ -r "$config" ] || { say "cannot read the configuration file $config" && exit 1; }
config=$(absolute "$config")

cd "$root"
mkdir -p "$nodes_dir" 2>/dev/null || true
if [ ! -w "$run" ] || [ ! -w "$nodes_dir" ]; then
    say "cannot write to $nodes_dir, the directory of the pid files: check its permissions"
    exit 1
fi
if command -v flock >/dev/null; then # two instances at once would compete for the same ports
    exec 9>"$run/lock"
    flock -n 9 || { say "another start_servers.sh is running" && exit 1; }
fi

# --- if anything fails from here on, everything started is stopped again

cargo_pid=
started=() # names of nodes
emulator_started=

# Stops what was started. The traps of signals call it themselves: a signal that arrives when bash has
# begun to run the trap of EXIT would end the script without it.
stop_started() { # stop_started STATUS
    local jobs=()
    trap '' INT TERM HUP PIPE
    trap - EXIT
    [ "$1" -ne 0 ] || return 0
    [ -z "$cargo_pid" ] || kill -- "-$cargo_pid" 2>/dev/null || true
    mapfile -t jobs < <(jobs -p)
    stop_all "${jobs[@]}"
    for name in "${started[@]}"; do remove_pids "$nodes_dir/$name.pid"; done
    [ -z "$emulator_started" ] || remove_pids "$emulator_dir/emulator.pid"
}
trap 'stop_started "$?"' EXIT
trap 'stop_started 130; exit 130' INT TERM
trap 'stop_started 129; exit 129' HUP
trap 'stop_started 141; exit 141' PIPE

# --- build

binary=${CARGO_TARGET_DIR:-$root/target}/release/proxy-herd

build() {
    local log=$run/build.log crates shown="" status=0 session=()
    command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || {
        say "a C compiler is required to build the cryptography: apt-get install gcc libc6-dev"
        exit 1
    }
    # Background processes of a script ignore Ctrl-C, so the compilers are stopped as a process group.
    if command -v setsid >/dev/null; then session=(setsid); fi
    "${session[@]}" cargo build --release --locked --color never --bin proxy-herd >"$log" 2>&1 9>&- &
    cargo_pid=$!
    while kill -0 "$cargo_pid" 2>/dev/null; do
        crates=$(grep -c '^ *Compiling' "$log" || true)
        if [ "$crates" -gt 0 ] && [ -z "$shown" ]; then
            say "building, which takes a few minutes the first time (output: $log)"
        fi
        if [ "$crates" -gt 0 ] && [ "$crates" != "$shown" ]; then
            [ ! -t 2 ] || printf '\r  %s crates, %s s' "$crates" "$SECONDS" >&2
            shown=$crates
        fi
        sleep 0.2
    done
    [ -z "$shown" ] || [ ! -t 2 ] || echo >&2
    wait "$cargo_pid" || status=$?
    cargo_pid=
    [ "$status" -eq 0 ] || { cat "$log" >&2 && say "the build failed" && exit 1; }
    [ -z "$shown" ] || say "built in $SECONDS s"
}

if command -v cargo >/dev/null; then
    build
elif [ ! -x "$binary" ]; then
    say "cargo not found: install Rust from https://rustup.rs or from your distribution"
    exit 1
fi

# --- nodes and preconditions

# Prints the name and listen address of each node, as the program itself reads the configuration.
herd() { # herd CONFIG
    local summary
    summary=$("$binary" -c "$1" --check) || return
    awk '/^Node  / { table = 1; next } table && !NF { exit } table { print $1, $2 }' <<<"$summary"
}

# Prints the host to which a local client connects for a listen address.
host_of() { # host_of LISTENS_ON
    local host=${1%:*}
    host=${host#[} host=${host%]}
    case $host in 0.0.0.0) host=127.0.0.1 ;; ::) host=::1 ;; esac
    echo "$host"
}

accepts() { # accepts HOST PORT
    (: <"/dev/tcp/$1/$2") 2>/dev/null
}

declare -A host port pids
names=()
listed=$(herd "$config") || exit 1
while read -r name address; do
    names+=("$name") host[$name]=$(host_of "$address") port[$name]=${address##*:}
done <<<"$listed"

# The configuration that the nodes are started with.
used=$config
[ -z "$provider" ] || used=$emulator_dir/config.yml

running=() ended=() missing=()
for name in "${names[@]}"; do
    if is_node_running "$name"; then
        running+=("$name (pid $pid)")
        pids[$name]=$pid
        other=$(config_of "$pid" "$name") || continue
        [ "$other" != "$(readlink -f -- "$used")" ] || continue
        say "$name (pid $pid) runs with $other"
        say "stop it with scripts/stop_servers.sh, or start the others with that configuration"
        exit 1
    else
        missing+=("$name")
        [ ! -e "$nodes_dir/$name.pid" ] || ended+=("$name")
    fi
done
[ "${#running[@]}" -eq 0 ] || say "already running:$(list "${running[@]}")"
if [ "${#missing[@]}" -eq 0 ]; then
    say "all nodes run; stop them with scripts/stop_servers.sh"
    exit 1
fi
taken=
for name in "${missing[@]}"; do
    if accepts "${host[$name]}" "${port[$name]}"; then
        say "port ${port[$name]} of $name is in use by another process"
        taken=yes
    fi
done
[ -z "$taken" ] || { say "stop that process, or change \`ports\` in $config" && exit 1; }
for name in "${ended[@]}"; do say "$name is no longer running (stale pid file); starting it again"; done

# --- start

# Starts a process in its own session, so that it outlives this one.
detached() { # detached OUT ERR COMMAND…
    local out=$1 err=$2
    shift 2
    if command -v setsid >/dev/null; then set -- setsid "$@"; else set -- nohup "$@"; fi
    "$@" </dev/null >"$out" 2>"$err" 9>&- &
}

# Prints the configuration with the emulator at a URL as its provider.
emulated() { # emulated URL
    cat "$config"
    printf '\nplaces:\n  provider: %s\n  url: %s\n  ca_file: "%s"\n' \
        "$provider" "$1" "$emulator_dir/certificates/ca.pem"
}

# Starts the emulator, unless it serves the nodes that run, and sets $places to what is to be reported.
start_emulator() {
    local line="" url certificates=$emulator_dir/certificates output=$emulator_dir/output
    local errors=$emulator_dir/errors deadline=$((SECONDS + start_timeout)) emulator
    for tool in python3 openssl; do
        command -v "$tool" >/dev/null || { say "the emulator requires $tool: apt-get install $tool" && exit 1; }
    done
    if is_emulator_running; then
        [ "${#running[@]}" -gt 0 ] || {
            say "an emulator is already running (pid $pid); stop it with scripts/stop_servers.sh"
            exit 1
        }
        emulator=$pid
    elif [ "${#running[@]}" -gt 0 ]; then
        say "the emulator of the running nodes has exited; stop them with scripts/stop_servers.sh"
        exit 1
    else
        mkdir -p "$emulator_dir"
        python3 scripts/mint_certs.py "$certificates" >"$output" || exit 1
        emulator_started=yes
        detached "$output" "$errors" python3 "$root/scripts/emulator.py" \
            --cert "$certificates/server.pem" --key "$certificates/server.key"
        emulator=$!
        write_pid "$emulator_dir/emulator.pid" "$emulator"
    fi
    until read -r line <"$output" && [[ $line == ready\ url=* ]]; do
        if ! kill -0 "$emulator" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            cat "$errors" >&2 && say "the emulator did not start" && exit 1
        fi
        sleep 0.02
    done
    url=${line#*url=} url=${url%% *}
    [ "$provider" != overpass ] || url=$url/api/interpreter
    GOOGLE_PLACES_API_KEY=${line##*api_key=}
    export GOOGLE_PLACES_API_KEY
    if [ "${#running[@]}" -gt 0 ]; then
        [ "$(emulated "$url")" = "$(<"$used")" ] || {
            say "the running nodes have another configuration or provider; stop them with scripts/stop_servers.sh"
            exit 1
        }
    else
        emulated "$url" >"$used"
    fi
    herd "$used" >/dev/null || {
        say "--emulator appends a \`places\` section to a copy of $config, which must contain neither"
        say "such a section nor relative paths"
        exit 1
    }
    line=${line#* } # the part after the URL
    places="Places: emulated $provider at $url (pid $emulator), ${line#* }"$'\n'
}

places=
[ -z "$provider" ] || start_emulator

for name in "${missing[@]}"; do
    started+=("$name")
    detached /dev/null "$nodes_dir/$name.err" "$binary" -c "$used" "$name"
    pids[$name]=$!
    write_pid "$nodes_dir/$name.pid" "${pids[$name]}"
done

failed() { # failed NAME WHY
    cat "$nodes_dir/$1.err" >&2
    say "$1 $2; stopping what was started"
    exit 1
}

deadline=$((SECONDS + start_timeout))
for name in "${missing[@]}"; do
    until accepts "${host[$name]}" "${port[$name]}"; do
        kill -0 "${pids[$name]}" 2>/dev/null || failed "$name" "did not start"
        [ "$SECONDS" -lt "$deadline" ] || failed "$name" "does not accept connections on port ${port[$name]}"
        sleep 0.01
    done
    # Another process may have taken the port in the meantime.
    kill -0 "${pids[$name]}" 2>/dev/null || failed "$name" "did not start"
done

# --- report

checked=$("$binary" -c "$used" --check)
logs=$(sed -n 's|^Logs: \(.*\)/NAME\.log.*|\1|p' <<<"$checked")
map=$(sed -n 's|^HTTP: [^ ]* at \([^,]*\).*|http://\1/|p' <<<"$checked")
case $logs in /*) ;; *) logs=$root/$logs ;; esac
# Once the nodes are linked, an update reaches all of them within milliseconds. A neighbor on another
# machine may be down, so the script does not insist.
if [ -n "$map" ]; then
    deadline=$((SECONDS + link_timeout))
    until timeout "$link_timeout" "$binary" -c "$used" --status "${names[@]}" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.05
    done
fi
table=$({
    echo "NODE PORT PID LOG"
    for name in "${names[@]}"; do
        echo "$name ${port[$name]} ${pids[$name]} $logs/$name.log"
    done
} | awk '{
    for (i = 1; i <= 3; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) }
    rest = $0; for (i = 1; i <= 3; i++) sub(/^[^ ]+ /, "", rest); log_of[NR] = rest
} END {
    for (row = 1; row <= NR; row++) {
        for (i = 1; i <= 3; i++) printf "%-" width[i] "s  ", cell[row, i]
        print log_of[row]
    }
}')

first=${names[0]} last=${names[${#names[@]} - 1]}
trap - EXIT INT TERM HUP PIPE # started; a closed standard output must not stop the nodes
cat <<END
$places$table

Try it:
  printf 'IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 %s\n' "\$(date +%s)" | nc -N ${host[$last]} ${port[$last]}
  printf 'WHATSAT kiwi.cs.ucla.edu 10 5\n' | nc -N ${host[$first]} ${port[$first]}
${map:+Map: $map
}Stop it: scripts/stop_servers.sh
END
