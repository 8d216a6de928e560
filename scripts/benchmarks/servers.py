"""Starts and stops servers and measures them with herd-bench."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from processes import accepts, cpu_seconds, free_ports

RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SERVER_CORE, CLIENT_CORE = "0", "1"
PATIENCE = 20  # seconds allowed for a server to start or stop

# Names of the servers in tables.
ECHO, MEMCACHED, SET, GEO = "echo (floor)", "memcached `set`", "Redis `SET`", "Redis `GEOADD`"
NODE, NODE_LOGGED = "proxy-herd, log off", "proxy-herd, log on"

FIVE = {
    "Bailey": ["Bona", "Campbell"],
    "Bona": ["Campbell", "Clark"],
    "Campbell": ["Jaquez"],
    "Clark": ["Jaquez"],
    "Jaquez": [],
}


@dataclass
class Effort:
    """Size of a benchmark run."""

    rounds: int
    seconds: float
    warmup: float
    clients: int
    many_clients: int
    many_connections: int
    phones: int  # idle connections of each kind, each a descriptor of two processes
    wrong_tokens: int


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    port: int
    target: list  # arguments that select the server in herd-bench

    @property
    def pid(self):
        return self.process.pid

    def resident_kib(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")


def say(what):
    print(f"bench: {what}", file=sys.stderr, flush=True)


def installed(program):
    return shutil.which(program) is not None


@contextlib.contextmanager
def running(command, port, target, core=SERVER_CORE):
    """Runs a server on `core`, or on any core if that is None, and stops it at the end."""
    pinned = ["taskset", "-c", core] if core else []
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*pinned, *map(str, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            cwd=tempfile.gettempdir(),
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(f"{command[0]} does not start: {output.read().decode()}")
                time.sleep(0.01)  # polling interval
            yield Server(process, port, target)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def herd(neighbors, level="WARNING", extra="", core=SERVER_CORE):
    """Runs nodes with the given neighbors. Yields the servers by name."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as nodes:
        ports = dict(zip(neighbors, free_ports(len(neighbors))))
        config = Path(folder) / "config.yml"
        config.write_text(
            f"ports: {json.dumps(ports)}\nneighbors: {json.dumps(neighbors)}\n"
            f"logging: {{level: {level}, directory: {folder}/logs}}\n{extra}\n"
        )
        yield {
            name: nodes.enter_context(running(
                [RELEASE / "proxy-herd", "-c", config, name], port, ["-c", config, name], core
            ))
            for name, port in ports.items()
        }


@contextlib.contextmanager
def solo(level="WARNING", extra=""):
    with herd({"Solo": []}, level, extra) as nodes:
        yield nodes["Solo"]


@contextlib.contextmanager
def comparable(command, name="Solo"):
    """Runs another server of the herd's protocol; `{port}` in its command is replaced."""
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yml"
        config.write_text(f"ports: {{{name}: {port}}}\n")
        command = [str(word).format(port=port) for word in command]
        with running(command, port, ["-c", config, name]) as server:
            yield server


@contextlib.contextmanager
def other(command, protocol, core=SERVER_CORE):
    """Runs a server of another protocol; `{port}` in its command is replaced."""
    [port] = free_ports(1)
    command = [str(word).format(port=port) for word in command]
    with running(command, port, ["--protocol", protocol, f"127.0.0.1:{port}"], core) as server:
        yield server


REDIS = ["redis-server", "--port", "{port}", "--save", "", "--appendonly", "no",
         "--maxclients", "20000"]


def echo():
    return other([RELEASE / "examples/echo_server", "127.0.0.1:{port}"], "echo")


def memcached():
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = ["memcached", "-p", "{port}", "-t", "1", "-m", "2048", "-c", "20000", *user]
    return other(command, "memcached")


def redis(protocol):
    return other(REDIS, protocol)


def drive(target, *arguments, core=CLIENT_CORE, busy_poll=True):
    """Runs herd-bench and returns its report. A run with errors raises an exception.

    On a dedicated core the generator never sleeps. Otherwise the server would have to wake it with
    an inter-processor interrupt, which counts as the server's CPU time. How often it sleeps depends
    on the speed of the server, so the comparison would be biased. Without `busy_poll`, it leaves time to
    another server on its core."""
    pinned = ["taskset", "-c", core] if core else []
    polling = ["--busy-poll"] if core and busy_poll else []
    command = [*pinned, RELEASE / "herd-bench", *target, "--json", "--timeout", "10", *polling, *arguments]
    completed = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if completed.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {completed.stderr}{completed.stdout[:2000]}")
    return json.loads(completed.stdout)


def medians(rounds):
    """Returns the median of each figure over the rounds; figures missing in a round are omitted."""
    keys = [key for key in rounds[0] if all(each.get(key) is not None for each in rounds)]
    return {key: statistics.median(each[key] for each in rounds) for key in keys}


def table(header, rows):
    """Formats a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
