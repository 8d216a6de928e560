#!/usr/bin/env python3
"""Runs the recipes of docs/feed.md as they stand there: the webhook, and the history in PostGIS.

Usage: tests/feed_recipes.py [BINARY]

BINARY defaults to target/release/proxy-herd. Only ports and the address of the database are replaced. The
history needs Debian's redis-server, postgresql-NN-postgis-3, python3-psycopg and python3-redis, whose
servers run in a temporary folder; without them, the exit status is 3 and the missing one is named.
"""

import contextlib
import datetime
import glob
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

from processes import PATIENCE, accepts, eventually, free_ports

DAY = 86_400
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Missing(Exception):
    """A package that is not installed."""


def recipe(language, part):
    """The one block of docs/feed.md in this language that contains `part`."""
    blocks = BLOCK.findall((ROOT / "docs/feed.md").read_text())
    [found] = [text for name, text in blocks if name == language and part in text]
    return found


def replaced(text, old, new):
    assert old in text, f"{old} is not in the recipe"
    return text.replace(old, new)


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def node(binary, folder, sections):
    """Runs the node Bailey. Yields a function that sends lines to it."""
    [port] = free_ports(1)
    (folder / "config.yml").write_text(f"ports: {{Bailey: {port}}}\n{sections}")
    with running([binary, "-c", "config.yml", "Bailey"], cwd=folder):
        eventually("the node listens", lambda: accepts(port))

        def send(*lines):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
                replies = stream.makefile("rb")
                for line in lines:
                    stream.sendall(line.encode() + b"\n")
                    assert replies.readline().startswith(b"AT Bailey "), line

        yield send


def webhook(binary, folder):
    [port], now = free_ports(1), time.time()
    code = replaced(recipe("python", "BaseHTTPRequestHandler"), "8080", str(port))
    sections = replaced(recipe("yaml", "entries: fences"), "8080", str(port))
    (folder / "fences.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"name": "depot", "radius": 500},
         "geometry": {"type": "Point", "coordinates": [2.5, 48.5]}}]}))
    with (folder / "out").open("w") as output:
        with running([sys.executable, "-c", code], stdout=output, stderr=subprocess.DEVNULL):
            eventually("the webhook listens", lambda: accepts(port))
            with node(binary, folder, sections) as send:
                send(*(f"IAMAT van-7 {place} {now + step:.3f}" for step, place in
                       enumerate(("+48.6+2.5", "+48.5+2.5", "+48.5001+2.5", "+48.7+2.5"))))
                expected = ["enter van-7 depot", "leave van-7 depot"]
                read = (folder / "out").read_text
                eventually("two calls", lambda: len(read().splitlines()) >= len(expected))
                assert read().splitlines() == expected, read()


def tools():
    """The programs that the history needs."""
    if not shutil.which("redis-server"):
        raise Missing("redis-server")
    servers = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    extensions = glob.glob("/usr/share/postgresql/*/extension/postgis.control")
    folder = next((it for it in servers if any(f"/{it.split('/')[4]}/" in other for other in extensions)), None)
    if folder is None:
        raise Missing("postgresql-NN-postgis-3")
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import psycopg, redis"], capture_output=True).returncode == 0:
            return Path(folder), python
    raise Missing("python3-psycopg or python3-redis")


@contextlib.contextmanager
def postgres(bin_folder, folder):
    """Runs PostgreSQL, which refuses to run as root. Yields the environment of clients."""
    data = folder / "postgres"
    data.mkdir()
    user = []
    name = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        name, user = "postgres", ["runuser", "-u", "postgres", "--"]
        shutil.chown(data, name)
        folder.chmod(0o755)
    make = [*user, bin_folder / "initdb", "-D", data, "-A", "trust", "-U", name, "--no-sync"]
    subprocess.run(list(map(str, make)), check=True, capture_output=True, cwd="/")
    [port] = free_ports(1)
    options = ["-p", port, "-k", data, "-c", "listen_addresses=", "-c", "fsync=off"]
    environment = {**os.environ, "PGHOST": str(data), "PGPORT": str(port), "PGUSER": name, "PGTZ": "UTC"}
    # A process of its own, so that the server is the one that is ended.
    with running([*user, bin_folder / "postgres", "-D", data, *options], cwd="/", stderr=subprocess.DEVNULL):
        create = ["createdb", "herd"]
        eventually("PostgreSQL answers", lambda: subprocess.run(
            create, env=environment, capture_output=True).returncode == 0)
        try:
            yield environment
        finally:
            stop = [*user, bin_folder / "pg_ctl", "stop", "-D", data, "-m", "immediate"]
            subprocess.run(list(map(str, stop)), capture_output=True, cwd="/")


def history(binary, folder):
    bin_folder, python = tools()
    [port] = free_ports(1)
    sections = replaced(recipe("yaml", "redis://127.0.0.1"), "6379", str(port))
    consumer = replaced(recipe("python", "xreadgroup"), "redis.Redis()", f"redis.Redis(port={port})")
    question = recipe("sql", "current_date")
    noon = datetime.datetime.combine(today(), datetime.time(12), datetime.UTC).timestamp()
    updates = [(noon - 2 * DAY, "+48.0+2.0"), (noon - DAY, "+48.1+2.1"), (noon - DAY + 60, "+48.2+2.2"),
               (time.time(), "+48.3+2.3")]
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(postgres(bin_folder, folder))
        redis = ["redis-server", "--port", port, "--save", "", "--dir", folder]
        stack.enter_context(running(redis, stdout=subprocess.DEVNULL))
        send = stack.enter_context(node(binary, folder, sections))

        def ask(sql):
            command = ["psql", "-At", "-F", " ", "-d", "herd", "-c", sql]
            found = subprocess.run(command, env=environment, capture_output=True, text=True)
            return found.stdout.splitlines()

        for at, place in updates:
            send(f"IAMAT van-7 {place} {at:.3f}", f"IAMAT other {place} {at:.3f}")
        for attempt in (1, 2):  # a consumer that is killed and gets everything again repeats nothing
            with running([python, "-c", consumer], env=environment):
                count = 2 * len(updates) * attempt
                eventually(f"{count} rows", lambda: ask("SELECT count(*) FROM history") == [str(count)])
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
                stream.sendall(b"XGROUP SETID herd:Bailey history 0\r\n")
                assert stream.recv(100) == b"+OK\r\n"
            for at, place in updates:
                send(f"IAMAT van-8 {place} {at:.3f}", f"IAMAT van-9 {place} {at:.3f}")
        day = None
        while day != today():  # the answer is that of one day, even if it is midnight
            day, rows = today(), [row.rsplit(" ", 2)[1:] for row in ask(question)]
        expected = [re.findall(r"[0-9.]+", place) for at, place in updates if date(at) == day - datetime.timedelta(1)]
        assert rows == expected, rows


def date(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()


def today():
    return date(time.time())


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/proxy-herd").resolve()
    for run in (webhook, history):
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(binary, Path(folder))
            except Missing as package:
                print(f"recipes: {run.__name__}: {package} is missing")
                sys.exit(3)
        print(f"recipes: {run.__name__}: ok")


main()
