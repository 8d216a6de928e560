#!/usr/bin/env bash
# Starts a herd and a small fleet of simulated vehicles, and prints the address of the map.
#
# Usage: scripts/demo.sh [-c FILE] [VEHICLES]
#
# VEHICLES (default: 200) drive through ten cities at twenty times real speed, and in and out of the
# fences of the configuration (default: conf/demo.yml). They survive the failure of a node. Ctrl-C stops
# the fleet and the herd. Requires cargo and a C compiler for the herd, and python3 for the fleet.
set -euo pipefail
trap 'exit 130' INT TERM HUP QUIT PIPE
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

config=$root/conf/demo.yml
vehicles=200
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) print_usage && exit 0 ;;
    -c)
        [ $# -ge 2 ] || { say "option -c requires a file name" && exit 2; }
        config=$2 && shift
        ;;
    -*) say "unknown option: $1" && exit 2 ;;
    *) vehicles=$1 ;;
    esac
    shift
done
[[ $vehicles =~ ^[1-9][0-9]*$ ]] || { say "VEHICLES must be a positive integer, not $vehicles" && exit 2; }
[ -r "$config" ] || { say "cannot read the configuration file $config" && exit 1; }
config=$(absolute "$config")
cd "$root"
command -v python3 >/dev/null || { say "the fleet requires python3: apt-get install python3" && exit 1; }

for file in "$nodes_dir"/*.pid; do
    name=$(basename -- "$file" .pid)
    if is_node_running "$name"; then
        say "$name is already running (pid $pid); stop the herd with scripts/stop_servers.sh"
        exit 1
    fi
done

# Stops everything. Nothing interrupts this: it takes seconds at most, and a second Ctrl-C or the end of
# the terminal would leave nodes running. A signal can still arrive before the first line, when bash runs
# the trap of EXIT already and would not run it again. Therefore the traps of signals call this themselves.
finish() {
    local left
    trap '' INT TERM HUP QUIT PIPE
    trap - EXIT
    echo || true
    mapfile -t left < <(jobs -p)
    stop_all "${left[@]}"
    scripts/stop_servers.sh
}
trap finish EXIT
trap 'finish; exit 0' INT TERM HUP QUIT PIPE

scripts/start_servers.sh -c "$config" || exit

# Addresses as the program itself reads the configuration.
herd=$("${CARGO_TARGET_DIR:-target}/release/proxy-herd" -c "$config" --check)
mapfile -t nodes < <(awk '/^Node /{on = 1; next} /^$/{on = 0} on {print $3}' <<<"$herd" | grep :)
devices=$(sed -n 's|^Devices: [^ ]* at \([^,]*\).*without tokens$|\1|p' <<<"$herd")
map=$(sed -n 's|^HTTP: [^ ]* at \([^,]*\).*|http://\1/|p' <<<"$herd")
fences=$(sed -n 's/^Fences: //p' <<<"$herd")
fence="*"
[ "$config" != "$root/conf/demo.yml" ] || fence=depot
python3 scripts/fleet.py --vehicles "$vehicles" ${fences:+--fences "$fences"} "${nodes[@]}" &
fleet=$!
echo
echo "$vehicles vehicles are driving."
if [ -n "$map" ]; then
    echo "Map: $map"
    echo
    echo "The three vehicles nearest to a customer; every node gives the same answer:"
    echo "  curl -s '${map}api/clients?near=-118.45,34.06&limit=3'"
    if [ -n "$fences" ]; then
        echo "Who enters and leaves:"
        echo "  curl -sN '${map}events?fence=$fence'"
    fi
else
    echo "There is no map, because the configuration has no http section."
fi
if [ -n "$devices" ]; then
    echo "A phone: curl -d 'id=phone&lat=34.07&lon=-118.45' $devices/"
fi
echo
echo "Ctrl-C stops everything."
wait "$fleet"
