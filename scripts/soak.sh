#!/usr/bin/env bash
# Runs a herd with everything on under load, and checks that nothing is lost, doubled, leaked or slower.
#
# Usage: scripts/soak.sh [MINUTES]
#
# Five nodes on loopback take 2,100 updates per second for MINUTES (default: 30): IAMATs, positions of phones
# and batches of Overland, with storage, fences, the message log, subscribers of /events, and a feed to Redis,
# which is killed halfway. Afterwards every node must hold every acknowledged record, still after a restart and
# a kill -9; the log and the Redis stream of each node must have every acknowledged update and every transition
# of a fence exactly once and in order, as must the subscribers of fences; no subscriber may have seen a client
# go back; and memory, descriptors, disk, processor time per update and the time to a reply must not have
# grown. Two minutes take about two and a half. The exit status is 0 if all of this holds, and 1 if not.
#
# Requires cargo, a C compiler and python3, and redis-server for the feed. PROXY_HERD names a binary to use
# instead of the one that `cargo build --release` builds.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
-h | --help) print_usage && exit 0 ;;
-*) say "unknown option: $1" && exit 2 ;;
esac
minutes=${1:-30}
[[ $minutes =~ ^[0-9]{1,4}(\.[0-9]{1,3})?$ ]] || { say "MINUTES must be a number from 0 to 9999, not $minutes" && exit 2; }
command -v python3 >/dev/null || { say "python3 is missing; install it" && exit 1; }
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

if [ -z "${PROXY_HERD-}" ]; then
    cargo build --release --locked --bin proxy-herd
    PROXY_HERD=$root/${CARGO_TARGET_DIR:-target}/release/proxy-herd
fi
export PROXY_HERD
exec python3 scripts/soak "$minutes"
