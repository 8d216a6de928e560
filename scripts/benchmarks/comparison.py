"""Ways of waiting: a readiness loop, threads, asyncio and Node.js, with the same protocol."""

import contextlib
import socket
import sys

from servers import ROOT, RELEASE, comparable, drive, installed, medians, say, solo, table

DEPTHS = [1, 32]
SERVERS = ROOT / "docs/report"
LOOP, THREADS = "readiness loop, Rust (proxy-herd)", "a thread a connection, Rust"
ASYNCIO, POOL, NODE_JS = "asyncio, Python", "pool of threads, Python", "Node.js"


def kinds():
    python = [sys.executable]
    servers = {
        LOOP: solo,
        THREADS: lambda: comparable(
            [RELEASE / "examples/thread_server", "Solo", "127.0.0.1:{port}"]),
        ASYNCIO: lambda: comparable(
            [*python, SERVERS / "asyncio_server.py", "Solo", "127.0.0.1", "{port}"]),
        POOL: lambda: comparable(
            [*python, SERVERS / "thread_server.py", "Solo", "127.0.0.1", "{port}"]),
    }
    if installed("node"):
        servers[NODE_JS] = lambda: comparable(
            ["node", SERVERS / "node_server.js", "Solo", "127.0.0.1", "{port}"])
    return servers


def measure(effort, _page):
    connections = min(1000, effort.many_connections)
    clients = min(100_000, effort.clients)
    found = {name: [] for name in kinds()}
    for turn in range(effort.rounds):
        for name, start in kinds().items():
            say(f"round {turn + 1}: {name}")
            with start() as server:
                found[name].append(one(server, effort, clients, connections))
    found = {name: medians(rounds) for name, rounds in found.items()}
    header = ["server", *(f"depth {d}: req/s · CPU µs · p99 µs" for d in DEPTHS),
              "bytes a client", "KiB an idle connection"]
    rows = []
    for name, it in found.items():
        cells = [f"{it[f'rps {d}']:,.0f} · {it[f'cpu {d}']:.2f} · {it[f'p99 {d}']:,.0f}" for d in DEPTHS]
        rows.append([name, *cells, f"{it['client']:.0f}", f"{it['connection']:.1f}"])
    return (
        f"Medians of {effort.rounds} rounds of {effort.seconds:g} s; the server on one core; "
        f"{clients:,} clients on 50 connections, IAMAT and WHATSAT 70 to 30, no places asked for; "
        f"{connections:,} idle connections.\n\n" + table(header, rows) + "\n" + meaning(found)
    )


def meaning(found):
    """What the figures say, with the figures themselves."""
    def times(name, key, others=LOOP):
        return f"{found[name][key] / max(found[others][key], 0.01):.1f} times"

    cpu = {depth: {name: it[f"cpu {depth}"] for name, it in found.items()} for depth in DEPTHS}
    kept = {name: it["connection"] for name, it in found.items()}
    said = [
        f"**One request at a time, the kernel is most of the cost.** A read, a write and a wait for each "
        f"reply cost several microseconds in any language. Beside the readiness loop's {cpu[1][LOOP]:.1f} µs "
        f"asyncio takes {cpu[1][ASYNCIO]:.1f}, a thread a connection in Rust {cpu[1][THREADS]:.1f}: the loop "
        "serves all sockets that are ready in one turn, where a thread has to be woken for each.",
        f"**With pipelines, the server's own work shows.** At depth 32 a request costs threads in Rust, with "
        f"the same parsing, {times(THREADS, 'cpu 32')} what it costs the readiness loop, and asyncio "
        f"{times(ASYNCIO, 'cpu 32')}.",
        f"**It is Python's work for a line that costs, not asyncio's waiting:** at depth 32 asyncio takes "
        f"{cpu[32][ASYNCIO]:.1f} µs, Python's own threads {cpu[32][POOL]:.1f}"
        + (f", Node.js {cpu[32][NODE_JS]:.1f}." if NODE_JS in found else "."),
        f"**A thread costs a connection {kept[THREADS]:.0f} KiB in Rust and {kept[POOL]:.0f} in Python** of "
        f"stack and buffers that were touched; asyncio takes {kept[ASYNCIO]:.1f}, the readiness loop "
        f"{kept[LOOP]:.1f}. What a thread costs in the kernel is not in that.",
        f"**A client costs {found[LOOP]['client']:.0f} bytes as a line in a slot**, {found[THREADS]['client']:.0f} "
        f"as two vectors in a hash map, {found[ASYNCIO]['client']:.0f} as Python objects"
        + (f", {found[NODE_JS]['client']:.0f} as JavaScript objects" if NODE_JS in found else "")
        + ". That is a choice of the program where the language lets it choose.",
        f"**Of asyncio's {times(ASYNCIO, 'cpu 32')} the readiness loop's CPU time** at depth 32, "
        f"{times(ASYNCIO, 'cpu 32', THREADS)} is the distance to threads in Rust, which is the language and its "
        f"libraries, and {times(THREADS, 'cpu 32')} that from there to the loop, which is the way of waiting "
        "and of keeping records.",
    ]
    return "What the figures say:\n\n" + "".join(f"- {it}\n" for it in said)


def one(server, effort, clients, connections):
    tiny = ["--clients", 1, "--duration", 0.1]
    drive(server.target, *tiny)
    empty = server.resident_kib()
    with contextlib.ExitStack() as held:
        for _ in range(connections):
            held.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        drive(server.target, *tiny)
        figures = {"connection": (server.resident_kib() - empty) / connections}
    drive(server.target, *tiny)
    empty = server.resident_kib()
    drive(server.target, "--clients", clients, "--duration", 0.1, "--whatsat-percent", 0)
    figures["client"] = (server.resident_kib() - empty) * 1024 / clients
    for depth in DEPTHS:
        report = drive(server.target, "--clients", clients, "--connections", 50, "--results", 0,
                       "--duration", effort.seconds, "--pipeline", depth)
        figures[f"rps {depth}"] = report["requests_per_second"]
        figures[f"cpu {depth}"] = report["cpu_us_per_request"]
        figures[f"p99 {depth}"] = report["rows"][-1]["latency_us"]["p99"]
    return figures
