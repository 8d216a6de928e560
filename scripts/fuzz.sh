#!/usr/bin/env bash
# Fuzzes the node's parsers with cargo-fuzz, which needs a nightly toolchain.
#
# Usage: scripts/fuzz.sh [TARGET [SECONDS]]
#
# TARGET is a file of fuzz/fuzz_targets without its .rs, or `all`, which is the default; each runs
# for SECONDS (60). The corpus grows in fuzz/corpus/TARGET, where git ignores what was added; what
# breaks the target is left in fuzz/artifacts/TARGET with the command that runs it again.
# Without this script: cargo +nightly fuzz run TARGET
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "fuzz: $*" >&2; }

all=()
for file in fuzz/fuzz_targets/*.rs; do all+=("$(basename "$file" .rs)"); done

target=${1:-all}
seconds=${2:-60}
case $target in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' scripts/fuzz.sh && exit 0 ;;
all) targets=("${all[@]}") ;;
*) targets=("$target") ;;
esac
[ "$target" = all ] || [ -f "fuzz/fuzz_targets/$target.rs" ] || {
    say "there is no target $target; there are: ${all[*]}" && exit 2
}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { say "for how many seconds? $seconds is no whole number above 0" && exit 2; }

cargo +nightly --version >/dev/null 2>&1 || {
    say "there is no nightly toolchain, which cargo-fuzz needs for its instrumentation"
    say "install it with: rustup toolchain install nightly --profile minimal"
    exit 3
}
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    { say "a C++ compiler is missing (libFuzzer is C++): apt-get install g++" && exit 3; }
cargo fuzz --version >/dev/null 2>&1 || {
    say "installing cargo-fuzz"
    cargo install cargo-fuzz --locked --quiet
}

for target in "${targets[@]}"; do
    say "$target for $seconds s"
    mkdir -p "fuzz/corpus/$target" # libFuzzer adds to it, and does not make it
    options=(-max_total_time="$seconds" -print_final_stats=1 -timeout=10 -rss_limit_mb=2048)
    [ ! -f fuzz/parser.dict ] || options+=(-dict=fuzz/parser.dict)
    cargo +nightly fuzz run "$target" -- "${options[@]}"
done
