#!/usr/bin/env bash
# Runs many schedules of the simulator: whole herds under a virtual clock and a network with faults.
#
# Usage: scripts/sim.sh [SCHEDULES [FIRST]]
#
# Runs SCHEDULES seeds (200000), starting at seed FIRST (0), on all processors, optimized and with all
# checks enabled. Failing seeds are printed with the reason; after ten of them the run ends. To replay
# the schedule of seed N with a trace of its events:
#   SIM_SEED=N cargo test --test sim schedules -- --nocapture
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
schedules=${1:-200000}
first=${2:-0}
[[ $schedules =~ ^[1-9][0-9]*$ ]] || { say "SCHEDULES must be an integer above 0, not $schedules" && exit 2; }
[[ $first =~ ^[0-9]+$ ]] || { say "FIRST must be an integer, not $first" && exit 2; }

unset SIM_SEED
SIM_SCHEDULES=$schedules SIM_FIRST=$first \
    cargo test --locked --quiet --profile sim --test sim schedules -- --nocapture
