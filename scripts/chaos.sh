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

read_amount_and_seed SECONDS 300 "$@"
CHAOS_SECONDS=$amount CHAOS_SEED=$seed cargo test --locked --test chaos -- --nocapture
