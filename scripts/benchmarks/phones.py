"""A node with a port for phones, and the cost of their connections: idle ones, and ones with wrong tokens."""

import contextlib
import itertools
import multiprocessing
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from servers import ROOT, cpu_seconds, free_ports, solo

TOKEN = "benchmark-0123456789"
WRONG = "wrong-0123456789abcd"
ATTACKERS = 65_536  # addresses: more than a node remembers
PAUSE = 0.005  # seconds between two requests of the client whose latency is measured
IP_BIND_ADDRESS_NO_PORT = 24  # of Linux; not in the module `socket`


class Node:
    """A running node with ports for lines, HTTP and devices."""

    def __init__(self, server, http, devices, ca):
        self.server, self.http, self.devices, self.ca = server, http, devices, ca

    def connections(self, kind):
        """Open connections, as the node counts them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10) as response:
            name = f'proxy_herd_connections{{kind="{kind}"}} '
            lines = response.read().decode().splitlines()
        return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))


@contextlib.contextmanager
def node(tls=False):
    """Runs a node with tokens and the limits of a large fleet. Yields it."""
    http, devices = free_ports(2)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(f"{TOKEN} bench-*\n")
        section = f"ports: {{Solo: {devices}}}, tokens_file: {tokens}"
        if tls:
            mint = [sys.executable, ROOT / "scripts/mint_certs.py", folder]
            subprocess.run(mint, check=True, stdout=subprocess.DEVNULL)
            section += f", tls: {{certificate: {folder}/server.pem, key: {folder}/server.key}}"
        extra = (f"devices: {{{section}}}\nhttp: {{ports: {{Solo: {http}}}}}\n"
                 "limits: {max_connections: 20000}\n")
        with solo(extra=extra) as server:
            yield Node(server, http, devices, Path(folder) / "ca.pem")


def post(body, token=TOKEN, media="application/x-www-form-urlencoded"):
    """Returns a request with the header fields of Traccar Client."""
    return (f"POST /t/{token} HTTP/1.1\r\nHost: h\r\nContent-Type: {media}; charset=UTF-8\r\n"
            f"Accept: */*\r\nUser-Agent: ktor-client\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def position(client, second):
    return post(f"id={client}&lat=48.8584&lon=2.2945&timestamp={second}&accuracy=12.5&altitude=71.0"
                "&speed=3.11&bearing=184.0&batt=83&charge=false")


def answer(stream, end=b"\r\n\r\n"):
    """Reads the head of a response, or what ends with `end`."""
    received = b""
    while end not in received:
        more = stream.recv(65_536)
        if not more:
            raise RuntimeError(f"closed after {received!r}")
        received += more
    return received


def connect(stack, port, count):
    return [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]


# Kinds of idle connections: the count of the node that has them, and whether they use TLS.
LINES, HTTP, PLAIN, TLS = "lines", "HTTP", "devices", "devices over TLS"
IDLE = {LINES: ("client", False), HTTP: ("http", False), PLAIN: ("device", False), TLS: ("device", True)}


def idle(count):
    """KiB of memory per idle connection of each kind, which has been answered once."""
    return {kind: idle_of(kind, count) for kind in IDLE}


def idle_of(kind, count):
    counted_as, tls = IDLE[kind]
    with node(tls) as target, contextlib.ExitStack() as stack:
        port = {LINES: target.server.port, HTTP: target.http}.get(kind, target.devices)
        second = int(time.time()) - 40_000
        line = f"IAMAT bench-0 +48.8584+2.2945 {second}\n".encode()
        get = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        request = {LINES: line, HTTP: get}.get(kind, position(0, second))
        context = ssl.create_default_context(cafile=target.ca) if tls else None

        def open_one():
            stream = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            if context:
                # A session ticket is resumed, as phones do, only within one connection of each; so each
                # of these makes a complete handshake.
                stream = stack.enter_context(context.wrap_socket(stream, server_hostname="localhost"))
            stream.sendall(request)
            answer(stream, b"\n" if kind == LINES else b"\r\n\r\n")

        open_one()  # the first one of its kind brings tables that all share
        before = target.server.resident_kib()
        for _ in range(count):
            open_one()
        after = target.server.resident_kib()
        still = target.connections(counted_as)
        if still < count:
            raise RuntimeError(f"only {still} of {count} connections of {kind} are still open")
        return (after - before) / count


def attack(port, token, part, parts, done, stop):
    """Makes connections with a token from many addresses, one after the other, and counts them."""
    request = post("id=1", token=token)
    for number in itertools.count(part, parts):
        if stop.is_set():
            return
        address = number % ATTACKERS
        with socket.socket() as stream:
            stream.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            stream.bind((f"127.1.{address >> 8}.{address & 255}", 0))
            stream.settimeout(10)
            stream.connect(("127.0.0.1", port))
            stream.sendall(request)
            answer(stream)
        done[part] += 1


def percentiles(latencies):
    cuts = statistics.quantiles(latencies, n=100)
    return {"p50": cuts[49] * 1e6, "p99": cuts[98] * 1e6}


def latencies(target, until):
    """Latencies in seconds of a phone that reports steadily on one connection, until `until` returns true."""
    found, second = [], int(time.time()) - 50_000
    with socket.create_connection(("127.0.0.1", target.devices), 10) as stream:
        while not until():
            second += 1
            began = time.perf_counter()
            stream.sendall(position("steady", second))
            answer(stream)
            found.append(time.perf_counter() - began)
            time.sleep(PAUSE)
    return found


def wrong_tokens(count, seconds):
    """The cost of `count` connections with wrong tokens, next to as many connections with the right one for
    some seconds: CPU time in microseconds, latencies of another phone, and the growth of memory in KiB."""
    with node() as target:
        end = time.monotonic() + seconds
        found = {"quiet": percentiles(latencies(target, lambda: time.monotonic() > end))}
        for name, token, amount in (("right", TOKEN, count // 10), ("wrong", WRONG, count)):
            found[name] = attacked(target, token, amount)
        return found


def attacked(target, token, count, parts=1):
    done, stop = multiprocessing.Array("q", parts, lock=False), multiprocessing.Event()
    workers = [multiprocessing.Process(target=attack, args=(target.devices, token, part, parts, done, stop))
               for part in range(parts)]
    cpu, began, memory = cpu_seconds(target.server.pid), time.monotonic(), [target.server.resident_kib()]

    def is_over():
        # After the first tenth, the node remembers as many addresses as it ever will.
        if sum(done) >= count / 10 and len(memory) == 1:
            memory.append(target.server.resident_kib())
        return sum(done) >= count or not any(worker.is_alive() for worker in workers)

    for worker in workers:
        worker.start()
    try:
        found = percentiles(latencies(target, is_over))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    made = sum(done)
    if made < count:
        raise RuntimeError(f"only {made} of {count} connections were answered")
    memory.append(target.server.resident_kib())
    return {**found, "cpu": (cpu_seconds(target.server.pid) - cpu) / made * 1e6, "made": made,
            "rate": made / (time.monotonic() - began), "table": memory[1] - memory[0], "growth": memory[-1] - memory[1]}
