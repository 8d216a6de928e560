"""The cost of the storage, side by side with the append-only file of Redis."""

import contextlib
import tempfile
import threading
import time

from servers import GEO, NODE, REDIS, cpu_seconds, drive, installed, medians, other, say, solo, table

CONNECTIONS = 50
IAMAT = ["--whatsat-percent", 0]
MEMORY, ALWAYS = NODE, "proxy-herd, `always`"
INTERVAL, NEVER = "proxy-herd, `interval`", "proxy-herd, `never`"
REDIS_EVERYSEC, REDIS_ALWAYS = f"{GEO}, `everysec`", f"{GEO}, `always`"
ROOM = "limits: {max_clients: 6000000}\n"
BACKGROUND, OTHERS = 150_000, 2_000  # updates per second


def section(folder, sync):
    return f"{ROOM}storage: {{directory: {folder}, sync: {sync}}}\n" if sync else ROOM


@contextlib.contextmanager
def node(sync):
    with tempfile.TemporaryDirectory() as folder, solo(extra=section(folder, sync)) as server:
        yield server


@contextlib.contextmanager
def redis(fsync):
    with tempfile.TemporaryDirectory() as folder:
        command = [*REDIS]
        if fsync:
            command[command.index("no")] = "yes"
            command += ["--dir", folder, "--appendfsync", fsync]
        with other(command, "redis-geo") as server:
            yield server


def kinds():
    servers = {MEMORY: lambda: node(None), NEVER: lambda: node("never"),
               INTERVAL: lambda: node("interval"), ALWAYS: lambda: node("always")}
    if installed("redis-server"):
        servers[GEO] = lambda: redis(None)
        servers[REDIS_EVERYSEC] = lambda: redis("everysec")
        servers[REDIS_ALWAYS] = lambda: redis("always")
    return servers


def measure(effort):
    """Returns the section on storage as Markdown."""
    parts = [updates(effort), start(effort), compaction(effort)]
    return "### Storage\n\n" + "\n".join(parts)


def updates(effort):
    rounds = {}
    for turn in range(effort.rounds):
        for name, start_server in kinds().items():
            say(f"round {turn + 1}: storage: {name}")
            with start_server() as server:
                for depth in (1, 32):
                    report = drive(server.target, "--clients", effort.clients, "--connections", CONNECTIONS,
                                   "--duration", effort.seconds, "--warmup", effort.warmup,
                                   "--pipeline", depth, *IAMAT)
                    found = {"rps": report["requests_per_second"], "cpu": report["cpu_us_per_request"],
                             "p99": report["rows"][-1]["latency_us"]["p99"]}
                    rounds.setdefault(name, {}).setdefault(depth, []).append(found)
    found = {name: {depth: medians(it) for depth, it in depths.items()} for name, depths in rounds.items()}
    cell = "{rps:,.0f} · {cpu:.2f} · {p99:,.0f}"
    rows = [[name, *(cell.format(**depths[depth]) for depth in (1, 32))] for name, depths in found.items()]
    header = [f"{CONNECTIONS} connections"] + [f"depth {depth}: req/s · CPU µs · p99 µs" for depth in (1, 32)]
    text = table(header, rows)

    def compare(what, name, base, key, depth, bound):
        if name in found and base in found and found[base][depth][key]:
            value = found[name][depth][key] / found[base][depth][key]
            results.append([what, bound, f"{value:.2f}"])

    results = []
    compare("CPU of `interval` relative to memory only, depth 32", INTERVAL, MEMORY, "cpu", 32, "at most 1.3")
    compare("req/s of `interval` relative to Redis `everysec`, depth 32", INTERVAL, REDIS_EVERYSEC, "rps", 32, "at least 5")
    compare("CPU of `interval` relative to Redis `everysec`, depth 32", INTERVAL, REDIS_EVERYSEC, "cpu", 32, "at most 0.2")
    compare("req/s of `always` relative to Redis `always`, depth 1", ALWAYS, REDIS_ALWAYS, "rps", 1, "at least 1")
    return text + "\n" + table(["ratio", "target", "measured"], results)


def start(effort):
    """Time from the start of the process until it accepts connections."""
    clients = min(1_000_000, effort.many_clients)
    rows = []
    for what, ends in (("a clean stop", "terminate"), ("`kill -9`", "kill")):
        say(f"storage: start after {what}")
        with tempfile.TemporaryDirectory() as folder:
            extra = section(folder, "interval")
            with solo(extra=extra) as server:
                drive(server.target, "--clients", clients, "--duration", effort.seconds, *IAMAT)
                getattr(server.process, ends)()
                server.process.wait()
            began = time.monotonic()
            with solo(extra=extra) as server:
                took, cpu = time.monotonic() - began, cpu_seconds(server.pid)
                resident = server.resident_kib() * 1024 / clients
                rows.append([what, f"{took:.2f}", f"{cpu:.2f}", f"{resident:.0f}"])
    header = [f"start with {clients:,} clients after", "s", "CPU s", "bytes of the process per client"]
    return table(header, rows)


def compaction(effort):
    """p99 of other clients while a load makes the node compact, and with the same load in memory only."""
    clients = min(1_000_000, effort.many_clients)
    rows = []
    for name, sync in ((MEMORY, None), (INTERVAL, "interval")):
        say(f"storage: latency during compaction: {name}")
        with node(sync) as server:
            drive(server.target, "--clients", clients, "--duration", 0.1, *IAMAT)
            seconds = 20 if clients == 1_000_000 else 2
            busy = threading.Thread(target=drive, args=(
                server.target, "--clients", clients, "--rate", BACKGROUND, "--duration", seconds, *IAMAT))
            busy.start()
            latencies = []
            while busy.is_alive():
                report = drive(server.target, "--clients", 1000, "--connections", 10, "--rate", OTHERS,
                               "--duration", 0.5, *IAMAT)
                latencies.append(report["rows"][-1]["latency_us"]["p99"])
            busy.join()
        latencies.sort()
        rows.append([name, f"{latencies[len(latencies) // 2]:,.0f}", f"{latencies[-1]:,.0f}"])
    header = [f"{OTHERS:,} updates/s of other clients, with {BACKGROUND:,}/s in the background",
              "p99 µs, median of windows of 0.5 s", "worst window"]
    return table(header, rows)
