"""Entry point of scripts/bench.sh after the build: parses arguments and writes the page."""

import argparse
import importlib
import signal
import sys
from pathlib import Path

import comparison
import machine
import page
import performance
from servers import ROOT, Effort

QUICK = Effort(rounds=1, seconds=0.5, warmup=0.1, clients=10_000, many_clients=100_000,
               many_connections=500, phones=500, wrong_tokens=10_000)
FULL = Effort(rounds=5, seconds=1.2, warmup=0.3, clients=100_000, many_clients=5_000_000,
              many_connections=10_000, phones=15_000, wrong_tokens=1_000_000)


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--only", choices=["storage", "devices", "feed", "fences"])
    parser.add_argument("file", nargs="?", type=Path)
    arguments = parser.parse_args()
    page_of = "report.md" if arguments.report else "performance.md"
    # A quick run must not replace the published figures.
    folder = ROOT / ("target" if arguments.quick else "docs")
    path = arguments.file or folder / page_of
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: terminated"))  # stops the servers
    effort = QUICK if arguments.quick else FULL
    effort.rounds = arguments.rounds or effort.rounds
    effort.seconds = arguments.seconds or effort.seconds
    load = machine.load()
    if arguments.only:
        print(f"{machine.describe(load)}\n{importlib.import_module(arguments.only).measure(effort)}", end="")
        return
    measure = comparison.measure if arguments.report else performance.measure
    figures = measure(effort, path)
    note = "\nA quick run: the figures are not meaningful.\n" if arguments.quick else ""
    page.write(path, f"{machine.describe(load)}{note}\n{figures}")
    print(f"bench: written to {path}")


main()
