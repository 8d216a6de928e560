#!/usr/bin/env bash
# Builds the Debian package target/debian/proxy-herd_VERSION_ARCHITECTURE.deb.
#
# Usage: scripts/package.sh
#
# The package contains proxy-herd, herd-bench, a systemd template unit, manual pages, all documents,
# mint_certs.py, and /etc/proxy-herd/config.yml: conf/config.yml with absolute directories. Its scripts,
# in packaging/debian, create the user of the service. Requires cargo, a C compiler, and dpkg-dev of
# Debian. DEBFULLNAME and DEBEMAIL, if set, name the maintainer of the package.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

case ${1-} in
"") ;;
-h | --help) print_usage && exit 0 ;;
*) say "unexpected argument: $1; package.sh takes none" && exit 2 ;;
esac
for tool in dpkg-deb dpkg-shlibdeps strip; do
    command -v "$tool" >/dev/null || { say "$tool not found: apt-get install dpkg-dev" && exit 3; }
done

cargo build --release --locked --bins

target=${CARGO_TARGET_DIR:-target}
version=$(sed -n '1,/^version/s/^version = "\(.*\)"/\1/p' Cargo.toml)-1
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-proxy-herd maintainers} <${DEBEMAIL:-proxy-herd@packages.example}>"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

work=$target/package
stage=$work/proxy-herd
documents=$stage/usr/share/doc/proxy-herd
rm -rf "$work"

install_files() { # install_files MODE FOLDER FILE…
    install -d -m 755 "$stage/$2"
    install -m "$1" -t "$stage/$2" "${@:3}"
}

# --- programs and configuration

install_files 755 usr/bin "$target/release/proxy-herd" "$target/release/herd-bench"
strip --remove-section=.comment --remove-section=.note "$stage"/usr/bin/*
install_files 755 usr/share/proxy-herd scripts/mint_certs.py scripts/gpsd_bridge.py
install_files 644 usr/lib/systemd/system packaging/systemd/proxy-herd@.service

install_files 644 etc/proxy-herd conf/config.yml
sed -i -e 's|^#  directory: logs$|  directory: /var/log/proxy-herd|' \
    -e 's|^  directory: data\b|  directory: /var/lib/proxy-herd|' "$stage/etc/proxy-herd/config.yml"
grep -q '^  directory: /var/log/proxy-herd$' "$stage/etc/proxy-herd/config.yml" || {
    say "conf/config.yml: line '#  directory: logs' not found; adapt package.sh" && exit 1
}

# --- documentation

for page in packaging/man/*; do
    folder=$stage/usr/share/man/man${page##*.}
    install -d -m 755 "$folder"
    gzip -9n <"$page" >"$folder/${page##*/}.gz"
done

install_files 644 usr/share/doc/proxy-herd packaging/debian/copyright ARCHITECTURE.md CONTRIBUTING.md \
    README.md SECURITY.md src/http/assets/licences.txt src/places/data/ATTRIBUTION.md
cp -r docs "$documents"
find "$stage/usr/share/doc" -type d -exec chmod 755 {} + -o -exec chmod 644 {} +
gzip -9n <CHANGELOG.md >"$documents/changelog.gz"
gzip -9n >"$documents/changelog.Debian.gz" <<END
proxy-herd ($version) unstable; urgency=medium

  * Built from the sources of this version; changelog.gz lists its changes.

 -- $maintainer  $(date -uRd "@$SOURCE_DATE_EPOCH")
END
# Links follow the files that moved. Of links to sources, which are not in the package, the text remains.
find "$documents" -name '*.md' -exec sed -i -E \
    -e 's!\]\(((\.\./)?)src/(http/assets|places/data)/(licences.txt|ATTRIBUTION.md)\)!](\1\4)!g' \
    -e 's!\]\(((\.\./)?)CHANGELOG\.md(#[^)]*)?\)!](\1changelog.gz)!g' \
    -e 's!\]\(((\.\./)?)LICENSE\)!](\1copyright)!g' \
    -e 's!\]\((\.\./)?conf/config\.yml\)!](/etc/proxy-herd/config.yml)!g' \
    -e 's!\[([^]]*)\]\((\.\./)?(conf|examples|fuzz|packaging|scripts|src|tests|web)/[^)]*\)!\1!g' {} +

# --- control files

mkdir "$stage/DEBIAN" "$work/debian"
cp packaging/debian/control "$work/debian"
libraries=$(cd "$work" && dpkg-shlibdeps -O proxy-herd/usr/bin/*)
{
    sed -n '/^Package:/,$p' packaging/debian/control |
        sed -e "s/^Architecture: any$/Version: $version\nArchitecture: $architecture/" \
            -e "s/\${shlibs:Depends}/${libraries#shlibs:Depends=}/"
    sed -n '/^Source:/d; /^$/q; p' packaging/debian/control
    echo "Maintainer: $maintainer"
    echo "Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f 1)"
} | sed '/^$/d' >"$stage/DEBIAN/control"
(cd "$stage" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
(cd "$stage" && find etc -type f -printf '/%p\n') >"$stage/DEBIAN/conffiles"
install -m 755 -t "$stage/DEBIAN" packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm
chmod 644 "$stage/DEBIAN"/{control,md5sums,conffiles}

mkdir -p "$target/debian"
rm -f "$target"/debian/proxy-herd_*.deb # the name that README.md installs must be unique
dpkg-deb --root-owner-group --build "$stage" "$target/debian/proxy-herd_${version}_$architecture.deb"
