# shellcheck shell=bash
# Shared by start_servers.sh, stop_servers.sh and demo.sh: the pid files of a herd, and checks that
# a pid still belongs to the process that was started.

# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"

run=$root/run
nodes_dir=$run/nodes       # NAME.pid and NAME.err (standard error) of each node
emulator_dir=$run/emulator # emulator.pid, its output and its certificates
stop_timeout=5             # seconds; a node exits within two

# Prints the absolute path of a file.
absolute() { # absolute FILE
    local folder
    folder=$(cd -- "$(dirname -- "$1")" && pwd) || return
    echo "${folder%/}/$(basename -- "$1")"
}

# Prints its arguments separated by commas, each preceded by a space.
list() { # list WORD…
    local IFS=,
    echo "${*/#/ }"
}

# Prints the command line of a process, its words separated by spaces.
command_of() { # command_of PID
    if [ -d /proc/self ]; then
        tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline"
    else
        ps -o args= -p "$1"
    fi
}

# Succeeds if the process runs, its command line matches the pattern, and it was started in this
# checkout: a reused pid may belong to any process, for example a node of another checkout.
is_running() { # is_running PID PATTERN
    local words
    [[ $1 =~ ^[1-9][0-9]*$ ]] && kill -0 "$1" 2>/dev/null || return 1
    words=$(command_of "$1") || return 1
    [ ! -d /proc/self ] || [ "$(readlink "/proc/$1/cwd")" = "$root" ] || return 1
    # shellcheck disable=SC2053 # unquoted on purpose: a pattern
    [[ ${words% } == $2 ]]
}

# Succeeds if the node runs, and sets $pid.
is_node_running() { # is_node_running NAME
    [ -s "$nodes_dir/$1.pid" ] || return 1
    pid=$(<"$nodes_dir/$1.pid")
    is_running "$pid" "*/proxy-herd -c * $(printf %q "$1")"
}

# Prints the configuration file of a running node.
config_of() { # config_of PID NAME
    local words
    words=$(command_of "$1") || return
    words=${words% } words=${words#*/proxy-herd -c } words=${words% "$2"}
    case $words in /*) ;; *) words=$root/$words ;; esac # nodes run in the root
    readlink -f -- "$words"
}

# Succeeds if the places emulator runs, and sets $pid.
is_emulator_running() {
    [ -s "$emulator_dir/emulator.pid" ] || return 1
    pid=$(<"$emulator_dir/emulator.pid")
    is_running "$pid" "*/scripts/emulator.py *"
}

# Stops processes: sends SIGTERM to all, waits for all, and kills those that do not exit in time.
stop_all() { # stop_all PID...
    local deadline=$((SECONDS + stop_timeout)) pid left
    [ $# -gt 0 ] || return 0
    kill "$@" 2>/dev/null || true
    while :; do
        left=()
        for pid in "$@"; do
            # A zombie has exited, but a container without an init may never reap it.
            if kill -0 "$pid" 2>/dev/null && [ -n "$(command_of "$pid")" ]; then left+=("$pid"); fi
        done
        [ "${#left[@]}" -gt 0 ] || return 0
        [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.05
    done
    kill -KILL "${left[@]}" 2>/dev/null || true
    # The terminal may be gone.
    echo "killed because they did not exit within $stop_timeout s: ${left[*]}" >&2 || true
}
