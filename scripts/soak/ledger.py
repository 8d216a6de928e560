"""Comparison of what must have happened with what a witness of the herd reports, exactly once and in order."""

from collections import defaultdict, deque
from typing import NamedTuple


class Entry(NamedTuple):
    """An update, or a transition of a fence that it has caused."""

    type: bytes  # at, enter or leave
    client: bytes
    location: bytes
    time: bytes
    difference: bytes | None  # None: unknown, since devices receive no AT line
    fence: bytes = b""

    def matches(self, found):
        """Returns whether an entry that was found is this one."""
        known = self if self.difference is not None else self._replace(difference=found.difference)
        return known == found


def source_of(client):
    """Returns the source of the load that a client belongs to: the first two parts of its name."""
    return b".".join(client.split(b".")[:2])


def parse_line(line):
    """Returns the node and the update of an AT line."""
    word, node, difference, client, location, time = line.split()
    if word != b"AT":
        raise ValueError(f"{line!r} is not an AT line")
    return node.decode(), Entry(b"at", client, location, time, difference)


class Ledger:
    """The entries that one witness must report, source by source, and those that it does report.

    An entry may arrive before it is known to be expected: the reply to an update is read later than, for
    example, the log. Both sides wait in queues and are compared as soon as both are there.
    """

    def __init__(self, name):
        self.name = name
        self.expected = defaultdict(deque)
        self.arrived = defaultdict(deque)
        self.count = 0  # entries that match
        self.differences = {}  # the first difference of each source, which ends its comparison

    def expect(self, entry):
        self.compare(self.expected, source_of(entry.client), entry)

    def arrive(self, entry):
        self.compare(self.arrived, source_of(entry.client), entry)

    def compare(self, side, source, entry):
        if source in self.differences:
            return
        side[source].append(entry)
        expected, arrived = self.expected[source], self.arrived[source]
        while expected and arrived:
            if not expected[0].matches(arrived[0]):
                self.differences[source] = f"expected {expected[0]}, found {arrived[0]}"
                return
            expected.popleft()
            arrived.popleft()
            self.count += 1

    def is_even(self):
        """Returns whether nothing is expected any more and nothing else has arrived."""
        return not self.differences and not any(
            queue for side in (self.expected, self.arrived) for queue in side.values()
        )

    def faults(self):
        """Describes what is missing, what was not expected, and what differs."""
        found = [f"{source.decode()}: {text}" for source, text in self.differences.items()]
        for side, text in ((self.expected, "missing"), (self.arrived, "not expected or twice")):
            for source, queue in side.items():
                if queue and source not in self.differences:
                    found.append(f"{source.decode()}: {len(queue)} {text}, such as {queue[0]}")
        return found
