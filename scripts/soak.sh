#!/usr/bin/env bash
# Runs a herd with everything on under load, and checks that nothing is lost, doubled, leaked or slower.
#
# Usage: scripts/soak.sh [MINUTES]
#
# Five nodes on loopback take updates for MINUTES (default: 30) with storage, the message log and
# subscribers of /events. Afterwards every node must hold every acknowledged record, still after a
# restart from its files; every update must be in the log of its node once; no subscriber may have seen a
# client go back; and memory, descriptors, disk and, in a run of ten minutes or more, the processor time
# per update must not have grown.
# The exit status is 0 if so, and 1 if not.
#
# Requires cargo, a C compiler and python3. PROXY_HERD names a binary to use instead of the one that
# `cargo build --release` builds.
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
