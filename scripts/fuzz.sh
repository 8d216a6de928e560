#!/usr/bin/env bash
# Fuzzes the node with cargo-fuzz, which needs a nightly toolchain. docs/fuzzing.md describes the
# targets.
#
# Usage: scripts/fuzz.sh [TARGET [SECONDS]]
#        scripts/fuzz.sh coverage
#
# TARGET is the name of a file in fuzz/fuzz_targets without .rs, or `all` (the default). Each target
# runs for SECONDS (60). New inputs are added to fuzz/corpus/TARGET, where git ignores them. A failing
# input is written to fuzz/artifacts/TARGET, and the command that runs it again is printed.
# `coverage` prints which share of the protocol and of the HTTP client the corpora cover.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

all=()
for file in fuzz/fuzz_targets/*.rs; do all+=("$(basename "$file" .rs)"); done

# Longer inputs take more time and find nothing more.
declare -A max_len=([parser]=200 [node_ops]=400 [peer]=700)

target=${1:-all}
seconds=${2:-60}
case $target in
-h | --help) print_usage && exit 0 ;;
all) targets=("${all[@]}") ;;
coverage) targets=() ;;
*) targets=("$target") ;;
esac
[[ $target =~ ^(all|coverage)$ ]] || [ -f "fuzz/fuzz_targets/$target.rs" ] || {
    say "unknown target: $target; the targets are ${all[*]}" && exit 2
}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { say "SECONDS must be an integer above 0, not $seconds" && exit 2; }

cargo +nightly --version >/dev/null 2>&1 || {
    say "the nightly toolchain is missing; cargo-fuzz needs it for instrumentation"
    say "install it with: rustup toolchain install nightly --profile minimal"
    exit 3
}
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    { say "a C++ compiler, which libFuzzer needs, is missing: apt-get install g++" && exit 3; }
cargo fuzz --version >/dev/null 2>&1 || {
    say "installing cargo-fuzz"
    cargo install cargo-fuzz --locked --quiet
}

# The address sanitizer finds memory errors, which safe Rust rules out, and this project forbids
# `unsafe`. Without it, the targets run five times as fast. Overflow checks and debug assertions are on.
fuzz() { cargo +nightly fuzz "$1" --sanitizer none "${@:2}"; }

for target in "${targets[@]}"; do
    say "$target for $seconds s"
    mkdir -p "fuzz/corpus/$target" # libFuzzer does not create it
    options=(-max_total_time="$seconds" -max_len="${max_len[$target]:-1024}")
    options+=(-print_final_stats=1 -timeout=20 -rss_limit_mb=2048)
    [ ! -f "fuzz/dict/$target.dict" ] || options+=(-dict="fuzz/dict/$target.dict")
    fuzz run "$target" -- "${options[@]}"
done

[ "$target" = coverage ] || exit 0
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
llvm_cov=$(rustc +nightly --print sysroot)/lib/rustlib/$host/bin/llvm-cov
[ -x "$llvm_cov" ] || {
    say "llvm-cov is missing: rustup component add llvm-tools --toolchain nightly" && exit 3
}
report() { # report TARGET SOURCE…
    fuzz coverage "$1"
    "$llvm_cov" report "target/$host/coverage/$host/release/$1" \
        -instr-profile="fuzz/coverage/$1/coverage.profdata" -show-branch-summary=false \
        -sources "${@:2}"
}
report parser src/protocol
report http_response src/places/http
