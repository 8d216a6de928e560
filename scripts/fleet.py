#!/usr/bin/env python3
"""A small fleet that drives around real places, so that there is something to see.

Usage: scripts/fleet.py [--vehicles N] [--speed FACTOR] [--seconds S] HOST:PORT...

Each vehicle lives in a city, asks a node with WHATSAT what is near, and drives from one of these
places to the next at 50 km/h times FACTOR (20). Vehicles are spread over the nodes, and each tells
its own where it is once a second. Runs until Ctrl-C or for S seconds. Exits with 1 where a node
cannot be reached or answers something else than the protocol allows.
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
KILOMETRES_PER_DEGREE = 111.2
KILOMETRES_PER_HOUR = 50
PATIENCE = 10  # seconds for a reply


class Node:
    """A connection to a node; one request at a time."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.address, self.host, self.port = address, host.strip("[]"), int(port)
        self.turn = asyncio.Lock()

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def ask(self, request, until=b"\n"):
        async with self.turn:
            self.writer.write(request.encode() + b"\n")
            reply = await asyncio.wait_for(self.reader.readuntil(until), PATIENCE)
        if not reply.startswith(b"AT "):
            raise ValueError(f"{self.address} answers {reply!r} to {request!r}")
        return reply

    async def iamat(self, name, place):
        await self.ask(f"IAMAT {name} {place[0]:+.6f}{place[1]:+.6f} {time.time():.6f}")

    async def places(self, name):
        """What is within 50 km of where the vehicle has said it is."""
        reply = await self.ask(f"WHATSAT {name} 50 20", until=b"\n\n")
        found = json.loads(reply.split(b"\n", 1)[1])["results"]
        at = [result["geometry"]["location"] for result in found if "geometry" in result]
        return [(place["lat"], place["lng"]) for place in at]


def towards(here, there, kilometres):
    """Where one is after so many kilometres, and whether that is there. Straight ahead: at the size
    of a city the world is flat."""
    narrower = math.cos(math.radians(here[0]))
    north, east = there[0] - here[0], (there[1] - here[1]) * narrower
    distance = math.hypot(north, east) * KILOMETRES_PER_DEGREE
    if distance <= kilometres:
        return there, True
    part = kilometres / distance
    return (here[0] + part * north, here[1] + part * (there[1] - here[1])), False


async def drive(node, name, city, kilometres, until):
    """Tells where a vehicle is, once a second."""
    here = tuple(degrees + random.uniform(-0.1, 0.1) for degrees in CITIES[city])
    await node.iamat(name, here)
    stops = await node.places(name) or [here]
    there = random.choice(stops)
    await asyncio.sleep(random.random())  # not all in the same moment
    while time.monotonic() < until:
        here, arrived = towards(here, there, kilometres)
        if arrived:
            there = random.choice(stops)
        await node.iamat(name, here)
        await asyncio.sleep(1)


async def run(arguments):
    until = time.monotonic() + arguments.seconds
    nodes = [Node(address) for address in arguments.nodes]
    for node in nodes:
        await node.connect()
    kilometres = KILOMETRES_PER_HOUR * arguments.speed / 3600
    drives = []
    for number in range(arguments.vehicles):
        city = list(CITIES)[number % len(CITIES)]
        name = f"van{number:03}.{city}.example.org"
        drives.append(drive(nodes[(number // len(CITIES)) % len(nodes)], name, city, kilometres, until))
    await asyncio.gather(*drives)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("nodes", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--vehicles", type=int, default=200, metavar="N")
    parser.add_argument("--speed", type=float, default=20, metavar="FACTOR")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S")
    try:
        asyncio.run(run(parser.parse_args()))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        sys.exit(f"fleet: {error or 'a node does not answer'}")


if __name__ == "__main__":
    main()
