#!/usr/bin/env bash
# Benchmarks the node on this machine and writes the figures as Markdown.
#
# Usage: scripts/bench.sh [OPTIONS] [FILE]
#
#   FILE         output file (default: docs/performance.md, or docs/report.md with --report). The
#                figures replace the text between its markers, or the whole file if it has none
#   --report     compare a readiness loop, threads, asyncio and Node.js instead
#   --only PART  measure only storage, devices, feed or fences, and print the figures instead
#   --rounds N   report medians of N rounds (default: 5)
#   --seconds S  length of each measurement (default: 1.2)
#   --quick      one short round, to check that everything works; the figures are not meaningful
#                and go to target/ unless FILE is given
#   -h, --help   print this help
#
# Requires cargo, python3, taskset and two cores of an otherwise idle machine. Also measures
# redis-server, memcached and node if they are installed. All servers listen on free ports and are
# stopped at the end. Takes half an hour after the build, or three minutes with
# --report.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
for tool in cargo python3 taskset; do
    command -v "$tool" >/dev/null || { say "$tool is missing; install it" && exit 1; }
done
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

cargo build --release --locked --bins --example echo_server --example thread_server \
    --example query_load
exec python3 scripts/benchmarks "$@"
