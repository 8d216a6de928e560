#!/usr/bin/env python3
"""Simulates a small fleet of vehicles that drive between real places.

Usage: scripts/fleet.py [--vehicles N] [--speed FACTOR] [--seconds S] HOST:PORT...

Each vehicle is assigned to a city, queries a node for nearby places with WHATSAT, and drives from one
of these places to the next at 50 km/h times FACTOR (default: 20). Vehicles are distributed over the
nodes, and each reports its position to its node once per second. Runs until Ctrl-C or for S seconds.
Exits with 1 if a node cannot be reached, does not reply or violates the protocol.
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
REPLY_TIMEOUT = 10  # seconds


class Node:
    """A connection to a node, with one request at a time."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.address, self.host, self.port = address, host.strip("[]"), int(port)
        self.lock = asyncio.Lock()

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def request(self, command, until=b"\n"):
        async with self.lock:
            self.writer.write(command.encode() + b"\n")
            reply = await asyncio.wait_for(self.reader.readuntil(until), REPLY_TIMEOUT)
        if not reply.startswith(b"AT "):
            raise ValueError(f"{self.address} answered {command!r} with {reply!r}")
        return reply

    async def iamat(self, name, place):
        await self.request(f"IAMAT {name} {place[0]:+.6f}{place[1]:+.6f} {time.time():.6f}")

    async def places(self, name):
        """Returns the places within 50 km of the last reported position."""
        reply = await self.request(f"WHATSAT {name} 50 20", until=b"\n\n")
        found = json.loads(reply.split(b"\n", 1)[1])["results"]
        at = [result["geometry"]["location"] for result in found if "geometry" in result]
        return [(place["lat"], place["lng"]) for place in at]


def towards(here, there, kilometers):
    """Returns the position after driving that distance, and whether it is the destination. Computed
    on a plane, which is accurate enough within a city."""
    longitude_scale = math.cos(math.radians(here[0]))
    north, east = there[0] - here[0], (there[1] - here[1]) * longitude_scale
    distance = math.hypot(north, east) * KILOMETERS_PER_DEGREE
    if distance <= kilometers:
        return there, True
    fraction = kilometers / distance
    return (here[0] + fraction * north, here[1] + fraction * (there[1] - here[1])), False


async def drive(node, name, city, kilometers, until):
    """Drives one vehicle and reports its position once per second."""
    here = tuple(degrees + random.uniform(-0.1, 0.1) for degrees in CITIES[city])
    await node.iamat(name, here)
    stops = await node.places(name) or [here]
    there = random.choice(stops)
    await asyncio.sleep(random.random())  # spread the reports over the second
    while time.monotonic() < until:
        here, arrived = towards(here, there, kilometers)
        if arrived:
            there = random.choice(stops)
        await node.iamat(name, here)
        await asyncio.sleep(1)


async def run(arguments):
    until = time.monotonic() + arguments.seconds
    nodes = [Node(address) for address in arguments.nodes]
    for node in nodes:
        await node.connect()
    kilometers = KILOMETERS_PER_HOUR * arguments.speed / 3600
    drives = []
    for number in range(arguments.vehicles):
        city = list(CITIES)[number % len(CITIES)]
        name = f"van{number:03}.{city}.example.org"
        drives.append(drive(nodes[(number // len(CITIES)) % len(nodes)], name, city, kilometers, until))
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
    parser.add_argument(
        "--seconds", type=float, default=math.inf, metavar="S", help="duration (default: unlimited)"
    )
    try:
        asyncio.run(run(parser.parse_args()))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        sys.exit(f"fleet: {error or 'a node did not reply in time'}")


if __name__ == "__main__":
    main()
