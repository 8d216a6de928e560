# shellcheck shell=bash
# The beginning of every script: the root of the project, messages and the usage text.

# Settings inherited through the environment (CDPATH, SHELLOPTS, BASHOPTS, BASH_ENV) would change what
# `cd` prints, whether `*` expands and whether a file can be overwritten.
unset CDPATH BASH_ENV
unset -f cd
set +Cfm
set +o posix
shopt -u failglob nocaseglob nocasematch nullglob

# The script may be called through a symbolic link.
script=$(readlink -f -- "$0")
scripts=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
# shellcheck disable=SC2034 # used by the scripts
root=$(dirname -- "$scripts")

# Prints a message on standard error, prefixed with the name of the script.
say() { # say WORD…
    echo "$(basename -- "$script" .sh): $*" >&2
}

# Prints the comment at the top of the script, up to `set`: its usage.
print_usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$script"
}

# Sets $amount and $seed from the arguments of a script that tests something at random: how much, and a seed,
# which is random if it is missing. Tests must not inherit the settings of the user.
read_amount_and_seed() { # read_amount_and_seed NAME DEFAULT [AMOUNT [SEED]]
    local number
    case ${3-} in
    -h | --help) print_usage && exit 0 ;;
    -*) say "unknown option: $3" && exit 2 ;;
    esac
    amount=${3:-$2}
    seed=${4:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
    for number in "$amount" "$seed"; do
        [[ $number =~ ^[0-9]+$ ]] || { say "$1 and SEED must be non-negative integers, not $number" && exit 2; }
    done
    unset GOOGLE_PLACES_API_KEY HERD_SECRET RUST_LOG
}
