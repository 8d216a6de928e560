#!/usr/bin/env bash
# Builds the web page that a node serves, from web/ into src/http/assets.
#
# Usage: scripts/build_page.sh [--check]
#
# The output is committed, so that building the node requires cargo alone. Builds are reproducible;
# --check compares a build with the committed files and writes nothing. Requires node 20.11 or newer,
# npm and, the first time, access to the npm registry. Exits with 1 if --check finds a difference,
# and with 3 if npm cannot install the packages of web/package-lock.json.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

assets=$PWD/src/http/assets
case ${1-} in
"" | --check) ;;
-h | --help) print_usage && exit 0 ;;
*) say "unknown option: $1; see --help" && exit 2 ;;
esac

# A copy of the lock file records what is installed; reinstall only if it has changed.
if ! cmp -s web/package-lock.json web/node_modules/.installed; then
    npm --prefix web ci --ignore-scripts --loglevel=error || exit 3
    cp web/package-lock.json web/node_modules/.installed
fi

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
node web/build.mjs "$made"
# -n: store neither the name nor the time of the file, for reproducible output
gzip -9 -n -k "$made"/*

if [ "${1-}" = --check ]; then
    if ! diff -rq "$made" "$assets"; then
        say "src/http/assets is out of date; run scripts/build_page.sh and commit the result"
        exit 1
    fi
    echo "src/http/assets is up to date"
else
    rm -rf "$assets"
    mkdir "$assets"
    cp "$made"/* "$assets"
    ls -l "$assets"
fi
