"""Emulates Overpass, OpenStreetMap's query service, as far as a search around a point requires.

  language   https://wiki.openstreetmap.org/wiki/Overpass_API/Overpass_QL
  JSON       https://dev.overpass-api.de/output_formats.html
  use rules  https://dev.overpass-api.de/overpass-doc/en/preface/commons.html
             https://github.com/drolbr/Overpass-API/issues/791 (a distinctive User-Agent, or 406;
             no parallel requests; after a 429 a pause of at least 30 s)
  errors     https://github.com/drolbr/Overpass-API/issues/447 (429), .../issues/94 (errors in a 200)

It supports settings, `node`, `way`, `relation`, `nw`, `nr`, `wr` and `nwr` with any number of
`(around:R,lat,lon)` and tag filters, unions in parentheses, `if(count(nodes)<N){…}` and similar
conditions, and `out` with its verbosity, geometry, order and limit. Anything else gets the parse
error of the real service. Like there, elements are ordered by type and id, not by distance, and a way
or a relation has no position without `center`.
"""

from __future__ import annotations

import re
import urllib.parse
from html import escape
from typing import Callable, List, NamedTuple, Set

from . import Request, Response, as_json
from .places import Gazetteer, Place, distance_m

INTERPRETER_PATH = "/api/interpreter"
STATUS_PATH = "/api/status"
STOCK_AGENTS = re.compile(
    r"^(curl|wget|python|java|go-http-client|okhttp|mozilla)\b", re.IGNORECASE
)
VERBOSITIES = ("ids", "skel", "body", "tags", "meta")
GEOMETRIES = ("center", "geom", "bb")
TYPES = ("node", "way", "relation")
# The types that a query statement selects, or a count counts.
SELECTED = {
    "nodes": {"node"}, "ways": {"way"}, "relations": {"relation"}, "nw": {"node", "way"},
    "nr": {"node", "relation"}, "wr": {"way", "relation"}, "nwr": set(TYPES),
}  # fmt: skip
MAX_QUERY = 16_384  # bytes; a search around a point takes less than one kilobyte


class QueryError(Exception):
    """A query that the service cannot parse."""


class Element(NamedTuple):
    """An element of a result set, which contains it at most once."""

    place: Place
    kind: str


class Out(NamedTuple):
    verbosity: str
    geometry: str
    limit: int


def interpret(request: Request, gazetteer: Gazetteer) -> Response:
    """Responds to /api/interpreter. The query is the parameter `data` of the URL or of a form, or the
    entire body."""
    agent = request.headers.get("user-agent", "")
    if not agent or STOCK_AGENTS.match(agent):
        return page(406, "Set a User-Agent that identifies you and contains a way to contact you.")
    query = request.query.get("data")
    if query is None:
        body = request.body.decode("utf-8", "replace")
        form = urllib.parse.parse_qs(body, keep_blank_values=True)
        query = form["data"][0] if "data" in form else body
    try:
        if len(query) > MAX_QUERY:
            raise QueryError("query is too long")
        return Query(query, gazetteer).answer()
    except QueryError as error:
        return page(400, f"line 1: parse error: {error}")


class Query:
    """One query, which is parsed and executed statement by statement, like in the real service."""

    def __init__(self, text: str, gazetteer: Gazetteer) -> None:
        self.text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
        self.at = 0
        self.gazetteer = gazetteer
        self.json = False

    def answer(self) -> Response:
        self.settings()
        result: Set[Element] = set()
        elements: List[dict] = []
        if self.ended():
            raise QueryError("An empty query is not allowed")
        while not self.ended():
            result = self.statement(result, elements)
            self.expect(";")
        return as_document(elements) if self.json else as_xml()

    def settings(self) -> None:
        start = self.at
        while self.accept(r"\["):
            name = self.expect_pattern(r"[a-z]+", "setting")
            self.expect(":")
            value = self.expect_pattern(r'"[^"]*"|[^\]]+', "value")
            self.expect("]")
            if name == "out":
                self.json = value.strip() == "json"
            elif name not in ("timeout", "maxsize", "bbox", "date"):
                raise QueryError(f'Unknown setting "{name}"')
        if self.at > start:
            self.expect(";")

    def statement(self, before: Set[Element], printed: List[dict]) -> Set[Element]:
        """Executes a statement. Returns the default set after it, given the set `before`. Appends the
        output of the statement to `printed`."""
        if self.accept(r"out\b"):
            out = self.out()
            kept = sorted(before, key=lambda it: (TYPES.index(it.kind), it.place.number))
            printed += [as_dict(element, out) for element in kept[: out.limit]]
            return before
        if self.accept(r"\("):
            union: Set[Element] = set()
            while not self.accept(r"\)"):
                union |= self.statement(before, printed)
                self.expect(";")
            return union
        if self.accept(r"if\s*\("):
            return self.condition(before, printed)
        kind = self.expect_pattern(r"[a-z]+", "statement")
        kinds = SELECTED.get({"rel": "relations", **{it: f"{it}s" for it in TYPES}}.get(kind, kind))
        if kinds is None or kind in ("nodes", "ways", "relations"):
            raise QueryError(f'Unknown type "{kind}"')
        return self.query(kinds)

    def condition(self, before: Set[Element], printed: List[dict]) -> Set[Element]:
        """Executes an `if` after its parenthesis. The statements in braces are always parsed."""
        self.expect_pattern(r"count\s*\(", "count")
        counted = SELECTED.get(self.expect_pattern(r"[a-z]+", "type"))
        if counted is None:
            raise QueryError("count takes nodes, ways, relations, nw, nr, wr or nwr")
        self.expect(")")
        less = self.expect_pattern("[<>]", "'<' or '>'") == "<"
        number = int(self.expect_pattern(r"\d+", "number"))
        self.expect(")")
        self.expect("{")
        count = sum(element.kind in counted for element in before)
        holds = count < number if less else count > number
        after = before
        while not self.accept("}"):
            after = self.statement(after, printed if holds else [])
            self.expect(";")
        return after if holds else before

    def query(self, kinds: Set[str]) -> Set[Element]:
        found: List[Place] = []
        around = False
        tests: List[Callable[[dict], bool]] = []
        while True:
            if self.accept(r"\(\s*around\s*:"):
                radius, lat, lng = self.numbers()
                if not around:
                    found = list(self.gazetteer.within(lat, lng, radius))
                found = [p for p in found if distance_m(lat, lng, p.lat, p.lng) <= radius]
                around = True
            elif self.accept(r"\["):
                tests.append(self.tag_test())
            else:
                break
        if not around:
            raise QueryError("the emulator answers queries with (around:radius,lat,lon) only")
        elements = (Element(place, place.element) for place in found)
        return {
            e for e in elements if e.kind in kinds and all(test(tags(e.place)) for test in tests)
        }

    def numbers(self) -> List[float]:
        text = self.expect_pattern(r"[-+0-9.,\s]+", "numbers")
        self.expect(")")
        try:
            radius, lat, lng = (float(part) for part in text.split(","))
        except ValueError:
            raise QueryError("around takes a radius, a latitude and a longitude") from None
        if radius < 0 or abs(lat) > 90 or abs(lng) > 180:
            raise QueryError("around: value out of range")
        return [radius, lat, lng]

    def tag_test(self) -> Callable[[dict], bool]:
        """Parses a tag filter after its bracket: [k], [!k], [k=v], [k!=v], [k~v], [k!~v], [~k~v]."""
        if self.accept("!"):
            key = self.word()
            self.expect("]")
            return lambda tags: key not in tags
        if self.accept("~"):
            key_pattern = self.pattern(self.word())
            self.expect("~")
            value_pattern = self.pattern(self.word(), self.case())
            return lambda tags: any(key_pattern(k) and value_pattern(v) for k, v in tags.items())
        key = self.word()
        if self.accept(r"\]"):
            return lambda tags: key in tags
        operator = self.expect_pattern(r"!=|!~|=|~", "operator")
        value = self.word()
        if "~" in operator:
            matches = self.pattern(value, self.case())
        else:
            self.expect("]")
            matches = value.__eq__
        negated = operator[0] == "!"
        return lambda tags: (key in tags and matches(tags[key])) != negated

    def case(self) -> int:
        flags = re.IGNORECASE if self.accept(",i") else 0
        self.expect("]")
        return flags

    @staticmethod
    def pattern(text: str, flags: int = 0) -> Callable[[str], bool]:
        try:
            compiled = re.compile(text, flags)
        except re.error as error:
            raise QueryError(f"Invalid regular expression: {error}") from None
        return lambda value: compiled.search(value) is not None

    def word(self) -> str:
        text = self.expect_pattern(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|[\w:]+', "key or value")
        return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] in "\"'" else text

    def out(self) -> Out:
        verbosity, geometry, limit = "body", "", 1 << 31
        while True:
            word = self.accept(r"[a-z]+|\d+")
            if not word:
                return Out(verbosity, geometry, limit)
            if word in VERBOSITIES:
                verbosity = word
            elif word in GEOMETRIES:
                geometry = word
            elif word.isdigit():
                limit = int(word)
            elif word not in ("asc", "qt"):
                raise QueryError(f'Unknown print mode "{word}"')

    def ended(self) -> bool:
        return not self.text[self.at :].strip()

    def accept(self, pattern: str) -> str:
        """Consumes and returns the text that the pattern matches; an empty string if none."""
        match = re.compile(r"\s*(" + pattern + ")").match(self.text, self.at)
        if not match:
            return ""
        self.at = match.end()
        return match[1]

    def expect(self, text: str) -> None:
        self.expect_pattern(re.escape(text), f"'{text}'")

    def expect_pattern(self, pattern: str, what: str) -> str:
        found = self.accept(pattern)
        if not found:
            rest = self.text[self.at :].strip()
            raise QueryError(
                f"{what} expected - '{rest[:1]}' found." if rest else "Unexpected end of input."
            )
        return found


def tags(place: Place) -> dict:
    key, value = place.tag
    street = place.vicinity.partition(",")[0]
    return {key: value, "name": place.name, "addr:street": street, "source": "emulated"}


def as_dict(element: Element, out: Out) -> dict:
    place = element.place
    document: dict = {"type": element.kind, "id": place.number}
    point = {"lat": place.lat, "lon": place.lng}
    if element.kind == "node":
        if out.verbosity in ("skel", "body", "meta") or out.geometry:
            document.update(point)
    else:
        if out.geometry == "center":
            document["center"] = point
        elif out.geometry:
            document["bounds"] = {
                "minlat": place.lat, "minlon": place.lng, "maxlat": place.lat, "maxlon": place.lng,
            }  # fmt: skip
        if out.verbosity in ("skel", "body", "meta") and element.kind == "way":
            document["nodes"] = [place.number + offset for offset in (1, 2, 4, 1)]
        elif out.verbosity in ("skel", "body", "meta"):
            members = [{"type": "way", "ref": place.number + offset} for offset in (1, 2)]
            document["members"] = [{**member, "role": "outer"} for member in members]
    if out.verbosity in ("body", "tags", "meta"):
        document["tags"] = tags(place)
    return document


def as_document(elements: List[dict], remark: str = "") -> Response:
    document = {
        "version": 0.6,
        "generator": "Overpass API (emulated)",
        "osm3s": {
            "timestamp_osm_base": "2026-01-01T00:00:00Z",
            "copyright": "Emulated data, not from www.openstreetmap.org.",
        },
        "elements": elements,
    }
    if remark:
        document["remark"] = remark
    return Response(200, "application/json", as_json(document).encode())


def as_xml() -> Response:
    """Returns the response to a query that does not request JSON. The elements are omitted."""
    text = '<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6" generator="Overpass API (emulated)">\n</osm>\n'
    return Response(200, "application/osm3s+xml", text.encode())


def status(slots: int, free: int) -> Response:
    """Responds to /api/status."""
    text = f"Connected as: 2130706433\nCurrent time: 2026-01-01T00:00:00Z\nRate limit: {slots}\n"
    text += f"{free} slots available now.\nCurrently running queries (pid, space limit, time limit, start time):\n"
    return Response(200, "text/plain", text.encode())


def failure(code: int) -> Response:
    """Returns an error response. 500 has status 200, because the real service has started its response
    when a query times out."""
    dispatcher = (
        "runtime error: open64: 0 Success /osm3s_osm_base Dispatcher_Client::request_read_and_idx::"
    )
    if code == 429:
        return page(
            429,
            f"{dispatcher}rate_limited. Please check /api/status for the quota of your IP address.",
        )
    if code == 500:
        return as_document(
            [], 'runtime error: Query timed out in "query" at line 1 after 26 seconds.'
        )
    if code == 504:
        return page(
            504, f"{dispatcher}timeout. The server is probably too busy to handle your request."
        )
    texts = {
        400: 'line 1: parse error: Unknown type "emulated"',
        403: "Forbidden",
        503: "Service Unavailable",
    }
    return page(code, texts[code])


def page(code: int, text: str) -> Response:
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en">\n'
        "<head>\n  <title>OSM3S Response</title>\n</head>\n<body>\n\n"
        f'<p><strong style="color:#FF0000">Error</strong>: {escape(text)} </p>\n\n</body>\n</html>\n'
    )
    return Response(code, "text/html; charset=utf-8", document.encode())
