# shellcheck shell=bash
# Messages and usage text of the scripts.

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Prints a message on standard error, prefixed with the name of the script.
say() { # say WORD…
    echo "$(basename "$0" .sh): $*" >&2
}

# Prints the comment at the top of the script, up to `set`: its usage.
print_usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$scripts/$(basename "$0")"
}
