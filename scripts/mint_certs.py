#!/usr/bin/env python3
"""Mints certificates for this machine and for a herd: never for the open internet.

    scripts/mint_certs.py DIR                       a CA, and a server certificate for localhost
    scripts/mint_certs.py DIR --hostile             and DIR/hostile: certificates to be refused
    scripts/mint_certs.py DIR --herd conf/config.yml
    scripts/mint_certs.py DIR --herd Bailey Bona    a CA, and a certificate for each node

    DIR/ca.pem, DIR/ca.key                the CA; what ca_file names, and the key that signs
    DIR/server.pem, DIR/server.key        for DNS:localhost, IP:127.0.0.1 and IP:::1
    DIR/NAME.pem, DIR/NAME.key            with --herd: for DNS:NAME, as TLS server and as client
    DIR/hostile/expired.pem, .key         signed by the CA, ended yesterday
    DIR/hostile/wrong-host.pem, .key      signed by the CA, for wrong-host.invalid
    DIR/hostile/self-signed.pem, .key     for localhost, signed by nobody else
    DIR/hostile/untrusted.pem, .key       for localhost, signed by hostile/untrusted-ca.pem

All keys are ECDSA P-256 and readable by their owner only. Certificates live 90 days and the CA 365,
unless told otherwise; a certificate never outlives its CA. What is there and still good for a week is
kept, so this can be run again at any time; a CA is never replaced unless --new-ca asks for it. The
CA's key is needed to mint and by nothing that runs: keep it elsewhere, or delete it.
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
SKEW = datetime.timedelta(hours=1)  # certificates begin that long ago: clocks differ
KEEP_FOR = 7 * DAY  # what ends sooner is minted again
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


class Trouble(Exception):
    """Something that the person who runs this has to decide or to mend."""


class Pair(NamedTuple):
    """A certificate and its private key, as files."""

    cert: Path
    key: Path


def pair(directory: Path, name: str) -> Pair:
    return Pair(directory / f"{name}.pem", directory / f"{name}.key")


class Mint:
    """Makes keys and certificates with the openssl command."""

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
        """Makes a key and a certificate for it, signed by the CA or, without one, by itself. The two
        appear in their place only when both are made."""
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
        name = f"{title}, minted {self.now:%Y-%m-%d}"
        self.certificate(target, name, CA_EXTENSIONS, self.now - SKEW, self.now + days * DAY)

    def leaf(
        self, target: Pair, name: str, san: str, ca: Pair, days: int, usage: str = "serverAuth"
    ) -> None:
        end = min(self.now + days * DAY, end_of(ca.cert))
        extensions = LEAF_EXTENSIONS.format(usage=usage, san=san, authority="keyid:always")
        self.certificate(target, name, extensions, self.now - SKEW, end, ca)

    def good(self, target: Pair, ca: Pair, host: str) -> bool:
        """Whether the certificate is there, for that host, from that CA, and will be for a while."""
        at = str(int((self.now + KEEP_FOR).timestamp()))
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
        raise Trouble(f"openssl {words[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def succeeds(*words) -> bool:
    return (
        subprocess.run(["openssl", *map(str, words)], capture_output=True, timeout=60).returncode
        == 0
    )


def find_openssl() -> None:
    """Sees to it that the openssl command is there: by apt-get, where that is possible."""
    if shutil.which("openssl"):
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("mint_certs: installing openssl with apt-get", file=sys.stderr)
        for words in (["update"], ["install", "-y", "--no-install-recommends", "openssl"]):
            subprocess.run(["apt-get", *words], stdout=subprocess.DEVNULL, timeout=600)
    if not shutil.which("openssl"):
        raise Trouble(
            "needs the openssl command; install it (Debian, Ubuntu: sudo apt-get install openssl)"
        )


def node_names(words: List[str]) -> List[str]:
    """The nodes of --herd: one configuration file, or the names themselves."""
    names = words
    if len(words) == 1 and Path(words[0]).is_file():
        names = names_in(Path(words[0]))
    elif any("/" in word or word.endswith((".yml", ".yaml", ".json")) for word in words):
        raise Trouble(f"--herd {' '.join(words)}: no such configuration file")
    seen = {"ca", "server"}
    for name in names:
        if not NODE_NAME.fullmatch(name):
            raise Trouble(f"node name {name!r}: a certificate is for letters, digits, - and _ only")
        if name.lower() in seen:
            raise Trouble(f"node name {name!r}: taken; certificates know no upper and lower case")
        seen.add(name.lower())
    return names


def names_in(config: Path) -> List[str]:
    """The keys of the top-level `ports:` of a configuration in the seed's format, as a flow mapping, as
    an indented one, or in JSON. Not a YAML parser: what it cannot read, it says so."""
    text = config.read_text(encoding="utf-8")
    if text.lstrip().startswith("{"):
        return list(json.loads(text)["ports"])
    text = re.sub(r"(^|\s)#.*", "", text)
    flow = re.search(r"^ports\s*:\s*\{(.*?)\}", text, re.MULTILINE | re.DOTALL)
    block = re.search(r"^ports\s*:[ \t]*\n((?:[ \t]+.*\n?|[ \t]*\n)+)", text, re.MULTILINE)
    inside = flow[1].replace(",", "\n") if flow else block[1] if block else ""
    names = re.findall(r"""^\s*(['"]?)([^\s'":]+)\1\s*:\s*\d+\s*$""", inside, re.MULTILINE)
    if not names:
        raise Trouble(f"{config}: finds no nodes under `ports:`; name them: --herd NAME NAME …")
    return [name for _, name in names]


def mint(options: argparse.Namespace) -> None:
    names = node_names(options.herd or [])
    directory = Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mint-", dir=directory) as scratch:
        mint_into(directory, names, options, Path(scratch))


def mint_into(
    directory: Path, names: List[str], options: argparse.Namespace, scratch: Path
) -> None:
    machine, ca = Mint(scratch), pair(directory, "ca")
    prepare_authority(machine, ca, options)
    if names:
        for name in names:
            target = pair(directory, name)
            if machine.good(target, ca, name):
                report(target, f"kept, for {name}")
            else:
                machine.leaf(target, name, f"DNS:{name}", ca, options.days, "serverAuth,clientAuth")
                report(target, f"minted, for {name}, as server and as client")
        return
    server = pair(directory, "server")
    if machine.good(server, ca, "localhost"):
        report(server, "kept, for localhost")
    else:
        machine.leaf(server, "localhost", LOCALHOST, ca, options.days)
        report(server, "minted, for localhost, 127.0.0.1 and ::1")
    if options.hostile:
        mint_hostile(machine, ca, directory / "hostile", options.days)


def prepare_authority(machine: Mint, ca: Pair, options: argparse.Namespace) -> None:
    present = [file for file in ca if file.exists()]
    if present and not options.new_ca:
        if len(present) == 1:
            missing = ca.key if ca.cert in present else ca.cert
            raise Trouble(
                f"{present[0]} is there, {missing} is not: nothing can be signed. Bring it back, choose "
                "another directory, or make a new CA with --new-ca, which all that trust the old one "
                "have to be told of"
            )
        if end_of(ca.cert) < machine.now + KEEP_FOR:
            raise Trouble(
                f"{ca.cert} ends on {end_of(ca.cert):%Y-%m-%d}. Make a new CA with --new-ca, which all "
                "that trust the old one have to be told of"
            )
        return report(ca, "kept, the CA")
    machine.authority(ca, "proxy-herd local CA", options.ca_days)
    report(ca, "minted, the CA")


def mint_hostile(machine: Mint, ca: Pair, directory: Path, days: int) -> None:
    """Certificates that a client has to refuse, minted anew each time."""
    directory.mkdir(exist_ok=True)
    localhost = LEAF_EXTENSIONS.format(usage="serverAuth", san=LOCALHOST, authority="keyid:always")
    expired = pair(directory, "expired")
    machine.certificate(
        expired, "localhost", localhost, machine.now - 3 * DAY, machine.now - DAY, ca
    )
    report(expired, "ended yesterday")
    wrong = pair(directory, "wrong-host")
    machine.leaf(wrong, "wrong-host.invalid", "DNS:wrong-host.invalid", ca, days)
    report(wrong, "for another host")
    alone = pair(directory, "self-signed")
    own = LEAF_EXTENSIONS.format(usage="serverAuth", san=LOCALHOST, authority="none")
    machine.certificate(alone, "localhost", own, machine.now - SKEW, machine.now + days * DAY)
    report(alone, "signed by itself")
    stranger, untrusted = pair(directory, "untrusted-ca"), pair(directory, "untrusted")
    machine.authority(stranger, "proxy-herd untrusted CA", days)
    machine.leaf(untrusted, "localhost", LOCALHOST, stranger, days)
    report(untrusted, "signed by a CA that nobody trusts")


def report(target: Pair, what: str) -> None:
    print(f"{target.cert}  {what}, until {end_of(target.cert):%Y-%m-%d}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIR", help="where they go; made if it is not there")
    parser.add_argument(
        "--hostile", action="store_true", help="also certificates that must be refused"
    )
    parser.add_argument(
        "--herd",
        nargs="+",
        metavar="CONFIG|NAME",
        help="for the nodes of a configuration, or these",
    )
    parser.add_argument("--days", type=int, default=90, help="a certificate's life (90)")
    parser.add_argument("--ca-days", type=int, default=365, help="a new CA's life (365)")
    parser.add_argument("--new-ca", action="store_true", help="replace the CA that is there")
    options = parser.parse_args()
    if options.herd and options.hostile:
        parser.error("--hostile is for tests on localhost; it does not go with --herd")
    if min(options.days, options.ca_days) < 1:
        parser.error("--days and --ca-days start at 1")
    return options


def main() -> int:
    options = arguments()
    os.umask(0o077)
    try:
        find_openssl()
        mint(options)
    except (Trouble, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as trouble:
        print(f"mint_certs: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
