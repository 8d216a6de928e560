"""Tests of mint_certs.py."""

from __future__ import annotations

import ssl
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import MINT, certificates, run


def openssl(*words) -> str:
    return subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, check=True
    ).stdout


def text_of(cert: Path) -> str:
    return openssl("x509", "-in", cert, "-noout", "-text")


def verifies(ca: Path, cert: Path, *more) -> bool:
    words = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca), *more, str(cert)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class MintCerts(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory(prefix="proxy-herd-mint-")
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name) / "certs"

    def mint(self, *options, fails: bool = False):
        done = run(MINT, self.directory, *options)
        self.assertEqual(done.returncode, int(fails), done.stderr)
        return done.stderr if fails else done.stdout

    def test_the_server_certificate_is_valid_for_localhost_only(self) -> None:
        ca, server = certificates() / "ca.pem", certificates() / "server.pem"
        for check in (
            ["-verify_hostname", "localhost"],
            ["-verify_ip", "127.0.0.1"],
            ["-verify_ip", "::1"],
        ):
            self.assertTrue(verifies(ca, server, *check), check)
        self.assertFalse(verifies(ca, server, "-verify_hostname", "places.googleapis.com"))
        self.assertIn("P-256", text_of(server))

    def test_keys_are_readable_by_their_owner_only(self) -> None:
        keys = list(certificates().rglob("*.key"))
        self.assertEqual(len(keys), 7)
        for key in keys:
            self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600, key)

    def test_git_ignores_the_keys(self) -> None:
        self.mint("--herd", "Bailey")
        keys = sorted(self.directory.rglob("*.key"))
        self.assertEqual(len(keys), 2)
        subprocess.run(["git", "init", "-q", self.directory.parent], check=True)
        listed = subprocess.run(
            ["git", "-C", self.directory.parent, "ls-files", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        self.assertIn("certs/ca.pem", listed)
        self.assertFalse([name for name in listed if name.endswith(".key")], listed)
        # The ignored paths of this project, for a directory that has a .gitignore already.
        for name in ("certs/ca.key", "conf/ca.key", "ca.key", "conf/secret", "conf/herd.secret"):
            ignored = ["git", "-C", MINT.parent.parent, "check-ignore", "-q", "--no-index", name]
            self.assertEqual(subprocess.run(ignored, check=False).returncode, 0, name)

    def test_an_existing_gitignore_is_kept(self) -> None:
        self.directory.mkdir()
        (self.directory / ".gitignore").write_text("mine\n")
        self.mint()
        self.assertEqual((self.directory / ".gitignore").read_text(), "mine\n")

    def test_hostile_certificates_have_one_defect_each(self) -> None:
        ca, bad = certificates() / "ca.pem", certificates() / "hostile"
        here = ["-verify_hostname", "localhost"]
        self.assertFalse(verifies(ca, bad / "expired.pem", *here))
        self.assertTrue(verifies(ca, bad / "expired.pem", *here, "-no_check_time"))
        self.assertFalse(verifies(ca, bad / "wrong-host.pem", *here))
        self.assertTrue(
            verifies(ca, bad / "wrong-host.pem", "-verify_hostname", "wrong-host.invalid")
        )
        self.assertFalse(verifies(ca, bad / "untrusted.pem", *here))
        self.assertTrue(verifies(bad / "untrusted-ca.pem", bad / "untrusted.pem", *here))
        self.assertFalse(verifies(ca, bad / "self-signed.pem", *here))
        subject, issuer = openssl(
            "x509", "-in", bad / "self-signed.pem", "-noout", "-subject", "-issuer"
        ).splitlines()
        self.assertEqual(subject.partition("=")[2], issuer.partition("=")[2])

    def test_existing_certificates_are_kept(self) -> None:
        self.mint()
        before = {file: file.read_bytes() for file in self.directory.iterdir()}
        output = self.mint()
        self.assertEqual({file: file.read_bytes() for file in self.directory.iterdir()}, before)
        self.assertEqual(output.count("kept"), 2)
        self.mint("--new-ca")
        ca = self.directory / "ca.pem"
        self.assertNotEqual(ca.read_bytes(), before[ca])
        self.assertTrue(verifies(ca, self.directory / "server.pem"), "the certificate is not signed by the new CA")

    def test_a_certificate_that_expires_soon_is_replaced(self) -> None:
        self.mint("--days", "15")  # nodes already warn one day later
        before = (self.directory / "server.pem").read_bytes()
        self.mint()
        self.assertNotEqual((self.directory / "server.pem").read_bytes(), before)

    def test_a_certificate_does_not_outlive_its_ca(self) -> None:
        self.mint("--ca-days", "30", "--days", "90")
        end = [
            openssl("x509", "-in", self.directory / f, "-noout", "-enddate")
            for f in ("ca.pem", "server.pem")
        ]
        self.assertEqual(end[0], end[1])

    def test_an_incomplete_ca_is_not_overwritten(self) -> None:
        self.mint()
        before = (self.directory / "ca.pem").read_bytes()
        (self.directory / "ca.key").unlink()
        output = self.mint(fails=True)
        self.assertIn("--new-ca", output)
        self.assertEqual((self.directory / "ca.pem").read_bytes(), before)

    def test_an_expiring_ca_is_not_replaced_silently(self) -> None:
        self.mint("--ca-days", "3")
        self.assertIn("--new-ca", self.mint(fails=True))

    def test_herd_certificates_are_valid_for_both_ends_of_a_link(self) -> None:
        self.mint("--herd", "Bailey", "Bona")
        ca = self.directory / "ca.pem"
        for name in ("Bailey", "Bona"):
            cert = self.directory / f"{name}.pem"
            for purpose in ("sslserver", "sslclient"):
                self.assertTrue(
                    verifies(ca, cert, "-purpose", purpose, "-verify_hostname", name),
                    (name, purpose),
                )
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                cert, self.directory / f"{name}.key"
            )
        self.assertFalse(verifies(ca, self.directory / "Bona.pem", "-verify_hostname", "Bailey"))
        self.assertFalse((self.directory / "server.pem").exists())

    def test_node_names_are_read_from_a_configuration(self) -> None:
        config = self.directory.parent / "config.yml"
        forms = {
            "flow": "api_key: x\nports: {Bailey: 10099, Bona: 10044,\n  Clark: 1} # three\nneighbors:\n  Bailey: [Bona]\n",
            "block": 'ports:\n  Bailey: 10099 # first\n\n  "Bona": 10044\n  Clark: 1\nneighbors:\n  Dora: ["Bona"]\n',
            "json": '{"ports": {"Bailey": 10099, "Bona": 10044, "Clark": 1}, "neighbors": {}}',
        }
        for form, text in forms.items():
            with self.subTest(form):
                config.write_text(text)
                self.mint("--herd", config)
                names = {file.stem for file in self.directory.glob("*.key")}
                self.assertEqual(names, {"ca", "Bailey", "Bona", "Clark"})

    def test_invalid_names_are_rejected(self) -> None:
        for names in (["a b"], ["../x"], ["Bona", "bona"], ["ca"], ["x,DNS:evil"], ["nowhere.yml"]):
            with self.subTest(names):
                self.assertIn("mint_certs: ", self.mint("--herd", *names, fails=True))
                self.assertFalse(self.directory.exists())

    def test_a_missing_openssl_is_reported_with_advice(self) -> None:
        code = "import runpy, shutil, sys; shutil.which = lambda _: None; sys.argv = sys.argv[1:];"
        done = run(
            "-c", code + "runpy.run_path(sys.argv[0], run_name='__main__')", MINT, self.directory
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("apt-get install openssl", done.stderr)


if __name__ == "__main__":
    unittest.main()
