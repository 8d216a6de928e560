"""What the tests of the test servers share: start one, wait until it is ready, end it."""

from __future__ import annotations

import atexit
import functools
import json
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
MINT = ROOT / "scripts" / "mint_certs.py"
EMULATOR = ROOT / "scripts" / "emulator.py"
HOSTILE = ROOT / "tests" / "servers" / "hostile.py"
PATIENCE = 20.0  # seconds that a machine under load may need; nothing waits for it in vain


def run(*words) -> subprocess.CompletedProcess:
    """A command to its end."""
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


@functools.lru_cache(maxsize=None)
def certificates() -> Path:
    """A directory that mint_certs.py has filled, the same for all tests of a run."""
    directory = Path(tempfile.mkdtemp(prefix="proxy-herd-certs-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    done = run(MINT, directory, "--hostile")
    if done.returncode:
        raise RuntimeError(done.stderr)
    return directory


def trusting() -> ssl.SSLContext:
    """A client's context that trusts the minted CA, and checks what it sees."""
    return ssl.create_default_context(cafile=str(certificates() / "ca.pem"))


class Client:
    """A client that sees the wire: how many bytes came, in which TLS records, and how it ended.

    After `exchange`, `text` is what came, decrypted; `wire` what came, as it came; and `ended` is
    `close_notify`, `eof` (the end of the stream without it), `reset`, `refused` (by this client, see
    `failure`) or `silence`: nothing for SILENCE seconds once there are `quiet_after` bytes on the wire.
    """

    SILENCE = 0.3

    def __init__(
        self, port: int, context: ssl.SSLContext | None, quiet_after: int | None = None
    ) -> None:
        self.quiet_after = quiet_after
        self.text, self.wire, self.ended = b"", b"", ""
        self.failure: ssl.SSLError | None = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = None
        if context is not None:
            self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.was_reset = False
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionResetError:  # it came before connect() returned
            self.socket, self.ended = socket.socket(), "reset"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def handshake(self) -> bool:
        """Whether the TLS handshake, if there is to be one, succeeds."""
        if self.ended:
            return False
        return self.tls is None or self.drive(self.tls.do_handshake) is not None or not self.ended

    def exchange(self, request: bytes, expect: int | None = None) -> Client:
        """Sends the request, after the handshake, and listens."""
        if self.handshake():
            if self.tls is None:
                self.feed(request)
            else:
                self.drive(lambda: self.tls.write(request))
            self.listen(expect)
        return self

    def listen(self, expect: int | None = None) -> None:
        """Reads to the end, or until `expect` more bytes of text have come."""
        already = len(self.text)
        while not self.ended and (expect is None or len(self.text) < already + expect):
            if self.tls is None:
                self.text += self.receive()
                continue
            data = self.drive(lambda: self.tls.read(65_536))
            if data == b"":
                self.ended = self.ended or "close_notify"
            self.text += data or b""

    def drive(self, step):
        """Takes a step of TLS, with as much of the wire as it needs; None when the wire ended first."""
        while True:
            try:
                result = step()
                self.feed(self.outgoing.read())
                return result
            except ssl.SSLWantReadError:
                self.feed(self.outgoing.read())
                data = self.receive()
                if not data:
                    return None
                self.incoming.write(data)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as failure:
                self.failure, self.ended = failure, "refused"
                self.feed(self.outgoing.read())  # the alert
                return None

    def feed(self, data: bytes) -> None:
        try:
            if data:
                self.socket.sendall(data)
        except ConnectionResetError:
            self.was_reset = True  # said only once; what came before it can still be read
        except OSError:
            pass

    def receive(self) -> bytes:
        quiet = self.quiet_after is not None and len(self.wire) >= self.quiet_after
        try:
            self.socket.settimeout(self.SILENCE if quiet else PATIENCE)
            data = self.socket.recv(65_536)
        except socket.timeout:  # TimeoutError since Python 3.10
            data, self.ended = b"", "silence"
        except ConnectionResetError:
            data, self.ended = b"", "reset"
        if not data:
            self.ended = self.ended or ("reset" if self.was_reset else "eof")
        self.wire += data
        return data

    def records(self) -> list:
        """The lengths of the TLS records that came, of the last one perhaps less than it was to be."""
        lengths, at = [], 0
        while at + 5 <= len(self.wire):
            lengths.append(int.from_bytes(self.wire[at + 3 : at + 5], "big"))
            at += 5 + lengths[-1]
        return lengths


class Server:
    """A server of ours, from its ready line to its end. `cleanup` is the test's addCleanup, or its
    class's addClassCleanup."""

    def __init__(self, cleanup: Callable, script: Path, *options) -> None:
        words = [sys.executable, str(script), "--max-seconds", "60", *map(str, options)]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.unread = b""
        cleanup(self.kill)
        line = self.line()
        if not line.startswith("ready "):
            raise RuntimeError(f"{script.name}: {line}{self.process.stderr.read().decode()}")
        self.facts = dict(word.split("=", 1) for word in line.split()[1:])
        self.port = int(self.facts["url"].rpartition(":")[2])

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def end(self) -> tuple:
        """Ends it by SIGTERM. Returns its exit status, and what else it wrote on both outputs."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (self.unread + out).decode(), err.decode()

    def line(self) -> str:
        """The next line that it prints; what there is of one if it has ended."""
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                raise TimeoutError("it prints nothing")
            data = self.process.stdout.read(4096)
            if not data:
                break
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    def control(self, what: str, method: str = "GET") -> dict:
        """A request to the emulator's control address."""
        request = urllib.request.Request(f"{self.facts['control']}/{what}", method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)
