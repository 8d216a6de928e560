#!/usr/bin/env bash
# Tests at length that nothing is lost while Redis is away, and that the node needs no memory for it.
#
# Usage: scripts/absence.sh [SECONDS [RATE]]
#
# A node with a feed takes RATE updates per second (default: 10,000) while its Redis is stopped for
# SECONDS (default: 600), and for a while before and after. Then the stream must contain every
# acknowledged update exactly once and in order, and the memory of the node must not have grown. Prints the
# figures. An update needs 120 bytes of the disk. Requires cargo, python3 and redis-server.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
for tool in cargo python3 redis-server; do
    command -v "$tool" >/dev/null || { say "$tool is missing; install it" && exit 3; }
done

cargo build --release --locked --bin proxy-herd
exec python3 scripts/benchmarks/absence.py "$@"
