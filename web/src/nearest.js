// The clients nearest to a client or to a point of the map.

import { project } from "./clients.js";
import { byId, isolated, setText } from "./dom.js";
import { countOf, meters, position, shorten } from "./format.js";
import { Rows } from "./rows.js";

const LIMIT = 10;
/** Number of characters of a name in a message. */
const MAX_SHOWN = 80;
const HINT = "Click the map or select a client to list the clients nearest to it.";

/** The panel of the nearest clients. */
export class Nearest {
  #dots;
  #rows;
  #request = 0;
  #path = null; // of the query, without its further parameters
  #name = ""; // of the client at the center
  #maxAge;

  /** `select(id)` is called for a chosen client; `maxAge()` returns the parameter of queries, or "". */
  constructor(dots, select, maxAge) {
    this.#dots = dots;
    this.#rows = new Rows(byId("nearest"), select);
    this.#maxAge = maxAge;
    byId("near-clear").addEventListener("click", () => {
      this.clear();
      byId("near-center").focus();
    });
    this.clear();
  }

  /** Lists the clients nearest to a client. */
  showClient(id, name) {
    this.#show(`/api/clients/${id}/near?`, null, isolated(shorten(name, MAX_SHOWN)));
  }

  /** Lists the clients nearest to a point. */
  showPoint({ lat, lng }) {
    // The map continues beyond the antimeridian.
    const longitude = ((((lng + 180) % 360) + 360) % 360) - 180;
    const [x, y] = project(lng, lat);
    const query = `/api/clients?near=${longitude.toFixed(6)},${lat.toFixed(6)}&`;
    this.#show(query, { x, y }, position(lat, longitude));
  }

  /** Empties the panel. */
  clear() {
    this.#show(null, null, "");
  }

  #show(path, point, name) {
    [this.#path, this.#name, this.#dots.point] = [path, name, point];
    this.#dots.redraw();
    this.#rows.show([], null);
    byId("near-clear").hidden = point === null;
    setText(byId("near-state"), path ? "Loading…" : HINT);
    this.load();
  }

  /** Loads the list again. */
  async load() {
    const request = ++this.#request;
    if (!this.#path) return;
    const state = byId("near-state");
    try {
      const response = await fetch(`${this.#path}limit=${LIMIT}${this.#maxAge()}`, { cache: "no-store" });
      const { features, error } = await response.json();
      if (request !== this.#request) return; // another list is wanted by now
      if (!response.ok) throw new Error(error);
      const found = features.map(({ id, properties: { client, distance } }) => ({ id, name: client, about: meters(distance) }));
      this.#rows.show(found, this.#dots.selected);
      const words = found.length === 0 ? "No clients near " : `${countOf(found.length, "client")} nearest to `;
      if (state.textContent !== `${words}${this.#name.textContent ?? this.#name}`) state.replaceChildren(words, this.#name);
    } catch (error) {
      if (request === this.#request) setText(state, `Cannot load the nearest clients: ${error.message}`);
    }
  }
}
