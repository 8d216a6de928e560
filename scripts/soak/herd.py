"""The herd of the soak test: configuration, processes, requests over HTTP and measurements."""

import asyncio
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

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


@dataclass
class Totals:
    """Cumulated figures of a node at one moment."""

    cpu_seconds: float
    updates: int
    memory: int
    descriptors: int
    disk: int
    live_bytes: int


@dataclass
class Sample:
    """Figures of a node over an interval."""

    cpu_per_update: float
    memory: int
    descriptors: int
    disk: int
    live_bytes: int


def free_ports(count):
    """Returns ports that are free at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


class Herd:
    """Five nodes in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.nodes = NAMES
        ports = free_ports(2 * len(NAMES))
        self.ports = dict(zip(NAMES, ports))
        self.http_ports = dict(zip(NAMES, ports[len(NAMES) :]))
        self.processes = {}
        self.config = folder / "herd.yml"
        config = {
            "ports": self.ports,
            "neighbors": EDGES,
            "http": {"ports": self.http_ports},
            "logging": {"level": "INFO"},
            "storage": {"directory": "data", "sync": "interval"},
        }
        self.config.write_text(json.dumps(config))  # JSON is YAML

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
        """Stops all nodes with a signal."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(number)
        for process in self.processes.values():
            await asyncio.to_thread(process.wait, STOP_SECONDS)
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
        threads = (process / "task").iterdir()
        disk = 0
        for file in (self.folder / "data" / node).iterdir():
            try:
                disk += file.stat().st_blocks * 512
            except FileNotFoundError:
                pass  # a compaction has just ended
        return Totals(
            # In nanoseconds, while the times in `stat` count hundredths of a second.
            cpu_seconds=sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9,
            updates=load.count,
            memory=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            descriptors=len(os.listdir(process / "fd")),
            disk=disk,
            live_bytes=sum(len(line) + FRAME_BYTES for line in load.acknowledged.values()),
        )

    def sample(self, before, after):
        """Returns the figures of every node for the time between two measurements."""
        return {
            node: Sample(
                cpu_per_update=(after[node].cpu_seconds - before[node].cpu_seconds)
                / max(after[node].updates - before[node].updates, 1),
                memory=after[node].memory,
                descriptors=after[node].descriptors,
                disk=after[node].disk,
                live_bytes=after[node].live_bytes,
            )
            for node in self.nodes
        }

    def disk_bound(self, live_bytes):
        """The bound that docs/storage.md states."""
        return 3 * live_bytes + (64 << 20)
