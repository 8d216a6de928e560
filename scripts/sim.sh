#!/usr/bin/env bash
# Runs the simulator for long: whole herds under one virtual clock and a network that fails.
#
# Usage: scripts/sim.sh [SCHEDULES [FIRST]]
#
# SCHEDULES seeds (200000) from FIRST (0) on, on all processors, with optimisation and every check
# on. A seed that fails is named with what went wrong, and this shows how it came to that:
#   SIM_SEED=n cargo test --profile sim --test sim schedules -- --nocapture
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
schedules=${1:-200000}
first=${2:-0}
[[ $schedules =~ ^[1-9][0-9]*$ ]] || { say "how many schedules? $schedules is no whole number above 0" && exit 2; }
[[ $first =~ ^[0-9]+$ ]] || { say "from which seed? $first is no whole number" && exit 2; }

unset SIM_SEED
SIM_SCHEDULES=$schedules SIM_FIRST=$first \
    cargo test --locked --quiet --profile sim --test sim schedules -- --nocapture
