#!/usr/bin/env bash
# Starts the herd and a small fleet that drives around, and shows where to look at it.
#
# Usage: scripts/demo.sh [-c FILE] [VEHICLES]
#
# VEHICLES (200) drive in ten cities of the world, twenty times as fast as in life. Ctrl-C stops
# them and the herd. Needs cargo and a C compiler for the herd, python3 for the fleet.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config=$root/conf/config.yml
vehicles=200
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) print_usage && exit 0 ;;
    -c) config=${2:?-c names no file} && shift ;;
    *) vehicles=$1 ;;
    esac
    shift
done
[[ $vehicles =~ ^[1-9][0-9]*$ ]] || { say "how many vehicles? $vehicles is no whole number above 0" && exit 2; }
[ -r "$config" ] || { say "there is no configuration $config" && exit 1; }
config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
cd "$root"
command -v python3 >/dev/null || { say "the fleet needs python3: apt-get install python3" && exit 1; }

scripts/start_servers.sh -c "$config" || exit

fleet=
finish() {
    trap - EXIT INT TERM
    echo
    [ -z "$fleet" ] || stop_all "$fleet"
    scripts/stop_servers.sh
}
trap finish EXIT
trap 'exit 0' INT TERM

# Addresses as the nodes themselves tell them.
herd=$("${CARGO_TARGET_DIR:-target}/release/proxy-herd" -c "$config" --check)
mapfile -t nodes < <(awk '/^Node /{on = 1; next} /^$/{on = 0} on {print $3}' <<<"$herd" | grep :)
map=$(sed -n 's|^HTTP: [^ ]* at \([^,]*\).*|http://\1/|p' <<<"$herd")

python3 scripts/fleet.py --vehicles "$vehicles" "${nodes[@]}" &
fleet=$!
echo
echo "$vehicles vehicles are on their way."
if [ -n "$map" ]; then
    echo "Watch them: $map"
else
    echo "This configuration has no http section, so there is no map."
fi
echo "Ctrl-C stops everything."
wait "$fleet"
