#!/usr/bin/env bash
# Runs the chaos test for long: five real nodes, killed, stopped, cut off and slowed at random.
#
# Usage: scripts/chaos.sh [SECONDS [SEED]]
#
# SECONDS (300) is how long there is trouble; SEED chooses it, and is printed where it is not given.
# The same trouble comes with the same seed, but not at the same moments of the nodes. One herd runs
# in network namespaces, where the system lets us make them, and one on loopback.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
CHAOS_SECONDS=${1:-300}
CHAOS_SEED=${2:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
for number in "$CHAOS_SECONDS" "$CHAOS_SEED"; do
    [[ $number =~ ^[0-9]+$ ]] || { say "$number is no whole number" && exit 2; }
done
export CHAOS_SECONDS CHAOS_SEED
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

cargo test --locked --test chaos -- --nocapture
