"""The figures of docs/report.md: a readiness loop, threads, asyncio and Node.js compared."""

import contextlib
import socket
import sys

from servers import ROOT, RELEASE, comparable, drive, installed, medians, say, solo, table

DEPTHS = [1, 32]
SERVERS = ROOT / "docs/report"
LOOP, THREADS = "readiness loop, Rust (proxy-herd)", "thread per connection, Rust"
ASYNCIO, POOL, NODE_JS = "asyncio, Python", "thread pool, Python", "Node.js"


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
              "bytes per client", "KiB per idle connection"]
    rows = []
    for name, it in found.items():
        cells = [f"{it[f'rps {d}']:,.0f} · {it[f'cpu {d}']:.2f} · {it[f'p99 {d}']:,.0f}" for d in DEPTHS]
        rows.append([name, *cells, f"{it['client']:.0f}", f"{it['connection']:.1f}"])
    return (
        f"Medians of {effort.rounds} rounds of {effort.seconds:g} s; the server on one core; "
        f"{clients:,} clients on 50 connections, 70 % IAMAT and 30 % WHATSAT without places; "
        f"{connections:,} idle connections.\n\n" + table(header, rows) + "\n" + meaning(found)
    )


def meaning(found):
    """Interprets the figures."""
    def times(name, key, others=LOOP):
        return f"{found[name][key] / max(found[others][key], 0.01):.1f} times"

    cpu = {depth: {name: it[f"cpu {depth}"] for name, it in found.items()} for depth in DEPTHS}
    memory = {name: it["connection"] for name, it in found.items()}
    has_node_js = NODE_JS in found
    bullets = [
        f"**At depth 1 the kernel dominates.** A read, a write and a wait per reply cost several microseconds "
        f"in any language. The readiness loop takes {cpu[1][LOOP]:.1f} µs, asyncio {cpu[1][ASYNCIO]:.1f}, and a "
        f"thread per connection in Rust {cpu[1][THREADS]:.1f}: the loop serves all ready sockets in one turn, "
        "whereas each thread has to be woken.",
        f"**With pipelining, the server's own work becomes visible.** At depth 32, threads in Rust, with the "
        f"same parser, take {times(THREADS, 'cpu 32')} the CPU time of the readiness loop, and asyncio "
        f"{times(ASYNCIO, 'cpu 32')}.",
        f"**In Python the work per line is expensive, not the event loop:** at depth 32 asyncio takes "
        f"{cpu[32][ASYNCIO]:.1f} µs and threads in Python {cpu[32][POOL]:.1f}"
        + (f"; Node.js takes {cpu[32][NODE_JS]:.1f}." if has_node_js else "."),
        f"**A thread per connection takes {memory[THREADS]:.0f} KiB in Rust and {memory[POOL]:.0f} KiB in Python** "
        f"for buffers and the used part of the stack; asyncio takes {memory[ASYNCIO]:.1f} KiB and the readiness "
        f"loop {memory[LOOP]:.1f}. The kernel's memory for threads is not included.",
        f"**A client takes {found[LOOP]['client']:.0f} bytes as a line in a slot**, {found[THREADS]['client']:.0f} "
        f"as two vectors in a hash map, {found[ASYNCIO]['client']:.0f} as Python objects"
        + (f", {found[NODE_JS]['client']:.0f} as JavaScript objects" if has_node_js else "")
        + ". That is a choice of the program, if the language offers one.",
        f"**Asyncio takes {times(ASYNCIO, 'cpu 32')} the CPU time of the readiness loop** at depth 32, the "
        f"product of two factors: {times(ASYNCIO, 'cpu 32', THREADS)} from threads in Rust to asyncio, for the "
        f"language and its libraries, and {times(THREADS, 'cpu 32')} from the readiness loop to threads in Rust, "
        "for the concurrency model and the storage of records.",
    ]
    return "Interpretation:\n\n" + "".join(f"- {bullet}\n" for bullet in bullets)


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
