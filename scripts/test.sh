#!/usr/bin/env bash
# Runs every test of the project that needs no nightly toolchain.
#
# Usage: scripts/test.sh
#
# Runs formatting, lints, cargo test, sessions with nc and telnet, the scripts that start and stop a
# herd, published programs that report positions, the tests of the test servers and the page in a browser,
# and checks that the mutants apply and the fuzz targets compile. Needs cargo and a C compiler, and for
# some of the tests python3 with pip, openssl, nc, telnet, node with npm, and chromium. Tests that were
# skipped because a tool is missing are listed at the end.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "takes no arguments; run a single test with: cargo test NAME" && exit 2 ;;
esac

skipped=()
step() { printf '\n== %s (%s s so far)\n' "$*" "$SECONDS"; }
have() { # have WHAT COMMAND…: succeeds if all commands exist; otherwise WHAT is skipped
    local what=$1 command
    shift
    for command in "$@"; do
        command -v "$command" >/dev/null || { skipped+=("$what: $command is missing") && return 1; }
    done
}

page_is_built() { # succeeds if the page is up to date with its sources; fails if that cannot be checked
    local status=0
    if ! node --input-type=module -e 'process.exit(import.meta.dirname ? 0 : 1)'; then
        skipped+=("the page in a browser: node is older than 20.11") && return 1
    fi
    scripts/build_page.sh --check || status=$?
    [ "$status" -ne 3 ] || { skipped+=("the page in a browser: npm cannot install its tools") && return 1; }
    [ "$status" -eq 0 ] || exit "$status"
}

# The tests must not depend on the user's environment.
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

step "cargo fmt"
cargo fmt --all -- --check
cargo fmt --manifest-path fuzz/Cargo.toml -- --check

step "cargo clippy"
cargo clippy --locked --all-targets -- -D warnings

step "cargo test"
cargo test --locked

# The test of /metrics uses one of these parsers if it finds it.
if ! python3 -c 'import prometheus_client' 2>/dev/null && ! command -v promtool >/dev/null; then
    skipped+=("metrics with an independent parser: promtool and prometheus_client are missing")
fi

# The chaos test itself reports on which network it runs.
have "chaos in network namespaces" unshare ip nft tc || true

if [ -f tests/nc_telnet.sh ] && have "sessions with nc and telnet" nc telnet; then
    step "sessions with nc and telnet"
    bash tests/nc_telnet.sh "${CARGO_TARGET_DIR:-target}/debug/proxy-herd"
fi

if have "the scripts that start and stop a herd" nc python3 openssl; then
    step "the scripts that start and stop a herd"
    bash tests/scripts.sh "${CARGO_TARGET_DIR:-target}/debug/proxy-herd"
fi

if have "published programs that report positions" python3 openssl; then
    step "published programs that report positions"
    status=0
    python3 tests/device_clients "${CARGO_TARGET_DIR:-target}/debug/proxy-herd" || status=$?
    [ "$status" -ne 3 ] || skipped+=("published programs that report positions: pip cannot install them")
    [ "$status" -eq 0 ] || [ "$status" -eq 3 ] || exit "$status"
fi

if have "the Debian package" dpkg-deb dpkg-shlibdeps strip python3; then
    step "the Debian package"
    bash tests/package.sh "${CARGO_TARGET_DIR:-target}/debug"
fi

if [ -d tests/servers ] && have "tests of the test servers" python3 openssl; then
    step "tests of the test servers"
    python3 -m unittest discover -s tests/servers
fi

if [ -d tests/soak ] && have "the checks of the soak test" python3; then
    step "the checks of the soak test"
    python3 -m unittest discover -s tests/soak
fi

if have "the recipes of docs/feed.md" python3; then
    step "the recipes of docs/feed.md"
    status=0
    python3 tests/feed_recipes.py "${CARGO_TARGET_DIR:-target}/debug/proxy-herd" || status=$?
    case $status in
    0) ;;
    3) skipped+=("the history of docs/feed.md in PostGIS: a package is missing, see above") ;;
    *) exit "$status" ;;
    esac
fi

if have "the page in a browser" node npm chromium; then
    step "the page in a browser"
    if page_is_built; then
        CHROMIUM=$(command -v chromium) node --test --test-reporter=spec tests/browser/*.test.mjs
    fi
fi

step "mutants: every patch applies"
scripts/mutants.sh --check

step "fuzz targets compile"
cargo clippy --locked --manifest-path fuzz/Cargo.toml --no-default-features \
    --target-dir "${CARGO_TARGET_DIR:-target}" -- -D warnings

step "done"
for what in "${skipped[@]}"; do echo "NOT TESTED: $what"; done
