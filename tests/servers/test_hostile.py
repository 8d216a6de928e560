"""hostile.py: each fault happens where it was ordered, to the byte, and nowhere else."""

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
        """A server in this process; `Server` starts one as a program."""
        where = ("--certs", certificates()) if tls else ("--plain",)
        started = hostile.start(hostile.arguments([str(word) for word in (*where, *options)]))
        self.addCleanup(started.stop)
        return started

    def exchange(self, server, tls: bool = True, quiet_after: int | None = None) -> Client:
        with Client(server.port, trusting() if tls else None, quiet_after) as client:
            return client.exchange(REQUEST)

    def exchange_until_silence(self, server, tls: bool, at: str, length: int) -> Client:
        """As `exchange`, where silence counts only once all is there that is to come."""
        with Client(server.port, trusting() if tls else None) as client:
            if at != "hello":
                client.exchange(REQUEST, expect=length)
            client.quiet_after = 0
            if at == "hello":
                client.exchange(REQUEST)
            client.listen()
            return client

    def whole(self, tls: bool = True) -> Client:
        """An exchange without a fault, for comparison."""
        return self.exchange(self.start("--after", "close", tls=tls), tls)

    def test_without_a_fault_it_is_a_server_like_any(self) -> None:
        whole = self.whole()
        self.assertTrue(whole.text.endswith(b"\r\n\r\n" + BODY))
        self.assertEqual(whole.ended, "close_notify")
        with Client(self.start().port, trusting()) as client:
            for times in (1, 2, 3):
                client.exchange(REQUEST, expect=len(whole.text))
                self.assertEqual(client.text, whole.text * times)

    def test_faults_at_every_point_of_the_exchange(self) -> None:
        for tls in (True, False):
            whole = self.whole(tls)
            head = whole.text.index(b"\r\n\r\n") + 4
            text_at = {"hello": 0, "handshake": 0, "request": 0, "head": head, "body": head + len(BODY) // 2,
                       "end": len(whole.text), "response:0": 0, "response:1": 1, "response:20": 20,
                       f"response:{head + 1}": head + 1}  # fmt: skip
            for at, length in text_at.items():
                for then, end in ENDS.items():
                    with self.subTest(at, then=then, tls=tls):
                        server = self.start("--at", at, "--then", then, tls=tls)
                        if then == "stall":
                            client = self.exchange_until_silence(server, tls, at, length)
                        else:
                            client = self.exchange(server, tls)
                        self.assertEqual((client.ended, client.text), (end, whole.text[:length]))
                        self.assertEqual(
                            client.wire == b"", length == 0 and (not tls or at == "hello")
                        )

    def test_the_wire_is_cut_at_the_byte(self) -> None:
        # A TLS 1.3 server hello flight with a P-256 certificate is longer than 500 bytes.
        for count in (0, 1, 5, 6, 100, 500):
            for then, end in ENDS.items():
                with self.subTest(count, then=then):
                    server = self.start("--at", f"wire:{count}", "--then", then)
                    client = self.exchange(server, quiet_after=count if then == "stall" else None)
                    self.assertEqual(
                        (len(client.wire), client.ended, client.text), (count, end, b"")
                    )

    def test_the_wire_is_cut_in_the_middle_of_a_record_of_the_response(self) -> None:
        whole = self.whole()
        cut = (
            len(whole.wire) - whole.records()[-1] - 5 - 20
        )  # before the close_notify, in the response
        client = self.exchange(self.start("--at", f"wire:{cut}", "--then", "close"))
        self.assertLessEqual(len(client.wire), cut)
        self.assertEqual((client.text, client.ended), (b"", "eof"))

    def test_stalled_connects_and_accepts(self) -> None:
        server = self.start("--at", "connect")
        with self.assertRaises(socket.timeout):
            socket.create_connection(("127.0.0.1", server.port), Client.SILENCE)
        client = self.exchange(self.start("--at", "accept"), quiet_after=0)
        self.assertEqual((client.wire, client.ended), (b"", "silence"))

    def test_certificates(self) -> None:
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

    def test_records_and_segments(self) -> None:
        whole = self.whole()
        by_byte = self.exchange(self.start("--record", 1, "--after", "close"))
        self.assertEqual(by_byte.text, whole.text)
        self.assertEqual(len(by_byte.records()) - len(whole.records()), len(whole.text) - 1)
        dripped = self.exchange(self.start("--segment", 1, "--after", "close"))
        self.assertEqual(dripped.text, whole.text)
        sizes = [
            self.exchange(self.start("--record", 40, "--seed", seed, "--after", "close")).records()[
                -6:
            ]
            for seed in (1, 1, 2)
        ]
        self.assertEqual(sizes[0], sizes[1])
        self.assertNotEqual(sizes[0], sizes[2])

    def test_segments_leave_one_by_one(self) -> None:
        server = self.start("--segment", 1, "--pause-ms", 2, "--after", "close", tls=False)
        with Client(server.port, None) as client:
            client.feed(REQUEST)
            while not client.ended:
                client.receive()
            # tcpi_data_segs_in of linux/tcp.h: a reader that is late gets many of them at once.
            info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 156)
        (segments,) = struct.unpack_from("=I", info, 152)
        self.assertGreater(segments, len(client.wire) // 2, "far more segments than one")

    def test_skipped_connections_and_requests_go_well(self) -> None:
        server = self.start("--at", "head", "--then", "reset", "--skip", 1, "--skip-requests", 1)
        length = len(self.whole().text)
        with Client(server.port, trusting()) as first, Client(server.port, trusting()) as second:
            for _ in range(3):
                self.assertEqual(first.exchange(REQUEST, expect=length).ended, "")
            self.assertEqual(second.exchange(REQUEST, expect=length).ended, "")
            self.assertEqual(second.exchange(REQUEST).ended, "reset")

    def test_a_connection_ends_properly_after_so_many_requests(self) -> None:
        server = self.start("--requests-per-connection", 2)
        length = len(self.whole().text)
        with Client(server.port, trusting()) as client:
            self.assertEqual(client.exchange(REQUEST, expect=length).ended, "")
            self.assertEqual(client.exchange(REQUEST).ended, "close_notify")
            self.assertEqual(len(client.text), 2 * length)

    def test_canned_responses_in_turn(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            names = []
            for index, text in enumerate(
                (b"HTTP/1.1 200 OK\r\n\r\nfirst", b"\x00\xff no HTTP at all")
            ):
                names += ["--response", f"{directory}/{index}"]
                with open(f"{directory}/{index}", "wb") as file:
                    file.write(text)
            server = self.start(*names, "--after", "close")
        texts = [self.exchange(server).text for _ in range(3)]
        self.assertEqual(
            [texts[0][-5:], texts[1][:2], texts[2][-5:]], [b"first", b"\x00\xff", b"first"]
        )

    def test_it_can_answer_what_it_does_not_understand(self) -> None:
        client = self.exchange(self.start("--blurt", "--after", "close", tls=False), tls=True)
        self.assertIsInstance(client.failure, ssl.SSLError)
        self.assertTrue(client.wire.startswith(b"HTTP/1.1 200 OK"))

    def test_events_tell_the_story_without_the_query(self) -> None:
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

    def test_many_at_once(self) -> None:
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

    def test_it_ends_by_itself(self) -> None:
        server = Server(self.addCleanup, HOSTILE, "--plain", "--max-seconds", "0.2")
        self.assertEqual(server.process.wait(PATIENCE), 0)

    def test_what_makes_no_sense_is_refused(self) -> None:
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
