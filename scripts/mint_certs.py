#!/usr/bin/env python3
"""Creates certificates for local use and for the nodes of a herd, not for public servers.

    scripts/mint_certs.py DIR                       a CA, and a server certificate for localhost
    scripts/mint_certs.py DIR --hostile             also DIR/hostile: certificates that must be rejected
    scripts/mint_certs.py DIR --herd conf/config.yml
    scripts/mint_certs.py DIR --herd Bailey Bona    a CA, and a certificate for each node

    DIR/ca.pem, DIR/ca.key                the CA certificate for ca_file, and its signing key
    DIR/server.pem, DIR/server.key        for DNS:localhost, IP:127.0.0.1 and IP:::1
    DIR/NAME.pem, DIR/NAME.key            with --herd: for DNS:NAME, as TLS server and client
    DIR/hostile/expired.pem, .key         signed by the CA, expired yesterday
    DIR/hostile/wrong-host.pem, .key      signed by the CA, for wrong-host.invalid
    DIR/hostile/self-signed.pem, .key     for localhost, not signed by any CA
    DIR/hostile/untrusted.pem, .key       for localhost, signed by hostile/untrusted-ca.pem

All keys are ECDSA P-256 and readable by their owner only. By default, certificates are valid for 90
days and the CA for 365; a certificate never outlives its CA. Existing certificates that remain valid for
at least three weeks are kept, so the script can be rerun at any time; the CA is replaced only with
--new-ca. No running process needs the CA key: keep it offline, or delete it. DIR/.gitignore, unless it
exists, keeps the keys out of Git.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, NamedTuple, Optional

DAY = datetime.timedelta(days=1)
SKEW = datetime.timedelta(hours=1)  # certificates are backdated by this, since clocks differ
RENEW_BEFORE = 21 * DAY  # certificates that expire sooner are replaced; nodes warn for 14 days
LOCALHOST = "DNS:localhost,IP:127.0.0.1,IP:::1"
NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")  # a label of a DNS name

CA_EXTENSIONS = """basicConstraints=critical,CA:TRUE,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
"""
LEAF_EXTENSIONS = """basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage={usage}
subjectAltName={san}
subjectKeyIdentifier=hash
authorityKeyIdentifier={authority}
"""
SIGNING_CONFIG = """[ca]
default_ca=mint
[mint]
new_certs_dir={scratch}
database={scratch}/index.txt
rand_serial=yes
default_md=sha256
unique_subject=no
policy=any
[any]
commonName=supplied
"""


class UserError(Exception):
    """A condition that the user must resolve."""


class Pair(NamedTuple):
    """Paths of a certificate and its private key."""

    cert: Path
    key: Path


def pair(directory: Path, name: str) -> Pair:
    return Pair(directory / f"{name}.pem", directory / f"{name}.key")


class Issuer:
    """Creates keys and certificates with the openssl command."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.now = datetime.datetime.now(datetime.timezone.utc)

    def certificate(
        self,
        target: Pair,
        common_name: str,
        extensions: str,
        begin: datetime.datetime,
        end: datetime.datetime,
        ca: Optional[Pair] = None,
    ) -> None:
        """Creates a key and a certificate for it, signed by the CA or, if there is none, self-signed.
        The target files are written only after both have been created."""
        new = pair(self.scratch, "new")
        openssl(
            "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", new.key
        )
        request, extra = self.scratch / "request.pem", self.scratch / "extensions"
        openssl("req", "-new", "-key", new.key, "-subj", f"/CN={common_name}", "-out", request)
        extra.write_text(extensions)
        config = self.scratch / "ca.cnf"
        config.write_text(SIGNING_CONFIG.format(scratch=self.scratch))
        (self.scratch / "index.txt").write_text("")
        signer = (
            ["-cert", ca.cert, "-keyfile", ca.key] if ca else ["-selfsign", "-keyfile", new.key]
        )
        dates = ["-startdate", stamp(begin), "-enddate", stamp(end)]
        paths = ["-config", config, "-extfile", extra, "-in", request, "-out", new.cert]
        openssl("ca", "-batch", "-notext", *paths, *dates, *signer)
        new.cert.chmod(0o644)
        new.key.replace(target.key)
        new.cert.replace(target.cert)

    def authority(self, target: Pair, title: str, days: int) -> None:
        name = f"{title}, created {self.now:%Y-%m-%d}"
        self.certificate(target, name, CA_EXTENSIONS, self.now - SKEW, self.now + days * DAY)

    def leaf(
        self, target: Pair, name: str, san: str, ca: Pair, days: int, usage: str = "serverAuth"
    ) -> None:
        end = min(self.now + days * DAY, end_of(ca.cert))
        extensions = LEAF_EXTENSIONS.format(usage=usage, san=san, authority="keyid:always")
        self.certificate(target, name, extensions, self.now - SKEW, end, ca)

    def is_valid(self, target: Pair, ca: Pair, host: str) -> bool:
        """Returns whether `ca` issued the certificate for `host` and it does not expire soon."""
        at = str(int((self.now + RENEW_BEFORE).timestamp()))
        check = ["-CAfile", ca.cert, "-attime", at, "-verify_hostname", host, target.cert]
        return all(file.is_file() for file in target) and succeeds("verify", "-x509_strict", *check)


def stamp(moment: datetime.datetime) -> str:
    return f"{moment:%Y%m%d%H%M%SZ}"


def end_of(cert: Path) -> datetime.datetime:
    text = openssl("x509", "-in", cert, "-noout", "-enddate").strip().partition("=")[2]
    return datetime.datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(
        tzinfo=datetime.timezone.utc
    )


def openssl(*words) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise UserError(f"openssl {words[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def succeeds(*words) -> bool:
    return (
        subprocess.run(["openssl", *map(str, words)], capture_output=True, timeout=60).returncode
        == 0
    )


def find_openssl() -> None:
    """Checks that the openssl command exists, and as root installs it with apt-get if not."""
    if shutil.which("openssl"):
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("mint_certs: installing openssl with apt-get", file=sys.stderr)
        for words in (["update"], ["install", "-y", "--no-install-recommends", "openssl"]):
            subprocess.run(["apt-get", *words], stdout=subprocess.DEVNULL, timeout=600)
    if not shutil.which("openssl"):
        raise UserError(
            "the openssl command is required; install it (Debian, Ubuntu: sudo apt-get install openssl)"
        )


def node_names(words: List[str]) -> List[str]:
    """Returns the node names of --herd: those of a configuration file, or the arguments themselves."""
    names = words
    if len(words) == 1 and Path(words[0]).is_file():
        names = names_in(Path(words[0]))
    elif any("/" in word or word.endswith((".yml", ".yaml", ".json")) for word in words):
        raise UserError(f"--herd {' '.join(words)}: no such configuration file")
    seen = {"ca", "server"}
    for name in names:
        if not NODE_NAME.fullmatch(name):
            raise UserError(f"node name {name!r}: only letters, digits, - and _ allowed in certificates")
        if name.lower() in seen:
            raise UserError(f"node name {name!r}: not unique; certificates ignore case")
        seen.add(name.lower())
    return names


def names_in(config: Path) -> List[str]:
    """Returns the keys of the top-level `ports` of a configuration: a flow mapping, a block mapping or
    JSON. This is not a YAML parser; an error is raised for anything else."""
    text = config.read_text(encoding="utf-8")
    if text.lstrip().startswith("{"):
        return list(json.loads(text)["ports"])
    text = re.sub(r"(^|\s)#.*", "", text)
    flow = re.search(r"^ports\s*:\s*\{(.*?)\}", text, re.MULTILINE | re.DOTALL)
    block = re.search(r"^ports\s*:[ \t]*\n((?:[ \t]+.*\n?|[ \t]*\n)+)", text, re.MULTILINE)
    inside = flow[1].replace(",", "\n") if flow else block[1] if block else ""
    names = re.findall(r"""^\s*(['"]?)([^\s'":]+)\1\s*:\s*\d+\s*$""", inside, re.MULTILINE)
    if not names:
        raise UserError(f"{config}: no nodes found under `ports`; list them as --herd NAME NAME …")
    return [name for _, name in names]


def mint(options: argparse.Namespace) -> None:
    names = node_names(options.herd or [])
    directory = Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    ignore = directory / ".gitignore"
    if not ignore.exists():  # the directory may be in a checkout of any project
        ignore.write_text("*.key\n")
    with tempfile.TemporaryDirectory(prefix=".mint-", dir=directory) as scratch:
        mint_into(directory, names, options, Path(scratch))


def mint_into(
    directory: Path, names: List[str], options: argparse.Namespace, scratch: Path
) -> None:
    issuer, ca = Issuer(scratch), pair(directory, "ca")
    prepare_authority(issuer, ca, options)
    if names:
        for name in names:
            target = pair(directory, name)
            if issuer.is_valid(target, ca, name):
                report(target, f"kept for {name}")
            else:
                issuer.leaf(target, name, f"DNS:{name}", ca, options.days, "serverAuth,clientAuth")
                report(target, f"created for {name}, as server and client")
        return
    server = pair(directory, "server")
    if issuer.is_valid(server, ca, "localhost"):
        report(server, "kept for localhost")
    else:
        issuer.leaf(server, "localhost", LOCALHOST, ca, options.days)
        report(server, "created for localhost, 127.0.0.1 and ::1")
    if options.hostile:
        mint_hostile(issuer, ca, directory / "hostile", options.days)


def prepare_authority(issuer: Issuer, ca: Pair, options: argparse.Namespace) -> None:
    present = [file for file in ca if file.exists()]
    if present and not options.new_ca:
        if len(present) == 1:
            missing = ca.key if ca.cert in present else ca.cert
            raise UserError(
                f"{present[0]} exists but {missing} does not: nothing can be signed. Restore it, choose "
                "another directory, or create a new CA with --new-ca and distribute it to everything "
                "that trusts the old one"
            )
        if end_of(ca.cert) < issuer.now + RENEW_BEFORE:
            raise UserError(
                f"{ca.cert} expires on {end_of(ca.cert):%Y-%m-%d}. Create a new CA with --new-ca and "
                "distribute it to everything that trusts the old one"
            )
        return report(ca, "CA, kept")
    issuer.authority(ca, "proxy-herd local CA", options.ca_days)
    report(ca, "CA, created")


def mint_hostile(issuer: Issuer, ca: Pair, directory: Path, days: int) -> None:
    """Creates certificates that a client must reject, replacing existing ones."""
    directory.mkdir(exist_ok=True)
    localhost = LEAF_EXTENSIONS.format(usage="serverAuth", san=LOCALHOST, authority="keyid:always")
    expired = pair(directory, "expired")
    issuer.certificate(
        expired, "localhost", localhost, issuer.now - 3 * DAY, issuer.now - DAY, ca
    )
    report(expired, "expired yesterday")
    wrong = pair(directory, "wrong-host")
    issuer.leaf(wrong, "wrong-host.invalid", "DNS:wrong-host.invalid", ca, days)
    report(wrong, "for a different host")
    alone = pair(directory, "self-signed")
    own = LEAF_EXTENSIONS.format(usage="serverAuth", san=LOCALHOST, authority="none")
    issuer.certificate(alone, "localhost", own, issuer.now - SKEW, issuer.now + days * DAY)
    report(alone, "self-signed")
    stranger, untrusted = pair(directory, "untrusted-ca"), pair(directory, "untrusted")
    issuer.authority(stranger, "proxy-herd untrusted CA", days)
    issuer.leaf(untrusted, "localhost", LOCALHOST, stranger, days)
    report(untrusted, "signed by an untrusted CA")


def report(target: Pair, what: str) -> None:
    print(f"{target.cert}  {what}, valid until {end_of(target.cert):%Y-%m-%d}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIR", help="output directory, created if missing")
    parser.add_argument(
        "--hostile", action="store_true", help="also create certificates that must be rejected"
    )
    parser.add_argument(
        "--herd",
        nargs="+",
        metavar="CONFIG|NAME",
        help="create certificates for the nodes of a configuration, or for these names",
    )
    parser.add_argument("--days", type=int, default=90, help="validity in days (default: 90)")
    parser.add_argument(
        "--ca-days", type=int, default=365, help="validity of a new CA in days (default: 365)"
    )
    parser.add_argument("--new-ca", action="store_true", help="replace the existing CA")
    options = parser.parse_args()
    if options.herd and options.hostile:
        parser.error("--hostile is for tests on localhost and cannot be combined with --herd")
    if min(options.days, options.ca_days) < 1:
        parser.error("--days and --ca-days must be at least 1")
    return options


def main() -> int:
    options = arguments()
    os.umask(0o077)
    try:
        find_openssl()
        mint(options)
    except (UserError, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        print(f"mint_certs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
