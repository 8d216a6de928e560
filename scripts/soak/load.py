"""The load of the soak test: clients that move, and subscribers that watch them."""

import asyncio
import json
import random
import time
from urllib.parse import unquote_to_bytes

CLIENTS_PER_NODE = 4_000
RATE_PER_NODE = 400  # updates per second
BATCH_SECONDS = 0.05  # updates are sent in batches of this length
REPLY_SECONDS = 30


class Load:
    """Clients that report to one node each, at a fixed rate."""

    def __init__(self, herd):
        self.herd = herd
        self.acknowledged = {}  # the newest acknowledged line of each client
        self.count = 0  # acknowledged updates

    async def run(self, seconds):
        end = time.monotonic() + seconds
        await asyncio.gather(*(self.drive(node, end) for node in self.herd.nodes))

    async def drive(self, node, end):
        """Reports the positions of the clients of one node."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.herd.ports[node])
        positions = [
            [random.uniform(34.0, 34.2), random.uniform(-118.6, -118.3)]
            for _ in range(CLIENTS_PER_NODE)
        ]
        batch = round(RATE_PER_NODE * BATCH_SECONDS)
        due, next_client, last = time.monotonic(), 0, 0.0
        while due < end:
            lines = []
            for _ in range(batch):
                number, next_client = next_client, (next_client + 1) % CLIENTS_PER_NODE
                place = positions[number]
                place[0] += random.uniform(-0.001, 0.001)
                place[1] += random.uniform(-0.001, 0.001)
                last = max(time.time(), last + 1e-6)
                lines.append(
                    b"IAMAT %s.%d %+.6f%+.6f %.6f" % (node.encode(), number, *place, last)
                )
            writer.write(b"\n".join(lines) + b"\n")
            for line in lines:
                reply = await asyncio.wait_for(reader.readuntil(), REPLY_SECONDS)
                fields = reply.split()
                if fields[0] != b"AT" or fields[3:] != line.split()[1:]:
                    raise SystemExit(f"soak: {node} answered {line!r} with {reply!r}")
                self.acknowledged[fields[3]] = reply.rstrip()
                self.count += 1
            due += BATCH_SECONDS
            await asyncio.sleep(due - time.monotonic())
        writer.close()


class Subscriber:
    """A subscriber of /events. Keeps the newest line of each client."""

    def __init__(self, herd, node):
        self.herd, self.node = herd, node
        self.lines, self.times = {}, {}
        self.events = self.went_back = self.restarts = 0

    async def run(self):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.herd.http_ports[self.node], limit=1 << 20
        )
        try:
            writer.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
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
            self.restarts += bool(self.lines)
            return
        if event != b"client":
            return
        self.events += 1
        feature = json.loads(data)
        client = unquote_to_bytes(feature["id"])
        received = feature["properties"]["time"]
        self.went_back += received < self.times.get(client, 0)
        self.times[client] = received
        self.lines[client] = feature["properties"]["line"].encode()
