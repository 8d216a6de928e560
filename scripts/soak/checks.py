"""The checks of the soak test."""

import asyncio
import statistics
import time

from herd import LOG_BYTES, LOG_KEEP
from ledger import parse_line
from witnesses import FenceSubscriber

SETTLE_SECONDS = 30  # until everything has arrived once the load has ended
# Of a hundred seconds: before, what a node keeps for its subscribers still fills up.
LEAST_SAMPLES = 20
LONG_RUN = 120  # samples of ten minutes: in a shorter run, times depend on other programs


class Report:
    """The checks, each with the figures it is based on."""

    def __init__(self):
        self.failed = False

    def check(self, passed, text):
        self.failed |= not passed
        print(f"{'ok    ' if passed else 'FAILED'}  {text}", flush=True)

    def note(self, text):
        print(f"        {text}", flush=True)


async def until(condition, seconds=SETTLE_SECONDS):
    """Waits until `condition` holds. Returns whether it does."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.2)
    return True


def differing(lines, acknowledged):
    """Returns the clients whose line is not that of their newest acknowledged update."""
    differ = []
    for client, (node, update) in acknowledged.items():
        line = lines.get(client)
        if line is None:
            differ.append(client)
            continue
        server, held = parse_line(line)
        if server != node or not update.matches(held):
            differ.append(client)
    return differ


async def check_records(report, herd, load, when):
    """Compares the records of every node with the acknowledged ones."""

    async def equal():
        return len({(await herd.overview(node))["digest"] for node in herd.nodes}) == 1

    report.check(await until(equal), f"all nodes hold the same records {when}")
    for node in herd.nodes:
        held = await herd.records(node)
        differ = differing(held, load.acknowledged)
        report.check(
            not differ and len(held) == len(load.acknowledged),
            f"{node} holds {len(held)} of {len(load.acknowledged)} acknowledged records {when}"
            + (f"; {len(differ)} differ, such as {differ[0]}" if differ else ""),
        )


async def check_subscribers(report, witnesses, load):
    """Compares the state of each subscriber with the acknowledged records."""

    def faults(reader):
        if isinstance(reader, FenceSubscriber):
            return len(reader.fences.items() ^ load.inside.fences.items())
        return len(differing(reader.lines, load.acknowledged))

    async def current():
        return not any(faults(reader) for reader in witnesses.subscribers)

    await until(current)
    for reader in witnesses.subscribers:
        wrong = faults(reader)
        is_exact = isinstance(reader, FenceSubscriber)  # nothing is conflated, so it never starts over
        report.check(
            wrong == 0 and reader.went_back == 0 and not (is_exact and reader.restarts),
            f"a subscriber of {reader.target} of {reader.node} received {reader.events} events: {wrong} "
            f"clients are not up to date, {reader.went_back} went back, {reader.restarts} restarts",
        )


async def check_ledgers(report, witnesses, when):
    """Checks that every witness has reported everything once and in order."""

    async def even():
        await witnesses.poll()
        return all(ledger.is_even() for ledger in witnesses.ledgers())

    await until(even)
    for ledger in witnesses.ledgers():
        faults = ledger.faults()
        report.check(
            ledger.is_even(),
            f"{ledger.name} has {ledger.count} entries, each once and in order {when}"
            + "".join(f"; {fault}" for fault in faults[:3]),
        )


async def check_problems(report, herd, has_feed):
    """Checks that the nodes consider themselves healthy."""

    async def quiet():
        overviews = [await herd.overview(node) for node in herd.nodes]
        return not any(each["problems"] or (has_feed and each["feed"]["backlog"]) for each in overviews)

    await until(quiet)
    for node in herd.nodes:
        overview = await herd.overview(node)
        feed = overview["feed"]
        report.check(
            not overview["problems"] and (feed is None) != has_feed and not (feed and feed["backlog"]),
            f"{node} reports {overview['problems'] or 'no problems'}; its feed: {feed}",
        )
        repaired = overview["counters"]["repaired"]
        report.note(f"{node} recovered {repaired} records by comparing digests")


def check_growth(report, nodes, samples, disk_bound):
    """Compares the last third of the samples with the second third: the first is warm-up."""
    if len(samples) < LEAST_SAMPLES:
        report.note(f"too short to judge growth: {len(samples)} samples")
        return
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[-third:]
    slower = 1.3 if len(samples) >= LONG_RUN else 2

    def compare(who, text, value, factor, slack, unit, scale):
        before, after = (statistics.median(value(sample) for sample in part) for part in (middle, last))
        report.check(
            after <= before * factor + slack,
            f"{who}: {text} {before / scale:.2f}{unit}, later {after / scale:.2f}{unit}",
        )

    for node in nodes:
        memory = ("memory", lambda sample: sample[node].memory, 1.05, 4 << 20, " MiB", 1 << 20)
        compare(node, *memory)
        compare(node, "descriptors", lambda sample: sample[node].descriptors, 1, 2, "", 1)
        cpu = ("CPU per update", lambda sample: sample[node].cpu_per_update, slower, 0, " µs", 1e-6)
        compare(node, *cpu)
        most = max(sample[node].disk for sample in samples)
        bound = disk_bound(samples[-1][node].live_bytes)
        report.check(
            most <= bound,
            f"{node}: storage at most {most / 2**20:.1f} MiB, of {bound / 2**20:.1f} MiB allowed",
        )
        most, bound = max(sample[node].log for sample in samples), LOG_BYTES * (LOG_KEEP + 1)
        report.check(
            most <= bound,
            f"{node}: log at most {most / 2**20:.1f} MiB, of {bound / 2**20:.1f} MiB allowed",
        )
    delay = ("median reply to a batch", lambda sample: sample[nodes[0]].delay, slower, 0.002, " ms", 1e-3)
    compare("all nodes", *delay)
