// All clients on one canvas: dots, trails, and the selected and hovered client.

import { Boxes, CanvasLayer } from "./canvas.js";
import { group, radiusOf } from "./clusters.js";
import { TRAIL, project } from "./clients.js";
import { shortCount } from "./format.js";
import * as theme from "./theme.js";

/** Number of dots in view above which only the selected client has a trail. */
const MANY = 1000;
/** Age in seconds from which a record is shown as old. */
export const OLD = 300;
const RADIUS = 5;

const still = matchMedia("(prefers-reduced-motion: reduce)");

export const Dots = CanvasLayer.extend({
  initialize(clients, options) {
    CanvasLayer.prototype.initialize.call(this, options);
    this.clients = clients;
    this.selected = null; // ids
    this.hovered = null;
    this._places = [];
    this.clock = 0; // time of the node, in POSIX seconds
    this.point = null; // {x, y} whose nearest clients are listed
    this._colorOf = new Map();
    this._groups = [];
    this._singles = 0;
  },

  /** Sets the names of the nodes, in the order of their colors. */
  setNodes(names) {
    this._colorOf = new Map(names.map((name, index) => [name, index % theme.NODE_COLORS]));
    this.redraw();
  },

  /** Draws places {name, x, y} near the selected client. Fires `places`, since other layers may have them. */
  setPlaces(places) {
    this._places = places;
    this.fire("places", { names: places.map(({ name }) => name) });
    this.redraw();
  },

  /** Returns the client or the group at a point of the map container, as {client} or {group}; undefined
   * if there is none. Clients count up to `within` pixels away. */
  at(point, within = 16) {
    const { x, y } = this._map.containerPointToLayerPoint(point).subtract(this._bounds.min).multiplyBy(this._ratio);
    const group = this._groups.find((it) => Math.hypot(it.x - x, it.y - y) <= radiusOf(it.count) * this._ratio);
    if (group) return { group };
    let [best, least] = [undefined, within * this._ratio];
    for (let index = 0; index < this._singles; index++) {
      const away = Math.hypot(this._where[2 * index] - x, this._where[2 * index + 1] - y);
      if (away <= least) [best, least] = [this._visible[index], away];
    }
    return best === undefined ? undefined : { client: best };
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

  _draw(now) {
    const { clients, _ratio: ratio } = this;
    const { width, height } = this._container;
    this._cleared();

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

    const selected = this.selected === null ? undefined : clients.indexOf(this.selected);
    const hovered = this.hovered === null ? undefined : clients.indexOf(this.hovered);
    const { server: nodeOf, servers } = clients;
    const view = { left, top, width, height, ratio, nodeOf, nodes: servers.length, kept: selected };
    const { singles, groups } = group(visible, where, shown, view);
    [this._singles, this._groups] = [singles, groups];
    for (let index = 0; index < singles; index++) {
      const at = visible[index];
      if (singles <= MANY || at === selected) this._drawTrail(at, where[2 * index], where[2 * index + 1]);
    }
    groups.forEach((it) => this._drawGroup(it));
    this._drawDots();
    if (selected !== undefined) this._drawPlaces(visible.subarray(0, singles).indexOf(selected));
    for (let index = 0; index < singles; index++) {
      const at = visible[index];
      if (at !== selected && at !== hovered) continue;
      this._highlight(where[2 * index], where[2 * index + 1], clients.names[at], at === selected);
    }
    if (this.point) this._drawPoint(...this._point(this.point.x, this.point.y));
    if (gliding) this.redraw();
  },

  _color(server) {
    return this._theme.nodes[this._colorOf.get(server)] ?? this._theme.muted;
  },

  // Draws dots with an outline. The dot of an old record is a ring.
  _drawDots() {
    const { clients, _context: context, _ratio: ratio, _theme: colors } = this;
    const oldBefore = this.clock - OLD;
    const ofNode = clients.servers.map((name) => this._color(name));
    context.lineWidth = 1.5 * ratio;
    for (let index = 0; index < this._singles; index++) {
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

  // Draws the number of clients in a group. The ring shows the shares of the nodes.
  _drawGroup({ x, y, count, ofNode }) {
    const { clients, _context: context, _ratio: ratio, _theme: colors } = this;
    const radius = radiusOf(count) * ratio;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = colors.surface;
    context.fill();
    context.lineWidth = 4 * ratio;
    let from = -Math.PI / 2;
    ofNode.forEach((share, node) => {
      if (share === 0) return;
      const to = from + (2 * Math.PI * share) / count;
      context.beginPath();
      context.arc(x, y, radius - 2 * ratio, from, to);
      context.strokeStyle = this._color(clients.servers[node]);
      context.stroke();
      from = to;
    });
    context.font = this._font(11, 600);
    context.fillStyle = colors.text;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(shortCount(count), x, y + ratio / 2);
    context.textAlign = "start";
  },

  // Draws a cross at the point whose nearest clients are listed.
  _drawPoint(x, y) {
    const { _context: context, _ratio: ratio } = this;
    for (const [width, color] of [[6, this._theme.halo], [2.5, this._theme.accent]]) {
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx * ratio, y + 4 * dy * ratio);
        context.lineTo(x + 12 * dx * ratio, y + 12 * dy * ratio);
      }
      context.lineWidth = width * ratio;
      context.strokeStyle = color;
      context.stroke();
    }
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
    const half = 2.5 * ratio;
    const font = this._font(12);
    // Labels that would overlap are omitted; the nearest places come first.
    const boxes = new Boxes();
    const height = 15 * ratio;
    if (center >= 0) {
      const [x, y] = [this._where[2 * center], this._where[2 * center + 1]];
      boxes.take(x - 10 * ratio, y - height / 2, x + 180 * ratio, y + height / 2);
    }
    for (const { name, x, y } of this._places) {
      const [left, middle] = this._point(x, y);
      context.fillStyle = this._theme.muted;
      context.fillRect(left - half, middle - half, 2 * half, 2 * half);
      const right = left + 12 * ratio + this._widthOf(name, font);
      if (!boxes.take(left, middle - height / 2, right, middle + height / 2)) continue;
      this._write(name, left + 7 * ratio, middle, font, this._theme.muted);
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
    this._write(name, x + 15 * ratio, y, this._font(13, 600), this._theme.text);
  },
});

function grown(array, Type, length) {
  return array && array.length >= length ? array : new Type(Math.max(1024, 2 * length));
}
