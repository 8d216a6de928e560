"""The emulated web services, as functions from a request to a response.

`places` contains the places; `google_new`, `google_legacy` and `overpass` emulate the services;
`modes` lets a test inject faults, and `stats` counts requests.
"""

from __future__ import annotations

import json
from typing import Mapping, NamedTuple, Tuple


class Request(NamedTuple):
    """A parsed HTTP request. Header names are in lower case. The first value of a parameter is used."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Response(NamedTuple):
    """A response. `headers` are added to those of every response."""

    status: int
    content_type: str
    body: bytes
    headers: Tuple[Tuple[str, str], ...] = ()


def as_json(document: dict, colon: str = ": ") -> str:
    """Encodes a document with line breaks and raw UTF-8, like the services, but without indentation:
    Python's indenting encoder takes ten times as long, which would distort measurements."""
    return json.dumps(document, separators=(",\n ", colon), ensure_ascii=False) + "\n"
