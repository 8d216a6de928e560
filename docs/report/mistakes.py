#!/usr/bin/env python3
"""Makes the same mistakes in each of the servers and tells when they come to light: in the check
that the language itself brings (cargo check, py_compile, node --check), or when herd-bench drives
the server, or not at all.

Usage: docs/report/mistakes.py        after scripts/bench.sh --report or cargo build --release
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts/benchmarks"))
from servers import RELEASE, comparable, drive  # noqa: E402

# Each mistake: what is replaced by what, in the server of each language.
MISTAKES = {
    "misspelled name on a rarely taken path": {
        "thread_server.rs": ("push_unknown(out, trim(line))", "push_unknown(out, trim(lime))"),
        "protocol.py": ('return b"? " + line', 'return b"? " + lime'),
        "node_server.js": ("return `? ${line}", "return `? ${lime}"),
    },
    "missing case: a client seen for the first time": {
        "thread_server.rs": ("None => drop(records.insert(new.client.to_vec(), new.line.to_vec())),", ""),
        "protocol.py": ("held is None or ", ""),
        "node_server.js": ("held === undefined || ", ""),
    },
    "missing case: a line that is not a valid command": {
        "thread_server.rs": ("Command::Unknown => push_unknown(out, trim(line)),", ""),
        "protocol.py": ('return b"? " + line + b"\\n"', "pass"),
        "node_server.js": ("return `? ${line}\\n`;", ""),
    },
    "confusion of two kinds of number or text": {
        "thread_server.rs": ("5 * SECOND", "5.0 * SECOND"),
        "protocol.py": ('return b"? " + line', 'return "? " + line'),
        "node_server.js": ("DELTA = 5n * SECOND", "DELTA = 5"),
    },
    "missing lock around the records": {
        "thread_server.rs": ("RwLock<HashMap<Vec<u8>, Vec<u8>>>", "HashMap<Vec<u8>, Vec<u8>>"),
        "thread_server.py": ("with lock:", "if True:"),
    },
}

PACKAGE = """
[package]
name = "mistake"
version = "0.0.0"
edition = "2024"
[dependencies]
proxy-herd = {{ path = "{root}" }}
[workspace]
"""


def changed(folder, file, old, new):
    """A copy of the servers with one mistake in it."""
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    text = (folder / file).read_text()
    file = folder / file
    if old not in text:
        raise SystemExit(f"{file.name} does not hold {old!r} any more; correct this script")
    file.write_text(text.replace(old, new, 1))
    return file


def complaint(file):
    """What the language's own check says; nothing if it lets the server pass."""
    if file.suffix == ".rs":
        package = file.parent / "package"
        (package / "src").mkdir(parents=True)
        (package / "Cargo.toml").write_text(PACKAGE.format(root=ROOT))
        shutil.copy(ROOT / "Cargo.lock", package)
        shutil.copy(file, package / "src/main.rs")
        command = ["cargo", "check", "--offline", "--quiet"]
        target = {**os.environ, "CARGO_TARGET_DIR": str(RELEASE.parent)}
        done = subprocess.run(command, cwd=package, env=target, capture_output=True, text=True)
        codes = sorted(set(re.findall(r"^error\[(E[0-9]+)\]", done.stderr, re.MULTILINE)))
        return ", ".join(codes) or done.stderr
    check = ["node", "--check"] if file.suffix == ".js" else [sys.executable, "-m", "py_compile"]
    return subprocess.run([*check, file], capture_output=True, text=True).stderr


def serves(file):
    """Whether herd-bench has nothing to complain of."""
    command = {
        "node_server.js": ["node", file],
        "protocol.py": [sys.executable, file.parent / "asyncio_server.py"],
        "thread_server.py": [sys.executable, file],
    }[file.name]
    try:
        with comparable([*command, "Solo", "127.0.0.1", "{port}"]) as server:
            drive(server.target, "--clients", 100, "--duration", 1)
    except RuntimeError:
        return False
    return True


def main():
    # A mistake tells nothing unless the server is right without it.
    for file in ("thread_server.rs", "node_server.js", "protocol.py", "thread_server.py"):
        with tempfile.TemporaryDirectory() as folder:
            path = changed(Path(folder), file, "", "")
            if complaint(path) or not (file.endswith(".rs") or serves(path)):
                raise SystemExit(f"{file} does not pass as it is")
    print("| mistake | Rust | Python | Node.js |\n| --- | --- | --- | --- |")
    for mistake, by_file in MISTAKES.items():
        found = {}
        for file, (old, new) in by_file.items():
            with tempfile.TemporaryDirectory() as folder:
                path = changed(Path(folder), file, old, new)
                if said := complaint(path):
                    when = f"by the check ({said})"
                elif file.endswith(".rs"):
                    when = "not by the check"
                else:
                    when = "not detected" if serves(path) else "under load"
                found[path.suffix] = when
        cells = (found.get(suffix, "not possible") for suffix in (".rs", ".py", ".js"))
        print(f"| {mistake} | {' | '.join(cells)} |", flush=True)


main()
