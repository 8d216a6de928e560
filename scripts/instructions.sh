#!/usr/bin/env bash
# Counts the instructions of the hot path and fails if a command exceeds its budget.
#
# Usage: scripts/instructions.sh
#
# Instruction counts, unlike times, do not depend on other load on the machine. The script runs
# examples/hot_path.rs under callgrind (apt-get install valgrind).
#
# Each kind of command has a budget below: the count when the budget was set plus a twentieth, which
# leaves room for a new compiler but not for a real regression. Lower the budget when the hot path
# becomes faster; to raise it, state the reason in the commit.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "instructions.sh takes no arguments" && exit 2 ;;
esac
command -v valgrind >/dev/null || {
    say "valgrind is missing; install it with apt-get install valgrind" && exit 3
}

kinds=(iamat logged stored fenced near query flood whatsat)
declare -A budget=([iamat]=2680 [logged]=5440 [stored]=3110 [fenced]=3560 [near]=3930 [query]=86900 [flood]=2960 [whatsat]=6090)
clients=1000
few=16000
many=32000
# A query takes as many instructions as thirty updates.
declare -A part=([query]=20)

cargo build --locked --quiet --release --example hot_path
program=${CARGO_TARGET_DIR:-target}/release/examples/hot_path
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

# Counts only inside HotPath::execute of examples/hot_path.rs.
instructions() { # instructions KIND COMMANDS
    valgrind --tool=callgrind --callgrind-out-file="$folder/out" --toggle-collect='*HotPath*execute*' \
        "$program" "$1" "$clients" "$2" 2>&1 >/dev/null | awk '/Collected/ { print $NF }'
}

failed=0
printf '%-8s %12s %8s\n' command instructions budget
for kind in "${kinds[@]}"; do
    # The difference of two runs cancels the fixed cost of storing the clients.
    first=$((few / ${part[$kind]:-1})) all=$((many / ${part[$kind]:-1}))
    each=$((($(instructions "$kind" "$all") - $(instructions "$kind" "$first")) / (all - first)))
    verdict=
    if [ "$each" -le 0 ] || [ "$each" -gt "${budget[$kind]}" ]; then verdict="  over budget" failed=1; fi
    printf '%-8s %12s %8s%s\n' "$kind" "$each" "${budget[$kind]}" "$verdict"
done
exit "$failed"
