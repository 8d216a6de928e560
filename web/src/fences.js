// Fences: drawn on the map, listed with the number of clients inside, and who enters and leaves them.

import { CanvasLayer } from "./canvas.js";
import { project } from "./clients.js";
import { byId, element, isolated, setText } from "./dom.js";
import { count, shortCount } from "./format.js";
import { partsOf } from "./shapes.js";

/** Number of fences above which the page does not load them. */
const MAX_FENCES = 2000;
/** Number of clients in fences above which the page does not follow who enters and leaves. */
const MAX_INSIDE = 10000;
/** Number of fences and of events that are listed. */
const MAX_ROWS = 100;
const MAX_EVENTS = 12;
/** Milliseconds for which a fence is highlighted after a client has entered or left it. */
const FLASH = 1200;
/** Seconds after which the numbers are loaded again if the page does not follow events. */
const RELOAD = 10;

/** The fences of the node. */
export class Fences {
  #layer;
  #stream;
  #show;
  #select;
  #hash = null;
  #fences = new Map(); // by name
  #inside = new Map(); // sets of ids, by the name of the fence
  #isFollowed = false;
  #seconds = 0;

  /** `follow(handlers)` returns a function that subscribes with a query, or ends the subscription if it is
   * null; `handlers` are functions of the data of events, by their type. `show(bounds)` moves the view, `select(id)` selects a client. */
  constructor(map, { follow, show, select }) {
    this.#layer = new FenceLayer({ pane: "fences" }).addTo(map);
    [this.#show, this.#select] = [show, select];
    byId("announce").addEventListener("change", ({ target }) => {
      byId("fence-log").setAttribute("aria-live", target.checked ? "polite" : "off");
    });
    this.#stream = follow({
      reset: () => this.#inside.clear(),
      client: (feature) => this.#set(feature, true),
      ready: () => this.#refresh(),
      enter: (feature) => this.#report(feature, true),
      leave: (feature) => this.#report(feature, false),
      forget: () => {}, // a forgotten client leaves its fences
    });
  }

  /** Adopts the colors of the current theme. */
  retheme() {
    this.#layer.retheme();
  }

  /** Returns the names of the fences that a client is in, or null if the page does not follow them. */
  of(id) {
    if (!this.#isFollowed) return null;
    return [...this.#inside].filter(([, ids]) => ids.has(id)).map(([name]) => name);
  }

  /** Follows the fences of the node, as /api/herd describes them. Must be called every second. */
  async update(fences) {
    const number = fences?.count ?? 0;
    byId("fences").hidden = byId("legend-fence").hidden = number === 0;
    const hash = number > 0 ? fences.hash : null;
    if (hash === this.#hash) {
      if (hash !== null && !this.#isFollowed && ++this.#seconds % RELOAD === 0) await this.#load(number);
      return;
    }
    this.#hash = hash;
    this.#stream(null); // a fence that is new or has changed causes no events for the clients inside
    this.#isFollowed = false;
    await this.#load(number);
  }

  async #load(number) {
    const hash = this.#hash;
    let features = [];
    if (number > MAX_FENCES) {
      setText(byId("fences-state"), `The node has ${count(number)} fences, which are too many to show.`);
    } else if (number > 0) {
      const response = await fetch("/api/fences", { cache: "no-store" }).catch(() => null);
      if (!response?.ok) return void (this.#hash = null); // the next update tries again
      ({ features } = await response.json());
      setText(byId("fences-state"), "");
    }
    if (hash !== this.#hash) return;
    this.#fences = new Map(features.map((feature) => [feature.properties.name, new Fence(feature)]));
    const inside = features.reduce((sum, { properties }) => sum + properties.inside, 0);
    this.#isFollowed = features.length > 0 && inside <= MAX_INSIDE;
    this.#stream(this.#isFollowed ? "fence=*" : null);
    this.#refresh();
  }

  #set({ id, properties }, isInside) {
    const { fence } = properties;
    if (!this.#inside.has(fence)) this.#inside.set(fence, new Set());
    if (isInside) this.#inside.get(fence).add(id);
    else this.#inside.get(fence).delete(id);
  }

  // Shows that a client has entered or left a fence.
  #report(feature, enters) {
    this.#set(feature, enters);
    const { client, fence, reason } = feature.properties;
    const onclick = () => this.#select(feature.id);
    const why = reason && reason !== "moved" ? ` (${reason})` : "";
    const words = element("span", {}, isolated(client), enters ? " entered " : " left ", isolated(fence), why);
    const at = element("span", { className: "quiet" }, new Date().toLocaleTimeString());
    byId("fence-events").prepend(element("li", {}, element("button", { type: "button", className: "choice", onclick }, words, at)));
    while (byId("fence-events").children.length > MAX_EVENTS) byId("fence-events").lastChild.remove();
    this.#layer.flash(fence);
    this.#refresh();
  }

  #refresh() {
    for (const [name, fence] of this.#fences) {
      if (this.#isFollowed) fence.inside = this.#inside.get(name)?.size ?? 0;
    }
    this.#layer.show([...this.#fences.values()]);
    const list = byId("fence-list");
    const shown = [...this.#fences.values()].slice(0, MAX_ROWS);
    if (list.children.length !== shown.length || shown.some(({ name }, at) => list.children[at].dataset.name !== name)) {
      list.replaceChildren(...shown.map((fence) => this.#row(fence)));
    }
    shown.forEach(({ inside }, at) => setText(list.children[at].querySelector(".quiet"), `${count(inside)} inside`));
  }

  #row({ name }) {
    const onclick = () => this.#show(this.#fences.get(name).bounds);
    const row = element("li", {}, element("button", { type: "button", className: "choice", onclick }, isolated(name), element("span", { className: "quiet" })));
    row.dataset.name = name;
    return row;
  }
}

/** A fence as it is drawn. */
class Fence {
  constructor({ geometry, properties }) {
    this.name = properties.name;
    this.inside = properties.inside;
    const parts = partsOf(geometry, properties.radius);
    /** The parts, as rings of points of the unit square. */
    this.parts = parts.map((part) => part.map((ring) => ring.map(([longitude, latitude]) => project(longitude, latitude))));
    /** The boxes around the parts in the unit square, as [west, north, east, south]. */
    this.boxes = this.parts.map((part) => {
      const [xs, ys] = [0, 1].map((axis) => part.flat().map((point) => point[axis]));
      return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    });
    // A circle at the antimeridian has a part on either side of the map.
    const [longitudes, latitudes] = [0, 1].map((axis) => parts[0].flat().map((point) => point[axis]));
    /** The box around the first part as [[south, west], [north, east]]. */
    this.bounds = [[Math.min(...latitudes), Math.min(...longitudes)], [Math.max(...latitudes), Math.max(...longitudes)]];
  }
}

/** Draws fences. */
const FenceLayer = CanvasLayer.extend({
  initialize(options) {
    CanvasLayer.prototype.initialize.call(this, options);
    this._fences = [];
    this._flashes = new Map(); // the end of the highlight, by the name of a fence
  },

  /** Shows these fences. */
  show(fences) {
    this._fences = fences;
    this.redraw();
  },

  /** Highlights a fence for a moment. */
  flash(name) {
    this._flashes.set(name, performance.now() + FLASH);
    setTimeout(() => this.redraw(), FLASH + 20);
    this.redraw();
  },

  _draw() {
    const context = this._cleared();
    const { width, height } = this._container;
    const { _ratio: ratio, _theme: colors } = this;
    const now = performance.now();
    for (const { name, inside, parts, boxes } of this._fences) {
      const flashes = this._flashes.get(name) > now;
      const font = this._font(12, 600);
      const text = `${name} · ${shortCount(inside)}`;
      const wide = this._widthOf(text, font);
      context.lineWidth = (flashes ? 3 : 1.5) * ratio;
      parts.forEach((rings, at) => {
        const [west, north, east, south] = boxes[at];
        const [[left, top], [right, bottom]] = [this._point(west, north), this._point(east, south)];
        if (right < 0 || bottom < 0 || left > width || top > height) return;
        context.beginPath();
        for (const ring of rings) {
          ring.forEach(([x, y], index) => context[index === 0 ? "moveTo" : "lineTo"](...this._point(x, y)));
          context.closePath();
        }
        context.fillStyle = context.strokeStyle = colors.fence;
        context.globalAlpha = flashes ? 0.4 : 0.12;
        context.fill("evenodd");
        context.globalAlpha = 1;
        context.stroke();
        // The name is above the fence, if the fence is not too small for it.
        if (right - left > wide / 3) this._write(text, (left + right - wide) / 2, top - 9 * ratio, font, colors.fence);
      });
    }
  },
});
