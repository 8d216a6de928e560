#!/usr/bin/env bash
# Fuzzes the node with cargo-fuzz, which needs a nightly toolchain; docs/fuzzing.md tells what is
# fuzzed.
#
# Usage: scripts/fuzz.sh [TARGET [SECONDS]]
#        scripts/fuzz.sh coverage
#
# TARGET is a file of fuzz/fuzz_targets without its .rs, or `all`, which is the default; each runs
# for SECONDS (60). The corpus grows in fuzz/corpus/TARGET, where git ignores what was added; what
# breaks the target is left in fuzz/artifacts/TARGET with the command that runs it again.
# `coverage` prints how much of the parser and of the HTTP exchange their corpora reach.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

all=()
for file in fuzz/fuzz_targets/*.rs; do all+=("$(basename "$file" .rs)"); done

# Inputs longer than this find nothing that these do not, and take longer.
declare -A longest=([parser]=200 [node_ops]=400 [peer]=700)

target=${1:-all}
seconds=${2:-60}
case $target in
-h | --help) print_usage && exit 0 ;;
all) targets=("${all[@]}") ;;
coverage) targets=() ;;
*) targets=("$target") ;;
esac
[[ $target =~ ^(all|coverage)$ ]] || [ -f "fuzz/fuzz_targets/$target.rs" ] || {
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

# No address sanitizer: it looks for errors of memory, which safe Rust does not have, and `unsafe`
# is forbidden here. Without it five times as much is tried; overflow and debug assertions are
# checked all the same.
fuzz() { cargo +nightly fuzz "$1" --sanitizer none "${@:2}"; }

for target in "${targets[@]}"; do
    say "$target for $seconds s"
    mkdir -p "fuzz/corpus/$target" # libFuzzer adds to it, and does not make it
    options=(-max_total_time="$seconds" -max_len="${longest[$target]:-1024}")
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
