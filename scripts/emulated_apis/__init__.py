"""The emulated web services: from a request to a response, without a socket.

`places` is what there is to find; `google_new`, `google_legacy` and `overpass` are functions that
answer as those services do; `modes` and `stats` are how a test orders their faults and counts.
"""

from __future__ import annotations

import json
from typing import Mapping, NamedTuple, Tuple


class Request(NamedTuple):
    """A parsed HTTP request. Header names are lower case; of a repeated parameter the first counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Response(NamedTuple):
    """What to answer. `headers` come in addition to the ones every response has."""

    status: int
    content_type: str
    body: bytes
    headers: Tuple[Tuple[str, str], ...] = ()


def as_json(document: dict, colon: str = ": ") -> str:
    """A document with line breaks and raw UTF-8, as the services write it, but not indented: Python's
    indenting encoder takes ten times as long, which would tell on what is measured behind it."""
    return json.dumps(document, separators=(",\n ", colon), ensure_ascii=False) + "\n"
