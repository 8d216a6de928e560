#!/usr/bin/env bash
# Tests the Debian package: what it contains, and installation, upgrade, removal and purge.
#
# Usage: tests/package.sh [DIRECTORY]
#
# DIRECTORY contains proxy-herd and herd-bench (default: target/release); nothing is built. The package is
# installed in an overlay of this system in namespaces of its own, which requires root, so this system does
# not change. Requires dpkg-dev and python3; uses lintian, curl and systemd-analyze if they are installed.
set -euo pipefail
unset CDPATH

die() {
    echo "package: $*" >&2
    exit 1
}
ok() { echo "ok: $*"; }

# --- in the overlay

user_of() { stat -c '%U:%G %a' "$1"; }

# Runs in namespaces of mounts, processes and the network, in the overlay.
life_cycle() { # life_cycle PACKAGE
    local deadline status=0
    ip link set lo up
    rm -f /usr/sbin/policy-rc.d
    ! getent passwd proxy-herd >/dev/null || deluser --quiet proxy-herd
    rm -rf /var/lib/proxy-herd /var/log/proxy-herd /etc/proxy-herd

    dpkg -i "$1" >/install.log 2>&1 || die "dpkg -i: $(</install.log)"
    [ "$(getent passwd proxy-herd | cut -d: -f6,7)" = /var/lib/proxy-herd:/usr/sbin/nologin ] || die "the user: $(getent passwd proxy-herd)"
    [ "$(id -u proxy-herd)" -lt 1000 ] || die "not a system user: $(id proxy-herd)"
    for directory in /var/lib/proxy-herd /var/log/proxy-herd; do
        [ "$(user_of "$directory")" = "proxy-herd:proxy-herd 750" ] || die "$directory: $(user_of "$directory")"
    done
    [ -z "$(find /etc/systemd -name 'proxy-herd*')" ] || die "an instance is enabled"
    ok "the package creates the user and its directories and enables nothing"

    cd /
    printed=$(proxy-herd --check) || die "--check: exit $?"
    [[ $printed == "/etc/proxy-herd/config.yml: 5 nodes"* && $printed == *"Logs: /var/log/proxy-herd/NAME.log"* ]] || die "$printed"
    ok "--check reads the configuration of the package"
    for node in Bailey Bona Campbell Clark Jaquez; do
        (cd /var/lib/proxy-herd && exec setpriv --reuid proxy-herd --regid proxy-herd --clear-groups proxy-herd "$node") &
    done
    deadline=$((SECONDS + 20))
    until printed=$(proxy-herd --status 2>&1); do [ "$SECONDS" -lt "$deadline" ] || die "--status: $printed"; done
    [ "$(grep -c healthy <<<"$printed")" -eq 5 ] || die "--status: $printed"
    [ "$(user_of /var/log/proxy-herd/Clark.log | cut -d' ' -f1)" = proxy-herd:proxy-herd ] || die "the log of Clark"
    [ "$(user_of /var/lib/proxy-herd/Clark)" = "proxy-herd:proxy-herd 750" ] || die "the storage of Clark: $(user_of /var/lib/proxy-herd/Clark)"
    [ "$(user_of /var/lib/proxy-herd/Clark/MANIFEST)" = "proxy-herd:proxy-herd 640" ] || die "the manifest of Clark: $(user_of /var/lib/proxy-herd/Clark/MANIFEST)"
    ok "the service user can run nodes, which store their records for it alone, and --status finds them"
    if command -v systemd-analyze >/dev/null; then
        systemd-analyze verify proxy-herd@Bailey.service >/verify.log 2>&1 || status=$?
        if [ "$status" -ne 0 ] || grep -q proxy-herd /verify.log; then die "the unit: $(</verify.log)"; fi
        ok "systemd accepts the unit"
    fi
    if command -v openssl >/dev/null; then
        /usr/share/proxy-herd/mint_certs.py /certs --herd /etc/proxy-herd/config.yml >/dev/null || die "mint_certs.py: exit $?"
        [ -f /certs/Jaquez.pem ] || die "mint_certs.py: no certificate of Jaquez"
        ok "mint_certs.py creates certificates for the configuration of the package"
    fi

    # An upgrade keeps changes of the administrator, running nodes and a directory with another owner.
    mkdir -p /etc/systemd/system/multi-user.target.wants
    ln -s /usr/lib/systemd/system/proxy-herd@.service /etc/systemd/system/multi-user.target.wants/proxy-herd@Bailey.service
    echo HERD_SECRET=x >/etc/proxy-herd/environment
    echo '# changed' >>/etc/proxy-herd/config.yml
    touch /var/lib/proxy-herd/kept
    dpkg-statoverride --update --add proxy-herd adm 2750 /var/log/proxy-herd
    dpkg -i "$1" >/install.log 2>&1 || die "the upgrade: $(</install.log)"
    [ "$(user_of /var/log/proxy-herd)" = "proxy-herd:adm 2750" ] || die "the upgrade: $(user_of /var/log/proxy-herd)"
    grep -q '^# changed' /etc/proxy-herd/config.yml || die "the upgrade replaces the configuration"
    proxy-herd --status >/dev/null || die "the upgrade stops nodes"
    ok "an upgrade keeps configuration, permissions and running nodes"
    mapfile -t nodes < <(jobs -p)
    kill "${nodes[@]}"
    wait

    dpkg --remove proxy-herd >/install.log 2>&1 || die "dpkg --remove: $(</install.log)"
    [ ! -e /usr/bin/proxy-herd ] || die "the removal leaves the program: $(</install.log)"
    for path in /var/lib/proxy-herd/kept /etc/proxy-herd/config.yml; do [ -e "$path" ] || die "the removal deletes $path"; done
    ok "a removal keeps configuration and data"
    dpkg --purge proxy-herd >/install.log 2>&1 || die "dpkg --purge: $(</install.log)"
    for path in /var/lib/proxy-herd /var/log/proxy-herd /etc/proxy-herd/config.yml \
        /etc/systemd/system/multi-user.target.wants/proxy-herd@Bailey.service; do
        if [ -e "$path" ] || [ -L "$path" ]; then die "the purge leaves $path"; fi
    done
    [ -e /etc/proxy-herd/environment ] || die "the purge removes a file of the administrator"
    ok "a purge removes data, logs and enabled instances"
}
if [ "${1-}" = --life-cycle ]; then life_cycle "$2" && exit 0; fi

# --- the package

cd "$(dirname "$0")/.."
binaries=$(realpath "${1:-target/release}")
for tool in dpkg-deb dpkg-shlibdeps strip python3; do
    command -v "$tool" >/dev/null || die "$tool not found"
done
for name in proxy-herd herd-bench; do [ -x "$binaries/$name" ] || die "$binaries/$name not found: build the programs first"; done
base=$(mktemp -d)
trap 'rm -rf "$base"' EXIT
mkdir -p "$base/bin" "$base/target/release" "$base/target/debian"
ln -s "$binaries/proxy-herd" "$binaries/herd-bench" "$base/target/release"
printf '#!/bin/sh\n' >"$base/bin/cargo" # nothing to build
chmod +x "$base/bin/cargo"
: >"$base/target/debian/proxy-herd_0.0.0-1_all.deb"
PATH=$base/bin:$PATH CARGO_TARGET_DIR=$base/target scripts/package.sh >"$base/log" 2>&1 || die "package.sh: $(<"$base/log")"
packages=("$base"/target/debian/*.deb)
package=${packages[0]}
[ "${#packages[@]}" -eq 1 ] || die "not one package: ${packages[*]}"
ok "package.sh builds one package"

contents=$(dpkg-deb -c "$package")
! grep -qv ' root/root ' <<<"$contents" || die "not owned by root: $contents"
control=$(dpkg-deb -f "$package")
grep -q '^Depends: adduser, libc6 ' <<<"$control" || die "dependencies: $control"
dpkg-deb -x "$package" "$base/files"
documents=$base/files/usr/share/doc/proxy-herd
for path in usr/share/proxy-herd/mint_certs.py usr/lib/systemd/system/proxy-herd@.service usr/share/man/man1/proxy-herd.1.gz; do
    [ -f "$base/files/$path" ] || die "$path is missing: $contents"
done
for name in changelog.gz changelog.Debian.gz copyright README.md SECURITY.md; do
    [ -f "$documents/$name" ] || die "$name is missing: $contents"
done
diff -r <(cd docs && find . | sort) <(cd "$documents/docs" && find . | sort) || die "documents are missing"
readelf -S "$base/files/usr/bin/proxy-herd" | grep -q '\.symtab\|\.debug_info' && die "proxy-herd is not stripped"
grep -q '^ExecReload=/bin/kill -HUP ' "$base/files/usr/lib/systemd/system/proxy-herd@.service" || die "reload does not send SIGHUP"
ok "it contains stripped programs, the unit, manual pages and all documents"

python3 - "$documents" <<'END' || die "dead links in the installed documents"
import re, sys
from pathlib import Path

dead, checked = [], 0
for page in Path(sys.argv[1]).rglob("*.md"):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        path = target.split("#")[0]
        if not path or "://" in target or target.startswith("mailto:"):
            continue
        checked += 1
        # An absolute path is a file elsewhere in the package.
        root = Path(sys.argv[1]).parents[3] / path[1:] if path.startswith("/") else page.parent / path
        if not root.exists():
            dead.append(f"{page.name}: {target}")
if dead:
    print(*dead, sep="\n")
sys.exit(bool(dead) or checked < 100)
END
ok "no link of the installed documents is dead"

if command -v lintian >/dev/null; then
    # A package outside of Debian closes no bug of Debian.
    lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs "$package" || die "lintian: exit $?"
    ok "lintian finds no fault"
else
    echo "NOT TESTED: lintian is missing"
fi

# shellcheck disable=SC2016 # for the inner shell
overlay() { # overlay COMMAND…: runs a command in an overlay of this system that is discarded
    unshare --mount --net --pid --fork bash -c '
        mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" "$1/root" &&
            mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root" &&
            mount -t proc proc "$1/root/proc" && mount --rbind /dev "$1/root/dev" &&
            cp "$2" "$1/root/proxy-herd.deb" && cp "$3" "$1/root/test" || exit 125
        exec chroot "$1/root" "${@:4}"' - "$@"
}
mkdir "$base/overlay"
status=0
overlay "$base/overlay" "$package" tests/package.sh true 2>"$base/log" || status=$?
if [ "$status" -ne 0 ]; then
    echo "NOT TESTED: installation, which requires root and an overlay: $(<"$base/log")"
else
    overlay "$base/overlay" "$package" tests/package.sh bash /test --life-cycle /proxy-herd.deb || die "the life cycle: exit $?"
fi
echo "package: all tests passed"
