#!/usr/bin/env bash
# Counts the instructions of the hot path and fails where they have become more.
#
# Usage: scripts/instructions.sh
#
# Counts, not seconds: they are the same on a busy machine. What is counted is examples/hot_path.rs,
# by callgrind (apt-get install valgrind). Each kind of command has a budget below, a sixth above
# what it took when the budget was set; whoever makes the hot path faster lowers it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "there is nothing to be said to it" && exit 2 ;;
esac
command -v valgrind >/dev/null || {
    say "there is no valgrind: apt-get install valgrind" && exit 3
}

kinds=(iamat logged flood whatsat)
declare -A budget=([iamat]=3500 [logged]=6600 [flood]=3700 [whatsat]=7500)
clients=1000
few=16000
many=32000

cargo build --locked --quiet --release --example hot_path
program=${CARGO_TARGET_DIR:-target}/release/examples/hot_path
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

instructions() { # instructions KIND COMMANDS
    valgrind --tool=callgrind --callgrind-out-file="$folder/out" --toggle-collect='*Teller*tell*' \
        "$program" "$1" "$clients" "$2" 2>&1 >/dev/null | awk '/Collected/ { print $NF }'
}

failed=0
printf '%-8s %12s %8s\n' command instructions budget
for kind in "${kinds[@]}"; do
    # What is before and beside the commands is in both counts.
    each=$((($(instructions "$kind" "$many") - $(instructions "$kind" "$few")) / (many - few)))
    verdict=
    if [ "$each" -le 0 ] || [ "$each" -gt "${budget[$kind]}" ]; then verdict="  over its budget" failed=1; fi
    printf '%-8s %12s %8s%s\n' "$kind" "$each" "${budget[$kind]}" "$verdict"
done
exit "$failed"
