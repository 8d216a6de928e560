#!/usr/bin/env bash
# Builds the Debian package.
#
# Usage: scripts/package.sh
#
# Needs cargo-deb, which it installs, and dpkg. The package is target/debian/proxy-herd_*.deb; it
# brings the node, herd-bench, a template unit for systemd, man pages, and the configuration in
# /etc/proxy-herd, which is conf/config.yml with its logs in /var/log/proxy-herd.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/speak.sh
. scripts/speak.sh

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "there is nothing to be said to it" && exit 2 ;;
esac
command -v dpkg >/dev/null || { say "there is no dpkg; build it on Debian" && exit 3; }
cargo deb --version >/dev/null 2>&1 || cargo install cargo-deb --locked

mkdir -p target/package
sed 's|^#  directory: logs$|  directory: /var/log/proxy-herd|' conf/config.yml >target/package/config.yml
if cmp -s conf/config.yml target/package/config.yml; then
    say "conf/config.yml has no line '#  directory: logs' any more" && exit 1
fi
cargo deb --locked
