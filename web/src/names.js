// Names of places on the map, larger places first, from the gazetteer of the node, and a grid of degrees
// where there are too few names to find one's bearings.

import { Boxes, CanvasLayer } from "./canvas.js";
import { project } from "./clients.js";

// Names are loaded in squares, so that they stay where they are when the map moves, and thinly
// populated regions have names too.
const SQUARE = 512;
const PER_SQUARE = 32;
/** Number of squares that are kept. */
const MAX_SQUARES = 256;
/** Zoom level from which airports are shown. */
const AIRPORT_ZOOM = 9;

/** Zoom level from which the grid is shown, and the least distance of its lines in pixels. */
const GRID_ZOOM = 12;
const GRID_LEAST = 160;

/** Styles by the least population: font size, weight. */
const STYLES = [
  [5e6, 14, 600],
  [1e6, 13, 600],
  [1e5, 12, 400],
  [0, 11, 400],
];

export const Names = CanvasLayer.extend({
  initialize(options) {
    CanvasLayer.prototype.initialize.call(this, options);
    this._squares = new Map(); // the places of a square, by its bbox
    this._shown = true;
    this._omitted = new Set();
  },

  /** Shows or hides the names. */
  show(shown) {
    if (shown === this._shown) return;
    this._shown = shown;
    this.redraw();
  },

  /** Omits these names, which another layer shows. */
  omit(names) {
    this._omitted = new Set(names);
    this.redraw();
  },

  /** Returns the places in a square, which are loaded if necessary. */
  _placesOf(bbox) {
    const known = this._squares.get(bbox);
    if (known) return known;
    const places = [];
    this._squares.set(bbox, places);
    if (this._squares.size > MAX_SQUARES) this._squares.delete(this._squares.keys().next().value);
    fetch(`/api/labels?bbox=${bbox}&limit=${PER_SQUARE}`)
      .then((response) => response.json())
      .then(({ features }) => {
        for (const { geometry, properties } of features) {
          const [x, y] = project(...geometry.coordinates);
          places.push({ x, y, ...properties });
        }
        this.redraw();
      })
      .catch(() => this._squares.delete(bbox)); // the next movement of the map tries again
    return places;
  },

  _draw() {
    const context = this._cleared();
    if (!this._shown) return;
    const { _ratio: ratio, _theme: colors } = this;
    const zoom = this._map.getZoom();
    const crossings = zoom >= GRID_ZOOM ? this._drawGrid(context) : [];
    const isShown = ({ name, type }) => !this._omitted.has(name) && (type !== "airport" || zoom >= AIRPORT_ZOOM);
    const places = this._inView().filter(isShown);
    places.sort((one, other) => (other.population ?? 0) - (one.population ?? 0));
    const boxes = new Boxes();
    for (const { name, x, y, type, population } of places) {
      const [, size, weight] = STYLES.find(([least]) => population >= least);
      const text = type === "airport" ? `✈\ufe0e ${name}` : name;
      const font = this._font(size, weight);
      const [dotX, dotY] = this._point(x, y);
      const [width, gap] = [this._widthOf(text, font), 6 * ratio];
      const half = (size / 2 + 3) * ratio;
      const isFree = (left) => boxes.take(left - gap, dotY - half, left + width + gap, dotY + half);
      const left = [dotX + gap, dotX - gap - width].find(isFree);
      if (left === undefined) continue;
      context.beginPath();
      context.arc(dotX, dotY, 1.75 * ratio, 0, 2 * Math.PI);
      context.fillStyle = colors.place;
      context.fill();
      this._write(text, left, dotY, font, colors.place);
    }
    const font = this._font(10);
    for (const [text, x, y] of crossings) {
      const isFree = boxes.take(x, y - 8 * ratio, x + this._widthOf(text, font), y + 8 * ratio);
      if (isFree) this._write(text, x, y, font, colors.grid);
    }
  },

  /** Draws meridians and parallels at round degrees. Returns labels for the points where they cross. */
  _drawGrid(context) {
    const { _scale: scale, _ratio: ratio, _left: left, _top: top } = this;
    const { width, height } = this._container;
    const least = (GRID_LEAST * 360) / scale;
    const unit = 10 ** Math.floor(Math.log10(least));
    const step = unit * [2, 5, 10].find((times) => times * unit >= least);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const [west, north] = degrees(left / scale, top / scale);
    const [east, south] = degrees((left + width / ratio) / scale, (top + height / ratio) / scale);
    const multiples = (from, to) => {
      const first = Math.ceil(from / step);
      return Array.from({ length: Math.max(0, Math.floor(to / step) - first + 1) }, (_, at) => (first + at) * step);
    };
    const columns = multiples(west, east).map((longitude) => [longitude, this._point(...project(longitude, 0))[0]]);
    const rows = multiples(south, north).map((latitude) => [latitude, this._point(...project(0, latitude))[1]]);
    context.beginPath();
    for (const [, x] of columns) context.rect(Math.round(x), 0, ratio, height);
    for (const [, y] of rows) context.rect(0, Math.round(y), width, ratio);
    context.fillStyle = this._theme.border;
    context.fill();
    const name = (value, [positive, negative]) => `${Math.abs(value).toFixed(digits)}° ${value < 0 ? negative : positive}`;
    return columns.flatMap(([longitude, x]) =>
      rows.map(([latitude, y]) => [`${name(latitude, "NS")} ${name(longitude, "EW")}`, x + 4 * ratio, y - 8 * ratio]),
    );
  },

  /** Returns the places in the squares that the canvas covers. */
  _inView() {
    const { _scale: scale, _ratio: ratio } = this;
    const { width, height } = this._container;
    const count = 2 ** Math.max(0, Math.floor(this._map.getZoom()) + 8 - Math.log2(SQUARE));
    const range = (start, length) => {
      const bound = (at) => Math.max(0, Math.min(count - 1, Math.floor((at / scale) * count)));
      return [bound(start), bound(start + length / ratio)];
    };
    const [west, east] = range(this._left, width);
    const [north, south] = range(this._top, height);
    const places = [];
    for (let column = west; column <= east; column++) {
      for (let row = north; row <= south; row++) {
        const [left, top] = degrees(column / count, row / count);
        const [right, bottom] = degrees((column + 1) / count, (row + 1) / count);
        places.push(...this._placesOf([left, bottom, right, top].map((at) => +at.toFixed(6)).join()));
      }
    }
    return places;
  },
});

// Returns longitude and latitude of a point of the unit square.
function degrees(x, y) {
  return [(x - 0.5) * 360, (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI];
}
