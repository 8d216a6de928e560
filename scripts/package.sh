#!/usr/bin/env bash
# Builds the Debian package.
#
# Usage: scripts/package.sh
#
# Requires dpkg and cargo-deb, which is installed if missing. The package is
# target/debian/proxy-herd_*.deb. It contains proxy-herd, herd-bench, a systemd template unit, man
# pages, and /etc/proxy-herd/config.yml: conf/config.yml with the log directory /var/log/proxy-herd.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "unexpected argument: $1; package.sh takes none" && exit 2 ;;
esac
command -v dpkg >/dev/null || { say "dpkg not found; build the package on Debian" && exit 3; }
cargo deb --version >/dev/null 2>&1 || cargo install cargo-deb --locked

mkdir -p target/package
sed 's|^#  directory: logs$|  directory: /var/log/proxy-herd|' conf/config.yml >target/package/config.yml
if cmp -s conf/config.yml target/package/config.yml; then
    say "conf/config.yml: line '#  directory: logs' not found; adapt package.sh" && exit 1
fi
cargo deb --locked
