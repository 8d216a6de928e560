"""The cost of reports of phones and trackers, next to an echo of the same bytes.

The generator is Python, which limits the rates, so the CPU time of the server is what counts.
"""

import contextlib
import time

import phones
from phones import PLAIN, TLS, answer, connect, position, post
from servers import cpu_seconds, echo, medians, say, table

CONNECTIONS = 50
BATCH = 200  # positions, the default of Overland
FEATURE = (
    '{"type":"Feature","geometry":{"type":"Point","coordinates":[2.2945001,48.8584002]},"properties":'
    '{"timestamp":"%s","altitude":71,"speed":3,"course":184,"horizontal_accuracy":12,'
    '"vertical_accuracy":4,"speed_accuracy":0.5,"course_accuracy":-1,"motion":["driving"],'
    '"battery_state":"unplugged","battery_level":0.83,"wifi":"","device_id":"van1"}}'
)


def single(effort, server, port, read):
    """CPU time in microseconds of a request with one position. `read` reads its response."""
    with contextlib.ExitStack() as stack:
        sockets = connect(stack, port, CONNECTIONS)
        second, count, began = int(time.time()) - 50_000, 0, cpu_seconds(server.pid)
        end = time.monotonic() + 3 * effort.seconds
        while time.monotonic() < end:
            second += 1
            requests = [position(client, second) for client in range(CONNECTIONS)]
            for stream, request in zip(sockets, requests):
                stream.sendall(request)
            for stream, request in zip(sockets, requests):
                read(stream, request)
            count += CONNECTIONS
        return (cpu_seconds(server.pid) - began) / count * 1e6


def read_echo(stream, request):
    missing = len(request)
    while missing > 0:
        missing -= len(stream.recv(65_536))


def batches(effort, server, port):
    """Positions per second of CPU time, in batches of Overland."""
    with contextlib.ExitStack() as stack:
        [stream] = connect(stack, port, 1)
        at, count, began = time.time() - 50_000, 0, cpu_seconds(server.pid)
        end = time.monotonic() + 3 * effort.seconds
        while time.monotonic() < end:
            # Each position is newer than the one before.
            at += 1
            start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
            features = ",".join(FEATURE % f"{start}.{number:03}Z" for number in range(BATCH))
            stream.sendall(post(f'{{"locations":[{features}]}}', media="application/json"))
            answer(stream)
            count += BATCH
        return count / (cpu_seconds(server.pid) - began)


def measure(effort):
    """Returns the section on devices as Markdown."""
    rounds = []
    for turn in range(effort.rounds):
        say(f"round {turn + 1}: devices")
        with echo() as server:
            floor = single(effort, server, server.port, read_echo)
        with phones.node() as node:
            one = single(effort, node.server, node.devices, lambda stream, _: answer(stream))
            positions = batches(effort, node.server, node.devices)
        rounds.append({"post": one, "echo": floor, "positions": positions})
    found = medians(rounds)
    say(f"devices: {effort.phones:,} idle connections of each kind")
    idle = phones.idle(effort.phones)
    say(f"devices: {effort.wrong_tokens:,} wrong tokens")
    tokens = phones.wrong_tokens(effort.wrong_tokens, 3 * effort.seconds)
    rows = [
        ["CPU of a post with one position, beyond an echo of the same bytes", "at most 10 µs",
         f"{found['post'] - found['echo']:.1f} µs ({found['post']:.1f}, echo {found['echo']:.1f})"],
        [f"positions per second of CPU, in batches of {BATCH}", "at least 100,000",
         f"{found['positions']:,.0f}"],
        *idle_rows(effort, idle),
        *token_rows(tokens),
    ]
    return ("### Devices\n\nThe generator is a script and slower than the node, so these are figures of CPU time.\n\n"
            + table(["", "target", "measured"], rows))


def idle_rows(effort, idle):
    others = ", ".join(f"{kind} {kib:.2f}" for kind, kib in idle.items() if kind not in (PLAIN, TLS))
    what = f"memory per idle connection, with {effort.phones:,}"
    return [[what, "0.6 KiB", f"{idle[PLAIN]:.2f} KiB ({others})"],
            [f"{what}, over TLS", "", f"{idle[TLS]:.2f} KiB"]]


def token_rows(found):
    right, wrong = found["right"], found["wrong"]
    ratios = ", ".join(f"{key} {wrong[key] / right[key]:.2f} ({wrong[key]:,.0f} µs; undisturbed {found['quiet'][key]:,.0f})"
                       for key in ("p50", "p99"))
    return [
        ["CPU of a connection with a wrong token, and with the right one", "",
         f"{wrong['cpu']:.0f} µs and {right['cpu']:.0f} µs"],
        [f"latency of another phone during {wrong['made']:,} wrong tokens, {wrong['rate']:,.0f}/s, relative to right ones",
         "1", ratios],
        ["growth of memory by the first tenth of them, which fills the table of addresses, and by the others",
         "at most 8 MiB, and 0", f"{wrong['table']:,.0f} KiB and {wrong['growth']:,.0f} KiB"],
    ]
