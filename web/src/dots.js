// All clients on one canvas: dots, trails, and the selected and hovered client.

import { DomUtil, Renderer } from "leaflet/dist/leaflet-src.esm.js";
import { TRAIL, project } from "./clients.js";
import { shorten } from "./format.js";
import * as theme from "./theme.js";

/** Number of clients in view above which dots are small and only the selected client has a trail. */
const MANY = 2000;
/** Age in seconds from which a record is shown as old. */
const OLD = 300;
/** Number of characters of a label. */
const MAX_LABEL = 40;
const RADIUS = 5;
const RADIUS_MANY = 2;

const still = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * A Leaflet renderer that draws all clients. The base class moves and scales the canvas with the map,
 * and calls `_update` at the end of a movement.
 */
export const Dots = Renderer.extend({
  options: { padding: 0.2 },

  initialize(clients, options) {
    Renderer.prototype.initialize.call(this, options);
    this.clients = clients;
    this.selected = null; // ids
    this.hovered = null;
    this.places = []; // near the selected client: {name, x, y}
    this.clock = 0; // time of the node, in POSIX seconds
    this._colorOf = new Map();
  },

  /** Sets the names of the nodes, in the order of their colors. */
  setNodes(names) {
    this._colorOf = new Map(names.map((name, index) => [name, index % theme.NODE_COLORS]));
    this.redraw();
  },

  /** Schedules a redraw for the next frame. */
  redraw() {
    this._frame ||= requestAnimationFrame((now) => {
      this._frame = 0;
      if (this._context) this._draw(now);
    });
  },

  /** Returns the client nearest to a point of the map container, at most `within` pixels away. */
  nearest(point, within = 16) {
    const { x, y, size } = this.clients;
    const scale = this._scale;
    const at = this._map.containerPointToLayerPoint(point).subtract(this._bounds.min);
    let [best, least] = [undefined, within * within];
    for (let index = 0; index < size; index++) {
      const dx = x[index] * scale - this._left - at.x;
      const dy = y[index] * scale - this._top - at.y;
      const square = dx * dx + dy * dy;
      if (square <= least) [best, least] = [index, square];
    }
    return best;
  },

  /** Returns the clients in view. */
  inView() {
    const { x, y, size } = this.clients;
    const box = this._map.getBounds();
    const [west, north] = project(box.getWest(), box.getNorth());
    const [east, south] = project(box.getEast(), box.getSouth());
    const found = [];
    for (let at = 0; at < size; at++) {
      if (x[at] >= west && x[at] <= east && y[at] >= north && y[at] <= south) found.push(at);
    }
    return found;
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

  /** Adopts the colors of the current theme. */
  retheme() {
    this._theme = theme.colors();
    this._pixelOf = new Map();
    this.redraw();
  },

  _draw(now) {
    const { clients, _context: context, _ratio: ratio } = this;
    const { width, height } = this._container;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);

    // The clients in view, and their positions on the canvas.
    const visible = (this._visible = grown(this._visible, Uint32Array, clients.size));
    const where = (this._where = grown(this._where, Float32Array, 2 * clients.size));
    const scale = this._scale * ratio;
    const [left, top] = [this._left * ratio, this._top * ratio];
    const { x, y, fromX, fromY, movedAt, glide } = clients;
    const glides = !still.matches;
    let [shown, gliding] = [0, false];
    for (let at = 0; at < clients.size; at++) {
      let [pointX, pointY] = [x[at], y[at]];
      if (glides && now - movedAt[at] < glide[at]) {
        const share = clients.glideLeft(at, now);
        pointX += (fromX[at] - pointX) * share;
        pointY += (fromY[at] - pointY) * share;
        gliding = true;
      }
      const canvasX = pointX * scale - left;
      const canvasY = pointY * scale - top;
      if (canvasX < -9 || canvasY < -9 || canvasX > width + 9 || canvasY > height + 9) continue;
      visible[shown] = at;
      where[2 * shown] = canvasX;
      where[2 * shown + 1] = canvasY;
      shown++;
    }

    const many = shown > MANY;
    const selected = this.selected === null ? undefined : clients.indexOf(this.selected);
    const hovered = this.hovered === null ? undefined : clients.indexOf(this.hovered);
    if (many) this._drawSmallDots(shown);
    for (let index = 0; index < shown; index++) {
      const at = visible[index];
      if (!many || at === selected) this._drawTrail(at, where[2 * index], where[2 * index + 1]);
    }
    if (!many) this._drawLargeDots(shown);
    if (selected !== undefined) this._drawPlaces(visible.subarray(0, shown).indexOf(selected));
    for (let index = 0; index < shown; index++) {
      const at = visible[index];
      if (at !== selected && at !== hovered) continue;
      this._highlight(where[2 * index], where[2 * index + 1], clients.names[at], at === selected);
    }
    if (gliding) this.redraw();
  },

  _color(server) {
    return this._theme.nodes[this._colorOf.get(server)] ?? this._theme.muted;
  },

  // Draws dots with an outline. The dot of an old record is a ring.
  _drawLargeDots(shown) {
    const { clients, _context: context, _ratio: ratio, _theme: colors } = this;
    const oldBefore = this.clock - OLD;
    const ofNode = clients.servers.map((name) => this._color(name));
    context.lineWidth = 1.5 * ratio;
    for (let index = 0; index < shown; index++) {
      const at = this._visible[index];
      const color = ofNode[clients.server[at]];
      const old = clients.received[at] < oldBefore;
      context.beginPath();
      context.arc(this._where[2 * index], this._where[2 * index + 1], RADIUS * ratio, 0, 2 * Math.PI);
      context.fillStyle = old ? colors.land : color;
      context.strokeStyle = old ? color : colors.halo;
      context.fill();
      context.stroke();
    }
  },

  // Writes small dots into the pixels directly: with tens of thousands of clients, one canvas call per
  // dot would make every frame late. Dots of old records are pale.
  _drawSmallDots(shown) {
    const { clients, _context: context } = this;
    const { width, height } = this._container;
    if (this._picture?.width !== width || this._picture.height !== height) {
      this._picture = context.createImageData(width, height);
      this._pixels = new Uint32Array(this._picture.data.buffer);
    }
    const [pixels, where] = [this._pixels, this._where];
    pixels.fill(0);
    const disc = discOffsets(RADIUS_MANY * this._ratio, width);
    const fresh = Uint32Array.from(clients.servers, (name) => this._pixel(this._color(name), 255));
    const pale = Uint32Array.from(clients.servers, (name) => this._pixel(this._color(name), 110));
    const oldBefore = this.clock - OLD;
    const margin = Math.ceil(RADIUS_MANY * this._ratio);
    for (let index = 0; index < shown; index++) {
      const [x, y] = [Math.round(where[2 * index]), Math.round(where[2 * index + 1])];
      if (x < margin || y < margin || x >= width - margin || y >= height - margin) continue;
      const at = this._visible[index];
      const color = (clients.received[at] < oldBefore ? pale : fresh)[clients.server[at]];
      const center = y * width + x;
      for (let pixel = 0; pixel < disc.length; pixel++) pixels[center + disc[pixel]] = color;
    }
    context.putImageData(this._picture, 0, 0);
  },

  // Returns a color of the style sheet as a pixel value.
  _pixel(color, alpha) {
    const key = `${color} ${alpha}`;
    let pixel = this._pixelOf.get(key);
    if (pixel === undefined) {
      const one = document.createElement("canvas").getContext("2d");
      one.fillStyle = color;
      one.fillRect(0, 0, 1, 1);
      const { data } = one.getImageData(0, 0, 1, 1);
      data[3] = alpha;
      pixel = new Uint32Array(data.buffer)[0]; // in the byte order of this machine
      this._pixelOf.set(key, pixel);
    }
    return pixel;
  },

  // Draws a trail from the newest point back, fading out.
  _drawTrail(at, x, y) {
    const { clients, _context: context, _ratio: ratio } = this;
    const length = clients.trailLength[at];
    const points = Math.min(length, TRAIL);
    if (points < 2) return;
    const scale = this._scale * ratio;
    const [left, top] = [this._left * ratio, this._top * ratio];
    const selected = clients.ids[at] === this.selected;
    context.strokeStyle = this._color(clients.servers[clients.server[at]]);
    context.lineWidth = (selected ? 3 : 2) * ratio;
    context.lineCap = "butt"; // round ends would overlap visibly
    // The dot is still gliding to the newest point, so the trail begins at the dot.
    let [lastX, lastY] = [x, y];
    for (let back = 1; back < points; back++) {
      const point = 2 * (at * TRAIL + ((length - 1 - back) % TRAIL));
      const nextX = clients.trail[point] * scale - left;
      const nextY = clients.trail[point + 1] * scale - top;
      if (Math.abs(nextX - lastX) > scale / 2) break; // it crosses the antimeridian
      context.globalAlpha = (selected ? 0.9 : 0.55) * (1 - back / TRAIL);
      context.beginPath();
      context.moveTo(lastX, lastY);
      context.lineTo(nextX, nextY);
      context.stroke();
      [lastX, lastY] = [nextX, nextY];
    }
    context.globalAlpha = 1;
  },

  // Draws places. `center` is the index of the selected client among the visible ones, or -1.
  _drawPlaces(center) {
    const { _context: context, _ratio: ratio } = this;
    const scale = this._scale * ratio;
    const half = 2.5 * ratio;
    const height = 15 * ratio;
    const font = `${12 * ratio}px system-ui, sans-serif`;
    // Boxes in use. Labels that would overlap one are omitted; the nearest places come first.
    const taken = [];
    if (center >= 0) {
      const [x, y] = [this._where[2 * center], this._where[2 * center + 1]];
      taken.push({ left: x - 10 * ratio, right: x + 180 * ratio, y });
    }
    for (const { name, x, y } of this.places) {
      const canvasX = x * scale - this._left * ratio;
      const canvasY = y * scale - this._top * ratio;
      context.fillStyle = this._theme.muted;
      context.fillRect(canvasX - half, canvasY - half, 2 * half, 2 * half);
      context.font = font;
      const right = canvasX + 12 * ratio + context.measureText(label(name)).width;
      const covers = (box) =>
        canvasX < box.right && right > box.left && Math.abs(canvasY - box.y) < height;
      if (taken.some(covers)) continue;
      taken.push({ left: canvasX, right, y: canvasY });
      this._label(name, canvasX + 7 * ratio, canvasY, font, this._theme.muted);
    }
  },

  _highlight(x, y, name, selected) {
    const { _context: context, _ratio: ratio } = this;
    if (selected) {
      for (const [width, color] of [[5, this._theme.halo], [2.5, this._theme.accent]]) {
        context.beginPath();
        context.arc(x, y, 10 * ratio, 0, 2 * Math.PI);
        context.lineWidth = width * ratio;
        context.strokeStyle = color;
        context.stroke();
      }
    }
    this._label(name, x + 15 * ratio, y, `600 ${13 * ratio}px system-ui, sans-serif`, this._theme.text);
  },

  _label(name, x, y, font, color) {
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
});

// Shortens a name for a label and isolates it (Unicode FSI and PDI), since it may have any direction.
const label = (name) => `\u2068${shorten(name, MAX_LABEL)}\u2069`;

// Returns the offsets of the pixels of a disc from its center, in a picture of this width.
function discOffsets(radius, width) {
  const offsets = [];
  const reach = Math.floor(radius);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      if (x * x + y * y <= radius * radius + 0.5) offsets.push(y * width + x);
    }
  }
  return Int32Array.from(offsets);
}

function grown(array, Type, length) {
  return array && array.length >= length ? array : new Type(Math.max(1024, 2 * length));
}
