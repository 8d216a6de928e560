"""Drives published programs that report positions against real nodes, over HTTPS, and reads the QR code of an
invitation with one.

Usage: python3 tests/device_clients [BINARY]

BINARY defaults to target/release/proxy-herd. Installs the packages in requirements.txt into a temporary
environment, and exits with status 3 if that is not possible. Requires python3 with venv and pip, and openssl.
Takes ten seconds, most of them for the installation.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "scripts"))

from processes import PATIENCE, accepts, eventually, free_ports

CANNOT_INSTALL = 3

VAN, FLEET, WRONG = "token-0123456789-van1", "token-0123456789-fleet", "token-0123456789-wrong"


def say(what):
    print(what, flush=True)


def fail(what):
    sys.exit(f"device_clients: {what}")


def install(folder):
    """Creates an environment with the packages, and returns its interpreter."""
    python = folder / "environment/bin/python"
    commands = [
        [sys.executable, "-m", "venv", folder / "environment"],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--timeout", "10",
         "--retries", "1", "--only-binary", ":all:", "--requirement", HERE / "requirements.txt"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            say(f"device_clients: the packages cannot be installed: {done.stderr.strip()[-300:]}")
            sys.exit(CANNOT_INSTALL)
    return python


class Herd:
    """Two linked nodes. Phones report to the first; the second is asked what has arrived."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        mint = [sys.executable, ROOT / "scripts/mint_certs.py", folder / "tls"]
        subprocess.run(mint, check=True, stdout=subprocess.DEVNULL)
        near, far, http, self.port = self.ports = free_ports(4)
        self.api = f"http://127.0.0.1:{http}/api/clients/"
        (folder / "tokens").write_text(f"{VAN} van1\n{FLEET} fleet/*\n")
        (folder / "config.yml").write_text(
            f"ports: {{Near: {near}, Far: {far}}}\nneighbors: {{Near: [Far]}}\n"
            f"http: {{ports: {{Far: {http}}}}}\nlogging: {{level: WARNING}}\n"
            f"devices: {{ports: {{Near: {self.port}}}, tokens_file: tokens, "
            "tls: {certificate: tls/server.pem, key: tls/server.key}}\n")
        self.output = (folder / "output").open("w")
        self.nodes = [subprocess.Popen([binary, "-c", "config.yml", name], cwd=folder, stdin=subprocess.DEVNULL,
                                       stdout=self.output, stderr=self.output) for name in ("Near", "Far")]

    def __enter__(self):
        for port in self.ports:
            eventually(f"port {port} accepts connections", lambda: accepts(port))
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.wait(PATIENCE)
        self.output.close()

    def held(self, client):
        """Location and time of a client, or None."""
        name = urllib.parse.quote(client, safe="")
        with contextlib.suppress(urllib.error.HTTPError):
            with urllib.request.urlopen(self.api + name, timeout=10) as response:
                return json.load(response)["properties"]["line"].split(" ", 4)[-1]
        return None

    def expect(self, what, client, expected):
        eventually(f"{what}: {client} is {expected}", lambda: self.held(client) == expected)
        say(f"ok: {what}")


def run(python, herd, program, *arguments):
    """Runs a program that trusts the authority of the herd's certificate. Returns its output."""
    # One of the two for each HTTP library.
    trust = {"SSL_CERT_FILE": str(herd.folder / "tls/ca.pem"), "REQUESTS_CA_BUNDLE": str(herd.folder / "tls/ca.pem")}
    done = subprocess.run([python, HERE / program, *arguments], cwd=herd.folder, env={**os.environ, **trust},
                          capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        fail(f"{program} {arguments}: exit {done.returncode}: {done.stderr}")
    return done.stdout + done.stderr


def overland(python, herd):
    """dawarich-api: Overland's dialect."""
    url, now = f"https://localhost:{herd.port}", int(time.time())

    def send(token, **point):
        return run(python, herd, "overland.py", url, token, json.dumps(point)).split()[-1]

    status = send(VAN, longitude=2.2945, latitude=48.8584, name="phone", timestamp=now - 9.875, offset=330)
    if status != "200":
        fail(f"dawarich-api got {status}")
    herd.expect("dawarich-api, with the client of its token", "van1", f"+48.8584+2.2945 {now - 10}.125000")
    send(FLEET, longitude=-1e-05, latitude=-0.5, name="my van", timestamp=now, offset=-480, horizontal_accuracy=12)
    herd.expect("dawarich-api, with a name of its own and an exponent", "fleet/my%20van", f"-0.5-0.00001 {now}")
    status = send(WRONG, longitude=1.5, latitude=2.5, name="van1", timestamp=now)
    if status == "200" or herd.held("van1") != f"+48.8584+2.2945 {now - 10}.125000":
        fail("a wrong token was accepted from dawarich-api")
    say("ok: dawarich-api, with a wrong token")


def osmand(python, herd):
    """mesh2traccar: the OsmAnd protocol."""
    now = int(time.time())

    def send(path, key, **payload):
        configure(herd, f"https://localhost:{herd.port}{path}", key)
        return forward(python, herd, **payload)

    send("", FLEET, latitude_i=488_584_000, longitude_i=-100, altitude=71, time=now)
    herd.expect("mesh2traccar, with a key and an exponent", "fleet/!abcdef01", f"+48.8584-0.00001 {now}")
    send(f"/t/{FLEET}", "", latitude_i=-488_584_123, longitude_i=1_799_999_999, time=now + 1)
    herd.expect("mesh2traccar, with a token in the path", "fleet/!abcdef01", f"-48.8584123+179.9999999 {now + 1}")
    log = send("", WRONG, latitude_i=0, longitude_i=10, time=now + 2)
    if "Failed to send to Traccar: 401" not in log or not herd.held("fleet/!abcdef01").endswith(f" {now + 1}"):
        fail(f"a wrong token was accepted from mesh2traccar: {log}")
    say("ok: mesh2traccar, with a wrong token")


def configure(herd, url, key):
    """Sets where mesh2traccar reports to."""
    (herd.folder / "mesh2traccar.conf").write_text(f"[mqtt]\n[traccar]\nurl = {url}\napi_key = {key}\n")


def forward(python, herd, **position):
    """Passes a position to mesh2traccar, and returns its log."""
    message = {"type": "position", "from": 0xABCDEF01, "payload": position}
    return run(python, herd, "osmand.py", json.dumps(message))


def invitation(python, herd):
    """An invited device reports to the URL in the code, once the node has reloaded its tokens."""
    invited = subprocess.run([herd.binary, "-c", "config.yml", "--invite", "van7"], cwd=herd.folder,
                             capture_output=True, check=True, text=True).stdout
    (herd.folder / "invitation").write_text(invited)
    url = run(python, herd, "scan.py", "invitation").strip()
    if f"\nURL: {url}\n" not in invited:
        fail(f"the code contains {url!r}: {invited}")
    herd.nodes[0].send_signal(signal.SIGHUP)
    configure(herd, url, "")
    now = int(time.time())

    def arrives():
        forward(python, herd, latitude_i=15_000_000, longitude_i=25_000_000, time=now)
        return herd.held("van7") == f"+1.5+2.5 {now}"

    eventually("the invited device is admitted", arrives)
    say("ok: an invited device, with the URL in the code")


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/proxy-herd").resolve()
    if not binary.is_file():
        fail(f"{binary} not found: build it with cargo build --release")
    for name in ("HERD_SECRET", "GOOGLE_PLACES_API_KEY", "RUST_LOG"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = install(folder)
        with Herd(binary, folder) as herd:
            overland(python, herd)
            osmand(python, herd)
            invitation(python, herd)


main()
