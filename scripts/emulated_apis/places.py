"""The places of the emulator: a short list of landmarks, and synthetic places everywhere.

Every name identifies the place as emulated. There is one synthetic place in each cell of about
560 m x 560 m of a grid of the whole globe. Its position, kind and popularity are a hash of the cell, so
that the same question gets the same answer on every machine, and overlapping questions agree. There are
none within 60 km of Point Nemo (48.88 S 123.39 W), the most remote point in the ocean, so that empty
results can be tested.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from typing import List, NamedTuple, Tuple

EARTH_RADIUS_M = 6_371_008.8  # the mean radius R1 of the GRS 80 ellipsoid
CELL_DEGREES = 0.005
ROWS = round(180 / CELL_DEGREES)
DEGREE_M = math.radians(1) * EARTH_RADIUS_M
EMPTY_CENTER = (-48.8767, -123.3933)
EMPTY_RADIUS_M = 60_000

# Google's place type, OpenStreetMap's tag, and the noun in the name of a synthetic place.
KINDS = (
    ("cafe", ("amenity", "cafe"), "Café"),
    ("restaurant", ("amenity", "restaurant"), "Restaurant"),
    ("bakery", ("shop", "bakery"), "Bakery"),
    ("library", ("amenity", "library"), "Library"),
    ("museum", ("tourism", "museum"), "Museum"),
    ("park", ("leisure", "park"), "Park"),
    ("pharmacy", ("amenity", "pharmacy"), "Pharmacy"),
    ("gas_station", ("amenity", "fuel"), "Gas Station"),
    ("supermarket", ("shop", "supermarket"), "Supermarket"),
    ("lodging", ("tourism", "hotel"), "Hotel"),
)
TAG_OF_TYPE = {kind: tag for kind, tag, _ in KINDS}


class Place(NamedTuple):
    """A place, with coordinates in degrees. `popularity` and `number` are a hash of its identity."""

    name: str
    kind: str
    tag: Tuple[str, str]
    lat: float
    lng: float
    vicinity: str
    number: int
    popularity: float

    @property
    def place_id(self) -> str:
        return f"EMULATED_{self.number:013x}"

    @property
    def element(self) -> str:
        """The type of its element in OpenStreetMap. Two ninths of the places are ways (outlines), one
        ninth are relations (outlines in several parts)."""
        return "node" if self.number % 3 else "way" if self.number % 9 else "relation"


def distance_m(lat_a: float, lng_a: float, lat_b: float, lng_b: float) -> float:
    """Returns the great-circle distance in meters (haversine)."""
    a, b = math.radians(lat_a), math.radians(lat_b)
    h = hav(b - a) + math.cos(a) * math.cos(b) * hav(math.radians(lng_b - lng_a))
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, h)))


def hav(angle: float) -> float:
    return math.sin(angle / 2) ** 2


def rating(place: Place) -> float:
    """Returns the rating, from 3 to 5 stars."""
    return round(3 + place.popularity, 1)


def fingerprint(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def load(path: str) -> List[Place]:
    """Reads a JSON file with a list of objects with name, lat, lng, type and vicinity.

    Raises ValueError with the number of an invalid entry.
    """
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    places = []
    for index, entry in enumerate(entries, start=1):
        try:
            kind = str(entry.get("type", "point_of_interest"))
            lat, lng, name = float(entry["lat"]), float(entry["lng"]), str(entry["name"])
            vicinity = str(entry.get("vicinity", ""))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: entry {index}: requires name, lat and lng: {error!r}") from None
        if not (abs(lat) <= 90 and abs(lng) <= 180):
            raise ValueError(f"{path}: entry {index}: {lat}, {lng} is not a valid position")
        mark = fingerprint(f"{name}@{lat},{lng}")
        number = int.from_bytes(mark[:6], "big")
        tag = TAG_OF_TYPE.get(kind, ("tourism", "attraction"))
        places.append(Place(name, kind, tag, lat, lng, vicinity, number, 1 + mark[6] / 255))
    return places


class Gazetteer:
    """The listed places and, unless disabled, the synthetic ones.

    `nearest` is the maximum number of places per question. Google returns at most 60 (three pages of
    20); with a larger number, Overpass returns larger documents.
    """

    def __init__(self, listed: List[Place], synthetic: bool = True, nearest: int = 60) -> None:
        self.listed = listed
        self.synthetic = synthetic
        self.nearest = nearest
        self.within = functools.lru_cache(maxsize=4096)(self._within)

    def _within(self, lat: float, lng: float, radius_m: float) -> Tuple[Place, ...]:
        """Returns the places within the radius, inclusive, nearest first."""
        found = [(distance_m(lat, lng, p.lat, p.lng), p) for p in self.listed]
        if self.synthetic:
            reach = math.sqrt(self.nearest / math.pi) * CELL_DEGREES * DEGREE_M * 1.3
            near = []
            while True:
                reach = min(reach, radius_m)
                near = [(distance_m(lat, lng, p.lat, p.lng), p) for p in around(lat, lng, reach)]
                if reach >= radius_m or sum(d <= reach for d, _ in near) >= self.nearest:
                    break
                reach *= 2
            found += [(d, p) for d, p in near if d <= reach]
        inside = sorted((d, p.number, p) for d, p in found if d <= radius_m)
        return tuple(place for _, _, place in inside[: self.nearest])


def around(lat: float, lng: float, reach_m: float):
    """Yields the synthetic places of all cells within about `reach_m` of the point."""
    row_of = min(ROWS - 1, int((lat + 90) / CELL_DEGREES))
    rows = int(reach_m / DEGREE_M / CELL_DEGREES) + 1
    for row in range(max(0, row_of - rows), min(ROWS, row_of + rows + 1)):
        columns = columns_in(row)
        south = row * CELL_DEGREES - 90
        edge = max(abs(south), abs(south + CELL_DEGREES))  # where the meridians of the row are closest
        gap = max(south - lat, lat - (south + CELL_DEGREES), 0.0)
        slack = hav(reach_m / EARTH_RADIUS_M) - hav(math.radians(gap))
        spread = math.cos(math.radians(lat)) * math.cos(math.radians(edge))
        if slack >= spread:
            reached = range(columns)  # a pole is within reach: all columns
        else:
            half = math.degrees(2 * math.asin(math.sqrt(max(0.0, slack) / spread)))
            first = math.floor((lng - half + 180) / 360 * columns)
            last = math.floor((lng + half + 180) / 360 * columns)
            reached = range(first, min(last, first + columns - 1) + 1)
        for column in reached:
            place = synthetic_place(row, column % columns)
            if place is not None:
                yield place


@functools.lru_cache(maxsize=ROWS)
def columns_in(row: int) -> int:
    """Returns the number of cells in a row, which makes them approximately square."""
    middle = (row + 0.5) * CELL_DEGREES - 90
    return max(1, round(360 / CELL_DEGREES * math.cos(math.radians(middle))))


@functools.lru_cache(maxsize=65_536)
def synthetic_place(row: int, column: int):
    """Returns the place of a cell, or None in the empty part of the ocean."""
    mark = fingerprint(f"{row}/{column}")
    lat = (row + 0.1 + 0.8 * mark[0] / 255) * CELL_DEGREES - 90
    lng = (column + 0.1 + 0.8 * mark[1] / 255) / columns_in(row) * 360 - 180
    if abs(lat - EMPTY_CENTER[0]) < 1 and distance_m(*EMPTY_CENTER, lat, lng) <= EMPTY_RADIUS_M:
        return None
    kind, tag, noun = KINDS[mark[2] % len(KINDS)]
    number = int.from_bytes(mark[4:10], "big")
    vicinity = f"{1 + mark[10]} Emulated Street, cell {row}/{column}"
    name = f"Emulated {noun} {row}-{column}"
    return Place(name, kind, tag, round(lat, 7), round(lng, 7), vicinity, number, mark[3] / 255)
