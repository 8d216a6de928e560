// Shapes on a globe, cut for a flat map.

import { cut } from "./land.js";

/** The sphere on which the node measures distances, in meters. */
const EARTH = 6371008.8;
const CIRCLE_POINTS = 96;

/** Returns the parts of a Polygon, a MultiPolygon, or a Point with a radius in meters, each a list of rings
 * of [longitude, latitude]. A circle is cut at the antimeridian; polygons are by RFC 7946. */
export function partsOf({ type, coordinates }, radius) {
  if (type === "Point") return cut([circle(coordinates, radius)]);
  return type === "Polygon" ? [coordinates] : coordinates;
}

// Returns points at a distance from a center.
function circle([longitude, latitude], radius) {
  const radians = Math.PI / 180;
  const angle = Math.min(radius / EARTH, Math.PI);
  const [sine, cosine] = [Math.sin(latitude * radians), Math.cos(latitude * radians)];
  const ring = Array.from({ length: CIRCLE_POINTS }, (_, at) => {
    const bearing = (2 * Math.PI * at) / CIRCLE_POINTS;
    const north = sine * Math.cos(angle) + cosine * Math.sin(angle) * Math.cos(bearing);
    const east = Math.atan2(Math.sin(bearing) * Math.sin(angle) * cosine, Math.cos(angle) - sine * north);
    const around = longitude + east / radians;
    return [around > 180 ? around - 360 : around < -180 ? around + 360 : around, Math.asin(Math.max(-1, Math.min(1, north))) / radians];
  });
  return [...ring, ring[0]];
}
