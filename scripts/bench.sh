#!/usr/bin/env bash
# Measures the node on this machine and writes the figures as Markdown.
#
# Usage: scripts/bench.sh [OPTIONS] [FILE]
#
#   FILE         where the figures go, between the marks that it has for them, or all of it if it
#                has none; docs/performance.md unless another is named, with --report
#                docs/report.md
#   --report     compares readiness loops, threads, asyncio and Node.js instead
#   --rounds N   the figures are medians of so many rounds, 5 if nothing is said
#   --seconds S  of each measurement, 1.2 if nothing is said
#   --quick      one short round: shows that it works, the figures are worth little and go to the
#                folder target unless FILE is named
#   -h, --help   this text
#
# Needs cargo, python3, taskset and two cores of a machine that does nothing else. redis-server,
# memcached and node are measured beside the node where they are installed; all servers are started
# on free ports and stopped again. Once it is built it takes seven minutes, with --report three.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
for tool in cargo python3 taskset; do
    command -v "$tool" >/dev/null || { say "$tool is missing" && exit 1; }
done
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

cargo build --release --locked --bins --example echo_server --example thread_server
exec python3 scripts/benchmarks "$@"
