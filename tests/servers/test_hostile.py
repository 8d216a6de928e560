"""Tests of hostile.py: each fault occurs at its point, to the byte, and nowhere else."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import tempfile
import threading
import unittest

import hostile
from support import HOSTILE, PATIENCE, Client, Server, certificates, trusting

REQUEST = b"POST /x?key=SECRET HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
BODY = b'{\n   "html_attributions" : [],\n   "results" : [],\n   "status" : "ZERO_RESULTS"\n}\n'
ENDS = {"stall": "silence", "close": "eof", "reset": "reset"}


class Hostile(unittest.TestCase):
    def start(self, *options, tls: bool = True) -> hostile.Started:
        """Starts a server in this process; `Server` starts a child process."""
        where = ("--certs", certificates()) if tls else ("--plain",)
        started = hostile.start(hostile.arguments([str(word) for word in (*where, *options)]))
        self.addCleanup(started.stop)
        return started

    def exchange(self, server, tls: bool = True, quiet_after: int | None = None) -> Client:
        with Client(server.port, trusting() if tls else None, quiet_after) as client:
            return client.exchange(REQUEST)

    def exchange_until_silence(self, server, tls: bool, at: str, length: int) -> Client:
        """Like `exchange`, but waits for `length` bytes before it looks for silence."""
        with Client(server.port, trusting() if tls else None) as client:
            if at != "hello":
                client.exchange(REQUEST, expect=length)
            client.quiet_after = 0
            if at == "hello":
                client.exchange(REQUEST)
            client.listen()
            return client

    def complete(self, tls: bool = True) -> Client:
        """An exchange without a fault, for comparison."""
        return self.exchange(self.start("--after", "close", tls=tls), tls)

    def test_without_a_fault_it_is_a_normal_server(self) -> None:
        complete = self.complete()
        self.assertTrue(complete.text.endswith(b"\r\n\r\n" + BODY))
        self.assertEqual(complete.ended, "close_notify")
        with Client(self.start().port, trusting()) as client:
            for times in (1, 2, 3):
                client.exchange(REQUEST, expect=len(complete.text))
                self.assertEqual(client.text, complete.text * times)

    def test_faults_occur_at_every_point_of_the_exchange(self) -> None:
        for tls in (True, False):
            complete = self.complete(tls)
            head = complete.text.index(b"\r\n\r\n") + 4
            text_at = {"hello": 0, "handshake": 0, "request": 0, "head": head, "body": head + len(BODY) // 2,
                       "end": len(complete.text), "response:0": 0, "response:1": 1, "response:20": 20,
                       f"response:{head + 1}": head + 1}  # fmt: skip
            for at, length in text_at.items():
                for then, end in ENDS.items():
                    with self.subTest(at, then=then, tls=tls):
                        server = self.start("--at", at, "--then", then, tls=tls)
                        if then == "stall":
                            client = self.exchange_until_silence(server, tls, at, length)
                        else:
                            client = self.exchange(server, tls)
                        self.assertEqual((client.ended, client.text), (end, complete.text[:length]))
                        self.assertEqual(
                            client.wire == b"", length == 0 and (not tls or at == "hello")
                        )

    def test_the_wire_is_interrupted_at_the_byte(self) -> None:
        # The first flight of a TLS 1.3 server with a P-256 certificate is longer than 500 bytes.
        for count in (0, 1, 5, 6, 100, 500):
            for then, end in ENDS.items():
                with self.subTest(count, then=then):
                    server = self.start("--at", f"wire:{count}", "--then", then)
                    client = self.exchange(server, quiet_after=count if then == "stall" else None)
                    self.assertEqual(
                        (len(client.wire), client.ended, client.text), (count, end, b"")
                    )

    def test_the_wire_is_interrupted_within_a_record(self) -> None:
        complete = self.complete()
        cut = (
            len(complete.wire) - complete.records()[-1] - 5 - 20
        )  # within the response, before the close_notify
        client = self.exchange(self.start("--at", f"wire:{cut}", "--then", "close"))
        self.assertLessEqual(len(client.wire), cut)
        self.assertEqual((client.text, client.ended), (b"", "eof"))

    def test_connecting_and_accepting_can_stall(self) -> None:
        server = self.start("--at", "connect")
        with self.assertRaises(socket.timeout):
            socket.create_connection(("127.0.0.1", server.port), Client.SILENCE)
        client = self.exchange(self.start("--at", "accept"), quiet_after=0)
        self.assertEqual((client.wire, client.ended), (b"", "silence"))

    def test_every_certificate_is_invalid_in_its_own_way(self) -> None:
        reasons = {
            "server": None,
            "expired": "certificate has expired",
            "wrong-host": "Hostname mismatch",
            "self-signed": "self-signed certificate",
            "untrusted": "unable to get local issuer certificate",
        }
        for certificate, reason in reasons.items():
            with self.subTest(certificate):
                client = self.exchange(self.start("--certificate", certificate, "--after", "close"))
                if reason is None:
                    self.assertTrue(client.text)
                else:
                    self.assertIsInstance(client.failure, ssl.SSLCertVerificationError)
                    self.assertIn(reason, client.failure.verify_message)
                    self.assertEqual(client.text, b"")

    def test_records_and_segments_have_the_requested_sizes(self) -> None:
        complete = self.complete()
        by_byte = self.exchange(self.start("--record", 1, "--after", "close"))
        self.assertEqual(by_byte.text, complete.text)
        self.assertEqual(len(by_byte.records()) - len(complete.records()), len(complete.text) - 1)
        dripped = self.exchange(self.start("--segment", 1, "--after", "close"))
        self.assertEqual(dripped.text, complete.text)
        sizes = [
            self.exchange(self.start("--record", 40, "--seed", seed, "--after", "close")).records()[
                -6:
            ]
            for seed in (1, 1, 2)
        ]
        self.assertEqual(sizes[0], sizes[1])
        self.assertNotEqual(sizes[0], sizes[2])

    def test_segments_are_sent_individually(self) -> None:
        server = self.start("--segment", 1, "--pause-ms", 2, "--after", "close", tls=False)
        with Client(server.port, None) as client:
            client.feed(REQUEST)
            while not client.ended:
                client.receive()
            # tcpi_data_segs_in of linux/tcp.h. A slow reader receives several segments at once.
            info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 156)
        (segments,) = struct.unpack_from("=I", info, 152)
        self.assertGreater(segments, len(client.wire) // 2, "there are too few segments")

    def test_skipped_connections_and_requests_have_no_fault(self) -> None:
        server = self.start("--at", "head", "--then", "reset", "--skip", 1, "--skip-requests", 1)
        length = len(self.complete().text)
        with Client(server.port, trusting()) as first, Client(server.port, trusting()) as second:
            for _ in range(3):
                self.assertEqual(first.exchange(REQUEST, expect=length).ended, "")
            self.assertEqual(second.exchange(REQUEST, expect=length).ended, "")
            self.assertEqual(second.exchange(REQUEST).ended, "reset")

    def test_the_number_of_requests_per_connection_is_limited(self) -> None:
        server = self.start("--requests-per-connection", 2)
        length = len(self.complete().text)
        with Client(server.port, trusting()) as client:
            self.assertEqual(client.exchange(REQUEST, expect=length).ended, "")
            self.assertEqual(client.exchange(REQUEST).ended, "close_notify")
            self.assertEqual(len(client.text), 2 * length)

    def test_responses_are_sent_in_rotation(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            names = []
            for index, text in enumerate(
                (b"HTTP/1.1 200 OK\r\n\r\nfirst", b"\x00\xff not HTTP")
            ):
                names += ["--response", f"{directory}/{index}"]
                with open(f"{directory}/{index}", "wb") as file:
                    file.write(text)
            server = self.start(*names, "--after", "close")
        texts = [self.exchange(server).text for _ in range(3)]
        self.assertEqual(
            [texts[0][-5:], texts[1][:2], texts[2][-5:]], [b"first", b"\x00\xff", b"first"]
        )

    def test_blurt_responds_to_any_bytes(self) -> None:
        client = self.exchange(self.start("--blurt", "--after", "close", tls=False), tls=True)
        self.assertIsInstance(client.failure, ssl.SSLError)
        self.assertTrue(client.wire.startswith(b"HTTP/1.1 200 OK"))

    def test_events_do_not_contain_the_query(self) -> None:
        server = Server(
            self.addCleanup,
            HOSTILE,
            "--certs",
            certificates(),
            "--events",
            "--at",
            "end",
            "--then",
            "reset",
        )
        self.exchange(server)
        events = [json.loads(server.line()) for _ in range(4)]
        self.assertEqual(
            [event["event"] for event in events], ["handshake", "request", "response", "fault"]
        )
        self.assertEqual(
            events[1], {"connection": 1, "event": "request", "line": "POST /x", "body": 4}
        )
        self.assertEqual(server.end(), (0, "", ""))

    def test_many_connections_are_served_at_once(self) -> None:
        server = self.start("--at", "body", "--then", "close")
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(self.exchange(server).ended))
            for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(results, ["eof"] * 32)

    def test_it_exits_after_max_seconds(self) -> None:
        server = Server(self.addCleanup, HOSTILE, "--plain", "--max-seconds", "0.2")
        self.assertEqual(server.process.wait(PATIENCE), 0)

    def test_invalid_options_are_rejected(self) -> None:
        for options in (
            ("--at", "lunch"), ("--at", "wire"), ("--at", "wire:x"), ("--at", "head:3"), ("--max-seconds", 0),
            ("--at", "accept", "--then", "close"), ("--certificate", "expired"), ("--response", "/nowhere"),
        ):  # fmt: skip
            plain = "--certificate" not in options
            with self.subTest(options), self.assertRaises(RuntimeError) as failed:
                Server(self.addCleanup, HOSTILE, *(["--plain"] if plain else []), *options)
            self.assertNotIn("Traceback", str(failed.exception))


if __name__ == "__main__":
    unittest.main()
