#!/usr/bin/env bash
# Hostile clients at full size against a release build, with the figures they bring.
#
# Usage: scripts/hostile.sh [ROUNDS]
#
# The tests of tests/hostile, one after the other, ROUNDS (1) times: 15,000 connections held, 1,000
# clients that never read, 10,000 connects and resets a second, a million client ids and more. The
# suite runs the same on a small scale. Takes a few minutes a round, needs 20,000 descriptors a process
# and, for the kernel's share of memory, ss; latency is compared, so the machine should be idle.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

rounds=${1:-1}
case $rounds in
-h | --help) print_usage && exit 0 ;;
esac
[[ $rounds =~ ^[1-9][0-9]*$ ]] || { say "how many rounds? $rounds is no whole number above 0" && exit 2; }

most=$(ulimit -Hn)
[ "$most" = unlimited ] || [ "$most" -ge 17000 ] ||
    { say "a process may open only $most files; 17,000 are needed (ulimit -Hn)" && exit 3; }

unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG
for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    HOSTILE=full cargo test --locked --release --test hostile -- --nocapture --test-threads=1
done
