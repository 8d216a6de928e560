"""Tests of the output of scripts/bench.sh, and of the Python servers in the comparison."""

import importlib.util
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    """Loads a module outside of any package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(unittest.TestCase):
    def setUp(self):
        self.module = load(ROOT / "scripts/benchmarks/page.py")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.page = Path(folder.name) / "page.md"

    def test_figures_between_the_markers_can_be_replaced_repeatedly(self):
        for name in ("performance.md", "report.md"):
            text = (ROOT / "docs" / name).read_text()
            self.page.write_text(text)
            for figures in ("old\n", "new\n"):
                self.module.write(self.page, figures)
            head, _, rest = text.partition(self.module.BEGIN)
            written = self.page.read_text()
            self.assertEqual(written.partition(self.module.BEGIN)[0], head)
            self.assertEqual(written.partition(self.module.END)[2], rest.partition(self.module.END)[2])
            self.assertIn("\nnew\n", written)
            self.assertNotIn("\nold\n", written)

    def test_a_new_page_consists_of_the_figures(self):
        self.module.write(self.page, "figures\n")
        self.assertEqual(self.page.read_text(), "# Figures\n\nfigures\n")


class Plot(unittest.TestCase):
    def test_the_length_of_a_bar_is_proportional_to_its_figure(self):
        module = load(ROOT / "scripts/benchmarks/plot.py")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plot.svg"
            module.bars(path, [1, 32], {"a & b": {1: {"cpu": 4.0}, 32: {"cpu": 1.0}}})
            rectangles = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}rect")
            widths = [each.get("width") for each in rectangles]
        self.assertEqual(widths[-2:], [f"{module.WIDTH:.1f}", f"{module.WIDTH / 4:.1f}"])


class Protocol(unittest.TestCase):
    def setUp(self):
        self.node = load(ROOT / "docs/report/protocol.py").Node("Solo")

    def test_iamat_is_answered_with_an_at_line(self):
        for report in (b"k +34.068930-118.445127 1621464827.959498503", b"k +12-118/ -.5", b"k +.5-.5 1."):
            at, server, difference, *fields = self.node.answer(b" IAMAT\t" + report + b"\r").split()
            self.assertEqual((at, server, fields), (b"AT", b"Solo", report.split()))
            self.assertRegex(difference, rb"^[+-][0-9]+\.[0-9]{9}$")

    def test_whatsat_is_answered_with_the_newest_location(self):
        old, new = b"IAMAT k +1-1 1000000001", b"IAMAT k +2-2 1000000002.5"
        newest = self.node.answer(new)
        self.node.answer(old)
        self.assertTrue(self.node.answer(b"WHATSAT k +50 020").startswith(newest + b"{"))

    def test_anything_else_is_echoed(self):
        self.node.answer(b"IAMAT k +1-1 1")
        self.assertEqual(self.node.answer(b" \t\r"), b"")
        for line in (b"IAMAT k +91-1 1", b"IAMAT k +1-1 .", b"IAMAT k +1-1 1e3", b"WHATSAT k 51 1",
                     b"WHATSAT k 1 21", b"WHATSAT j 1 1", b"iamat k +1-1 1", b"a  b"):
            self.assertEqual(self.node.answer(b" " + line + b"\r"), b"? " + line + b"\n")


if __name__ == "__main__":
    unittest.main()
