"""The standard table: the node beside Redis, memcached and an echo server."""

import contextlib
import resource
import socket
import subprocess
import sys
import time

import machine
import plot
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
    """All figures as Markdown; the plot goes beside the page."""
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
        growth(effort, found),
        targets.table(found),
    ]
    return "\n".join(parts)


def kinds():
    """What is measured: a name, and what starts it."""
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
    """By server and depth: requests a second, CPU per request, p99. Each round measures all servers
    in turn, so that what drifts drifts for all."""
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
    text = "### One server\n\n" + table(header, rows) + slower_generator(servers)
    node = servers[NODE]
    rows = []
    for name, depths in servers.items():
        if name != NODE:
            rows.append([name, *(" · ".join(ratio(node[d][key], depths[d][key]) for key in ("rps", "cpu"))
                                 for d in DEPTHS)])
    header = [f"{NODE}, against"] + [f"depth {d}: req/s · CPU" for d in DEPTHS]
    return text + "\n" + table(header, rows)


def slower_generator(servers):
    """Where a server had time left, the generator set the rate."""
    idle = []
    for name, depths in servers.items():
        those = [str(depth) for depth, it in depths.items() if it["rps"] * it["cpu"] < 0.9e6]
        if those:
            idle.append(f"{name} at depth {', '.join(those)}")
    return ("\nServers that had a tenth of their core left or more, so that the generator, or what else "
            f"ran, set the rate: {'; '.join(idle) or 'none'}.\n")


def ratio(a, b):
    """Processor time is counted in hundredths of a second: a short run may have used none."""
    return f"{a / b:.2f}" if b else "-"


def redis_replicas(nodes):
    """A primary with four replicas, and the arguments that count the processor time of all five."""
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
            raise RuntimeError("the replicas do not find their primary")
        time.sleep(0.05)  # the pace of the polling
    return servers[0].target + [word for it in servers for word in ("--pid", it.pid)]


def linked(port):
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"INFO replication\r\n")
        return b"master_link_status:up" in connection.recv(65536)


def whole_herd(effort, facts):
    """CPU over all nodes for an update that goes to every node."""
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
    header = ["herd", *(f"depth {d}: updates/s · CPU µs over all five" for d in DEPTHS[:2])]
    return "### Five copies of every update\n\n" + table(header, rows.values())


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
            "question p50": found["resolution_us"]["p50"],
        })
    found = facts.propagation = medians(rounds)
    rows = [["all pairs", f"{found['all p50']:,.0f}", f"{found['all p99']:,.0f}"],
            ["the farthest pair", f"{found['far p50']:,.0f}", f"{found['far p99']:,.0f}"]]
    return (
        "### Propagation at 10,000 updates a second\n\n"
        + table(["from the AT line to the record on the other node", "p50 µs", "p99 µs"], rows)
        + f"\nAt most a question too long, which took {found['question p50']:,.0f} µs (median). All "
        "five nodes and the benchmark share the cores.\n"
    )


@contextlib.contextmanager
def emulator():
    """Google's API on this machine, over plain HTTP. Gives its URL and its key."""
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
    rounds = {"offline gazetteer": [], "cache of a provider's answers": []}
    for _ in range(effort.rounds):
        with solo() as server:
            report = drive(server.target, *load(effort, *arguments))
            rounds["offline gazetteer"].append(figures(report))
        with emulator() as (url, key):
            extra = (f"api_key: {key}\nplaces: {{provider: google, url: '{url}', cache_ttl_s: 3600, "
                     "deadline_ms: 10000}\n")
            with solo(extra=extra) as server:
                few = ["--clients", 200, "--duration", effort.seconds, "--connections", CONNECTIONS]
                report = drive(server.target, *few, *arguments, "--warmup", 3)  # all is cached
                rounds["cache of a provider's answers"].append(figures(report))
    facts.whatsat = {name: medians(found) for name, found in rounds.items()}
    rows = [[name, f"{it['rps']:,.0f}", f"{it['cpu']:.2f}"] for name, it in facts.whatsat.items()]
    header = ["WHATSAT, 5 results, depth 32", "req/s", "CPU µs"]
    return "### Places\n\n" + table(header, rows)


def memory(effort, facts):
    """Bytes for each client, and for each connection that says nothing."""
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
    header = ["server", f"bytes a client of {million:,}", "KiB an idle connection"]
    return "### Memory\n\n" + table(header, rows)


ROOM = "limits: {max_clients: 6000000, max_connections: 20000}"


def growth(effort, facts):
    """What an update costs with more clients, connections and neighbours."""
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

    usual = [*IAMAT, "--connections", CONNECTIONS, "--pipeline", 32, "--duration", effort.seconds,
             "--warmup", effort.warmup]
    row(f"1,000 and {effort.many_clients:,} clients, depth 32",
        cost(node, "--clients", 1000, *usual), cost(node, "--clients", effort.many_clients, *usual))
    usual = ["--clients", effort.clients, "--duration", effort.seconds, "--warmup", effort.warmup]
    for what, start, more in (("", node, IAMAT), ("; echo", echo, [])):
        row(f"10 and {effort.many_connections:,} connections, depth 1{what}",
            cost(start, "--connections", 10, *usual, *more),
            cost(start, "--connections", effort.many_connections, *usual, *more))
    hubs = {}
    for degree in (0, 1, 2, 4, 8):
        found = []
        for _ in range(rounds):
            leaves = [f"Leaf{place}" for place in range(degree)]
            with herd({"Hub": leaves, **{leaf: [] for leaf in leaves}}, core=None) as nodes:
                arguments = load(effort, "--pipeline", 32)
                found.append(figures(drive(nodes["Hub"].target, *arguments, *IAMAT, core=None)))
        hubs[degree] = facts.degrees[degree] = medians(found)["cpu"]
    text = "### What grows\n\n" + table(["CPU µs an update", "few", "many", "ratio"], rows)
    header = ["neighbours of the node that is told", *map(str, hubs)]
    return text + "\n" + table(header, [["its own CPU µs an update, depth 32",
                                         *(f"{cpu:.2f}" for cpu in hubs.values())]])
