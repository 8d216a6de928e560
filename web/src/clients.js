// The clients that the page knows, with their positions and trails.

/** Number of points of a trail. */
export const TRAIL = 24;

// A dot glides to the new position of its client for as long as the client took to get there, so that
// it arrives when the next update does. Bounds in milliseconds.
const GLIDE_LEAST = 100;
const GLIDE_MOST = 1500;

const MAX_LATITUDE = 85.0511287798;

/** Projects to Web Mercator, with the world as the unit square. */
export function project(longitude, latitude) {
  const bounded = Math.max(-MAX_LATITUDE, Math.min(MAX_LATITUDE, latitude));
  const sine = Math.sin((bounded * Math.PI) / 180);
  return [longitude / 360 + 0.5, 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)];
}

/** A store of clients as columns of numbers, because every frame iterates over up to 50,000 of them. */
export class Clients {
  size = 0;
  names = [];
  lines = [];
  ids = [];
  /** Names of nodes; the column `server` holds indexes into it. */
  servers = [];
  #indexes = new Map();
  #serverIndexes = new Map();
  #capacity = 0;
  #generation = 0;

  constructor() {
    this.#grow(1024);
  }

  #grow(capacity) {
    const column = (Type, old, width = 1) => {
      const next = new Type(capacity * width);
      if (old) next.set(old);
      return next;
    };
    // Position, and the position from which the dot glides there.
    this.x = column(Float64Array, this.x);
    this.y = column(Float64Array, this.y);
    this.fromX = column(Float64Array, this.fromX);
    this.fromY = column(Float64Array, this.fromY);
    this.movedAt = column(Float64Array, this.movedAt);
    this.glide = column(Float64Array, this.glide);
    // Degrees as the node sent them. The projection ends at 85 degrees of latitude.
    this.latitude = column(Float64Array, this.latitude);
    this.longitude = column(Float64Array, this.longitude);
    // POSIX seconds by the clock of the receiving node, and by that of the client.
    this.received = column(Float64Array, this.received);
    this.time = column(Float64Array, this.time);
    this.server = column(Uint16Array, this.server);
    this.generation = column(Uint32Array, this.generation);
    // A ring buffer of x, y per client; trailLength counts all points ever added.
    this.trail = column(Float64Array, this.trail, 2 * TRAIL);
    this.trailLength = column(Uint32Array, this.trailLength);
    this.#capacity = capacity;
  }

  /** Returns the index of the client with this `id` in the columns; undefined if it is unknown. */
  indexOf(id) {
    return this.#indexes.get(id);
  }

  /** Adds or updates a client from its GeoJSON feature at `now`, a frame time. Returns its index. */
  put(feature, now) {
    const { id, geometry, properties } = feature;
    const [x, y] = project(geometry.coordinates[0], geometry.coordinates[1]);
    let at = this.#indexes.get(id);
    if (at === undefined) {
      if (this.size === this.#capacity) this.#grow(2 * this.#capacity);
      at = this.size++;
      this.#indexes.set(id, at);
      this.ids[at] = id;
      this.names[at] = properties.client;
      this.trailLength[at] = 0;
      this.movedAt[at] = now;
      this.glide[at] = GLIDE_LEAST;
      [this.x[at], this.y[at], this.fromX[at], this.fromY[at]] = [x, y, x, y];
      this.#extendTrail(at);
    } else if (x !== this.x[at] || y !== this.y[at]) {
      const left = this.glideLeft(at, now);
      // A dot cannot glide across the antimeridian on this map.
      const jumps = Math.abs(x - this.x[at]) > 0.5;
      this.fromX[at] = jumps ? x : this.x[at] + (this.fromX[at] - this.x[at]) * left;
      this.fromY[at] = jumps ? y : this.y[at] + (this.fromY[at] - this.y[at]) * left;
      this.glide[at] = Math.min(GLIDE_MOST, Math.max(GLIDE_LEAST, now - this.movedAt[at]));
      this.movedAt[at] = now;
      [this.x[at], this.y[at]] = [x, y];
      this.#extendTrail(at);
    }
    [this.longitude[at], this.latitude[at]] = geometry.coordinates;
    this.lines[at] = properties.line;
    this.received[at] = properties.received;
    this.time[at] = properties.time;
    this.server[at] = this.#serverIndex(properties.server);
    this.generation[at] = this.#generation;
    return at;
  }

  /** Returns the remaining share of the glide: 1 at its beginning, 0 at its end. */
  glideLeft(at, now) {
    const gone = (now - this.movedAt[at]) / this.glide[at];
    return gone >= 1 ? 0 : gone <= 0 ? 1 : 1 - gone;
  }

  #extendTrail(at) {
    const point = 2 * (at * TRAIL + (this.trailLength[at]++ % TRAIL));
    this.trail[point] = this.x[at];
    this.trail[point + 1] = this.y[at];
  }

  #serverIndex(name) {
    let index = this.#serverIndexes.get(name);
    if (index === undefined) {
      index = this.servers.push(name) - 1;
      this.#serverIndexes.set(name, index);
    }
    return index;
  }

  /** Begins a snapshot of all clients. */
  beginSnapshot() {
    this.#generation++;
  }

  /** Ends the snapshot and removes the clients that were not in it. */
  endSnapshot() {
    for (let at = this.size - 1; at >= 0; at--) {
      if (this.generation[at] !== this.#generation) this.#remove(at);
    }
  }

  /** Removes the client with this `id`, if it is known. */
  remove(id) {
    const at = this.#indexes.get(id);
    if (at !== undefined) this.#remove(at);
  }

  #remove(at) {
    const last = --this.size;
    this.#indexes.delete(this.ids[at]);
    if (at !== last) {
      for (const column of [
        this.x, this.y, this.fromX, this.fromY, this.movedAt, this.glide, this.latitude,
        this.longitude, this.received, this.time, this.server, this.generation, this.trailLength, this.ids, this.names, this.lines,
      ]) {
        column[at] = column[last];
      }
      this.trail.copyWithin(2 * TRAIL * at, 2 * TRAIL * last, 2 * TRAIL * (last + 1));
      this.#indexes.set(this.ids[at], at);
    }
    this.ids.length = this.names.length = this.lines.length = last;
  }

  /** Returns up to `most` clients whose name contains `text`: first the client with exactly this name,
   * then others that differ in case only, then those that begin with it. */
  find(text, most) {
    const wanted = text.toLowerCase();
    const found = [[], [], [], []];
    for (let at = 0; at < this.size; at++) {
      const name = this.names[at];
      const lower = name.toLowerCase();
      const start = lower.indexOf(wanted);
      if (start < 0) continue;
      const rank = name === text ? 0 : lower === wanted ? 1 : start === 0 ? 2 : 3;
      if (found[rank].length < most) found[rank].push(at);
    }
    return found.flat().slice(0, most);
  }

  /** Returns the bounds of the dots of some or all clients as [[south, west], [north, east]]; null if there
   * are none. */
  bounds(some = Array.from({ length: this.size }, (_, at) => at)) {
    if (some.length === 0) return null;
    let [west, east, north, south] = [1, 0, 1, 0];
    for (const at of some) {
      west = Math.min(west, this.x[at]);
      east = Math.max(east, this.x[at]);
      north = Math.min(north, this.y[at]);
      south = Math.max(south, this.y[at]);
    }
    return [[latitude(south), (west - 0.5) * 360], [latitude(north), (east - 0.5) * 360]];
  }

  /** Returns latitude and longitude of a client in degrees. */
  position(at) {
    return [this.latitude[at], this.longitude[at]];
  }

  /** Returns latitude and longitude of the dot of a client, which is at the edge of the map if the
   * client is nearer to a pole than the map reaches. */
  dot(at) {
    return [latitude(this.y[at]), (this.x[at] - 0.5) * 360];
  }
}

function latitude(y) {
  return (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;
}
