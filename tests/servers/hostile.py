#!/usr/bin/env python3
"""A server that misbehaves on demand, for tests of a TLS and HTTP client.

    tests/servers/hostile.py --certs DIR --at body --then close

It listens on a free port of 127.0.0.1, prints one line, and exits after --max-seconds:

    ready url=https://localhost:PORT port=PORT

Every connection proceeds normally up to the point given by --at. There the fault given by --then
occurs: `stall` (send nothing more), `close` (end the stream without a close_notify) or `reset` (TCP
RST, by SO_LINGER 0). The points, in the order of the exchange:

    connect      the TCP handshake does not complete, because the listen queue is full
    accept       the connection is established by the kernel, but never accepted
    hello        the ClientHello is read, nothing is sent
    wire:N       N bytes are sent on the wire, of the TLS handshake and then of records
    handshake    the TLS handshake is complete, the request is not read
    request      the request is read, nothing is sent
    response:N   N bytes of the response, before encryption, are sent
    head         the head of the response is sent
    body         the head and half of the body are sent
    end          the response is sent
    never        no fault; for use with other options

`connect` and `accept` can only stall. Without TLS (--plain), `wire` and `response` count the same
bytes, and `handshake` is the point after the connection is accepted.

The responses are the files given with --response, byte for byte, in rotation; by default, an empty
document of Google's. They are sent in TLS records of --record bytes and TCP segments of --segment
bytes. With --seed the sizes are random, up to those, and reproducible.

With --plain --blurt it responds to a TLS client in plain text.

It uses Python's ssl module over memory buffers, so that the wire can be interrupted at any byte.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, List, Optional, Union

MAX_CONNECTIONS = 256  # one thread each
MAX_HEAD = 65_536  # bytes of the head of a request
MAX_REQUEST = 1 << 20
READ = 16_384
CERTIFICATES = ("server", "expired", "wrong-host", "self-signed", "untrusted")
NAMED_POINTS = (
    "connect",
    "accept",
    "hello",
    "handshake",
    "request",
    "head",
    "body",
    "end",
    "never",
)
EMPTY_ANSWER = (
    b'{\n   "html_attributions" : [],\n   "results" : [],\n   "status" : "ZERO_RESULTS"\n}\n'
)
DEFAULT_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(EMPTY_ANSWER), EMPTY_ANSWER)
)


class Reached(Exception):
    """The exchange has reached the point of the fault."""


class Gone(Exception):
    """The client closed the connection."""


class Wire:
    """The raw connection. Counts output, splits it into segments, and stops it at the fault."""

    def __init__(self, connection: socket.socket, plan: "Plan", limit: Optional[int]) -> None:
        self.connection = connection
        self.plan = plan
        self.left = limit  # bytes until the fault, or None

    def send(self, data: bytes) -> None:
        reached = self.left is not None and len(data) >= self.left
        if reached:
            data = data[: self.left]
        for piece in self.plan.pieces(data, self.plan.options.segment):
            try:
                self.connection.sendall(piece)
            except OSError:
                raise Gone from None
            if self.plan.options.pause_ms and len(piece) < len(data):
                time.sleep(self.plan.options.pause_ms / 1000)
        if self.left is not None:
            self.left -= len(data)
        if reached:
            raise Reached

    def receive(self) -> bytes:
        try:
            data = self.connection.recv(READ)
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        return data


class PlainChannel:
    """The exchange without TLS."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def read(self) -> bytes:
        return self.wire.receive()

    def write(self, data: bytes) -> None:
        self.wire.send(data)

    def close_notify(self) -> None:
        """Does nothing: there is no close_notify without TLS."""


class TlsChannel:
    """The exchange within TLS, over memory buffers."""

    def __init__(self, wire: Wire, context: ssl.SSLContext) -> None:
        self.wire = wire
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def handshake(self) -> None:
        self.drive(self.tls.do_handshake)

    def read(self) -> bytes:
        data = self.drive(lambda: self.tls.read(READ))
        if not data:
            raise Gone
        return data

    def write(self, data: bytes) -> None:
        self.drive(lambda: self.tls.write(data))

    def close_notify(self) -> None:
        """Sends a close_notify, without waiting for that of the client."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it would wait for that of the client
        self.flush()

    def drive(self, step):
        """Executes a TLS operation, with the required input and output."""
        while True:
            try:
                result = step()
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.wire.receive())
            except ssl.SSLError:
                try:
                    self.flush()  # the alert
                finally:
                    raise Gone from None

    def flush(self) -> None:
        if self.outgoing.pending:
            self.wire.send(self.outgoing.read())


Channel = Union[PlainChannel, TlsChannel]


class Plan:
    """The fault, and the responses."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.point, _, count = options.at.partition(":")
        self.count = int(count) if count else None
        self.responses = [Path(name).read_bytes() for name in options.response] or [
            DEFAULT_RESPONSE
        ]
        self.random = random.Random(options.seed)
        self.lock = threading.Lock()
        self.served = 0
        self.context = None if options.plain else context(options)

    def next_response(self) -> bytes:
        with self.lock:
            self.served += 1
            return self.responses[(self.served - 1) % len(self.responses)]

    def cut(self, response: bytes) -> Optional[int]:
        """Returns the number of bytes of the response before the fault, or None for all of them."""
        head = response.find(b"\r\n\r\n") + 4
        if head < 4:
            head = len(response)  # a response without the end of a head is all head
        if self.point == "response":
            return self.count
        return {"head": head, "body": head + (len(response) - head) // 2}.get(self.point)

    def pieces(self, data: bytes, size: int) -> Iterator[bytes]:
        """Splits the data into pieces of this size, or random sizes up to it; 0 means one piece."""
        at = 0
        while at < len(data):
            step = size or len(data)
            if size and self.options.seed is not None:
                with self.lock:
                    step = self.random.randint(1, size)
            yield data[at : at + step]
            at += step


class Session:
    """One connection: a normal exchange up to the fault."""

    def __init__(self, number: int, connection: socket.socket, plan: Plan) -> None:
        self.number = number
        self.connection = connection
        self.plan = plan
        self.faulty = number > plan.options.skip
        limit = plan.count if self.faulty and plan.point == "wire" else None
        self.wire = Wire(connection, plan, limit)
        self.requests = 0

    def run(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.settimeout(self.plan.options.max_seconds)
        try:
            self.exchange()
            self.close()
        except Reached:
            self.event("fault")
            {"stall": self.stall, "close": self.close, "reset": self.reset}[
                self.plan.options.then
            ]()
        except Gone:
            self.event("gone")
            self.connection.close()

    def exchange(self) -> None:
        self.reach("hello", before=self.hello)
        channel: Channel = PlainChannel(self.wire)
        if self.plan.context is not None:
            channel = TlsChannel(self.wire, self.plan.context)
            channel.handshake()
            facts = {"resumed": bool(channel.tls.session_reused), "version": channel.tls.version()}
            self.event("handshake", **facts)
        self.reach("handshake")
        pending = b""
        while True:
            pending = self.read_request(channel, pending)
            self.requests += 1
            self.respond(channel)
            last = self.plan.options.requests_per_connection
            if self.plan.options.after == "close" or (last and self.requests >= last):
                channel.close_notify()
                return

    def hello(self) -> None:
        """Waits for the first bytes of the client without consuming them."""
        try:
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise Gone
        except OSError:
            raise Gone from None

    def respond(self, channel: Channel) -> None:
        response = self.plan.next_response()
        self.reach("request")
        cut = self.plan.cut(response) if self.due() else None
        self.event("response", bytes=len(response[:cut]))  # before the client can receive it
        for piece in self.plan.pieces(response[:cut], self.plan.options.record):
            channel.write(piece)
        if cut is not None:
            raise Reached
        self.reach("end")

    def read_request(self, channel: Channel, data: bytes) -> bytes:
        """Reads one request, head and body. Returns the input after it."""
        while b"\r\n\r\n" not in data and not (data and self.plan.options.blurt):
            if len(data) > MAX_HEAD:
                raise Gone
            data += channel.read()
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = (line.partition(b":") for line in lines[1:])
        lengths = [value.strip() for name, _, value in fields if name.lower() == b"content-length"]
        length = min(int(lengths[0]), MAX_REQUEST) if lengths and lengths[0].isdigit() else 0
        while len(rest) < length:
            rest += channel.read()
        self.event("request", line=lines[0].partition(b"?")[0].decode("latin-1"), body=length)
        return rest[length:]

    def due(self) -> bool:
        return self.faulty and self.requests > self.plan.options.skip_requests

    def reach(self, point: str, before=lambda: None) -> None:
        """Raises Reached at the point of the fault, unless this connection or request is skipped."""
        early = point in ("hello", "handshake")
        if self.plan.point == point and (self.faulty if early else self.due()):
            before()
            raise Reached

    def stall(self) -> None:
        """Keeps the connection open, without output, until the client closes it."""
        try:
            while True:
                self.wire.receive()
        except Gone:
            self.event("gone")
            self.connection.close()

    def close(self) -> None:
        """Ends the stream. Drains the input, because unread input would cause a reset."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            while self.connection.recv(READ):
                pass
        except OSError:
            pass
        self.connection.close()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def event(self, name: str, **facts) -> None:
        if self.plan.options.events:
            print(json.dumps({"connection": self.number, "event": name, **facts}), flush=True)


def context(options: argparse.Namespace) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    directory = Path(options.certs)
    if options.certificate != "server":
        directory /= "hostile"
    made.load_cert_chain(
        directory / f"{options.certificate}.pem", directory / f"{options.certificate}.key"
    )
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.tls == "1.2":
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    return made


def fill_queue(listener: socket.socket) -> List[socket.socket]:
    """Fills the listen queue, after which Linux drops the SYN of a connection attempt. Returns the
    connections, which must be kept open."""
    fillers = []
    for _ in range(16):
        filler = socket.socket(listener.family)
        filler.settimeout(0.2)
        fillers.append(filler)
        try:
            filler.connect(listener.getsockname())
        except OSError:
            return fillers
    raise OSError("the listen queue does not fill up")


def start(options: argparse.Namespace) -> "Started":
    """Starts a server in background threads."""
    plan = Plan(options)
    backlog = 0 if options.at == "connect" else MAX_CONNECTIONS
    listener = socket.create_server(("127.0.0.1", options.port), backlog=backlog)
    fillers = fill_queue(listener) if options.at == "connect" else []
    if options.at not in ("connect", "accept"):
        threading.Thread(target=serve, args=(listener, plan), daemon=True).start()
    return Started(listener.getsockname()[1], [*fillers, listener])


class Started:
    """A running server on `port`."""

    def __init__(self, port: int, sockets: List[socket.socket]) -> None:
        self.port = port
        self.sockets = sockets

    def stop(self) -> None:
        """Stops accepting connections. Existing ones continue."""
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            except OSError:
                pass  # never connected
            one.close()


def listening(listener: socket.socket) -> bool:
    return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def serve(listener: socket.socket, plan: Plan) -> None:
    """Accepts connections until the listener is closed. Connections over the limit are closed."""
    slots = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def attend(session: Session) -> None:
        try:
            session.run()
        finally:
            slots.release()

    number = 0
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            if listener.fileno() < 0 or not listening(listener):
                return
            time.sleep(0.05)  # out of descriptors, for the moment
            continue
        if not slots.acquire(blocking=False):
            connection.close()
            continue
        number += 1
        threading.Thread(
            target=attend, args=(Session(number, connection, plan),), daemon=True
        ).start()


def point(text: str) -> str:
    name, _, count = text.partition(":")
    if text in NAMED_POINTS or (name in ("wire", "response") and count.isdigit()):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: one of {', '.join(NAMED_POINTS)}, wire:N, response:N"
    )


def arguments(words: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--certs", help="directory of certificates from scripts/mint_certs.py DIR --hostile"
    )
    parser.add_argument(
        "--certificate", choices=CERTIFICATES, default="server", help="certificate to present (server)"
    )
    parser.add_argument(
        "--tls", choices=("any", "1.2"), default="any", help="versions offered (1.2 and 1.3)"
    )
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--port", type=int, default=0, help="port; 0 = any free port (0)")
    parser.add_argument(
        "--at", type=point, default="never", metavar="POINT", help="point of the fault (never)"
    )
    parser.add_argument(
        "--then", choices=("stall", "close", "reset"), default="stall", help="the fault (stall)"
    )
    parser.add_argument(
        "--skip", type=int, default=0, help="number of connections without the fault (0)"
    )
    parser.add_argument(
        "--skip-requests",
        type=int,
        default=0,
        help="number of requests per connection without the fault (0)",
    )
    parser.add_argument(
        "--response", action="append", default=[], metavar="FILE", help="response to send; repeatable"
    )
    parser.add_argument(
        "--blurt", action="store_true", help="respond to the first bytes, of any content"
    )
    parser.add_argument(
        "--record", type=int, default=0, help="bytes of the response per TLS record (0 = all)"
    )
    parser.add_argument(
        "--segment", type=int, default=0, help="bytes per TCP segment (0 = all)"
    )
    parser.add_argument("--seed", type=int, help="use random sizes up to --record and --segment")
    parser.add_argument("--pause-ms", type=float, default=0, help="pause between segments (0)")
    parser.add_argument(
        "--after",
        choices=("keep", "close"),
        default="keep",
        help="keep or close the connection after a response",
    )
    parser.add_argument(
        "--requests-per-connection",
        type=int,
        default=0,
        help="close the connection after N requests (0 = never)",
    )
    parser.add_argument(
        "--events", action="store_true", help="print each event as a line of JSON"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=60, help="exit after this time (60)"
    )
    options = parser.parse_args(words)
    if options.plain == bool(options.certs):
        parser.error(
            "requires --certs DIR (scripts/mint_certs.py DIR --hostile creates it), or --plain"
        )
    if options.at in ("connect", "accept") and options.then != "stall":
        parser.error(f"--at {options.at}: can only stall")
    if options.max_seconds <= 0:
        parser.error("--max-seconds must be positive, so that an abandoned server exits")
    return options


def main() -> int:
    options = arguments()
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    try:
        started = start(options)
    except OSError as error:
        print(f"hostile: {error}", file=sys.stderr)
        return 1
    scheme = "http" if options.plain else "https"
    print(f"ready url={scheme}://localhost:{started.port} port={started.port}", flush=True)
    end.wait(options.max_seconds)
    started.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
