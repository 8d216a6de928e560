"""The cost of the feed relative to the storage alone, its rate into Redis, and an absence of Redis."""

import contextlib
import json
import tempfile
import time
import urllib.request

from servers import (
    CLIENT_CORE, PATIENCE, REDIS, cpu_seconds, drive, free_ports, installed, medians, other, running, say,
    solo, table,
)

RATE = 100_000  # updates per second while CPU time is measured
CALM = 10_000  # updates per second while latency is measured: Redis shares the core of the generator
CONNECTIONS, DEPTH = 50, 32
ALONE, FED = "storage alone", "storage and feed"
LOAD = ["--connections", CONNECTIONS, "--whatsat-percent", 0]


def redis(port=None, folder=None):
    """Runs Redis on the core of the generator, which then must not poll. With a folder, it has a file."""
    if port is None:
        return other(REDIS, "redis-geo", CLIENT_CORE)
    command = [str(word).format(port=port) for word in REDIS]
    if folder:
        command[command.index("no")] = "yes"
        command += ["--dir", folder]
    return running(command, port, [], CLIENT_CORE)


class Node:
    """A node with a storage, and a feed if `redis_port` is given."""

    def __init__(self, server, http):
        self.server, self.http = server, http

    def backlog(self):
        """The number of entries that wait, or `None` while the feed is not connected."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/api/herd", timeout=PATIENCE) as response:
            feed = json.load(response).get("feed")
        if feed is None:
            return 0
        return feed["backlog"] if feed["connected"] else None

    def wait_until_delivered(self):
        deadline = time.monotonic() + 30 * PATIENCE
        while self.backlog() != 0:
            if time.monotonic() > deadline:
                raise RuntimeError("the feed does not deliver")
            time.sleep(0.01)  # polling interval


@contextlib.contextmanager
def node(redis_port=None, more=""):
    [http] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        extra = (f"limits: {{max_clients: 6000000}}\nstorage: {{directory: {folder}}}\n"
                 f"http: {{ports: {{Solo: {http}}}}}\n")
        if redis_port is not None:
            extra += f"feed: {{url: 'redis://127.0.0.1:{redis_port}'{more}}}\n"
        with solo(extra=extra) as server:
            yield Node(server, http)


def cost(effort, name):
    """CPU time per update, until everything is delivered, and latency."""
    with redis() as engine, node(engine.port if name == FED else None) as found:
        def load(rate, seconds, *arguments):
            return drive(found.server.target, "--clients", effort.clients, *LOAD, "--rate", rate,
                         "--duration", seconds, *arguments, busy_poll=False)

        load(RATE, effort.warmup, "--pipeline", DEPTH)
        found.wait_until_delivered()
        before = cpu_seconds(found.server.pid)
        report = load(RATE, 3 * effort.seconds, "--pipeline", DEPTH)
        behind = found.backlog()
        found.wait_until_delivered()
        count = report["requests_per_second"] * 3 * effort.seconds
        cpu = (cpu_seconds(found.server.pid) - before) / count * 1e6
        latency = load(CALM, 3 * effort.seconds)["rows"][-1]["latency_us"]
        return {"cpu": cpu, "p50": latency["p50"], "p99": latency["p99"], "behind": behind or 0}


def absence(effort):
    """What a node does while Redis is away, and how fast it catches up."""
    [port] = free_ports(1)
    with node(port) as found:
        target = [*found.server.target, "--pipeline", DEPTH, *LOAD]
        drive(target, "--clients", effort.clients, "--duration", effort.warmup)
        resident = found.server.resident_kib()
        drive(target, "--clients", effort.clients, "--rate", 2 * RATE, "--duration", 3 * effort.seconds)
        growth = found.server.resident_kib() - resident
        with redis(port):
            while not (count := found.backlog() or 0):
                time.sleep(0.001)  # polling interval
            began = time.monotonic()
            found.wait_until_delivered()
            took = time.monotonic() - began
    return {"growth": growth, "rate": count / took, "count": count}


def measure(effort):
    """Returns the section on the feed as Markdown."""
    if not installed("redis-server"):
        return "### Feed\n\nNot measured: redis-server is not installed.\n"
    rounds, absences = {ALONE: [], FED: []}, []
    for turn in range(effort.rounds):
        for name, results in rounds.items():
            say(f"round {turn + 1}: feed: {name}")
            results.append(cost(effort, name))
        say(f"round {turn + 1}: feed: absence of Redis")
        absences.append(absence(effort))
    alone, fed, away = medians(rounds[ALONE]), medians(rounds[FED]), medians(absences)
    costs = table(
        [f"{RATE:,} updates/s over {CONNECTIONS} connections", "CPU µs per update", f"p50 · p99 µs at {CALM:,}/s"],
        [[name, f"{it['cpu']:.2f}", f"{it['p50']:,.0f} · {it['p99']:,.0f}"] for name, it in ((ALONE, alone), (FED, fed))],
    )
    rows = [
        [f"CPU relative to the storage alone, {RATE:,} updates/s", "at most 1.3", f"{fed['cpu'] / alone['cpu']:.2f}"],
        [f"p50 relative to the storage alone, {CALM:,} updates/s", "at most 1.05", f"{fed['p50'] / alone['p50']:.2f}"],
        ["entries per second into Redis after an absence", "at least 100,000", f"{away['rate']:,.0f}"],
        [f"entries that wait at the end of a load of {RATE:,} updates/s", "", f"{fed['behind']:,.0f}"],
        [f"growth of memory while {away['count']:,.0f} entries wait", "0", f"{away['growth']:,.0f} KiB"],
    ]
    return ("### Feed\n\nThe node has one core, Redis and the generator share the other. CPU time is that of "
            "the node, until everything is delivered.\n\n"
            + costs + "\n" + table(["", "target", "measured"], rows))
