"""The cost of nearest clients and of fences: queries side by side with Redis, updates with an update alone."""

import contextlib
import itertools
import json
import math
import random
import re
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import targets
from servers import (
    CLIENT_CORE, FIVE, RELEASE, cpu_seconds, drive, free_ports, herd, installed, medians, redis, say, solo, table,
)

CONNECTIONS = 50
IAMAT = ["--whatsat-percent", 0]
DEPTHS = (1, 4)
RATE = 2_000  # queries per second, for latencies
# Side of the square that the clients are in, in km, with the clients within 5 km when there are a million.
SQUARES = {2500: 13, 890: 99, 280: 1000}
NEAR, SEARCH = "proxy-herd `near`", "Redis `GEOSEARCH`"
ROOM = "limits: {max_clients: 6000000}\n"
# The area of the clients of herd-bench.
SOUTH, NORTH, WEST, EAST = 33.8, 34.0, -118.4, -118.0
# Number of fences, and their radius in meters. Together they cover the same part of the area.
FENCES = {1_000: 200, 100_000: 20}
COVERED = "0.15"
MOVES = {"jumps": [], "moves within 30 m": ["--range", 30]}
UPDATES = 10_000  # per second, while events are timed


@contextlib.contextmanager
def node(extra=""):
    """Runs a node with an HTTP port. Yields it and the port."""
    [port] = free_ports(1)
    with solo(extra=f"{ROOM}http: {{ports: {{Solo: {port}}}}}\n{extra}") as server:
        yield server, port


def query_load(*arguments):
    command = ["taskset", "-c", CLIENT_CORE, RELEASE / "examples/query_load", *arguments]
    completed = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if completed.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {completed.stderr}")
    return json.loads(completed.stdout or "null")


def wait_until_idle(pid):
    """Waits until a server has answered what was sent to it, even on connections that are closed by now. The
    servers of a comparison have the same core."""
    deadline = time.monotonic() + 120
    used, interval = -1, 0.3
    while (now := cpu_seconds(pid)) - used > interval / 100:
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {pid} does not become idle")
        used = now
        time.sleep(interval)


def get(port, path):
    """Sends one request and returns the response."""
    with socket.create_connection(("127.0.0.1", port), 60) as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while more := stream.recv(65_536):
            received += more
    if not received.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path}: {received[:200]!r}")
    return received


def measure(effort):
    """Returns the section as Markdown."""
    results = []  # what, target, measured, and the share of the target
    parts = [queries(effort, results), updates(effort, results), events(effort, results)]
    rows = [[what, target, measured, targets.verdict(share)] for what, target, measured, share in results]
    parts.append(table(["", "target", "measured", "result"], rows))
    return "### Nearest clients and fences\n\n" + "\n".join(parts)


def queries(effort, results):
    """Queries per second, CPU time and latency, on both servers with the same clients in turn."""
    clients = min(1_000_000, effort.many_clients)
    rows, seconds = [], 2 * effort.seconds
    for side, within in SQUARES.items():
        rounds = {}
        with contextlib.ExitStack() as stack:
            say(f"nearest clients: {clients:,} in a square of {side} km")
            server, port = stack.enter_context(node())
            query_load("update-herd", f"127.0.0.1:{server.port}", side, clients)
            get(port, "/api/clients?near=0,0")  # builds the index
            servers = {NEAR: ("herd", server.pid, port)}
            if installed("redis-server"):
                other = stack.enter_context(redis("redis-geo"))
                query_load("update-redis", f"127.0.0.1:{other.port}", side, clients)
                servers[SEARCH] = ("redis", other.pid, other.port)
            for _ in range(effort.rounds):
                for name, (kind, pid, at) in servers.items():
                    for _, other_pid, _ in servers.values():
                        wait_until_idle(other_pid)
                    for depth in DEPTHS:
                        began = cpu_seconds(pid)
                        report = query_load(kind, f"127.0.0.1:{at}", side, CONNECTIONS, depth, seconds)
                        report["cpu"] = (cpu_seconds(pid) - began) / max(1, report["requests"]) * 1e6
                        rounds.setdefault((name, depth), []).append(report)
                    report = query_load(kind, f"127.0.0.1:{at}", side, CONNECTIONS, 1, seconds, RATE)
                    rounds.setdefault((name, "rate"), []).append(report)
        figures = {key: medians(reports) for key, reports in rounds.items()}
        for name in servers:
            cells = ["{rps:,.0f} · {cpu:.1f} · {p99:,.0f}".format(**figures[name, depth]) for depth in DEPTHS]
            latency = figures[name, "rate"]
            is_overloaded = latency["rps"] < 0.9 * RATE
            cells.append("overloaded" if is_overloaded else f"{latency['p50']:,.0f} · {latency['p99']:,.0f}")
            rows.append([f"{within * clients // 1_000_000:,}", name, f"{figures[name, 1]['hits']:.1f}", *cells])
        if SEARCH in servers:
            for depth in DEPTHS:
                mine, its = figures[NEAR, depth], figures[SEARCH, depth]
                times = mine["rps"] / its["rps"] if its["rps"] else math.inf
                by_cpu = f"{its['cpu'] / mine['cpu']:.2f}" if mine["cpu"] else "-"
                results.append((f"req/s relative to Redis `GEOSEARCH`, {within:,} clients within 5 km, depth {depth}",
                                "at least 5", f"{times:.2f}; {by_cpu} by CPU per request", 5 / times if times else None))
        p99 = figures[NEAR, "rate"]["p99"]
        results.append((f"p99 of a query, {within:,} clients within 5 km, {RATE:,} per second", "at most 1,000 µs",
                        f"{p99:,.0f} µs", p99 / 1000))
    header = ["clients within 5 km", "server", "results"]
    header += [f"depth {depth}: req/s · CPU µs · p99 µs" for depth in DEPTHS]
    header += [f"{RATE:,} per second: p50 · p99 µs"]
    return (
        f"The nearest ten within 5 km of {clients:,} clients, around random points: `GET "
        "/api/clients?near=LON,LAT&radius=5&limit=10` on HTTP connections that stay open, against `GEOSEARCH herd "
        "FROMLONLAT LON LAT BYRADIUS 5 km ASC COUNT 10`. Both servers hold the same positions, uniform in a square, "
        "and are asked for the same points by the same generator (`examples/query_load.rs`) over "
        f"{CONNECTIONS} connections, each on the same core in turn. A node returns the whole records as GeoJSON with "
        "distances, Redis the names.\n\n" + table(header, rows)
    )


def fence_file(path, count, radius):
    """Writes fences that are spread over the area: circles, and polygons of sixteen vertices."""
    rng = random.Random(1)
    features = []
    for number in range(count):
        lng, lat = rng.uniform(WEST, EAST), rng.uniform(SOUTH, NORTH)
        properties = {"name": f"fence{number}"}
        if number % 2 == 0:
            properties["radius"] = radius
            geometry = {"type": "Point", "coordinates": [lng, lat]}
        else:
            north = radius / 111_195
            ring = [[round(lng + north * math.cos(turn) / math.cos(math.radians(lat)), 7),
                     round(lat + north * math.sin(turn), 7)]
                    for turn in (vertex * math.tau / 16 for vertex in range(16))]
            geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@contextlib.contextmanager
def asked(port, every=0.1):
    """Keeps the index of positions in use with a few queries."""
    is_over = threading.Event()

    def ask():
        while not is_over.wait(every):
            get(port, "/api/clients?near=-118.2,33.9&radius=5")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def updates(effort, results):
    """CPU time of an update alone, with the index of positions in use, and with fences."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"neither": "", "nearest clients": ""}
        for count, radius in FENCES.items():
            path = Path(folder) / f"{count}.geojson"
            fence_file(path, count, radius)
            kinds[f"{count:,} fences"] = f"fences: {{file: {path}}}\n"
        rounds = {}
        for turn in range(effort.rounds):
            for (load, arguments), (name, extra) in itertools.product(MOVES.items(), kinds.items()):
                say(f"round {turn + 1}: updates: {load}, {name}")
                with node(extra) as (server, port), contextlib.ExitStack() as stack:
                    if name == "nearest clients":
                        get(port, "/api/clients?near=0,0")
                        stack.enter_context(asked(port))
                    report = drive(server.target, "--clients", effort.clients, "--connections", CONNECTIONS,
                                   "--duration", 2 * effort.seconds, "--warmup", effort.warmup, "--pipeline", 32,
                                   *IAMAT, *arguments)
                rounds.setdefault((load, name), []).append({"cpu": report["cpu_us_per_request"]})
    cpu = {load: [medians(rounds[load, name])["cpu"] for name in kinds] for load in MOVES}
    for load, (alone, near, few, many) in cpu.items():
        results += [
            (f"CPU of an update with nearest clients in use, relative to one without, {load}", "at most 1.3",
             f"{near / alone:.2f}", near / alone / 1.3),
            (f"CPU of an update with 1,000 fences, relative to one without, {load}", "at most 1.5",
             f"{few / alone:.2f}", few / alone / 1.5),
            (f"CPU of an update with 100,000 fences, {load}", "at most 2 µs", f"{many:.2f} µs", many / 2),
        ]
    results.append(memory(effort))
    rows = [[load, *(f"{each:.2f}" for each in values)] for load, values in cpu.items()]
    return (
        f"The updates are those of {effort.clients:,} clients. A jump is one to a random point of {COVERED} fences on "
        f"average: it enters {COVERED} fences, leaves as many, and goes to another leaf of the index. A vehicle that "
        f"drives sends moves of some meters, most of which do nothing of the kind.\n\n"
        + table(["CPU µs per update, depth 32", *kinds], rows)
    )


def memory(effort):
    clients = min(1_000_000, effort.many_clients)
    say("memory of the index of positions")
    with node() as (server, port):
        drive(server.target, "--clients", clients, "--duration", 0.1, *IAMAT)
        before = server.resident_kib()
        get(port, "/api/clients?near=-118.2,33.9")
        drive(server.target, "--clients", clients, "--duration", effort.seconds, *IAMAT)
        get(port, "/api/clients?near=-118.2,33.9")
        each = (server.resident_kib() - before) * 1024 / clients
    return ("memory of nearest clients in use, per client", "at most 24 bytes", f"{each:.1f} bytes", each / 24)


class Stream(threading.Thread):
    """A subscriber. Notes when it has received the event of each record, by the record's time."""

    def __init__(self, port, query):
        super().__init__(daemon=True)
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.times = {}
        self.is_ready = threading.Event()
        self.start()

    def run(self):
        pending = b""
        with contextlib.suppress(OSError):
            while more := self.socket.recv(65_536):
                now = time.monotonic()
                *lines, pending = (pending + more).split(b"\n")
                for line in lines:
                    if match := re.search(rb'"time":([0-9.]+)', line):
                        self.times.setdefault(float(match[1]), now)
                    elif line.startswith(b"event: ready"):
                        self.is_ready.set()


def events(effort, results):
    """Time from an AT line to the event on the farthest node, while all nodes are updated."""
    say("events")
    seconds = 10 * effort.seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.geojson"
        gate = {"type": "Feature", "properties": {"name": "gate", "radius": 1000},
                "geometry": {"type": "Point", "coordinates": [10, 10]}}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [gate]}))
        first, *_, farthest = FIVE
        [port] = free_ports(1)
        extra = f"http: {{ports: {{{farthest}: {port}}}}}\nfences: {{file: {path}}}\n"
        with herd(FIVE, core=None, extra=extra) as nodes:
            target = nodes[first].target[:-1]
            streams = {"`client`": Stream(port, "client=probe"), "`enter` and `leave`": Stream(port, "fence=gate")}
            for stream in streams.values():
                if not stream.is_ready.wait(60):
                    raise RuntimeError("a subscription does not become ready")
            load = threading.Thread(target=drive, kwargs={"core": None}, args=(
                target, "--clients", effort.clients, "--rate", UPDATES, "--duration", seconds + 2, *IAMAT))
            load.start()
            sent = probe(nodes[first].port, seconds)
            time.sleep(1)  # the last events
            load.join()
    rows, worst = [], 0
    for name, stream in streams.items():
        # The event may be here before the reader of the AT line has its turn.
        latencies = sorted(max(0, stream.times[at] - when) * 1000 for at, when in sent.items() if at in stream.times)
        if len(latencies) < len(sent) * 0.9:
            raise RuntimeError(f"{name}: {len(latencies)} events of {len(sent)} updates")
        median = statistics.median(latencies)
        p99 = latencies[int(len(latencies) * 0.99)]
        rows.append([name, len(latencies), f"{median:.0f}", f"{p99:.0f}", f"{latencies[-1]:.0f}"])
        worst = max(worst, p99)
    results.append((f"p99 of an event on the farthest node, {UPDATES:,} updates per second", "at most 250 ms",
                    f"{worst:.0f} ms", worst / 250))
    return table([f"from the AT line to the event on the farthest node, {UPDATES:,} updates/s", "events",
                  "p50 ms", "p99 ms", "longest"], rows)


def probe(port, seconds):
    """Moves one client in and out of the fence. Returns when each AT line arrived, by the record's time."""
    sent, rng = {}, random.Random(1)
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        replies = stream.makefile("rb")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            at = round(time.time(), 3)
            place = "+10+10" if len(sent) % 2 == 0 else "+11+11"
            stream.sendall(f"IAMAT probe {place} {at:.3f}\n".encode())
            replies.readline()
            sent[at] = time.monotonic()
            time.sleep(rng.uniform(0.25, 0.45))  # events of one client are at least 0.2 s apart
    return sent
