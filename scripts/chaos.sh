#!/usr/bin/env bash
# Runs the chaos test at length: real nodes that are killed, stopped, cut off and slowed at random.
#
# Usage: scripts/chaos.sh [SECONDS [SEED]]
#
# Faults are injected for SECONDS (default: 300). SEED selects them; a random seed is printed. The
# same seed injects the same faults, but the nodes are not in the same state when they occur. One
# herd runs in network namespaces if the system allows it, and one on loopback.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
-h | --help) print_usage && exit 0 ;;
-*) say "unknown option: $1" && exit 2 ;;
esac
CHAOS_SECONDS=${1:-300}
CHAOS_SEED=${2:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
for number in "$CHAOS_SECONDS" "$CHAOS_SEED"; do
    [[ $number =~ ^[0-9]+$ ]] || { say "SECONDS and SEED must be non-negative integers, not $number" && exit 2; }
done
export CHAOS_SECONDS CHAOS_SEED
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

cargo test --locked --test chaos -- --nocapture
