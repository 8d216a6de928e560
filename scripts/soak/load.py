"""The load of the soak test: clients of the line protocol, phones, and batches of Overland."""

import asyncio
import json
import random
import time
from datetime import datetime, timezone

from fences import HEIGHT, SOUTH, WEST, WIDTH, Inside
from ledger import Entry, parse_line

REPLY_SECONDS = 30
STEP = 0.001  # degrees that a client moves at most, in each direction


class Load:
    """All sources, and the updates that the herd has acknowledged."""

    def __init__(self, herd, witnesses):
        self.witnesses = witnesses
        self.acknowledged = {}  # node and newest update of each client
        self.inside = Inside()
        self.count = 0  # acknowledged updates
        self.delays = []  # seconds from each request of the line protocol to its last reply
        kinds = [Lines, Phones, Overland]
        self.sources = [kind(herd, node, self) for node in herd.nodes for kind in kinds]

    async def run(self, seconds):
        """Sends updates at a fixed rate."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(source.run(end) for source in self.sources))

    def acknowledge(self, node, update, place):
        self.acknowledged[update.client] = (node, update)
        self.count += 1
        self.witnesses.expect(node, update, self.inside.move(update, *place))


class Source:
    """Clients that report to one node over one connection, in turn."""

    name = ""
    clients = 0
    period = 1.0  # seconds between requests

    def __init__(self, herd, node, load):
        self.herd, self.node, self.load = herd, node, load
        self.places = [
            [SOUTH + random.random() * HEIGHT, WEST + random.random() * WIDTH]
            for _ in range(self.clients)
        ]
        self.next, self.last = 0, 0

    async def run(self, end):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port())
        due = time.monotonic()
        while due < end:
            await asyncio.wait_for(self.report(reader, writer), REPLY_SECONDS)
            due += self.period
            await asyncio.sleep(due - time.monotonic())
        writer.close()

    def port(self):
        return self.herd.device_ports[self.node]

    def turn(self):
        """Returns the number of the client whose turn it is."""
        number, self.next = self.next, (self.next + 1) % self.clients
        return number

    def move(self, number):
        """Moves a client, and returns its latitude and longitude as they are written."""
        place = self.places[number]
        for axis, least, size in ((0, SOUTH, HEIGHT), (1, WEST, WIDTH)):
            moved = place[axis] + random.uniform(-STEP, STEP)
            place[axis] = min(max(moved, least), least + size)
        return b"%+.6f" % place[0], b"%+.6f" % place[1]

    def client(self, number):
        return f"{self.node}.{self.name}.{number}".encode()

    def fail(self, request, reply):
        raise SystemExit(f"soak: {self.node} answered {request!r} with {reply!r}")

    async def post(self, reader, writer, path, media, body):
        """Sends a request of a device, and waits for its confirmation."""
        head = (
            f"POST /t/{self.herd.token(self.node)}{path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"Content-Length"]))
        if not head.startswith(b"HTTP/1.1 200 "):
            self.fail(body, head)

    def acknowledge(self, number, time_ms, place):
        """Notes a position of a device as acknowledged."""
        written = b"%d.%03d" % divmod(time_ms, 1000)
        update = Entry(b"at", self.client(number), b"".join(place), written, None)
        self.load.acknowledge(self.node, update, map(float, place))


class Lines(Source):
    """Clients of the line protocol, which pipeline."""

    name = "line"
    clients = 4_000
    period = 0.05
    batch = 18  # updates per request

    def port(self):
        return self.herd.ports[self.node]

    async def report(self, reader, writer):
        sent = []
        for _ in range(self.batch):
            number = self.turn()
            place = self.move(number)
            self.last = max(time.time_ns() // 1000, self.last + 1)
            when = b"%d.%06d" % divmod(self.last, 1_000_000)
            sent.append((place, b"IAMAT %s %s %s" % (self.client(number), b"".join(place), when)))
        start = time.monotonic()
        writer.write(b"".join(line + b"\n" for _, line in sent))
        for place, line in sent:
            reply = await reader.readuntil()
            if reply.split()[3:] != line.split()[1:]:
                self.fail(line, reply)
            node, update = parse_line(reply)
            if node != self.node:
                self.fail(line, reply)
            self.load.acknowledge(node, update, map(float, place))
        self.load.delays.append(time.monotonic() - start)


class Phones(Source):
    """Phones that send each position in the form of OsmAnd and Traccar Client."""

    name = "phone"
    clients = 400
    period = 0.025

    async def report(self, reader, writer):
        number = self.turn()
        place = self.move(number)
        self.last = max(time.time_ns() // 1_000_000, self.last + 1)
        form = b"id=%s.%d&lat=%s&lon=%s&timestamp=%d&accuracy=5" % (
            self.name.encode(),
            number,
            place[0].lstrip(b"+"),
            place[1].lstrip(b"+"),
            self.last,
        )
        await self.post(reader, writer, "", "application/x-www-form-urlencoded", form)
        self.acknowledge(number, self.last, place)


class Overland(Source):
    """Phones that send batches, the positions of which are not in order."""

    name = "overland"
    clients = 10
    batch = 20

    def __init__(self, herd, node, load):
        super().__init__(herd, node, load)
        self.newest = [0] * self.clients  # time of the newest position of each client

    async def report(self, reader, writer):
        number, now = self.turn(), time.time_ns() // 1_000_000
        begin = max(now - 8_000, self.newest[number] + 1)
        step = max((now - begin) // self.batch, 1)
        positions = [(begin + at * step, self.move(number)) for at in range(self.batch)]
        self.newest[number] = positions[-1][0]
        features = [self.feature(number, *position) for position in positions]
        random.shuffle(features)
        body = '{"locations":[%s]}' % ",".join(features)
        await self.post(reader, writer, "/overland", "application/json", body.encode())
        for time_ms, place in positions:
            self.acknowledge(number, time_ms, place)

    def feature(self, number, time_ms, place):
        """Returns a position as text, since its digits must reach the record."""
        latitude, longitude = (text.decode().lstrip("+") for text in place)
        moment = datetime.fromtimestamp(time_ms // 1000, timezone.utc)
        properties = {
            "timestamp": f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}Z",
            "horizontal_accuracy": 5,
            "device_id": f"{self.name}.{number}",
        }
        geometry = '{"type":"Point","coordinates":[%s,%s]}' % (longitude, latitude)
        return '{"type":"Feature","geometry":%s,"properties":%s}' % (geometry, json.dumps(properties))
