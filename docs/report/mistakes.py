#!/usr/bin/env python3
"""Makes the same mistake in servers written in three languages and reports when it is detected: by the
check of the language itself (cargo check, py_compile, node --check), by herd-bench under load, or not.

These mistakes are not mutants of tests/mutants: those are patches of the node that a Rust test must
catch, whereas these compare what the languages detect, in servers that are not part of the node.

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

# For each mistake, the text to replace and its replacement, in the server of each language.
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
    """Copies the servers to `folder` with one mistake. Returns the file with the mistake."""
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    text = (folder / file).read_text()
    file = folder / file
    if old not in text:
        raise SystemExit(f"{file.name} no longer contains {old!r}; update this script")
    file.write_text(text.replace(old, new, 1))
    return file


def check_errors(file):
    """Returns the errors that the check of the language reports, or an empty string."""
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
    """Returns whether herd-bench finds no error in the replies."""
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
    # The servers must be correct without mistakes.
    for file in ("thread_server.rs", "node_server.js", "protocol.py", "thread_server.py"):
        with tempfile.TemporaryDirectory() as folder:
            path = changed(Path(folder), file, "", "")
            if check_errors(path) or not (file.endswith(".rs") or serves(path)):
                raise SystemExit(f"{file} fails without any mistake")
    print("| mistake | Rust | Python | Node.js |\n| --- | --- | --- | --- |")
    for mistake, by_file in MISTAKES.items():
        found = {}
        for file, (old, new) in by_file.items():
            with tempfile.TemporaryDirectory() as folder:
                path = changed(Path(folder), file, old, new)
                if errors := check_errors(path):
                    when = f"by the check ({errors})"
                elif file.endswith(".rs"):
                    when = "not by the check"
                else:
                    when = "not detected" if serves(path) else "under load"
                found[path.suffix] = when
        cells = (found.get(suffix, "not possible") for suffix in (".rs", ".py", ".js"))
        print(f"| {mistake} | {' | '.join(cells)} |", flush=True)


main()
