"""Entry point of scripts/absence.sh after the build: a long absence of Redis on real processes."""

import contextlib
import hashlib
import re
import signal
import socket
import sys
import tempfile
import threading
import time

from feed import node, redis
from servers import PATIENCE, free_ports

BATCH = 0.02  # seconds; updates are sent in batches of this length
CLIENTS = 10_000
MARGIN = 5  # seconds before and after the absence
PAGE = 5_000  # entries read from the stream at once
LINE = re.compile(rb"\r\n\$4\r\nline\r\n\$\d+\r\n([^\r]*)\r\n")
ID = re.compile(rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n\*\d+\r\n\$4\r\ntype\r\n")


class Lines:
    """The number of lines, and a hash over them in their order."""

    def __init__(self):
        self.count, self.hash = 0, hashlib.sha256()

    def add(self, lines):
        self.count += len(lines)
        self.hash.update(b"\n".join(lines) + b"\n" if lines else b"")


class Load(threading.Thread):
    """A client that reports at a fixed rate, and remembers the acknowledged lines."""

    def __init__(self, port, rate):
        super().__init__(daemon=True)
        self.port, self.rate, self.ends = port, rate, False
        self.acknowledged, self.error, self.slowest = Lines(), None, 0.0

    def run(self):
        try:
            self.report()
        except (OSError, ValueError) as error:
            self.error = error

    def report(self):
        count, due, step = round(self.rate * BATCH), time.monotonic(), 0
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as stream:
            replies = stream.makefile("rb")
            while not self.ends:
                now, lines = time.time(), []
                for at in range(count):
                    step += 1
                    place = step % 1_000_000
                    lines.append(b"IAMAT van-%d +34.%06d-118.%06d %.9f\n"
                                 % (step % CLIENTS, place, place, now + at * 1e-6))
                began = time.monotonic()
                stream.sendall(b"".join(lines))
                answers = [replies.readline() for _ in lines]
                self.slowest = max(self.slowest, time.monotonic() - began)
                if not all(it.startswith(b"AT ") and it.endswith(b"\n") for it in answers):
                    raise ValueError(f"answers of the node: {answers[:3]}")
                self.acknowledged.add([it[:-1] for it in answers])
                due += BATCH
                time.sleep(max(0, due - time.monotonic()))


class Reader(threading.Thread):
    """Reads the stream from its beginning to its end, and removes what it has read."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.ends, self.error = port, False, None
        self.found = Lines()

    def run(self):
        last = b"0-0"
        while not self.ends:
            # The connection ends with Redis; the stream does not.
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as stream:
                stream.settimeout(PATIENCE)
                while not self.ends:
                    page = self.ask(stream, b"XRANGE herd:Solo (%s + COUNT %d\r\nPING\r\n" % (last, PAGE))
                    ids, lines = ID.findall(page), LINE.findall(page)
                    if len(ids) != len(lines):
                        self.error = f"{len(ids)} entries with {len(lines)} lines"
                        return
                    self.found.add(lines)
                    if ids:
                        last = ids[-1]
                        self.ask(stream, b"XTRIM herd:Solo MINID %s\r\nPING\r\n" % last)
                    else:
                        time.sleep(0.02)
            time.sleep(0.1)

    @staticmethod
    def ask(stream, command):
        """Sends a command and a PING. Returns everything up to the reply of that."""
        stream.sendall(command)
        reply = bytearray()
        while not reply.endswith(b"+PONG\r\n"):
            more = stream.recv(1 << 20)
            if not more:
                raise OSError("closed")
            reply += more
        return bytes(reply)


def fail(reason):
    raise SystemExit(f"absence: {reason}")


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("absence: terminated"))  # stops the servers
    [port] = free_ports(1)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        found = stack.enter_context(node(port, ", max_entries: 0"))
        load, reader = Load(found.server.port, rate), Reader(port)
        with redis(port, folder):
            load.start()
            reader.start()
            time.sleep(MARGIN)
            before = load.acknowledged.count
            while reader.found.count < before:
                time.sleep(0.1)  # polling interval
        began, resident, peak = time.monotonic(), found.server.resident_kib(), 0
        while time.monotonic() < began + seconds and load.is_alive():
            time.sleep(min(1, seconds / 10))  # sampling interval
            peak = max(peak, found.server.resident_kib())
        with redis(port, folder):
            returned, waiting = time.monotonic(), None
            while not waiting:
                waiting = found.backlog()
                time.sleep(0.01)
            reconnected = time.monotonic()
            while found.backlog() > rate / 10:
                time.sleep(0.05)  # polling interval
            took = time.monotonic() - reconnected
            time.sleep(MARGIN)
            load.ends = True
            load.join()
            found.wait_until_delivered()
            deadline = time.monotonic() + 10 * PATIENCE
            while reader.found.count < load.acknowledged.count and time.monotonic() < deadline:
                time.sleep(0.1)  # polling interval
            reader.ends = True
            reader.join()
    if load.error or reader.error:
        fail(load.error or reader.error)
    sent, read = load.acknowledged, reader.found
    print(f"absence of {seconds:.0f} s at {rate:,} updates/s: {sent.count:,} acknowledged, {read.count:,} in the stream")
    print(f"reconnected after {reconnected - returned:.1f} s; {waiting:,} entries in {took:.1f} s, "
          f"{waiting / took:,.0f} per second, beside the load")
    print(f"memory of the node: {resident:,} KiB before the absence, at most {peak:,} KiB in it")
    print(f"slowest batch of {round(rate * BATCH)} updates: {1000 * load.slowest:.0f} ms")
    if (sent.count, sent.hash.digest()) != (read.count, read.hash.digest()):
        fail("the stream does not hold every acknowledged update exactly once and in order")
    if peak > resident + 2048:
        fail("the memory has grown")


main()
