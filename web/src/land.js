// Outlines of land and borders, cut at the antimeridian, where the map ends.

import { feature } from "topojson-client";

/** Returns the pieces of land as polygons and the borders as lines, in GeoJSON. */
export function pieces({ objects, ...topology }) {
  const coordinates = (object) => feature(topology, object).geometry.coordinates;
  const land = coordinates(objects.land).flatMap((polygon) => cut(polygon).map((rings) => ({ type: "Polygon", coordinates: rings })));
  const borders = coordinates(objects.borders).flatMap((line) => {
    const full = unwrapped(line);
    return copies(full, (shift) => ({
      type: "LineString",
      coordinates: full.map(([longitude, latitude]) => [longitude + shift, latitude]),
    }));
  });
  return { land, borders };
}

/** Cuts a polygon, a list of rings whose edges take the shorter way around the globe, at the antimeridian.
 * Returns its parts. */
export function cut(polygon) {
  const rings = polygon.map((ring) => closed(unwrapped(ring)));
  return copies(rings[0], (shift) => rings.map((ring) => clipped(ring, shift)).filter((ring) => ring.length > 2));
}

// Returns the points with longitudes that continue beyond 180 degrees where the line crosses the
// antimeridian.
function unwrapped(line) {
  let [turns, last] = [0, line[0][0]];
  return line.map(([longitude, latitude]) => {
    if (longitude - last > 180) turns -= 360;
    if (longitude - last < -180) turns += 360;
    last = longitude;
    return [longitude + turns, latitude];
  });
}

// Closes a ring around a pole, which does not end where it began, by a line along the pole.
function closed(ring) {
  const [first, last] = [ring[0], ring.at(-1)];
  if (Math.abs(first[0] - last[0]) < 180) return ring;
  const pole = Math.sign(first[1]) * 90;
  return [...ring, [last[0], pole], [first[0], pole], first];
}

// Maps `make` over the shifts by full turns that put some of the line between -180 and 180 degrees.
function copies(line, make) {
  const longitudes = line.map(([longitude]) => longitude);
  const [west, east] = [Math.min(...longitudes), Math.max(...longitudes)];
  return [-360, 0, 360].filter((shift) => west + shift < 180 && east + shift > -180).map(make);
}

// Clips a shifted ring to -180 to 180 degrees (Sutherland-Hodgman algorithm).
function clipped(ring, shift) {
  let points = ring.map(([longitude, latitude]) => [longitude + shift, latitude]);
  for (const side of [-1, 1]) {
    const inside = ([longitude]) => side * longitude <= 180;
    points = points.flatMap((point, index) => {
      const before = points.at(index - 1);
      const kept = inside(point) ? [point] : [];
      if (inside(before) === inside(point)) return kept;
      const share = (side * 180 - before[0]) / (point[0] - before[0]);
      return [[side * 180, before[1] + (point[1] - before[1]) * share], ...kept];
    });
  }
  return points;
}
