"""The fences of the soak test, and a model of who is inside."""

import json

COLUMNS, ROWS = 6, 4
WEST, SOUTH = -118.6, 34.0
WIDTH, HEIGHT = 0.3, 0.2  # of the area in which clients move, in degrees
MARGIN = 0.01  # between fences: farther than a client moves at once, so it is never in two of them
HALF = 0.0000005  # edges are between the positions of clients, which have six decimals


def rectangles():
    """Returns the fences: name, west, south, east and north."""
    width, height = WIDTH / COLUMNS, HEIGHT / ROWS
    for number in range(COLUMNS * ROWS):
        west = WEST + number % COLUMNS * width + HALF
        south = SOUTH + number // COLUMNS * height + HALF
        yield f"area {number}", west, south, west + width - MARGIN, south + height - MARGIN


FENCES = list(rectangles())


def geojson():
    """Returns the file of the fences."""
    features = []
    for name, west, south, east, north in FENCES:
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        ring = [[round(number, 7) for number in corner] for corner in ring]
        features.append(
            {
                "type": "Feature",
                "properties": {"name": name},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


class Inside:
    """Who is inside which fence, as the updates of the clients imply."""

    def __init__(self):
        self.fences = {}  # of each client that is inside one

    def move(self, entry, latitude, longitude):
        """Takes an update, and returns the entries of the transitions that it causes."""
        before, now = self.fences.get(entry.client), None
        for name, west, south, east, north in FENCES:
            if west < longitude < east and south < latitude < north:
                now = name.encode()
                break
        if now == before:
            return []
        transitions = []
        if before is not None:
            transitions.append(entry._replace(type=b"leave", fence=before))
            del self.fences[entry.client]
        if now is not None:
            transitions.append(entry._replace(type=b"enter", fence=now))
            self.fences[entry.client] = now
        return transitions
