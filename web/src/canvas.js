// A Leaflet layer that draws on one canvas.

import { DomUtil, Renderer } from "leaflet/dist/leaflet-src.esm.js";
import { shorten } from "./format.js";
import * as theme from "./theme.js";

/** Number of characters of a label. */
const MAX_LABEL = 40;
const FAMILY = 'system-ui, "Noto Sans", "DejaVu Sans", sans-serif';

/**
 * A layer with one canvas. The base class moves and scales the canvas with the map, and calls `_update`
 * at the end of a movement. Subclasses define `_draw(now)`.
 */
export const CanvasLayer = Renderer.extend({
  options: { padding: 0.2 },

  /** Schedules a redraw for the next frame. */
  redraw() {
    this._frame ||= requestAnimationFrame((now) => {
      this._frame = 0;
      if (this._context) this._draw(now);
    });
  },

  /** Adopts the colors of the current theme. */
  retheme() {
    this._theme = theme.colors();
    this.redraw();
  },

  _initContainer() {
    this._container = document.createElement("canvas");
    this._container.setAttribute("aria-hidden", "true");
    this._context = this._container.getContext("2d");
    this.retheme();
  },

  _destroyContainer() {
    cancelAnimationFrame(this._frame);
    this._frame = 0;
    this._container.remove();
    delete this._context;
  },

  // Called by the base class for its shapes, of which there are none.
  _updatePaths() {},

  _update() {
    if (this._map._animatingZoom && this._bounds) return;
    Renderer.prototype._update.call(this);
    const size = this._bounds.getSize();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const canvas = this._container;
    canvas.width = Math.round(size.x * ratio);
    canvas.height = Math.round(size.y * ratio);
    canvas.style.width = `${size.x}px`;
    canvas.style.height = `${size.y}px`;
    DomUtil.setPosition(canvas, this._bounds.min);
    this._ratio = ratio;
    this._scale = this._map.options.crs.scale(this._map.getZoom());
    const origin = this._map.getPixelOrigin().add(this._bounds.min);
    [this._left, this._top] = [origin.x, origin.y];
    this._draw(performance.now());
    this.fire("update");
  },

  /** Clears the canvas. Returns its context. */
  _cleared() {
    const { width, height } = this._container;
    this._context.clearRect(0, 0, width, height);
    return this._context;
  },

  /** Returns the point of the canvas for a point of the unit square. */
  _point(x, y) {
    return [(x * this._scale - this._left) * this._ratio, (y * this._scale - this._top) * this._ratio];
  },

  /** Returns a font of a size in CSS pixels. */
  _font(size, weight = 400) {
    return `${weight} ${size * this._ratio}px ${FAMILY}`;
  },

  /** Writes a name with a halo; `y` is its middle. */
  _write(name, x, y, font, color) {
    const { _context: context, _ratio: ratio } = this;
    const text = label(name);
    context.font = font;
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = this._theme.halo;
    context.strokeText(text, x, y);
    context.fillStyle = color;
    context.fillText(text, x, y);
  },

  /** Returns the width of a name. */
  _widthOf(name, font) {
    this._context.font = font;
    return this._context.measureText(label(name)).width;
  },
});

/** The boxes of labels, which must not overlap. */
export class Boxes {
  #boxes = [];

  /** Takes the space of a box unless some of it is taken. Returns whether it was free. */
  take(left, top, right, bottom) {
    const covers = (box) => left < box.right && right > box.left && top < box.bottom && bottom > box.top;
    if (this.#boxes.some(covers)) return false;
    this.#boxes.push({ left, top, right, bottom });
    return true;
  }
}

// Shortens a name for a label and isolates it (Unicode FSI and PDI), since it may have any direction.
const label = (name) => `\u2068${shorten(name, MAX_LABEL)}\u2069`;
