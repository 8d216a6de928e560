"""Tests of gpsd_bridge.py with an imitation of gpsd and of a node, and with gpsd if it is installed."""

from __future__ import annotations

import importlib.util
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

from support import PATIENCE, ROOT

BRIDGE = ROOT / "scripts" / "gpsd_bridge.py"
VERSION = b'{"class":"VERSION","release":"3.22","proto_major":3,"proto_minor":14}\r\n'


def load():
    """Imports the script."""
    spec = importlib.util.spec_from_file_location("gpsd_bridge", BRIDGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tpv(lat, lon, at="2026-11-28T00:00:00.125Z", mode=3) -> bytes:
    """Returns a report of gpsd."""
    report = f'{{"class":"TPV","device":"/dev/gps","mode":{mode},"time":"{at}","lat":{lat},"lon":{lon}}}'
    return report.encode() + b"\r\n"


class Imitation:
    """A server on a free port that passes each connection to a function."""

    def __init__(self, serve) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.handle, args=(stream,), daemon=True).start()

    def handle(self, stream) -> None:
        with stream:
            try:
                self.serve(stream)
            except OSError:
                pass

    def close(self) -> None:
        self.listener.close()


class Updates:
    """An imitation of a node, which acknowledges every line, and the lines that it has received."""

    def __init__(self) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        self.server = Imitation(self.serve)

    def serve(self, stream) -> None:
        for line in stream.makefile("rb"):
            self.lines.put(line.decode().strip())
            stream.sendall(b"AT Bailey +0.1 " + line.split(b" ", 1)[1])

    def next(self) -> str:
        return self.lines.get(timeout=PATIENCE)


class Bridge:
    """The script, running."""

    def __init__(self, gpsd: int, node: int, *more: str) -> None:
        words = [sys.executable, BRIDGE, "--client", "van1", "--gpsd", f"localhost:{gpsd}"]
        words += ["--node", f"127.0.0.1:{node}", *more]
        self.process = subprocess.Popen(list(map(str, words)), stderr=subprocess.DEVNULL)

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


class Parsing(unittest.TestCase):
    def test_digits_and_time_are_kept(self):
        update = load().update
        self.assertEqual(
            update(tpv("34.068930000", "-118.445127000")),
            ("+34.068930000-118.445127000", "1795824000.125"),
        )
        self.assertEqual(update(tpv("1.5e-05", "0", "1970-01-01T00:00:01Z", 2)), ("+0.000015+0", "1"))
        self.assertEqual(update(tpv("-0.0", "180"))[0], "-0.0+180")

    def test_what_is_no_fix_is_skipped(self):
        update = load().update
        for line in [
            VERSION,
            b"",
            b'{"class":"TPV","mode":3,"time":"2026-11-28T00:00:00Z","lat":1.5,"lo',
            b'{"class":"TPV","mode":3,"lat":1.0,"lon":1.0}',
            b'{"class":"TPV","mode":3,"time":"2026-11-28T00:00:00Z"}',
            b'["TPV"]',
            b"\xff\xfe",
            tpv("1.0", "1.0", mode=1),
            tpv("1.0", "1.0", "2026-13-28T00:00:00Z"),
            tpv("1.0", "1.0", "yesterday"),
            tpv("90.1", "1.0"),
            tpv("1.0", "-180.1"),
            tpv("NaN", "1.0"),
            tpv("null", "1.0"),
        ]:
            self.assertIsNone(update(line), line)


class Running(unittest.TestCase):
    def test_fixes_are_reported_and_both_connections_are_restored(self):
        node, watched = Updates(), queue.Queue()

        def gpsd(stream):
            stream.sendall(VERSION)
            watched.put(stream.makefile("rb").readline())
            stream.sendall(tpv("1.25", "2.5", mode=1) + tpv("34.5", "-118.5") + tpv("34.5", "-118.5"))
            stream.sendall(tpv("34.75", "-118.5", "2026-11-28T00:00:01Z"))
            stream.recv(1)  # until the other end closes, or the test shuts it down

        server = Imitation(gpsd)
        with Bridge(server.port, node.server.port, "--interval", "0"):
            self.assertEqual(watched.get(timeout=PATIENCE), load().WATCH)
            self.assertEqual(node.next(), "IAMAT van1 +34.5-118.5 1795824000.125")
            self.assertEqual(node.next(), "IAMAT van1 +34.75-118.5 1795824001")

    def test_a_gpsd_that_goes_away_is_connected_again(self):
        node, count = Updates(), iter(range(1, 100))

        def gpsd(stream):
            stream.sendall(VERSION + tpv(f"{next(count)}.5", "2.5"))

        server = Imitation(gpsd)
        with Bridge(server.port, node.server.port):
            self.assertEqual(node.next(), "IAMAT van1 +1.5+2.5 1795824000.125")
            self.assertEqual(node.next(), "IAMAT van1 +2.5+2.5 1795824000.125")

    def test_the_newest_position_waits_for_the_node(self):
        moved, done = threading.Event(), threading.Event()

        def gpsd(stream):
            stream.sendall(tpv("1.5", "2.5"))
            for second in range(10, 60):
                stream.sendall(tpv("3.5", "2.5", f"2026-11-28T00:00:{second}Z"))
                if second > 15:
                    moved.set()
                if done.wait(0.1):
                    break

        server = Imitation(gpsd)
        with socket.socket() as node:  # bound and not listening: connections are refused
            node.bind(("127.0.0.1", 0))
            with Bridge(server.port, node.getsockname()[1], "--interval", "0"):
                self.assertTrue(moved.wait(PATIENCE))
                node.listen()
                node.settimeout(PATIENCE)
                stream, _ = node.accept()
                with stream:
                    line = stream.makefile("rb").readline()
                self.assertRegex(line, rb"^IAMAT van1 \+3\.5\+2\.5 ")
                done.set()

    @unittest.skipUnless(shutil.which("gpsfake"), "gpsd is not installed")
    def test_a_log_of_a_receiver_played_by_gpsfake(self):
        node = Updates()
        sentences = []
        for second in range(20):
            body = f"GPRMC,1200{second:02},A,3404.1358,N,11826.7076,W,000.0,000.0,281126,,,A"
            checksum = 0
            for character in body:
                checksum ^= ord(character)
            sentences.append(f"${body}*{checksum:02X}\r\n")
        with tempfile.NamedTemporaryFile("w", suffix=".nmea", newline="") as log:
            log.writelines(sentences * 20)
            log.flush()
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            words = ["gpsfake", "-1", "-c", "0.1", "-P", str(port), log.name]
            fake = subprocess.Popen(
                words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
            )
            try:
                with Bridge(port, node.server.port, "--interval", "0"):
                    self.assertRegex(
                        node.next(), r"^IAMAT van1 \+34\.0689\d*-118\.4451\d* \d+(\.\d+)?$"
                    )
            finally:
                fake.terminate()
                fake.wait()


if __name__ == "__main__":
    unittest.main()
