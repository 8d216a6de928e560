"""The modes of the emulator: normal operation, or an injected fault."""

from __future__ import annotations

import threading
from typing import Mapping, NamedTuple, Tuple

MODES = {
    "ok": "responds normally",
    "hold": "responds once the mode changes",
    "stall": "reads the request and sends nothing",
    "stall-head": "stalls in the middle of the head",
    "stall-body": "stalls in the middle of the body",
    "reset": "resets the connection instead of responding",
    "reset-body": "resets the connection in the middle of the body",
    "truncate": "closes the connection in the middle of the body, without a close_notify",
    "close": "responds with Connection: close, and closes",
    "drop": "responds and closes without notice, so that a pooled connection becomes stale",
    "not-json": "responds with status 200 and an HTML page",
    "fail-400": "rejects the key (Overpass: the query)",
    "fail-403": "the API is not enabled for the project of the key",
    "fail-429": "the quota is exhausted",
    "fail-500": "an internal error (Overpass: a query timeout, with status 200)",
    "fail-503": "unavailable",
    "fail-504": "gateway timeout",
}
MAX_LATENCY_MS = 60_000
FRAMINGS = ("chunked", "length", "close")


class Mode(NamedTuple):
    """The treatment of requests. `framing` is the framing of bodies (RFC 9112, section 6), `change` the
    number of mode changes before a request."""

    mode: str
    latency_ms: int
    framing: str
    change: int = 0


class Switch:
    """The current mode, which the control address may change while requests are in flight."""

    def __init__(self, usual: Mode) -> None:
        self.usual = usual
        self.current, self.remaining = usual, 0
        self.changes = 0
        self.lock = threading.Lock()

    def set(self, mode: Mode, requests: int) -> None:
        with self.lock:
            self.changes += 1  # releases stalled requests
            self.current, self.remaining = mode, requests

    def take(self) -> Mode:
        """Returns the mode of the next request."""
        with self.lock:
            taken = self.current._replace(change=self.changes)
            if self.remaining:
                self.remaining -= 1
                if not self.remaining:
                    self.current = self.usual
            return taken

    def describe(self) -> dict:
        with self.lock:
            words = self.current._asdict()
            del words["change"]
            return {**words, "requests": self.remaining}


def parse(words: Mapping[str, str], usual: Mode) -> Tuple[Mode, int]:
    """Parses the requested mode and the number of requests that it applies to. Omitted parameters have
    their `usual` values.

    Raises ValueError with the allowed values.
    """
    known = ("mode", "latency_ms", "framing", "requests")
    unknown = set(words) - set(known)
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; use {', '.join(known)}")
    mode = words.get("mode", usual.mode)
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; use {', '.join(MODES)}")
    framing = words.get("framing", usual.framing)
    if framing not in FRAMINGS:
        raise ValueError(f"unknown framing {framing!r}; use {', '.join(FRAMINGS)}")
    latency = natural("latency_ms", words.get("latency_ms", str(usual.latency_ms)), MAX_LATENCY_MS)
    requests = natural("requests", words.get("requests", "0"), 1_000_000)
    return Mode(mode, latency, framing), requests


def natural(name: str, text: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise ValueError(f"{name} {text!r} is not an integer from 0 to {most}")
    return int(text)
