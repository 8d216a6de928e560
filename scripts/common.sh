# shellcheck shell=bash
# Shared by start_servers.sh, stop_servers.sh and demo.sh: the pid files of a herd, and checks that
# a pid still belongs to the process that was started.

# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"

run=$root/run
nodes_dir=$run/nodes       # NAME.pid, NAME.started and NAME.err (standard error) of each node
emulator_dir=$run/emulator # emulator.pid, emulator.started, its output and its certificates
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

# Prints the start time of a process in clock ticks since boot, or nothing if the system does not tell.
start_time_of() { # start_time_of PID
    local line words
    { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    read -ra words <<<"${line##*) }" # the name of the program may contain anything
    echo "${words[19]}"
}

# Writes the pid file of a process, and beside it the time at which the process started.
write_pid() { # write_pid FILE PID
    echo "$2 $(start_time_of "$2")" >"${1%.pid}.started"
    echo "$2" >"$1"
}

# Removes pid files, with the files that write_pid wrote beside them.
remove_pids() { # remove_pids FILE…
    rm -f "$@" "${@/%.pid/.started}"
}

# Succeeds if the process named by a pid file runs, and sets $pid. The pid may have been reused by any
# process, for example by a node of another checkout. Therefore the command line must match the pattern,
# the process must run in this checkout, and if its start time was recorded, it must be the same.
is_running() { # is_running FILE PATTERN
    local words started=""
    [ -s "$1" ] || return 1
    pid=$(<"$1")
    [[ $pid =~ ^[1-9][0-9]*$ ]] && kill -0 "$pid" 2>/dev/null || return 1
    words=$(command_of "$pid") || return 1
    [ ! -d /proc/self ] || [ "$(readlink "/proc/$pid/cwd")" = "$root" ] || return 1
    [ ! -f "${1%.pid}.started" ] || started=$(<"${1%.pid}.started")
    # A process that the user started by hand has a pid file, but no recorded time.
    [ "${started%% *}" != "$pid" ] || [ "${started#* }" = "$(start_time_of "$pid")" ] || return 1
    # shellcheck disable=SC2053 # unquoted on purpose: a pattern
    [[ ${words% } == $2 ]]
}

# Succeeds if the node runs, and sets $pid.
is_node_running() { # is_node_running NAME
    is_running "$nodes_dir/$1.pid" "*/proxy-herd -c * $(printf %q "$1")"
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
    is_running "$emulator_dir/emulator.pid" "*/scripts/emulator.py *"
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
