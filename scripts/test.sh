#!/usr/bin/env bash
# Runs every test of the project that needs no nightly toolchain.
#
# Usage: scripts/test.sh
#
# Formatting, lints, cargo test, the sessions with nc and telnet, the scripts that start and stop a
# herd, the tests of the test servers, the page in a browser, and the types of the fuzz targets. What a
# missing tool keeps from being tested is said at the end. Needs cargo and a C compiler; python3 with
# openssl, nc, telnet, node with npm, and chromium for the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "there is nothing to be said to it; single tests run with cargo test NAME" && exit 2 ;;
esac

skipped=()
step() { printf '\n== %s (%s s so far)\n' "$*" "$SECONDS"; }
have() { # have WHAT COMMAND…: whether all commands are there; else WHAT is skipped
    local what=$1 command
    shift
    for command in "$@"; do
        command -v "$command" >/dev/null || { skipped+=("$what: there is no $command") && return 1; }
    done
}

page_is_built() { # whether the page is what its sources build, as far as that can be told here
    local status=0
    if ! node --input-type=module -e 'process.exit(import.meta.dirname ? 0 : 1)'; then
        skipped+=("the page in a browser: node is older than 20.11") && return 1
    fi
    scripts/build_page.sh --check || status=$?
    [ "$status" -ne 3 ] || { skipped+=("the page in a browser: npm cannot install its tools") && return 1; }
    [ "$status" -eq 0 ] || exit "$status"
}

# Settings of the person who runs the tests are not the tests'.
unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG

step "cargo fmt"
cargo fmt --all -- --check
cargo fmt --manifest-path fuzz/Cargo.toml -- --check

step "cargo clippy"
cargo clippy --locked --all-targets -- -D warnings

step "cargo test"
cargo test --locked

# What /metrics says is read by one of these, or by the test itself alone.
if ! python3 -c 'import prometheus_client' 2>/dev/null && ! command -v promtool >/dev/null; then
    skipped+=("metrics by another's parser: there is neither promtool nor prometheus_client")
fi

# The chaos test says itself on which network it runs.
have "chaos in network namespaces" unshare ip nft tc || true

if [ -f tests/nc_telnet.sh ] && have "sessions with nc and telnet" nc telnet; then
    step "sessions with nc and telnet"
    bash tests/nc_telnet.sh "${CARGO_TARGET_DIR:-target}/debug/proxy-herd"
fi

if have "the scripts that start and stop a herd" nc python3 openssl; then
    step "the scripts that start and stop a herd"
    bash tests/scripts.sh "${CARGO_TARGET_DIR:-target}/debug/proxy-herd"
fi

if [ -d tests/servers ] && have "tests of the test servers" python3 openssl; then
    step "tests of the test servers"
    python3 -m unittest discover -s tests/servers
fi

if have "the page in a browser" node npm chromium; then
    step "the page in a browser"
    if page_is_built; then
        CHROMIUM=$(command -v chromium) node --test --test-reporter=spec tests/browser/page.test.mjs
    fi
fi

step "types of the fuzz targets"
cargo clippy --locked --manifest-path fuzz/Cargo.toml --no-default-features \
    --target-dir "${CARGO_TARGET_DIR:-target}" -- -D warnings

step "done"
for what in "${skipped[@]}"; do echo "NOT TESTED: $what"; done
