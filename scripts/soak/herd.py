"""The herd of the soak test: configuration, processes, requests over HTTP and measurements."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

sys.path.append(str(Path(__file__).resolve().parents[1]))

import fences
from processes import cpu_seconds, free_ports

NAMES = ["Bailey", "Bona", "Campbell", "Clark", "Jaquez"]
EDGES = {
    "Bailey": ["Bona", "Campbell"],
    "Bona": ["Clark", "Campbell"],
    "Campbell": ["Jaquez"],
    "Clark": ["Jaquez"],
}
START_SECONDS = 60  # a start takes milliseconds on a machine that is not loaded
STOP_SECONDS = 20
FRAME_BYTES = 17  # what the log of the storage adds to a line; see docs/storage.md
AT_BYTES = 26  # of an AT line, in addition to the name of its node and what the client sent
LOG_BYTES, LOG_KEEP = 64 << 20, 2  # bounds of the message log, since it grows by a megabyte per second
FEED_BYTES = 16 << 20  # of segments that were delivered a moment ago


@dataclass
class Totals:
    """Cumulated figures of a node at one moment."""

    cpu_seconds: float
    updates: int
    memory: int
    descriptors: int
    disk: int
    log: int
    live_bytes: int


@dataclass
class Sample:
    """Figures of a node over an interval."""

    cpu_per_update: float
    memory: int
    descriptors: int
    disk: int
    log: int
    live_bytes: int
    delay: float  # of the whole load: the median


def size(files):
    """Returns the space that files take on the disk."""
    total = 0
    for file in files:
        try:
            total += file.stat().st_blocks * 512
        except FileNotFoundError:
            pass  # it has just been replaced
    return total


class Herd:
    """Five nodes in a folder of their own."""

    def __init__(self, folder, has_feed):
        self.folder = folder
        self.nodes = NAMES
        self.redis_port, *ports = free_ports(1 + 3 * len(NAMES))
        of_kind = (dict(zip(NAMES, ports[at :])) for at in range(0, len(ports), len(NAMES)))
        self.ports, self.http_ports, self.device_ports = of_kind
        self.processes = {}
        self.config = folder / "herd.yml"
        config = {
            "ports": self.ports,
            "neighbors": EDGES,
            "http": {"ports": self.http_ports},
            "devices": {"ports": self.device_ports, "tokens_file": "tokens"},
            "fences": {"file": "fences.geojson"},
            "logging": {"level": "INFO"},
            "limits": {"log_max_bytes": LOG_BYTES, "log_keep": LOG_KEEP},
            "storage": {"directory": "data", "sync": "interval"},
        }
        if has_feed:
            config["feed"] = {"url": f"redis://127.0.0.1:{self.redis_port}/0", "max_entries": 100_000}
        (folder / "fences.geojson").write_text(fences.geojson())
        tokens = "".join(f"{self.token(node)} {node}.*\n" for node in self.nodes)
        (folder / "tokens").write_text(tokens)
        (folder / "tokens").chmod(0o600)
        self.config.write_text(json.dumps(config))  # JSON is YAML

    def token(self, node):
        """Returns the token with which the devices of a node report."""
        return f"a-token-of-the-soak-test-for-{node}"

    def log_of(self, node):
        return self.folder / "logs" / f"{node}.log"

    async def start(self):
        """Starts all nodes and waits until they are linked."""
        for node in self.nodes:
            with open(self.folder / f"{node}.err", "ab") as errors:
                self.processes[node] = subprocess.Popen(
                    [os.environ["PROXY_HERD"], "-c", self.config, node],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
        deadline = time.monotonic() + START_SECONDS
        for node in self.nodes:
            while not await self.is_linked(node):
                if self.processes[node].poll() is not None or time.monotonic() >= deadline:
                    errors = (self.folder / f"{node}.err").read_text(errors="replace")
                    raise SystemExit(f"soak: {node} does not start: {errors[-2000:]}")
                await asyncio.sleep(0.05)

    async def is_linked(self, node):
        try:
            return all(link["up"] for link in (await self.overview(node))["links"])
        except OSError:
            return False

    async def stop(self, number):
        """Stops all nodes with a signal. A graceful end has status 0."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(number)
        for process in self.processes.values():
            status = await asyncio.to_thread(process.wait, STOP_SECONDS)
            if number == signal.SIGTERM and status != 0:
                raise SystemExit(f"soak: a node ends with status {status} instead of 0")
        self.processes = {}

    async def get(self, node, path):
        """Returns the body of a response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http_ports[node])
        try:
            # HTTP/1.0: the body ends with the connection, without chunks.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise SystemExit(f"soak: {node} answers {path} with {head[:200]!r} {body[:200]!r}")
        return body

    async def overview(self, node):
        return json.loads(await self.get(node, "/api/herd"))

    async def records(self, node):
        """Returns the line of each client that a node holds."""
        held, path = {}, "/api/clients?limit=100000"
        while path is not None:
            page = json.loads(await self.get(node, path))
            for feature in page["features"]:
                held[unquote_to_bytes(feature["id"])] = feature["properties"]["line"].encode()
            path = page["next"]
        return held

    def measure(self, load):
        """Returns the totals of every node."""
        return {node: self.totals(node, load) for node in self.nodes}

    def totals(self, node, load):
        pid = self.processes[node].pid
        process = Path(f"/proc/{pid}")
        return Totals(
            cpu_seconds=cpu_seconds(pid),
            updates=load.count,
            memory=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            descriptors=len(os.listdir(process / "fd")),
            disk=size((self.folder / "data" / node).iterdir()),
            log=size((self.folder / "logs").glob(f"{node}.log*")),
            live_bytes=sum(
                len(server) + len(update.client) + len(update.location) + len(update.time)
                for server, update in load.acknowledged.values()
            )
            + len(load.acknowledged) * (AT_BYTES + FRAME_BYTES),
        )

    def sample(self, before, after, delay):
        """Returns the figures of every node for the time between two measurements."""
        return {
            node: Sample(
                cpu_per_update=(after[node].cpu_seconds - before[node].cpu_seconds)
                / max(after[node].updates - before[node].updates, 1),
                memory=after[node].memory,
                descriptors=after[node].descriptors,
                disk=after[node].disk,
                log=after[node].log,
                live_bytes=after[node].live_bytes,
                delay=delay,
            )
            for node in self.nodes
        }

    def disk_bound(self, live_bytes):
        """The bound that docs/storage.md states, and what the feed keeps."""
        return 3 * live_bytes + (64 << 20) + FEED_BYTES
