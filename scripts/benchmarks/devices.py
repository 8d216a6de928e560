"""The cost of reports of phones and trackers, next to an echo of the same bytes.

The generator is Python, which limits the rates, so the CPU time of the server is what counts.
"""

import contextlib
import socket
import tempfile
import time
from pathlib import Path

from servers import echo, free_ports, medians, say, solo, table
from storage import cpu_seconds

CONNECTIONS = 50
TOKEN = "benchmark-0123456789"
BATCH = 200  # positions, the default of Overland
FEATURE = (
    '{"type":"Feature","geometry":{"type":"Point","coordinates":[2.2945001,48.8584002]},"properties":'
    '{"timestamp":"%s","altitude":71,"speed":3,"course":184,"horizontal_accuracy":12,'
    '"vertical_accuracy":4,"speed_accuracy":0.5,"course_accuracy":-1,"motion":["driving"],'
    '"battery_state":"unplugged","battery_level":0.83,"wifi":"","device_id":"van1"}}'
)


@contextlib.contextmanager
def node():
    """Runs a node with tokens and the limits of a large fleet. Yields it and its port for devices."""
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(f"{TOKEN} bench-*\n")
        extra = (f"devices: {{ports: {{Solo: {port}}}, tokens_file: {tokens}}}\n"
                 "limits: {max_connections: 20000}\n")
        with solo(extra=extra) as server:
            yield server, port


def post(body, token=TOKEN, media="application/x-www-form-urlencoded"):
    """Returns a request with the header fields of Traccar Client."""
    return (f"POST /t/{token} HTTP/1.1\r\nHost: h\r\nContent-Type: {media}; charset=UTF-8\r\n"
            f"Accept: */*\r\nUser-Agent: ktor-client\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def positions(client, second):
    return post(f"id={client}&lat=48.8584&lon=2.2945&timestamp={second}&accuracy=12.5&altitude=71.0"
                "&speed=3.11&bearing=184.0&batt=83&charge=false")


def rounds_of(sockets, requests, is_complete):
    """Sends one request on each connection, and reads the responses."""
    for stream, request in zip(sockets, requests):
        stream.sendall(request)
    for stream, request in zip(sockets, requests):
        received = b""
        while not is_complete(received, request):
            more = stream.recv(65_536)
            if not more:
                raise RuntimeError(f"closed after {received!r}")
            received += more


def is_answered(received, _):
    return b"\r\n\r\n" in received


def connect(stack, port, count):
    return [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]


def single(effort, server, port, is_complete):
    """CPU time in microseconds of a request with one position."""
    with contextlib.ExitStack() as stack:
        sockets = connect(stack, port, CONNECTIONS)
        second, count, began = int(time.time()) - 50_000, 0, cpu_seconds(server.pid)
        end = time.monotonic() + 3 * effort.seconds
        while time.monotonic() < end:
            second += 1
            requests = [positions(client, second) for client in range(CONNECTIONS)]
            rounds_of(sockets, requests, is_complete)
            count += CONNECTIONS
        return (cpu_seconds(server.pid) - began) / count * 1e6


def batches(effort, server, port):
    """Positions per second of CPU time, in batches of Overland."""
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        at, count, began = time.time() - 50_000, 0, cpu_seconds(server.pid)
        end = time.monotonic() + 3 * effort.seconds
        while time.monotonic() < end:
            # Each position is newer than the one before.
            at += 1
            start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
            features = ",".join(FEATURE % f"{start}.{number:03}Z" for number in range(BATCH))
            request = post(f'{{"locations":[{features}]}}', media="application/json")
            rounds_of([stream], [request], is_answered)
            count += BATCH
        return count / (cpu_seconds(server.pid) - began)


def wrong_tokens(effort, server, port):
    """CPU time in microseconds of a connection with a wrong token, and the growth of memory in KiB."""
    request = post("id=1", token="wrong-0123456789")
    before, count, began = server.resident_kib(), 0, cpu_seconds(server.pid)
    end = time.monotonic() + 3 * effort.seconds
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), 10) as stream:
            rounds_of([stream], [request], is_answered)
        count += 1
    return (cpu_seconds(server.pid) - began) / count * 1e6, server.resident_kib() - before


def idle(effort, server, port):
    """KiB of memory per idle connection that has made a request."""
    with contextlib.ExitStack() as stack:
        before = server.resident_kib()
        sockets = connect(stack, port, effort.many_connections)
        second = int(time.time()) - 40_000
        requests = [positions(0, second)] * len(sockets)
        rounds_of(sockets, requests, is_answered)
        return (server.resident_kib() - before) / len(sockets)


def measure(effort):
    """Returns the section on devices as Markdown."""
    rounds = []
    for turn in range(effort.rounds):
        say(f"round {turn + 1}: devices")
        with echo() as server:
            floor = single(effort, server, server.port, lambda it, request: len(it) >= len(request))
        with node() as (server, port):
            post_us = single(effort, server, port, is_answered)
            found = {"post": post_us, "echo": floor, "positions": batches(effort, server, port),
                     "idle": idle(effort, server, port)}
            found["wrong"], found["growth"] = wrong_tokens(effort, server, port)
        rounds.append(found)
    found = medians(rounds)
    rows = [
        ["CPU of a post with one position, beyond an echo of the same bytes", "at most 10 µs",
         f"{found['post'] - found['echo']:.1f} µs ({found['post']:.1f}, echo {found['echo']:.1f})"],
        [f"positions per second of CPU, in batches of {BATCH}", "at least 100,000",
         f"{found['positions']:,.0f}"],
        [f"memory per idle connection, with {effort.many_connections:,}", "0.6 KiB",
         f"{found['idle']:.2f} KiB"],
        ["CPU of a connection with a wrong token", "", f"{found['wrong']:.0f} µs"],
        ["growth of memory by these connections", "0", f"{found['growth']:.0f} KiB"],
    ]
    return ("### Devices\n\nThe generator is a script and slower than the node, so these are figures of CPU time.\n\n"
            + table(["", "target", "measured"], rows))
