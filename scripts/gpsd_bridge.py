#!/usr/bin/env python3
"""Reports the positions of a GPS receiver: reads them from gpsd and sends them to a node with IAMAT.

Usage: scripts/gpsd_bridge.py --client NAME [--gpsd HOST:PORT] [--node HOST:PORT] [--interval S]

Reports fixes only, at most one per S seconds (default: 1), with the digits and the time of the receiver.
Connects to gpsd and to the node again when a connection ends. Positions are not kept: while the node
cannot be reached, the newest one waits. Runs until Ctrl-C.
"""

import argparse
import calendar
import json
import re
import socket
import sys
import time
from decimal import Decimal

WATCH = b'?WATCH={"enable":true,"json":true};\n'
MAX_LINE = 64 * 1024  # bytes; gpsd sends at most 1536
SILENCE = 60  # seconds without a report of gpsd, or of the receiver, before it is connected again
REPLY_TIMEOUT = 3  # seconds, to connect to the node or to be acknowledged
RETRY_AFTER = 1  # seconds until a connection is tried again
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z")


def address(text):
    """Parses HOST:PORT; an IPv6 address may be in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def client(text):
    """Checks the name of a client: one field without white space."""
    if not text or re.search(r"[ \t\n\v\f\r]", text):
        raise argparse.ArgumentTypeError("the name of a client is one field, without white space")
    return text


def signed(degrees):
    """Formats a number with its sign, all its digits, and no exponent."""
    return f"{Decimal(degrees):+f}"


def update(line):
    """Returns location and time of a report of gpsd, as IAMAT expects them; None if it is no fix.

    gpsd cuts lines that are too long, so a line that is not JSON is no error.
    """
    try:
        report = json.loads(line, parse_float=str, parse_int=str)
    except ValueError:
        return None
    if not isinstance(report, dict) or report.get("class") != "TPV":
        return None
    if report.get("mode") not in ("2", "3"):
        return None
    lat, lon, at = (report.get(key) for key in ("lat", "lon", "time"))
    match = TIME.fullmatch(at) if isinstance(at, str) else None
    if match is None or not isinstance(lat, str) or not isinstance(lon, str):
        return None
    try:
        if abs(Decimal(lat)) > 90 or abs(Decimal(lon)) > 180:
            return None
        seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
        return signed(lat) + signed(lon), f"{seconds}{match[2] or ''}"
    except (ArithmeticError, ValueError):
        return None


def reports(gpsd):
    """Yields the lines of gpsd until the connection ends."""
    with socket.create_connection(gpsd, SILENCE) as stream:
        stream.sendall(WATCH)
        rest = b""
        while True:
            received = stream.recv(65_536)
            if not received:
                raise ConnectionError("gpsd has closed the connection")
            *lines, rest = (rest + received).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE:
                raise ConnectionError("this is not gpsd: a line is too long")


class Node:
    """A connection to a node, which is opened when it is needed."""

    def __init__(self, at):
        self.at = at
        self.stream = None
        self.retry_at = 0.0

    def report(self, name, location, at):
        """Sends an IAMAT and awaits its AT line. Returns false if the node cannot be reached now."""
        if time.monotonic() < self.retry_at:
            return False
        command = f"IAMAT {name} {location} {at}\n"
        try:
            if self.stream is None:
                self.stream = socket.create_connection(self.at, REPLY_TIMEOUT)
            self.stream.sendall(command.encode())
            reply = b""
            while not reply.endswith(b"\n"):
                received = self.stream.recv(4096)
                if not received:
                    raise ConnectionError("the node has closed the connection")
                reply += received
        except OSError as error:
            host, port = self.at
            print(f"gpsd_bridge: node {host}:{port}: {error}", file=sys.stderr)
            self.close()
            self.retry_at = time.monotonic() + RETRY_AFTER
            return False
        if not reply.startswith(b"AT "):
            print(f"gpsd_bridge: refused by the node: {command.strip()}", file=sys.stderr)
        return True

    def close(self):
        """Closes the connection, if there is one."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def bridge(options):
    """Passes positions on until the connection to gpsd ends."""
    node, newest, sent, due = Node(options.node), None, None, 0.0
    try:
        for line in reports(options.gpsd):
            newest = update(line) or newest
            if newest in (None, sent) or time.monotonic() < due:
                continue
            if node.report(options.client, *newest):
                sent, due = newest, time.monotonic() + options.interval
    finally:
        node.close()


def main():
    """Runs the bridge until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--client", type=client, required=True, help="name of the client")
    parser.add_argument("--gpsd", type=address, default=("localhost", 2947), metavar="HOST:PORT")
    parser.add_argument("--node", type=address, default=("localhost", 10099), metavar="HOST:PORT")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S")
    options = parser.parse_args()
    while True:
        try:
            bridge(options)
        except OSError as error:
            host, port = options.gpsd
            print(f"gpsd_bridge: gpsd {host}:{port}: {error}", file=sys.stderr)
        time.sleep(RETRY_AFTER)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
