// Formatting of numbers.

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** Formats a count: 1,234 */
export const count = (number) => integer.format(number);

/** Formats a count of things: 1 client, 1,234 clients */
export const countOf = (number, thing) => `${count(number)} ${thing}${number === 1 ? "" : "s"}`;

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** Formats a count in little space: 123, 1.2K */
export const shortCount = (number) => compact.format(number);

/** Formats a rate: 0.4, 12.5, 1,234 */
export const rate = (number) => (number < 100 ? tenths : integer).format(number);

/** Shortens a name to `most` characters and an ellipsis. */
export function shorten(name, most) {
  const characters = [...name.slice(0, 2 * most)];
  return characters.length > most || name.length > 2 * most ? `${characters.slice(0, most).join("")}…` : name;
}

/** Formats a duration in seconds: 3 s, 5 min, 2 h, 4 d */
export function duration(seconds) {
  if (seconds < 0) return `−${duration(-seconds)}`;
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

/** Formats a short time in seconds: 240 µs, 1.2 ms, 3.1 s */
export function delay(seconds) {
  if (seconds < 1e-3) return `${integer.format(seconds * 1e6)} µs`;
  return seconds < 1 ? `${tenths.format(seconds * 1e3)} ms` : `${tenths.format(seconds)} s`;
}

/** Formats a distance in meters: 240 m, 1.2 km, 1,234 km */
export function meters(distance) {
  if (distance < 1000) return `${integer.format(distance)} m`;
  return `${(distance < 1e5 ? tenths : integer).format(distance / 1000)} km`;
}

/** Formats a position: 34.06893° N, 118.44513° W */
export function position(latitude, longitude) {
  const north = `${Math.abs(latitude).toFixed(5)}° ${latitude < 0 ? "S" : "N"}`;
  return `${north}, ${Math.abs(longitude).toFixed(5)}° ${longitude < 0 ? "W" : "E"}`;
}

/** Returns the great-circle distance between two points in kilometers. */
export function distance([latitude1, longitude1], [latitude2, longitude2]) {
  const radians = Math.PI / 180;
  const haversine = (angle) => Math.sin((angle * radians) / 2) ** 2;
  const between =
    haversine(latitude2 - latitude1) +
    Math.cos(latitude1 * radians) * Math.cos(latitude2 * radians) * haversine(longitude2 - longitude1);
  return 2 * 6371 * Math.asin(Math.sqrt(between));
}
