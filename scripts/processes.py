"""Ports, figures and conditions of the processes that a test or a benchmark starts."""

import contextlib
import itertools
import os
import socket
import sys
import time
from pathlib import Path

PATIENCE = 60  # seconds until something must have happened

NEXT_PORT = itertools.count(os.getpid() * 37)


def free_ports(count):
    """Unused ports below the ephemeral range. A client that polls an ephemeral port for a server
    that has not started yet may connect to itself (TCP simultaneous open)."""
    ports = []
    while len(ports) < count:
        port = 12_000 + next(NEXT_PORT) % 20_000
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def eventually(what, check):
    """Polls `check` until it returns something true, which is returned. Exits if that takes too long."""
    end = time.monotonic() + PATIENCE
    while not (result := check()):
        if time.monotonic() > end:
            sys.exit(f"not within {PATIENCE} s: {what}")
        time.sleep(0.05)  # polling interval
    return result


def cpu_seconds(pid):
    """CPU time of all threads of a process. The sum in `/proc/PID/stat` is too coarse for a short time."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
