"""Ways of waiting: a readiness loop, threads, asyncio and Node.js, with the same protocol."""

import contextlib
import socket
import sys

from servers import ROOT, RELEASE, comparable, drive, installed, medians, say, solo, table

DEPTHS = [1, 32]
SERVERS = ROOT / "docs/report"


def kinds():
    python = [sys.executable]
    servers = {
        "readiness loop, Rust (proxy-herd)": solo,
        "a thread a connection, Rust": lambda: comparable(
            [RELEASE / "examples/thread_server", "Solo", "127.0.0.1:{port}"]),
        "asyncio, Python": lambda: comparable(
            [*python, SERVERS / "asyncio_server.py", "Solo", "127.0.0.1", "{port}"]),
        "pool of threads, Python": lambda: comparable(
            [*python, SERVERS / "thread_server.py", "Solo", "127.0.0.1", "{port}"]),
    }
    if installed("node"):
        servers["Node.js"] = lambda: comparable(
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
        f"{connections:,} idle connections.\n\n" + table(header, rows)
    )


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
