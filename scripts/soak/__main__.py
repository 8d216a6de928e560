"""Entry point of scripts/soak.sh: runs the load, then the checks, and prints a report."""

import asyncio
import math
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from checks import (
    Report,
    check_growth,
    check_ledgers,
    check_problems,
    check_records,
    check_subscribers,
    until,
)
from herd import Herd
from load import Load
from witnesses import Redis, Witnesses

SAMPLE_SECONDS = 5
AFTERWARDS_SECONDS = 3  # of load after the restarts


async def run(minutes):
    report = Report()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        herd = Herd(Path(folder), has_feed=Redis.is_installed())
        witnesses = Witnesses(herd)
        watch = None
        try:
            if witnesses.redis is not None:
                await witnesses.redis.start()
            await herd.start()
            load = Load(herd, witnesses)
            watch = asyncio.create_task(witnesses.watch())
            await under_load(report, herd, load, witnesses, minutes * 60)
            await herd.stop(signal.SIGTERM)
            await herd.start()
            await check_records(report, herd, load, "after a restart")
            await herd.stop(signal.SIGKILL)
            await herd.start()
            await check_records(report, herd, load, "after kill -9")
            witnesses.events = {}  # no subscriber is left
            await load.run(AFTERWARDS_SECONDS)
            await check_records(report, herd, load, "after more load")
            await check_ledgers(report, witnesses, "after more load")
            await check_problems(report, herd, witnesses.redis is not None)
            if watch.done():
                watch.result()
        finally:
            if watch is not None:
                watch.cancel()
            await herd.stop(signal.SIGKILL)
            if witnesses.redis is not None:
                await witnesses.redis.kill()
    return report


async def under_load(report, herd, load, witnesses, seconds):
    """Runs the load with subscribers, and checks everything afterwards. Redis crashes in the middle."""
    readers = [asyncio.create_task(reader.run()) for reader in witnesses.subscribers]

    async def ready():
        return all(reader.ready.is_set() for reader in witnesses.subscribers)

    report.check(await until(ready), f"{len(readers)} subscribers of /events are connected")
    crash = asyncio.create_task(crash_redis(witnesses.redis, seconds / 2))
    samples = await sample_until_end(herd, load, asyncio.create_task(load.run(seconds)))
    await crash
    clients = len(load.acknowledged)
    report.note(f"{load.count} updates of {clients} clients were acknowledged in {seconds:.0f} s")
    await check_records(report, herd, load, "after the load")
    await check_subscribers(report, witnesses, load)
    await check_ledgers(report, witnesses, "after the load")
    await check_problems(report, herd, witnesses.redis is not None)
    check_growth(report, herd.nodes, samples, herd.disk_bound)
    usage = os.times()
    report.note(f"this program and its clients used {usage.user + usage.system:.0f} s of processor time")
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def sample_until_end(herd, load, task):
    """Measures the nodes at intervals while a load runs."""
    samples = []
    before = herd.measure(load)
    while not task.done():
        await asyncio.wait([task], timeout=SAMPLE_SECONDS)
        if not task.done():
            after = herd.measure(load)
            delay = statistics.median(load.delays) if load.delays else math.inf
            load.delays.clear()
            samples.append(herd.sample(before, after, delay))
            before = after
    await task
    return samples


async def crash_redis(redis, seconds):
    """Kills Redis after a time and starts it again."""
    await asyncio.sleep(seconds)
    if redis is not None:
        await redis.kill()
        await redis.start()


def main():
    minutes = float(sys.argv[1])
    assert math.isfinite(minutes)
    # An interrupt stops the nodes and removes their files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: terminated"))
    if not Redis.is_installed():
        print("NOT TESTED: the feed (apt-get install redis-server)", flush=True)
    try:
        report = asyncio.run(run(minutes))
    except KeyboardInterrupt:
        sys.exit("soak: interrupted")
    sys.exit(1 if report.failed else 0)


main()
