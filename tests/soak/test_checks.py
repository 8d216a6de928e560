"""The checks of scripts/soak.sh fail if something is lost, doubled, reordered, leaked or slower."""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "soak"))

from checks import LONG_RUN, Report, check_growth, differing
from fences import FENCES, Inside
from herd import LOG_BYTES, LOG_KEEP, Sample
from ledger import Entry, Ledger, parse_line
from witnesses import LogReader, feed_entry


def update(number, client=b"Bona.line.1", difference=b"+0.1"):
    return Entry(b"at", client, b"+1.000000-2.000000", b"%d.5" % number, difference)


class Order(unittest.TestCase):
    def compare(self, expected, arrived):
        ledger = Ledger("a witness")
        for entry in expected:
            ledger.expect(entry)
        for entry in arrived:
            ledger.arrive(entry)
        self.assertEqual(ledger.is_even(), not ledger.faults())
        return " ".join(ledger.faults())

    def test_equal_entries_are_even_whatever_arrives_first(self):
        ledger = Ledger("a witness")
        ledger.arrive(update(1))
        ledger.expect(update(1))
        ledger.expect(update(2))
        ledger.arrive(update(2))
        self.assertTrue(ledger.is_even())
        self.assertEqual(ledger.count, 2)

    def test_sources_are_independent(self):
        entries = [update(1), update(2, b"Bona.phone.1")]
        self.assertEqual(self.compare(entries, entries[::-1]), "")

    def test_a_missing_entry(self):
        self.assertIn("missing", self.compare([update(1), update(2)], [update(1)]))
        self.assertIn("expected", self.compare([update(1), update(2)], [update(2)]))

    def test_an_entry_that_arrives_twice(self):
        self.assertIn("twice", self.compare([update(1)], [update(1), update(1)]))
        self.assertIn("found", self.compare([update(1), update(2)], [update(1), update(1)]))

    def test_two_entries_in_another_order(self):
        self.assertIn("found", self.compare([update(1), update(2)], [update(2), update(1)]))

    def test_an_entry_that_is_changed_or_of_another_node(self):
        for other in (
            update(1, difference=b"+0.2"),
            update(1)._replace(location=b"+1-2"),
            update(1)._replace(type=b"enter", fence=b"area 1"),
            update(1, b"Clark.line.1"),
        ):
            self.assertNotEqual(self.compare([update(1)], [other]), "")

    def test_the_difference_of_a_device_is_unknown(self):
        self.assertEqual(self.compare([update(1, difference=None)], [update(1)]), "")
        self.assertNotEqual(self.compare([update(1, difference=None)], [update(2)]), "")


class Records(unittest.TestCase):
    def test_lines_that_are_missing_old_or_of_another_node(self):
        line = b"AT Bona +0.1 Bona.line.1 +1.000000-2.000000 1.5"
        acknowledged = {b"Bona.line.1": parse_line(line)}
        self.assertEqual(differing({b"Bona.line.1": line}, acknowledged), [])
        for held in (
            {},
            {b"Bona.line.1": line.replace(b"1.5", b"0.5")},
            {b"Bona.line.1": line.replace(b"AT Bona", b"AT Clark")},
        ):
            self.assertEqual(differing(held, acknowledged), [b"Bona.line.1"])


class Witnesses(unittest.TestCase):
    def test_the_log_is_read_across_a_rotation(self):
        line = b"... INFO - 127.0.0.1:5 > AT Bona +0.1 Bona.line.1 +1.000000-2.000000 %d.5\n"
        with tempfile.TemporaryDirectory() as folder:
            path, ledger = Path(folder) / "Bona.log", Ledger("the log")
            reader = LogReader(path, ledger)
            self.addCleanup(reader.close)
            path.write_bytes(line % 1 + (line % 2)[:20])
            reader.poll()
            with open(path, "ab") as file:
                file.write((line % 2)[20:])
                # What a neighbor is sent and what was not stored are no updates of this node.
                file.write((line % 3).replace(b"127.0.0.1:5", b"Clark"))
                file.write((line % 3).replace(b"\n", b" (stale, not stored)\n"))
            path.rename(folder + "/Bona.log.1")
            path.write_bytes(line % 3)
            reader.poll()
            reader.poll()
            for number in (1, 2, 3):
                ledger.expect(update(number))
            self.assertEqual((ledger.faults(), ledger.count), ([], 3))

    def test_a_gap_and_an_entry_of_another_node_match_nothing(self):
        line = b"AT Bona +0.1 Bona.line.1 +1.000000-2.000000 1.5"
        fields = {b"type": b"at", b"line": line, b"client": b"Bona.line.1"}
        self.assertEqual(feed_entry("Bona", fields), update(1))
        self.assertNotEqual(feed_entry("Clark", fields), update(1))
        self.assertNotEqual(feed_entry("Bona", fields | {b"client": b"another"}), update(1))
        gap = {b"type": b"gap", b"from": b"1-1", b"to": b"1-2", b"count": b"2"}
        self.assertNotEqual(feed_entry("Bona", gap), update(1))


class Fences(unittest.TestCase):
    def test_a_client_enters_leaves_and_changes_its_fence(self):
        (first, west, south, *_), (second, other_west, *_) = FENCES[0], FENCES[1]
        inside, entry = Inside(), update(1)
        moves = [
            inside.move(entry, latitude, longitude)
            for latitude, longitude in (
                (south + 0.001, west + 0.001),
                (south + 0.002, west + 0.001),
                (south + 0.001, other_west + 0.001),
                (south - 0.001, other_west),
            )
        ]
        named = [[(each.type, each.fence.decode()) for each in move] for move in moves]
        self.assertEqual(
            named,
            [
                [(b"enter", first)],
                [],
                [(b"leave", first), (b"enter", second)],
                [(b"leave", second)],
            ],
        )


class Growth(unittest.TestCase):
    def is_accepted(self, change, count=30):
        """Checks `count` samples, the last third of which has a change."""
        usual = dict(
            cpu_per_update=1e-5, memory=64 << 20, descriptors=30, disk=1 << 20, log=0, live_bytes=1, delay=0.02
        )
        samples = [
            {"Bona": Sample(**(usual | (change if at >= count - count // 3 else {})))} for at in range(count)
        ]
        report = Report()
        with contextlib.redirect_stdout(io.StringIO()):
            check_growth(report, ["Bona"], samples, lambda live: 64 << 20)
        return not report.failed

    def test_what_stays_as_it_is(self):
        self.assertTrue(self.is_accepted({}))
        self.assertTrue(self.is_accepted({"memory": 66 << 20, "descriptors": 31, "cpu_per_update": 1.2e-5}))

    def test_what_grows(self):
        for change in (
            {"memory": 73 << 20},
            {"descriptors": 33},
            {"cpu_per_update": 2.1e-5},
            {"delay": 0.05},
            {"disk": 65 << 20},
            {"log": LOG_BYTES * (LOG_KEEP + 1) + 1},
        ):
            self.assertFalse(self.is_accepted(change), change)

    def test_a_long_run_is_judged_more_strictly(self):
        self.assertFalse(self.is_accepted({"cpu_per_update": 1.4e-5}, LONG_RUN))


if __name__ == "__main__":
    unittest.main()
