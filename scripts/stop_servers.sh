#!/usr/bin/env bash
# Stops the nodes started by start_servers.sh, and the places emulator if it runs.
#
# Usage: scripts/stop_servers.sh
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "unexpected argument: $1; stop_servers.sh takes none and stops all nodes" && exit 2 ;;
esac

pids=() stopped=() gone=()
shopt -s nullglob
for file in "$nodes_dir"/*.pid; do
    name=$(basename "$file" .pid)
    if is_node_running "$name"; then
        pids+=("$pid") stopped+=("$name")
    else
        gone+=("$name")
    fi
done
if is_emulator_running; then pids+=("$pid") stopped+=("the emulator"); fi

stop_all "${pids[@]}"
remove_pids "$nodes_dir"/*.pid "$emulator_dir/emulator.pid"
rm -f "$nodes_dir"/*.err

[ "${#gone[@]}" -eq 0 ] || echo "no longer running:$(list "${gone[@]}")"
if [ "${#stopped[@]}" -gt 0 ]; then
    echo "stopped:$(list "${stopped[@]}")"
elif [ "${#gone[@]}" -eq 0 ]; then
    echo "nothing is running"
fi
