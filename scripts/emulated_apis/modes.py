"""How the emulator behaves: well, or with an ordered fault."""

from __future__ import annotations

import threading
from typing import Mapping, NamedTuple, Tuple

MODES = {
    "ok": "answers",
    "hold": "answers once another mode is ordered",
    "stall": "reads the request and answers nothing",
    "stall-head": "stops in the middle of the response's head",
    "stall-body": "stops in the middle of the body",
    "reset": "resets the connection instead of an answer",
    "reset-body": "resets the connection in the middle of the body",
    "truncate": "ends the connection in the middle of the body, without close_notify",
    "close": "answers, says Connection: close, and closes",
    "drop": "answers and closes without having said so: the client's pooled connection is stale",
    "not-json": "answers 200 with a page of HTML",
    "fail-400": "refuses the key (Overpass: the query)",
    "fail-403": "the API is not enabled for the key's project",
    "fail-429": "the quota is used up",
    "fail-500": "an internal error (Overpass: a query that ran out of time, with status 200)",
    "fail-503": "unavailable",
    "fail-504": "too late",
}
MAX_LATENCY_MS = 60_000
FRAMINGS = ("chunked", "length", "close")


class Mode(NamedTuple):
    """How requests are treated. `framing`: how a body's end is told (RFC 9112, section 6).
    `change`: how often a mode had been ordered when a request took this one."""

    mode: str
    latency_ms: int
    framing: str
    change: int = 0


class Switch:
    """The mode in force, changed by the control address while requests are under way."""

    def __init__(self, usual: Mode) -> None:
        self.usual = usual
        self.current, self.remaining = usual, 0
        self.changes = 0
        self.lock = threading.Lock()

    def set(self, mode: Mode, requests: int) -> None:
        with self.lock:
            self.changes += 1  # lets the stalled requests go
            self.current, self.remaining = mode, requests

    def take(self) -> Mode:
        """The mode of the next request."""
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
    """The mode that is ordered, and for how many requests; what is not named is as usual.

    Raises ValueError with what is wrong and what would be right.
    """
    known = ("mode", "latency_ms", "framing", "requests")
    unknown = set(words) - set(known)
    if unknown:
        raise ValueError(f"no {', '.join(sorted(unknown))} here; there are {', '.join(known)}")
    mode = words.get("mode", usual.mode)
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    framing = words.get("framing", usual.framing)
    if framing not in FRAMINGS:
        raise ValueError(f"no framing {framing!r}; there are {', '.join(FRAMINGS)}")
    latency = natural("latency_ms", words.get("latency_ms", str(usual.latency_ms)), MAX_LATENCY_MS)
    requests = natural("requests", words.get("requests", "0"), 1_000_000)
    return Mode(mode, latency, framing), requests


def natural(name: str, text: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise ValueError(f"{name} {text!r} is no whole number up to {most}")
    return int(text)
