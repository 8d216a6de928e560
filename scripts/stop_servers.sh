#!/usr/bin/env bash
# Stops the nodes that start_servers.sh has started, and the emulator of places if there is one.
#
# Usage: scripts/stop_servers.sh
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "there is nothing to be said to it; it stops all that start_servers.sh started" && exit 2 ;;
esac

pids=() stopped=() gone=()
shopt -s nullglob
for file in "$nodes_dir"/*.pid; do
    name=$(basename "$file" .pid)
    if node_runs "$name"; then
        pids+=("$pid") stopped+=("$name")
    else
        gone+=("$name")
    fi
done
if emulator_runs; then pids+=("$pid") stopped+=("the emulator"); fi

stop_all "${pids[@]}"
rm -f "$nodes_dir"/*.pid "$nodes_dir"/*.err "$emulator_dir/emulator.pid"

[ "${#gone[@]}" -eq 0 ] || echo "not running any more:$(list "${gone[@]}")"
if [ "${#stopped[@]}" -gt 0 ]; then
    echo "stopped:$(list "${stopped[@]}")"
elif [ "${#gone[@]}" -eq 0 ]; then
    echo "nothing is running"
fi
