"""Describes the machine."""

import os
import platform
import subprocess
from datetime import date
from pathlib import Path


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def load():
    """The load average of the last minute. If it is high, wall-clock times are not meaningful."""
    return os.getloadavg()[0]


def describe(load_before):
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )
    kernel = ".".join(platform.release().split(".")[:2])
    versions = [
        output("rustc", "--version"),
        output("redis-server", "--version").partition(" sha")[0],
        output("memcached", "--version"),
        f"Node.js {node}" if (node := output("node", "--version")) else "",
        f"Python {platform.python_version()}",
    ]
    return (
        f"{date.today()}, {cpu}, {os.cpu_count()} cores, Linux {kernel}; "
        f"{', '.join(filter(None, versions))}. Load average before the run: "
        f"{load_before:.1f}.\n"
    )


def commit():
    """The measured version."""
    return output("git", "describe", "--always", "--dirty")
