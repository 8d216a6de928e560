#!/usr/bin/env python3
"""Emulates Google's two Nearby Search APIs and Overpass, over real TLS, on this machine.

    scripts/mint_certs.py /tmp/certs
    scripts/emulator.py --cert /tmp/certs/server.pem --key /tmp/certs/server.key

It prints one line when it is ready, and runs until SIGTERM or SIGINT:

    ready url=https://localhost:PORT control=http://127.0.0.1:PORT/__emulator api_key=EMULATOR_KEY

It responds to POST /v1/places:searchNearby, GET /maps/api/place/nearbysearch/json and GET or POST
/api/interpreter with places whose names identify them as emulated. The modules in
scripts/emulated_apis cite the documentation of each API. The control address (plain HTTP on the
loopback interface) is for tests:

    GET    /__emulator/stats    statistics of the requests so far, as JSON
    DELETE /__emulator/stats    reset the statistics
    GET    /__emulator/mode     the current mode
    POST   /__emulator/mode?mode=fail-429&latency_ms=100&requests=3
                                set the mode, permanently or for that many requests; omitted
                                parameters are reset to those of the command line

It uses the standard library only. It never prints, logs or counts an API key, except the valid one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import select
import signal
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Tuple

from emulated_apis import Request, Response, google_legacy, google_new, overpass
from emulated_apis.modes import FRAMINGS, MAX_LATENCY_MS, MODES, Mode, Switch, parse
from emulated_apis.places import Gazetteer, load
from emulated_apis.stats import Stats

MAX_CONNECTIONS = 1024  # one thread each
MAX_BODY = 65_536  # bytes of a request; the limit of Google is far higher than a search needs
IDLE_S = 120.0  # idle timeout of a connection
HANDSHAKE_S = 10.0
LINGER_S = 5.0  # time for which the input of a closed connection is drained
STALL_S = 120.0  # time limit of a stalled request
OVERPASS_SLOTS = 2  # concurrent queries per address, as on overpass-api.de
OVERPASS_WAIT_S = 15.0  # time for which a query waits for a slot before it gets a 429
CHUNK = 1024


class Api(NamedTuple):
    name: str
    methods: Tuple[str, ...]
    answer: Callable[[Request], Response]
    failure: Callable[[int], Response]


class Emulator:
    """The state shared by all connections."""

    def __init__(self, gazetteer: Gazetteer, api_key: str, switch: Switch, slots: int) -> None:
        self.switch = switch
        self.stats = Stats()
        self.slots = slots
        self.free_slots = threading.Semaphore(slots)
        self.apis = {
            google_new.PATH: Api(
                "places_new",
                ("POST",),
                lambda request: google_new.search_nearby(request, gazetteer, api_key),
                google_new.failure,
            ),
            google_legacy.PATH: Api(
                "places_legacy",
                ("GET",),
                lambda request: google_legacy.nearby_search(request, gazetteer, api_key),
                google_legacy.failure,
            ),
            overpass.INTERPRETER_PATH: Api(
                "overpass",
                ("GET", "POST"),
                lambda request: overpass.interpret(request, gazetteer),
                overpass.failure,
            ),
            overpass.STATUS_PATH: Api(
                "overpass_status",
                ("GET",),
                lambda request: overpass.status(
                    slots, max(0, slots - self.stats.in_flight["overpass"])
                ),
                overpass.failure,
            ),
        }

    def answer(self, api: Optional[Api], request: Request, mode: Mode) -> Response:
        """Returns the response, after the latency of the mode."""
        if api is None:
            return google_legacy.gateway_page(404)
        if request.method not in api.methods:
            return google_legacy.gateway_page(404 if api.name == "places_new" else 405)
        if api.name == "overpass" and self.slots:
            if not self.free_slots.acquire(timeout=OVERPASS_WAIT_S):
                return overpass.failure(429)
            try:
                return self.answer_in_slot(api, request, mode)
            finally:
                self.free_slots.release()
        return self.answer_in_slot(api, request, mode)

    @staticmethod
    def answer_in_slot(api: Api, request: Request, mode: Mode) -> Response:
        end = time.monotonic() + mode.latency_ms / 1000
        response = Emulator.compute(api, request, mode)
        time.sleep(max(0.0, end - time.monotonic()))  # the latency includes the time to compute it
        return response

    @staticmethod
    def compute(api: Api, request: Request, mode: Mode) -> Response:
        if mode.mode.startswith("fail-"):
            return api.failure(int(mode.mode[5:]))
        if mode.mode == "not-json":
            return Response(
                200,
                "text/html; charset=UTF-8",
                b"<html><title>Log in to the network</title></html>\n",
            )
        return api.answer(request)


class Handler(BaseHTTPRequestHandler):
    """One connection to the emulated services."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_S
    server: "Server"

    def setup(self) -> None:
        super().setup()
        self.nth = 0

    def do_GET(self) -> None:
        self.serve()

    do_POST = do_GET

    def serve(self) -> None:
        emulator, stats = self.server.emulator, self.server.emulator.stats
        self.nth += 1
        path, _, query_text = self.path.partition("?")
        query = {name: values[0] for name, values in urllib.parse.parse_qs(query_text).items()}
        body = self.read_body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers, body)
        api = emulator.apis.get(path)
        name = api.name if api else "other"
        mode = emulator.switch.take() if api else emulator.switch.usual
        if mode.mode != "ok":
            stats.count("modes", by=mode.mode)
        if name == "places_new" and google_new.mask_text(request):
            stats.count("skus", by=google_new.sku(request))
        question = {key: value for key, value in query.items() if key != "key"}
        stats.began(
            name, hash((path, str(question), body)), self.describe(path, question, headers, body)
        )
        response = emulator.answer(api, request, mode)
        try:
            if mode.mode == "hold":
                self.stall(mode)
            self.send(response, mode, lambda outcome: stats.ended(name, outcome))
        except OSError:
            stats.count("client_gone")
            self.close_connection = True

    def read_body(self) -> Optional[bytes]:
        """Returns the body of the request, or None if the request was rejected."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
        elif not length.isdigit():
            self.send_error(HTTPStatus.BAD_REQUEST)
        elif int(length) > MAX_BODY:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
        self.close_connection = True
        return None

    def describe(self, path: str, question: dict, headers: dict, body: bytes) -> dict:
        """Describes a request for the statistics, without its key."""
        shown = (
            "user-agent",
            "x-goog-fieldmask",
            "accept-encoding",
            "content-type",
            "host",
            "connection",
        )
        return {
            "method": self.command,
            "path": path,
            "query": question,
            "headers": {name: headers[name] for name in shown if name in headers},
            "body": body.decode("utf-8", "replace")[:2048],
            "nth_on_connection": self.nth,
        }

    def send(self, response: Response, mode: Mode, ended: Callable[[str], None]) -> None:
        """Sends the response, or a part of it, depending on the mode. Calls `ended` before the last
        byte, so that a client that has received a response finds it in the statistics."""
        head, body = self.encode(response, mode)
        faulty = {
            "stall": b"",
            "stall-head": head[: len(head) // 2],
            "stall-body": head + body[: len(body) // 2],
            "reset": b"",
            "reset-body": head + body[: len(body) // 2],
            "truncate": head + body[: len(body) // 2],
        }.get(mode.mode)
        if faulty is None:
            ended(str(response.status))
            self.connection.sendall(head + body)
            if mode.mode == "drop":
                self.close_connection = True
            return
        self.close_connection = True
        self.server.abrupt.add(self.connection)
        if mode.mode.startswith("stall"):
            try:
                self.connection.sendall(faulty)
                self.stall(mode)
            finally:
                ended(mode.mode)
            return
        ended(mode.mode)
        self.connection.sendall(faulty)
        if mode.mode.startswith("reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def encode(self, response: Response, mode: Mode) -> Tuple[bytes, bytes]:
        """Returns the head of the response and its framed body."""
        body = response.body
        headers = [
            ("Content-Type", response.content_type),
            ("Date", formatdate(usegmt=True)),
            ("Server", "proxy-herd-emulator"),
            ("Cache-Control", "private"),
            ("Vary", "X-Origin"),
            ("Vary", "Referer"),
            ("Vary", "Origin,Accept-Encoding"),
            ("X-Content-Type-Options", "nosniff"),
            ("Alt-Svc", 'h3=":443"; ma=2592000'),
            *response.headers,
        ]
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body)
            headers.append(("Content-Encoding", "gzip"))
        if mode.framing == "length":
            headers.append(("Content-Length", str(len(body))))
        elif mode.framing == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
            pieces = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
            body = (
                b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            )
        if mode.framing == "close" or mode.mode == "close":
            headers.append(("Connection", "close"))
            self.close_connection = True
        head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        return head.encode("ascii"), body

    def stall(self, mode: Mode) -> None:
        """Waits until the mode changes, the client closes the connection, or the time limit."""
        switch = self.server.emulator.switch
        end = time.monotonic() + STALL_S
        poll = select.poll()  # not select(), which is limited to descriptors below 1024
        poll.register(self.connection, select.POLLIN)
        while switch.changes == mode.change and time.monotonic() < end:
            if poll.poll(50):
                return

    def log_message(self, *args) -> None:
        """Requests are in the statistics; standard error is for errors."""


class Server(ThreadingHTTPServer):
    """Accepts connections, and handles each in its own thread, including the TLS handshake."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self, address, family: int, emulator: Emulator, tls: Optional[ssl.SSLContext]
    ) -> None:
        self.address_family = family
        self.emulator = emulator
        self.tls = tls
        self.abrupt: set = set()  # connections to close without a close_notify
        self.slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Omits the base class's look-up of the host name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request, client_address) -> None:
        if not self.slots.acquire(blocking=False):
            self.emulator.stats.count("refused")
            request.close()
            return
        self.emulator.stats.opened()
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address) -> None:
        try:
            if self.tls is not None:
                request = self.handshake(request, self.tls)
            if request is not None:
                super().process_request_thread(request, client_address)
        finally:
            self.emulator.stats.closed()
            self.slots.release()

    def handshake(self, request, tls: ssl.SSLContext) -> Optional[ssl.SSLSocket]:
        stats = self.emulator.stats
        request.settimeout(HANDSHAKE_S)
        try:
            secured = tls.wrap_socket(request, server_side=True)
        except OSError:  # includes ssl.SSLError
            stats.count("failed_handshakes")
            request.close()
            return None
        stats.count("handshakes")
        stats.count("versions", by=secured.version() or "?")
        if secured.session_reused:
            stats.count("resumed")
        return secured

    def shutdown_request(self, request) -> None:
        """Closes a connection like a real server: sends a close_notify, unlike the base class, and
        drains the input for a while, because a reset could destroy the last response."""
        if request in self.abrupt:
            self.abrupt.discard(request)
            return self.close_request(request)
        end = time.monotonic() + LINGER_S
        request.settimeout(LINGER_S)
        try:
            if isinstance(request, ssl.SSLSocket):
                request.unwrap()
        except (OSError, ValueError):
            pass  # the client closed first, or is still sending
        with socket.socket(fileno=request.detach()) as plain:
            try:
                plain.settimeout(LINGER_S)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(MAX_BODY) and time.monotonic() < end:
                    pass
            except OSError:
                pass  # closed by the client

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Control(BaseHTTPRequestHandler):
    """The control address."""

    server: "ControlServer"

    def do_GET(self) -> None:
        emulator = self.server.emulator
        if self.path == "/__emulator/stats":
            self.reply(200, emulator.stats.snapshot())
        elif self.path == "/__emulator/mode":
            self.reply(200, emulator.switch.describe())
        else:
            self.reply(404, {"error": "not found; use /__emulator/stats or /__emulator/mode"})

    def do_DELETE(self) -> None:
        if self.path != "/__emulator/stats":
            return self.reply(404, {"error": "only /__emulator/stats can be reset"})
        self.server.emulator.stats.reset()
        self.reply(200, {})

    def do_POST(self) -> None:
        path, _, text = self.path.partition("?")
        if path != "/__emulator/mode":
            return self.reply(404, {"error": "only /__emulator/mode can be changed"})
        switch = self.server.emulator.switch
        try:
            words = dict(urllib.parse.parse_qsl(text, strict_parsing=bool(text)))
            mode, requests = parse(words, switch.usual)
        except ValueError as error:
            return self.reply(400, {"error": str(error), "modes": MODES})
        switch.set(mode, requests)
        self.reply(200, switch.describe())

    def reply(self, status: int, document: dict) -> None:
        body = json.dumps(document, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Control requests are not logged."""


class ControlServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, emulator: Emulator) -> None:
        self.emulator = emulator
        super().__init__(("127.0.0.1", port), Control)

    server_bind = Server.server_bind


def tls_context(options: argparse.Namespace, stats: Stats) -> Optional[ssl.SSLContext]:
    if options.plain:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.cert, options.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.tls == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif options.tls == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.sni_callback = lambda _socket, name, _context: stats.count(
        "server_names", by=name or "none"
    )
    return context


def listen(options: argparse.Namespace, emulator: Emulator, tls) -> List[Server]:
    """Returns a server for each host, all on the same port."""
    servers: List[Server] = []
    port = options.port
    for host in options.host or ["127.0.0.1"]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        servers.append(Server((host, port), family, emulator, tls))
        port = servers[0].server_port
    return servers


def arguments() -> argparse.Namespace:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description="Emulates Google's Nearby Search (New and Legacy) and Overpass on this machine.",
        epilog="modes:\n" + "".join(f"  {name:<11} {what}\n" for name, what in MODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="port; 0 = any free port (0)")
    parser.add_argument(
        "--host", action="append", help="address to listen on, repeatable (127.0.0.1)"
    )
    parser.add_argument(
        "--control-port", type=int, default=0, help="port of the control address; 0 = any (0)"
    )
    parser.add_argument(
        "--cert", help="certificate chain, PEM (scripts/mint_certs.py DIR creates one)"
    )
    parser.add_argument("--key", help="private key of the certificate, PEM")
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument(
        "--tls", choices=("any", "1.2", "1.3"), default="any", help="TLS versions offered"
    )
    parser.add_argument(
        "--api-key", default="EMULATOR_KEY", help="the valid API key (EMULATOR_KEY)"
    )
    parser.add_argument(
        "--mode", choices=MODES, default="ok", metavar="MODE", help="see below (ok)"
    )
    parser.add_argument("--latency-ms", type=int, default=0, help="latency of a response (0)")
    parser.add_argument(
        "--framing",
        choices=FRAMINGS,
        default="chunked",
        help="framing of bodies (chunked, like Google's)",
    )
    parser.add_argument(
        "--data", default=str(here / "emulated_apis" / "places.json"), help="JSON file of places"
    )
    parser.add_argument("--no-synthetic", action="store_true", help="only the places of the file")
    parser.add_argument(
        "--nearest", type=int, default=60, help="maximum number of places per question (60)"
    )
    parser.add_argument(
        "--overpass-slots",
        type=int,
        default=OVERPASS_SLOTS,
        help="concurrent Overpass queries; 0 = no limit (2)",
    )
    parser.add_argument(
        "--max-seconds", type=float, default=0, help="exit after this time; 0 = never"
    )
    options = parser.parse_args()
    if options.plain == bool(options.cert and options.key):
        parser.error(
            "requires --cert and --key (scripts/mint_certs.py DIR creates them), or --plain"
        )
    if not 0 <= options.latency_ms <= MAX_LATENCY_MS:
        parser.error(f"--latency-ms must be from 0 to {MAX_LATENCY_MS}")
    if options.nearest < 1 or options.overpass_slots < 0:
        parser.error("--nearest must be at least 1, --overpass-slots at least 0")
    return options


def main() -> int:
    options = arguments()
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    switch = Switch(Mode(options.mode, options.latency_ms, options.framing))
    try:
        gazetteer = Gazetteer(load(options.data), not options.no_synthetic, options.nearest)
        emulator = Emulator(gazetteer, options.api_key, switch, options.overpass_slots)
        servers: list = listen(options, emulator, tls_context(options, emulator.stats))
        control = ControlServer(options.control_port, emulator)
    except (OSError, ValueError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 1
    for server in [*servers, control]:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
    scheme = "http" if options.plain else "https"
    print(
        f"ready url={scheme}://localhost:{servers[0].server_port} "
        f"control=http://127.0.0.1:{control.server_port}/__emulator api_key={options.api_key}",
        flush=True,
    )
    end.wait(options.max_seconds or None)
    for server in [*servers, control]:
        server.shutdown()
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
