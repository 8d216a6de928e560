"""The witnesses of the soak test: subscribers of /events, the log, and the feed in Redis."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from urllib.parse import unquote_to_bytes

from ledger import Entry, Ledger, parse_line

POLL_SECONDS = 0.25
START_SECONDS = 30
CHUNK = 1 << 20
# The reply to an update that was stored: behind the address of a client, and without a note.
REPLY = re.compile(rb" [0-9.]+:[0-9]+ > (AT [^\\\n(]+)\n")


class Subscriber:
    """A subscriber of /events. Keeps the newest line of each client."""

    target = "/events"

    def __init__(self, herd, node):
        self.herd, self.node = herd, node
        self.lines, self.times = {}, {}
        self.events = self.went_back = self.restarts = 0
        self.ready = asyncio.Event()

    async def run(self):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.herd.http_ports[self.node], limit=1 << 20
        )
        try:
            writer.write(f"GET {self.target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            event = b""
            while line := await reader.readline():
                name, _, value = line.rstrip(b"\n").partition(b": ")
                if name == b"event":
                    event = value
                elif name == b"data":
                    self.handle(event, value)
        finally:
            writer.close()

    def handle(self, event, data):
        if event == b"reset":
            self.restarts += self.ready.is_set()
        elif event == b"ready":
            self.ready.set()
        elif event == b"client":
            self.events += 1
            feature = json.loads(data)
            client = unquote_to_bytes(feature["id"])
            made = feature["properties"]["time"]
            self.went_back += made < self.times.get(client, 0)
            self.times[client] = made
            self.lines[client] = feature["properties"]["line"].encode()


class FenceSubscriber(Subscriber):
    """A subscriber of the transitions of all fences. Keeps who is inside.

    The events of the clients of its node are those that their updates imply, one by one; those of other
    clients end in the same state.
    """

    target = "/events?fence=*"

    def __init__(self, herd, node, ledger):
        super().__init__(herd, node)
        self.ledger = ledger
        self.fences = {}

    def handle(self, event, data):
        if event not in (b"client", b"enter", b"leave"):
            super().handle(event, data)
            return
        self.events += 1
        properties = json.loads(data)["properties"]
        node, entry = parse_line(properties["line"].encode())
        fence = properties["fence"].encode()
        if event == b"leave":
            if self.fences.get(entry.client) == fence:
                del self.fences[entry.client]
        else:
            self.fences[entry.client] = fence
        if node == self.node:
            self.ledger.arrive(entry._replace(type=event, fence=fence))


class LogReader:
    """Reads the log of a node while it is written, across rotations."""

    def __init__(self, path, ledger):
        self.path, self.ledger = path, ledger
        self.file, self.rest = None, b""

    def close(self):
        if self.file is not None:
            self.file.close()
            self.file = None

    def poll(self):
        """Reads what was written since."""
        if self.file is None:
            if not self.path.exists():
                return
            self.file = open(self.path, "rb")
        # A file that was renamed before it is read to its end is complete.
        is_complete = not self.path.exists() or not os.path.samestat(
            os.fstat(self.file.fileno()), self.path.stat()
        )
        while data := self.file.read(CHUNK):
            text, _, self.rest = (self.rest + data).rpartition(b"\n")
            for match in REPLY.finditer(text + b"\n"):
                self.ledger.arrive(parse_line(match[1])[1])
        if is_complete:
            self.close()


class Redis:
    """A Redis server with the streams of all nodes, and a consumer of them."""

    def __init__(self, folder, port, ledgers):
        self.folder, self.port, self.ledgers = folder, port, ledgers
        self.last = {node: b"0" for node in ledgers}
        self.process = None
        folder.mkdir()

    @staticmethod
    def is_installed():
        return shutil.which("redis-server") is not None

    async def start(self):
        options = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if await self.call(b"PING") == b"PONG":
                    return
            except (OSError, RedisError):
                pass  # it does not listen yet, or is loading
            if self.process.poll() is not None or time.monotonic() >= deadline:
                raise SystemExit(f"soak: redis-server does not start; see {self.folder}/log")
            await asyncio.sleep(0.1)

    async def kill(self):
        """Ends the server as a crash does."""
        if self.process is not None:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
            self.process = None

    async def call(self, *words):
        """Sends a command on a connection of its own and returns the reply."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=CHUNK)
        try:
            writer.write(b"*%d\r\n" % len(words))
            writer.writelines(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
            return await read_reply(reader)
        finally:
            writer.close()

    async def poll(self):
        """Reads what was added to the streams since."""
        for node, ledger in self.ledgers.items():
            while True:
                stream = b"herd:" + node.encode()
                streams = await self.call(
                    b"XREAD", b"COUNT", b"1000", b"STREAMS", stream, self.last[node]
                )
                if not streams:
                    break
                for number, fields in streams[0][1]:
                    self.last[node] = number
                    ledger.arrive(feed_entry(node, dict(zip(fields[::2], fields[1::2]))))


def feed_entry(node, fields):
    """Returns the entry of the ledger that an entry of a stream stands for."""
    if b"line" not in fields:  # a gap
        return Entry(fields[b"type"], node.encode(), fields[b"from"], fields[b"to"], None)
    at, entry = parse_line(fields[b"line"])
    if at != node or fields[b"client"] != entry.client:
        return entry._replace(type=b"in the stream of another node")
    return entry._replace(type=fields[b"type"], fence=fields.get(b"fence", b""))


class RedisError(Exception):
    """An error reply, or the end of a connection."""


async def read_reply(reader):
    """Reads a reply of the protocol of Redis."""
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise RedisError("the connection has ended")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [await read_reply(reader) for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest


class Witnesses:
    """The ledgers of all witnesses, and the readers that fill them."""

    def __init__(self, herd):
        self.herd = herd
        self.logs = {node: Ledger(f"the log of {node}") for node in herd.nodes}
        self.events = {node: Ledger(f"/events?fence=* of {node}") for node in herd.nodes}
        self.streams = {node: Ledger(f"the stream of {node}") for node in herd.nodes}
        self.readers = [LogReader(herd.log_of(node), self.logs[node]) for node in herd.nodes]
        self.redis = None
        if Redis.is_installed():
            self.redis = Redis(herd.folder / "redis", herd.redis_port, self.streams)
        self.subscribers = [Subscriber(herd, node) for node in herd.nodes]
        self.subscribers += [FenceSubscriber(herd, node, self.events[node]) for node in herd.nodes]

    def expect(self, node, update, transitions):
        """Tells all ledgers of an acknowledged update and the transitions that it causes."""
        self.logs[node].expect(update)
        if self.events:
            for transition in transitions:
                self.events[node].expect(transition)
        if self.redis is not None:
            for entry in (update, *transitions):
                self.streams[node].expect(entry)

    def ledgers(self):
        """Returns the ledgers that are compared."""
        kinds = [self.logs, self.events] + [self.streams] * (self.redis is not None)
        return [ledger for kind in kinds for ledger in kind.values()]

    async def watch(self):
        """Reads the logs and the streams until it is canceled."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_SECONDS)

    async def poll(self):
        for reader in self.readers:
            reader.poll()
        if self.redis is not None:
            try:
                await self.redis.poll()
            except (OSError, RedisError, asyncio.IncompleteReadError):
                pass  # it was killed, and will be read when it runs again
