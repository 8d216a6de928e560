"""The figures of docs/performance.md: the node compared with Redis, memcached and an echo server."""

import contextlib
import resource
import socket
import subprocess
import sys
import time

import devices
import feed
import fences
import machine
import plot
import storage
import targets
from servers import (
    ECHO, FIVE, GEO, MEMCACHED, NODE, NODE_LOGGED, REDIS, ROOT, SET, drive, echo, free_ports, herd,
    installed, medians, memcached, redis, running, say, solo, table,
)

DEPTHS = [1, 32, 256]
CONNECTIONS = 50
IAMAT = ["--whatsat-percent", 0]
HERD = "proxy-herd, 5 nodes, default topology"


def measure(effort, page):
    """Returns all figures as Markdown and writes the plot next to the page."""
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, soft_limit))
    found = targets.Found(servers=one_server(effort))
    plot.bars(page.with_suffix(".svg"), DEPTHS, found.servers)
    parts = [
        f"Version `{machine.commit()}`; medians of {effort.rounds} rounds of {effort.seconds:g} s.\n",
        one_server_table(found.servers),
        f"![CPU time per request]({page.with_suffix('.svg').name})\n",
        whole_herd(effort, found),
        propagation(effort, found),
        whatsat(effort, found),
        memory(effort, found),
        storage.measure(effort),
        devices.measure(effort),
        feed.measure(effort),
        fences.measure(effort),
        growth(effort, found),
        targets.table(found),
    ]
    return "\n".join(parts)


def kinds():
    """The servers: names, and functions that start them."""
    servers = {ECHO: echo}
    if installed("memcached"):
        servers[MEMCACHED] = memcached
    if installed("redis-server"):
        servers[SET] = lambda: redis("redis-set")
        servers[GEO] = lambda: redis("redis-geo")
    servers[NODE] = solo
    servers[NODE_LOGGED] = lambda: solo("INFO")
    return servers


def load(effort, *more):
    return ["--clients", effort.clients, "--duration", effort.seconds,
            "--connections", CONNECTIONS, "--warmup", effort.warmup, *more]


def figures(report):
    return {
        "rps": report["requests_per_second"],
        "cpu": report["cpu_us_per_request"],
        "p99": report["rows"][-1]["latency_us"]["p99"],
    }


def one_server(effort):
    """Requests per second, CPU time per request and p99, by server and depth. Each round measures
    all servers in turn, so that drift affects all of them."""
    rounds = {name: {depth: [] for depth in DEPTHS} for name in kinds()}
    for turn in range(effort.rounds):
        for name, start in kinds().items():
            say(f"round {turn + 1}: {name}")
            with start() as server:
                for depth in DEPTHS:
                    report = drive(server.target, *load(effort, "--pipeline", depth), *IAMAT)
                    rounds[name][depth].append(figures(report))
    return {name: {d: medians(r) for d, r in depths.items()} for name, depths in rounds.items()}


def one_server_table(servers):
    header = ["server"] + [f"depth {depth}: req/s · CPU µs · p99 µs" for depth in DEPTHS]
    cell = "{rps:,.0f} · {cpu:.2f} · {p99:,.0f}"
    rows = [[name, *(cell.format(**depths[d]) for d in DEPTHS)] for name, depths in servers.items()]
    text = "### One server\n\n" + table(header, rows) + not_cpu_bound(servers)
    node = servers[NODE]
    rows = []
    for name, depths in servers.items():
        if name != NODE:
            rows.append([name, *(" · ".join(ratio(node[d][key], depths[d][key]) for key in ("rps", "cpu"))
                                 for d in DEPTHS)])
    header = [f"{NODE}, relative to"] + [f"depth {d}: req/s · CPU" for d in DEPTHS]
    return text + "\n" + table(header, rows)


def not_cpu_bound(servers):
    """Names the servers that were idle at times, so that the generator limited the rate."""
    idle = []
    for name, depths in servers.items():
        idle_depths = [str(depth) for depth, it in depths.items() if it["rps"] * it["cpu"] < 0.9e6]
        if idle_depths:
            idle.append(f"{name} at depth {', '.join(idle_depths)}")
    return ("\nServers that were not CPU-bound (at least 10 % idle); here the load generator or other "
            f"processes limited the rate: {'; '.join(idle) or 'none'}.\n")


def ratio(a, b):
    """Formats a / b. CPU time is counted in hundredths of a second and may be 0 in a short run."""
    return f"{a / b:.2f}" if b else "-"


def redis_replicas(nodes):
    """Starts a primary with four replicas. Returns the arguments that measure the CPU of all five."""
    ports = free_ports(5)
    servers = []
    for port in ports:
        command = [word.format(port=port) for word in REDIS]
        if servers:
            command += ["--replicaof", "127.0.0.1", str(ports[0])]
        target = ["--protocol", "redis-geo", f"127.0.0.1:{port}"]
        servers.append(nodes.enter_context(running(command, port, target, core=None)))
    deadline = time.monotonic() + 30
    while not all(linked(port) for port in ports[1:]):
        if time.monotonic() > deadline:
            raise RuntimeError("the replicas do not connect to their primary")
        time.sleep(0.05)  # polling interval
    return servers[0].target + [word for it in servers for word in ("--pid", it.pid)]


def linked(port):
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"INFO replication\r\n")
        return b"master_link_status:up" in connection.recv(65536)


def whole_herd(effort, facts):
    """Total CPU time of all nodes for an update that is replicated to every node."""
    rounds = {}
    for turn in range(effort.rounds):
        say(f"round {turn + 1}: five nodes")
        with contextlib.ExitStack() as nodes:
            if installed("redis-server"):
                target = redis_replicas(nodes)
                for depth in DEPTHS[:2]:
                    arguments = load(effort, "--pipeline", depth)
                    report = drive(target, *arguments, core=None)
                    rounds.setdefault((f"{GEO}, 1 primary and 4 replicas", depth), []).append(figures(report))
        with herd(FIVE, core=None) as nodes:
            target = next(iter(nodes.values())).target[:-1]
            for depth in DEPTHS[:2]:
                report = drive(target, *load(effort, "--pipeline", depth), *IAMAT, core=None)
                rounds.setdefault((HERD, depth), []).append(figures(report))
    rows = {}
    for (name, depth), found in rounds.items():
        found = medians(found)
        if name == HERD:
            facts.herd[depth] = found
        rows.setdefault(name, [name]).append(f"{found['rps']:,.0f} · {found['cpu']:.2f}")
    header = ["herd", *(f"depth {d}: updates/s · total CPU µs" for d in DEPTHS[:2])]
    return "### Replication to five nodes\n\n" + table(header, rows.values())


def propagation(effort, facts):
    say("propagation")
    rounds = []
    for _ in range(effort.rounds):
        with herd(FIVE, core=None) as nodes:
            target = next(iter(nodes.values())).target[:-1]
            arguments = ["--clients", effort.clients, "--rate", 10_000, "--propagation",
                         "--duration", 2 * effort.seconds]
            found = drive(target, *arguments, *IAMAT, core=None)["propagation"]
        farthest = max(found["pairs"], key=lambda pair: pair["latency_us"]["p50"])["latency_us"]
        rounds.append({
            "all p50": found["all"]["p50"], "all p99": found["all"]["p99"],
            "far p50": farthest["p50"], "far p99": farthest["p99"],
            "poll p50": found["resolution_us"]["p50"],
        })
    found = facts.propagation = medians(rounds)
    rows = [["all pairs", f"{found['all p50']:,.0f}", f"{found['all p99']:,.0f}"],
            ["farthest pair", f"{found['far p50']:,.0f}", f"{found['far p99']:,.0f}"]]
    return (
        "### Propagation at 10,000 updates per second\n\n"
        + table(["from the origin's AT line to the record on another node", "p50 µs", "p99 µs"], rows)
        + f"\nThe figures are too long by at most one poll, which took {found['poll p50']:,.0f} µs (median). "
        "All five nodes and the benchmark share the cores.\n"
    )


@contextlib.contextmanager
def emulator():
    """Runs the emulator of Google's API over plain HTTP. Yields its URL and API key."""
    command = [sys.executable, str(ROOT / "scripts/emulator.py"), "--plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        words = dict(word.split("=", 1) for word in process.stdout.readline().split()[1:])
        yield words["url"], words["api_key"]
    finally:
        process.terminate()
        process.wait()


def whatsat(effort, facts):
    say("WHATSAT")
    arguments = ["--whatsat-percent", 100, "--results", 5, "--pipeline", 32]
    rounds = {"offline gazetteer": [], "cached provider responses": []}
    for _ in range(effort.rounds):
        with solo() as server:
            report = drive(server.target, *load(effort, *arguments))
            rounds["offline gazetteer"].append(figures(report))
        with emulator() as (url, key):
            extra = (f"api_key: {key}\nplaces: {{provider: google, url: '{url}', cache_ttl_s: 3600, "
                     "deadline_ms: 10000}\n")
            with solo(extra=extra) as server:
                few = ["--clients", 200, "--duration", effort.seconds, "--connections", CONNECTIONS]
                report = drive(server.target, *few, *arguments, "--warmup", 3)  # fills the cache
                rounds["cached provider responses"].append(figures(report))
    facts.whatsat = {name: medians(found) for name, found in rounds.items()}
    rows = [[name, f"{it['rps']:,.0f}", f"{it['cpu']:.2f}"] for name, it in facts.whatsat.items()]
    header = ["WHATSAT, 5 results, depth 32", "req/s", "CPU µs"]
    return "### Places\n\n" + table(header, rows)


def memory(effort, facts):
    """Resident memory per client and per idle connection."""
    million = min(1_000_000, effort.many_clients)
    rows = []
    servers = {"proxy-herd": lambda: solo(extra=ROOM), **kinds()}
    for skipped in (NODE, NODE_LOGGED, ECHO):
        del servers[skipped]
    for name, start in servers.items():
        say(f"memory: {name}")
        with start() as server:
            drive(server.target, "--clients", 1, "--duration", 0.1, *IAMAT)
            empty = server.resident_kib()
            with contextlib.ExitStack() as held:
                for _ in range(effort.many_connections):
                    held.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
                drive(server.target, "--clients", 1, "--duration", 0.1, *IAMAT)
                connection = (server.resident_kib() - empty) / effort.many_connections
        with start() as server:
            drive(server.target, "--clients", 1, "--duration", 0.1, *IAMAT)
            empty = server.resident_kib()
            drive(server.target, "--clients", million, "--duration", 0.1, *IAMAT)
            client = (server.resident_kib() - empty) * 1024 / million
        facts.memory.setdefault(name, (client, connection))
        rows.append([name, f"{client:.0f}", f"{connection:.2f}"])
    header = ["server", f"bytes per client ({million:,} clients)", "KiB per idle connection"]
    return "### Memory\n\n" + table(header, rows)


ROOM = "limits: {max_clients: 6000000, max_connections: 20000}"


def growth(effort, facts):
    """CPU time per update as clients, connections and neighbors increase."""
    say("growth")
    rows = []

    rounds = min(3, effort.rounds)

    def cost(start, *arguments):
        found = []
        for _ in range(rounds):
            with start() as server:
                found.append(figures(drive(server.target, *arguments)))
        return medians(found)["cpu"]

    def row(what, small, large):
        facts.growth[what] = large / small if small else None
        rows.append([what, f"{small:.2f}", f"{large:.2f}", ratio(large, small)])

    def node():
        return solo(extra=ROOM)

    common = [*IAMAT, "--connections", CONNECTIONS, "--pipeline", 32, "--duration", effort.seconds,
             "--warmup", effort.warmup]
    row(f"1,000 vs. {effort.many_clients:,} clients, depth 32",
        cost(node, "--clients", 1000, *common), cost(node, "--clients", effort.many_clients, *common))
    common = ["--clients", effort.clients, "--duration", effort.seconds, "--warmup", effort.warmup]
    for what, start, more in (("", node, IAMAT), (", echo", echo, [])):
        row(f"10 vs. {effort.many_connections:,} connections, depth 1{what}",
            cost(start, "--connections", 10, *common, *more),
            cost(start, "--connections", effort.many_connections, *common, *more))
    hubs = {}
    for degree in (0, 1, 2, 4, 8):
        found = []
        for _ in range(rounds):
            leaves = [f"Leaf{place}" for place in range(degree)]
            with herd({"Hub": leaves, **{leaf: [] for leaf in leaves}}, core=None) as nodes:
                arguments = load(effort, "--pipeline", 32)
                found.append(figures(drive(nodes["Hub"].target, *arguments, *IAMAT, core=None)))
        hubs[degree] = facts.degrees[degree] = medians(found)["cpu"]
    text = "### Scaling\n\n" + table(["CPU µs per update", "few", "many", "ratio"], rows)
    header = ["neighbors of the updated node", *map(str, hubs)]
    return text + "\n" + table(header, [["its CPU µs per update, depth 32",
                                         *(f"{cpu:.2f}" for cpu in hubs.values())]])
