"""Statistics of the requests to the emulator."""

from __future__ import annotations

import collections
import threading
from typing import Dict, Optional

RECENT = 64  # requests that are listed individually


class Stats:
    """Counters for assertions in tests. `reset` clears everything except the gauges `open` and
    `in_flight`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = 0
        self.in_flight: Dict[str, int] = collections.Counter()
        self.reset()

    def reset(self) -> None:
        with self.lock:
            self.counts: Dict[str, int] = collections.Counter()
            self.by: Dict[str, Dict[str, int]] = collections.defaultdict(collections.Counter)
            self.max_open = self.open
            self.max_in_flight: Dict[str, int] = collections.Counter(self.in_flight)
            self.questions: set = set()
            self.recent: collections.deque = collections.deque(maxlen=RECENT)

    def count(self, name: str, by: Optional[str] = None) -> None:
        with self.lock:
            if by is None:
                self.counts[name] += 1
            else:
                self.by[name][by] += 1

    def opened(self) -> None:
        with self.lock:
            self.counts["accepted"] += 1
            self.open += 1
            self.max_open = max(self.max_open, self.open)

    def closed(self) -> None:
        with self.lock:
            self.open -= 1

    def began(self, api: str, question: int, entry: dict) -> None:
        with self.lock:
            for gauge in (api, "total"):
                self.in_flight[gauge] += 1
                self.max_in_flight[gauge] = max(self.max_in_flight[gauge], self.in_flight[gauge])
            self.by["requests"][api] += 1
            self.counts["requests"] += 1
            if entry["nth_on_connection"] > 1:
                self.counts["on_reused_connection"] += 1
            self.questions.add(question)
            self.recent.append(entry)

    def ended(self, api: str, status: str) -> None:
        with self.lock:
            self.in_flight[api] -= 1
            self.in_flight["total"] -= 1
            self.by["status"][status] += 1

    def snapshot(self) -> dict:
        with self.lock:
            counts = self.counts
            return {
                "connections": {
                    "accepted": counts["accepted"],
                    "refused": counts["refused"],
                    "open": self.open,
                    "max_open": self.max_open,
                },
                "tls": {
                    "handshakes": counts["handshakes"],
                    "resumed": counts["resumed"],
                    "failed": counts["failed_handshakes"],
                    "versions": dict(self.by["versions"]),
                    "server_names": dict(self.by["server_names"]),
                },
                "requests": {
                    "total": counts["requests"],
                    "distinct": len(self.questions),
                    "on_reused_connection": counts["on_reused_connection"],
                    "client_gone": counts["client_gone"],
                    "by_api": dict(self.by["requests"]),
                    "by_status": dict(self.by["status"]),
                    "by_mode": dict(self.by["modes"]),
                    "by_sku": dict(self.by["skus"]),
                    "in_flight": {k: v for k, v in self.in_flight.items() if v},
                    "max_in_flight": dict(self.max_in_flight),
                },
                "recent": list(self.recent),
            }
