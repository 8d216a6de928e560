"""Entry point of scripts/soak.sh: runs the load, then the checks, and prints a report."""

import asyncio
import math
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from herd import Herd
from load import Load, Subscriber

SETTLE_SECONDS = 30  # until all nodes hold the same records once the load has ended
SAMPLE_SECONDS = 5
LEAST_SAMPLES = 9  # fewer say nothing about growth
LEAST_CPU_SAMPLES = 120  # ten minutes: a shorter run measures the other programs on the machine


class Report:
    """The checks, each with the figures it is based on."""

    def __init__(self):
        self.failed = False

    def check(self, passed, text):
        self.failed |= not passed
        print(f"{'ok    ' if passed else 'FAILED'}  {text}", flush=True)

    def note(self, text):
        print(f"        {text}", flush=True)


async def until(condition, seconds):
    """Waits until `condition` holds. Returns whether it does."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.2)
    return True


async def check_records(report, herd, load, when):
    """Compares the records of every node with the acknowledged ones."""

    async def equal():
        return len({(await herd.overview(node))["digest"] for node in herd.nodes}) == 1

    report.check(await until(equal, SETTLE_SECONDS), f"all nodes hold the same records {when}")
    for node in herd.nodes:
        held = await herd.records(node)
        differ = [name for name, line in load.acknowledged.items() if held.get(name) != line]
        report.check(
            not differ and len(held) == len(load.acknowledged),
            f"{node} holds {len(held)} of {len(load.acknowledged)} acknowledged records {when}"
            + (f"; {len(differ)} differ, such as {differ[0]}" if differ else ""),
        )


async def check_subscribers(report, subscribers, load):
    """Compares the state of each subscriber with the acknowledged records."""

    async def current():
        return all(reader.lines == load.acknowledged for reader in subscribers)

    await until(current, SETTLE_SECONDS)
    for reader in subscribers:
        missing = sum(reader.lines.get(name) != line for name, line in load.acknowledged.items())
        report.check(
            missing == 0 and reader.went_back == 0,
            f"a subscriber of {reader.node} received {reader.events} events: {missing} clients are "
            f"not up to date, {reader.went_back} went back, {reader.restarts} restarts",
        )


def check_growth(report, herd, samples):
    """Compares the last third of the samples with the second third: the first is warm-up."""
    if len(samples) < LEAST_SAMPLES:
        report.note(f"too short to judge growth: {len(samples)} samples")
        return
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[-third:]

    def compare(text, value, factor, slack, unit, scale):
        for node in herd.nodes:
            before, after = (
                statistics.median(value(sample[node]) for sample in part) for part in (middle, last)
            )
            report.check(
                after <= before * factor + slack,
                f"{node}: {text} {before / scale:.2f}{unit}, later {after / scale:.2f}{unit}",
            )

    compare("memory", lambda node: node.memory, 1.05, 4 << 20, " MiB", 1 << 20)
    compare("descriptors", lambda node: node.descriptors, 1, 2, "", 1)
    if len(samples) >= LEAST_CPU_SAMPLES:
        compare("CPU per update", lambda node: node.cpu_per_update, 1.3, 0, " µs", 1e-6)
    for node in herd.nodes:
        most = max(sample[node].disk for sample in samples)
        bound = herd.disk_bound(samples[-1][node].live_bytes)
        report.check(
            most <= bound,
            f"{node}: storage at most {most / 2**20:.1f} MiB, of {bound / 2**20:.1f} MiB allowed",
        )


async def run(minutes):
    report = Report()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        herd = Herd(Path(folder))
        try:
            await herd.start()
            load = Load(herd)
            subscribers = [Subscriber(herd, node) for node in herd.nodes for _ in range(2)]
            readers = [asyncio.create_task(reader.run()) for reader in subscribers]
            samples = []
            loads = asyncio.create_task(load.run(minutes * 60))
            before = herd.measure(load)
            while not loads.done():
                await asyncio.wait([loads], timeout=SAMPLE_SECONDS)
                if not loads.done():
                    after = herd.measure(load)
                    samples.append(herd.sample(before, after))
                    before = after
            await loads
            report.note(f"{load.count} updates of {len(load.acknowledged)} clients were acknowledged")
            await check_records(report, herd, load, "after the load")
            await check_subscribers(report, subscribers, load)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            check_growth(report, herd, samples)
            problems = {node: (await herd.overview(node))["problems"] for node in herd.nodes}
            report.check(not any(problems.values()), f"no node reports a problem: {problems}")
            await herd.stop(signal.SIGTERM)
            await herd.start()
            await check_records(report, herd, load, "after a restart")
            await herd.stop(signal.SIGKILL)
            await herd.start()
            await check_records(report, herd, load, "after kill -9")
        finally:
            await herd.stop(signal.SIGKILL)
    return report


def main():
    minutes = float(sys.argv[1])
    assert math.isfinite(minutes)
    # An interrupt stops the nodes and removes their files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: terminated"))
    try:
        report = asyncio.run(run(minutes))
    except KeyboardInterrupt:
        sys.exit("soak: interrupted")
    sys.exit(1 if report.failed else 0)


main()
