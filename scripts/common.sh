# shellcheck shell=bash
# What start_servers.sh and stop_servers.sh share: where the processes of this herd are written
# down, and how they are told from others that have got their number since.

# shellcheck source=scripts/speak.sh
. "$(dirname "${BASH_SOURCE[0]}")/speak.sh"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run=$root/run
nodes_dir=$run/nodes       # NAME.pid and NAME.err, its standard error, of each node
emulator_dir=$run/emulator # emulator.pid, its output and its certificates
stop_patience=5            # seconds; a node ends within two

# The words with commas between them, each behind a space.
list() { # list WORD…
    local IFS=,
    echo "${*/#/ }"
}

# The command line of a process, its words separated by spaces.
command_of() { # command_of PID
    if [ -d /proc/self ]; then
        tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline"
    else
        ps -o args= -p "$1"
    fi
}

# Whether a process is still the program that was started, not another that has got its number.
is_running() { # is_running PID PATTERN
    local words
    kill -0 "$1" 2>/dev/null || return 1
    words=$(command_of "$1") || return 1
    # shellcheck disable=SC2053 # a pattern
    [[ ${words% } == $2 ]]
}

# Whether the node of a pid file still runs; its number is then in $pid.
node_runs() { # node_runs NAME
    [ -s "$nodes_dir/$1.pid" ] || return 1
    pid=$(<"$nodes_dir/$1.pid")
    is_running "$pid" "*/proxy-herd -c * $1"
}

# The same of the emulator of places.
emulator_runs() {
    [ -s "$emulator_dir/emulator.pid" ] || return 1
    pid=$(<"$emulator_dir/emulator.pid")
    is_running "$pid" "*/scripts/emulator.py *"
}

# Ends processes that this herd started: all are asked at once, and all are waited for.
stop_all() { # stop_all PID...
    local deadline=$((SECONDS + stop_patience)) pid left
    [ $# -gt 0 ] || return 0
    kill "$@" 2>/dev/null || true
    while :; do
        left=()
        for pid in "$@"; do
            # A zombie has ended; a container without an init may never reap it.
            if kill -0 "$pid" 2>/dev/null && [ -n "$(command_of "$pid")" ]; then left+=("$pid"); fi
        done
        [ "${#left[@]}" -gt 0 ] || return 0
        [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.05
    done
    echo "still there after $stop_patience s, killed: ${left[*]}" >&2
    kill -KILL "${left[@]}" 2>/dev/null || true
}
