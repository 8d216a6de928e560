#!/usr/bin/env bash
# Tests the tests: breaks a copy of the sources in one way at a time and expects a test to fail.
#
# Usage: scripts/mutants.sh [--sample N [--seed TEXT]] [NAME…]
#        scripts/mutants.sh --check
#        scripts/mutants.sh --refresh [NAME…]
#
# A mutant is a patch in tests/mutants whose header says what is broken and which command must fail.
# NAME selects the mutants whose file name contains it; --sample runs N mutants, drawn by TEXT (the
# current commit). The exit status is 1 if a mutant survives, a patch does not apply or compile, or a
# test fails without any mutant.
#
# --check only verifies that every patch applies and has a number of its own. --refresh rewrites patches whose context has moved
# or changed a little; a patch that no longer applies at all has to be corrected by hand.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

# Enough for the rarest mutant that only the simulator sees.
export SIM_SCHEDULES=1000
unset SIM_SEED SIM_FIRST
# Tests are compiled in seconds and still run a few times faster than without optimization.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1
# A test that runs this long has been made to hang by the mutant.
seconds_per_test=120

mode=run sample='' seed='' names=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) print_usage && exit 0 ;;
    --check | --refresh) mode=${1#--} ;;
    --sample) sample=${2-} && shift ;;
    --seed) seed=${2-} && shift ;;
    -*) say "unknown option: $1; see --help" && exit 2 ;;
    *) names+=("$1") ;;
    esac
    shift || { say "an option lacks its value; see --help" && exit 2; }
done
[[ $sample =~ ^([1-9][0-9]*)?$ ]] || { say "--sample takes a number above 0, not $sample" && exit 2; }

header() { sed '/^--- /,$d' "tests/mutants/$1.patch"; }         # what is broken, and what must fail
command_of() { sed -n 's/^Caught-by: cargo test //p' "tests/mutants/$1.patch"; } # its arguments

is_selected() {
    [ "${#names[@]}" -eq 0 ] && return
    local part
    for part in "${names[@]}"; do [[ $1 != *"$part"* ]] || return 0; done
    return 1
}
mutants=()
for patch in tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    ! is_selected "$name" || mutants+=("$name")
done
[ "${#mutants[@]}" -gt 0 ] || { say "no mutant is called ${names[*]}" && exit 2; }
if [ -n "$sample" ]; then
    seed=${seed:-$(git rev-parse HEAD)}
    mapfile -t mutants < <(for name in "${mutants[@]}"; do
        echo "$(sha256sum <<<"$seed $name" | cut -c1-16) $name"
    done | sort | head -n "$sample" | cut -d' ' -f2- | sort)
fi

faults=()
if [ "$mode" = check ]; then
    twice=$(printf '%s\n' "${mutants[@]%%-*}" | uniq -d | tr '\n' ' ')
    [ -z "$twice" ] || faults+=("several mutants have the number $twice")
    for name in "${mutants[@]}"; do
        [ -n "$(command_of "$name")" ] || faults+=("$name: the header has no line Caught-by: cargo test …")
        git apply --check "tests/mutants/$name.patch" || faults+=("$name: does not apply; see --refresh")
    done
    for fault in "${faults[@]}"; do say "$fault"; done
    exit "$((${#faults[@]} > 0))"
fi

# The copy is a repository of its own, so that every mutant can be taken back.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mutants.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
root=$PWD copy=$scratch/copy
export CARGO_TARGET_DIR=$scratch/target
mkdir "$copy"
git ls-files -z | tar --null --files-from=- -cf - | tar -xf - -C "$copy"
cd "$copy"
git init -q
git add -A
git -c user.name=mutants -c user.email= commit -q -m "without mutants"

if [ "$mode" = refresh ]; then
    for name in "${mutants[@]}"; do
        ! git apply --check "$root/tests/mutants/$name.patch" 2>/dev/null || continue
        if patch -p1 --quiet --fuzz=3 --no-backup-if-mismatch <"$root/tests/mutants/$name.patch" >/dev/null; then
            { (cd "$root" && header "$name") && git -c diff.noprefix=false diff --no-color | sed '/^diff \|^index /d'; } >"$scratch/new"
            mv "$scratch/new" "$root/tests/mutants/$name.patch"
            say "refreshed $name"
        else
            faults+=("$name") && say "correct $name by hand"
        fi
        git checkout -q . && git clean -qfd
    done
    exit "$((${#faults[@]} > 0))"
fi

began=$SECONDS
build() { cargo test --locked --quiet --no-run "$@" >"$scratch/output" 2>&1 </dev/null; } # build ARGUMENT…
run() { # run ARGUMENT…: runs a test that has been built
    timeout --kill-after=10 "$seconds_per_test" cargo test --locked --quiet "$@" >"$scratch/output" 2>&1 </dev/null
}

echo "== ${#mutants[@]} mutants; first the tests as they are"
while read -r arguments; do
    # shellcheck disable=SC2086 # words of a command
    if ! build $arguments || ! run $arguments || ! grep -q 'running [1-9]' "$scratch/output"; then
        tail -n 30 "$scratch/output" >&2
        say "cargo test $arguments: fails, or runs no test, without any mutant" && exit 1
    fi
done < <(for name in "${mutants[@]}"; do (cd "$root" && command_of "$name"); done | sort -u)

for name in "${mutants[@]}"; do
    arguments=$(cd "$root" && command_of "$name")
    start=$SECONDS status=0
    if ! git apply "$root/tests/mutants/$name.patch"; then
        verdict="DOES NOT APPLY"
    # shellcheck disable=SC2086 # words of a command
    elif ! build $arguments; then
        tail -n 30 "$scratch/output" >&2
        verdict="DOES NOT COMPILE"
    else
        # shellcheck disable=SC2086 # words of a command
        run $arguments || status=$?
        case $status in
        0) verdict="SURVIVED" ;;
        124 | 137) verdict="caught, test stopped after $seconds_per_test s" ;;
        *) verdict="caught" ;;
        esac
    fi
    printf '%-48s %s (%s s)\n' "$name" "$verdict" "$((SECONDS - start))"
    [[ $verdict == caught* ]] || faults+=("$name: $verdict by cargo test $arguments")
    git checkout -q . && git clean -qfd
done

echo "== $((${#mutants[@]} - ${#faults[@]})) of ${#mutants[@]} mutants caught in $((SECONDS - began)) s"
for fault in "${faults[@]}"; do say "$fault"; done
exit "$((${#faults[@]} > 0))"
