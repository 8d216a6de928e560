"""The protocol of a node without places and peers, shared by the servers in Python."""

import re
import time

SECOND = 10**9
MAX_SECONDS = 253402300799
DELTA = 5 * SECOND

SPACE = rb"[ \t\r\n\f\v]+"
DECIMAL = rb"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
FIELDS = re.compile(SPACE)
LOCATION = re.compile(rb"([+-]%b)([+-]%b)/?" % (DECIMAL, DECIMAL))
TIME = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?")
RADIUS = re.compile(rb"\+?%b" % DECIMAL)
RESULTS = re.compile(rb"\+?[0-9]+")

NO_PLACES = b"""
{
  "html_attributions": [],
  "results": [],
  "status": "ZERO_RESULTS"
}

"""


def nanoseconds(field):
    """Returns a time in nanoseconds since the Unix epoch, exactly, or None if it is invalid."""
    match = TIME.fullmatch(field)
    if not match or not (match[2] or match[3]):
        return None
    fraction = (match[3] or b"")[:9].ljust(9, b"0")
    value = int(match[2] or b"0") * SECOND + int(fraction)
    if value > MAX_SECONDS * SECOND:
        return None
    return -value if match[1] == b"-" else value


def is_location(field):
    match = LOCATION.fullmatch(field)
    return match and abs(float(match[1])) <= 90 and abs(float(match[2])) <= 180


class Node:
    """Stores the newest record of each client."""

    def __init__(self, name):
        self.name = name.encode()
        self.records = {}

    def answer(self, line):
        """Returns the reply to a line without its LF; empty for an empty line."""
        line = line.strip(b" \t\r\n\f\v")
        match FIELDS.split(line):
            case [b"IAMAT", client, location, timestamp]:
                at = nanoseconds(timestamp)
                if at is not None and is_location(location):
                    return self.iamat(client, location, timestamp, at)
            case [b"WHATSAT", client, radius, results]:
                if client in self.records and RADIUS.fullmatch(radius) and float(radius) <= 50:
                    if RESULTS.fullmatch(results) and int(results) <= 20:
                        return self.records[client][1] + NO_PLACES
            case [b""]:
                return b""
        return b"? " + line + b"\n"

    def iamat(self, client, location, timestamp, at):
        received = time.time_ns()
        sign = b"+" if received >= at else b"-"
        seconds, rest = divmod(abs(received - at), SECOND)
        record = b"AT %b %b%d.%09d %b %b %b" % (
            self.name, sign, seconds, rest, client, location, timestamp,
        )
        new = (min(at, received + DELTA), at, received, self.name, record)
        held = self.records.get(client)
        if held is None or new > held[0]:
            self.records[client] = (new, record)
        return record + b"\n"
