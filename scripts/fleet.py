#!/usr/bin/env python3
"""Simulates a small fleet of vehicles that drive between real places.

Usage: scripts/fleet.py [--vehicles N] [--speed FACTOR] [--fences FILE] [--seconds S] HOST:PORT...

Each vehicle is assigned to a city, queries a node for nearby places with WHATSAT, and drives from one
of these places to the next at 50 km/h times FACTOR (default: 20). Every third of its stops is in one
of the fences of FILE, if some are in its city. Vehicles are distributed over the
nodes, and each reports its position to its node once per second, or to the next node while its own
cannot be reached or does not reply. Runs until Ctrl-C or for S seconds. Exits with 1 if no node replies
for ten seconds or a node violates the protocol.
"""

import argparse
import asyncio
import json
import math
import random
import sys
import time

CITIES = {
    "la": (34.0689, -118.4451),
    "nyc": (40.7128, -74.0060),
    "london": (51.5074, -0.1278),
    "paris": (48.8566, 2.3522),
    "lagos": (6.5244, 3.3792),
    "mumbai": (19.0760, 72.8777),
    "tokyo": (35.6762, 139.6503),
    "sydney": (-33.8688, 151.2093),
    "saopaulo": (-23.5505, -46.6333),
    "auckland": (-36.8509, 174.7645),
}
KILOMETERS_PER_DEGREE = 111.2
KILOMETERS_PER_HOUR = 50
PLACES_TIMEOUT = 10  # seconds; a places provider may be slow
REPLY_TIMEOUT = 3  # seconds, to connect or to acknowledge a position
CITY_KILOMETERS = 50  # radius in which vehicles visit fences
RETRY_AFTER = 1  # seconds until a lost node is tried again
NO_NODE_TIMEOUT = 10  # seconds


class NodeLost(Exception):
    """A node cannot be reached or does not reply."""


class Node:
    """A connection to a node, with one request at a time. Reconnects on demand."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.address, self.host, self.port = address, host.strip("[]"), int(port)
        self.lock = asyncio.Lock()
        self.reader = self.writer = None
        self.lost = False
        self.retry_at = -math.inf

    def may_reply(self):
        return time.monotonic() >= self.retry_at

    async def exchange(self, command, until, timeout):
        if self.writer is None:
            connecting = asyncio.open_connection(self.host, self.port, limit=1 << 20)
            self.reader, self.writer = await asyncio.wait_for(connecting, REPLY_TIMEOUT)
        self.writer.write(command.encode() + b"\n")
        reply = await asyncio.wait_for(self.reader.readuntil(until), timeout)
        if reply.startswith(b"? too many connections"):
            raise ConnectionRefusedError("too many connections")
        return reply

    async def request(self, command, until=b"\n", timeout=REPLY_TIMEOUT):
        async with self.lock:
            if not self.may_reply():  # lost while this request waited for the lock
                raise NodeLost(f"{self.address} is not reachable")
            try:
                reply = await self.exchange(command, until, timeout)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                self.lose()
                raise NodeLost(f"{self.address}: {error or 'no reply in time'}") from error
        if self.lost:
            self.lost = False
            print(f"fleet: {self.address} replies again", file=sys.stderr)
        if not reply.startswith(b"AT "):
            raise ValueError(f"{self.address} answered {command!r} with {reply!r}")
        return reply

    def lose(self):
        """Closes the connection, since a late reply would be taken for that of the next request."""
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None
        if not self.lost:
            self.lost = True
            print(f"fleet: {self.address} is lost; its vehicles use other nodes", file=sys.stderr)
        self.retry_at = time.monotonic() + RETRY_AFTER

    async def iamat(self, name, place):
        await self.request(f"IAMAT {name} {place[0]:+.6f}{place[1]:+.6f} {time.time():.6f}")

    async def places(self, name):
        """Returns the places within 50 km of the last reported position."""
        reply = await self.request(f"WHATSAT {name} 50 20", b"\n\n", PLACES_TIMEOUT)
        found = json.loads(reply.split(b"\n", 1)[1])["results"]
        at = [result["geometry"]["location"] for result in found if "geometry" in result]
        return [(place["lat"], place["lng"]) for place in at]


def centers(path):
    """Returns a point in the middle of each fence of a GeoJSON file."""
    with open(path, encoding="utf-8") as file:
        geometries = [feature["geometry"] for feature in json.load(file)["features"]]
    middles = []
    for geometry in geometries:
        points = list(positions(geometry["coordinates"]))
        middles.append(tuple(sum(axis) / len(points) for axis in zip(*points)))
    return middles


def positions(coordinates):
    """Yields the positions in GeoJSON coordinates as (latitude, longitude)."""
    if isinstance(coordinates[0], (int, float)):
        yield coordinates[1], coordinates[0]
    else:
        for part in coordinates:
            yield from positions(part)


def kilometers_between(here, there):
    """Returns a distance on a plane, which is accurate enough within a city."""
    north, east = there[0] - here[0], (there[1] - here[1]) * math.cos(math.radians(here[0]))
    return math.hypot(north, east) * KILOMETERS_PER_DEGREE


def towards(here, there, kilometers):
    """Returns the position after driving that distance, and whether it is the destination."""
    distance = kilometers_between(here, there)
    if distance <= kilometers:
        return there, True
    fraction = kilometers / distance
    return tuple(start + fraction * (end - start) for start, end in zip(here, there)), False


async def with_a_node(nodes, action):
    """Runs an action with the first node or, while that is lost, with the next one that replies."""
    deadline = time.monotonic() + NO_NODE_TIMEOUT
    reason = None
    while True:
        for node in nodes:
            if node.may_reply():
                try:
                    return await action(node)
                except NodeLost as error:
                    reason = error
        if time.monotonic() >= deadline:
            raise NodeLost(f"no node replies: {reason or 'all were lost'}")
        await asyncio.sleep(0.1)


async def drive(nodes, name, city, fences, kilometers, until):
    """Drives one vehicle and reports its position once per second to the first node that replies."""

    async def begin(node):
        await node.iamat(name, here)
        return await node.places(name)

    async def report(node):
        await node.iamat(name, here)

    here = tuple(degrees + random.uniform(-0.1, 0.1) for degrees in CITIES[city])
    stops = await with_a_node(nodes, begin) or [here]
    fences = [fence for fence in fences if kilometers_between(CITIES[city], fence) < CITY_KILOMETERS]

    def destination():
        return random.choice(fences if fences and random.random() < 1 / 3 else stops)

    there = destination()
    await asyncio.sleep(random.random())  # spread the reports over the second
    while time.monotonic() < until:
        here, arrived = towards(here, there, kilometers)
        if arrived:
            there = destination()
        await with_a_node(nodes, report)
        await asyncio.sleep(1)


async def run(arguments):
    until = time.monotonic() + arguments.seconds
    nodes = [Node(address) for address in arguments.nodes]
    kilometers = KILOMETERS_PER_HOUR * arguments.speed / 3600
    fences = centers(arguments.fences) if arguments.fences else []
    drives = []
    for number in range(arguments.vehicles):
        city = list(CITIES)[number % len(CITIES)]
        name = f"van{number:03}.{city}.example.org"
        home = (number // len(CITIES)) % len(nodes)
        drives.append(drive(nodes[home:] + nodes[:home], name, city, fences, kilometers, until))
    await asyncio.gather(*drives)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("nodes", nargs="+", metavar="HOST:PORT", help="address of a node")
    parser.add_argument(
        "--vehicles", type=int, default=200, metavar="N", help="number of vehicles (default: 200)"
    )
    parser.add_argument(
        "--speed", type=float, default=20, metavar="FACTOR", help="multiple of 50 km/h (default: 20)"
    )
    parser.add_argument("--fences", metavar="FILE", help="GeoJSON file of fences to visit")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, metavar="S", help="duration (default: unlimited)"
    )
    try:
        asyncio.run(run(parser.parse_args()))
    except KeyboardInterrupt:
        pass
    except (NodeLost, ValueError) as error:
        sys.exit(f"fleet: {error}")


if __name__ == "__main__":
    main()
