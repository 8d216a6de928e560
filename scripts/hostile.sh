#!/usr/bin/env bash
# Runs the hostile-client tests at full scale against a release build and prints the measurements.
#
# Usage: scripts/hostile.sh [ROUNDS]
#
# Runs the tests of tests/hostile one after another, ROUNDS (default: 1) times: 15,000 idle
# connections, 1,000 clients that never read, 10,000 connects and resets per second, a million
# client ids and more. `cargo test` runs the same tests on a small scale. A round takes a few
# minutes. Requires 17,000 file descriptors per process and, to measure kernel memory, ss. Latencies
# are compared, so the machine should be idle.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

rounds=${1:-1}
case $rounds in
-h | --help) print_usage && exit 0 ;;
-*) say "unknown option: $1" && exit 2 ;;
esac
[[ $rounds =~ ^[1-9][0-9]*$ ]] || { say "ROUNDS must be a positive integer, not $rounds" && exit 2; }

descriptors=$(ulimit -Hn)
[ "$descriptors" = unlimited ] || [ "$descriptors" -ge 17000 ] ||
    { say "the limit on open files is $descriptors; 17,000 are required (ulimit -Hn)" && exit 3; }

unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG
for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    HOSTILE=full cargo test --locked --release --test hostile -- --nocapture --test-threads=1
done
