# shellcheck shell=bash
# How scripts speak to whoever runs them.

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Says something on standard error, behind the name of the script.
say() { # say WORD…
    echo "$(basename "$0" .sh): $*" >&2
}

# Prints what the script begins with, up to `set`: how it is used.
print_usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$scripts/$(basename "$0")"
}
