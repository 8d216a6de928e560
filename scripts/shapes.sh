#!/usr/bin/env bash
# Compares the shapes of fences with an oracle that decides with integers.
#
# Usage: scripts/shapes.sh [PAIRS]
#
# Compares PAIRS random pairs of a point and a shape (10000000), on all processors, optimized and with all
# checks enabled. The first pair about which they disagree is printed with its seed.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
-h | --help) print_usage && exit 0 ;;
esac
pairs=${1:-10000000}
[[ $pairs =~ ^[1-9][0-9]*$ ]] || { say "PAIRS must be an integer above 0, not $pairs" && exit 2; }

SHAPE_PAIRS=$pairs cargo test --locked --quiet --profile sim --test shapes -- --nocapture
