#!/usr/bin/env bash
# Builds the page that a node shows, from web/ into src/http/assets.
#
# Usage: scripts/build_page.sh [--check]
#
# What it makes is committed, so that cargo alone builds the node. The same sources give the same
# bytes; with --check they are compared with what is committed, and nothing is written. Needs node
# 20.11 or newer, npm and, the first time, a way to the registry of npm; where npm cannot install what
# web/package-lock.json names, it exits with 3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

assets=$PWD/src/http/assets
case ${1-} in
"" | --check) ;;
-h | --help) print_usage && exit 0 ;;
*) say "$1 is not understood; see --help" && exit 2 ;;
esac

# npm writes down what it has installed; it is installed anew when the lock file is another.
if ! cmp -s web/package-lock.json web/node_modules/.installed; then
    npm --prefix web ci --ignore-scripts --loglevel=error || exit 3
    cp web/package-lock.json web/node_modules/.installed
fi

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
node web/build.mjs "$made"
# -n: neither name nor time of the file
gzip -9 -n -k "$made"/*

if [ "${1-}" = --check ]; then
    if ! diff -rq "$made" "$assets"; then
        say "src/http/assets is not what web/ builds; run scripts/build_page.sh and commit it"
        exit 1
    fi
    echo "src/http/assets is what web/ builds"
else
    rm -rf "$assets"
    mkdir "$assets"
    cp "$made"/* "$assets"
    ls -l "$assets"
fi
