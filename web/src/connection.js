// The connection to the node: streams of events, and the state of the herd every second.

import { Stream } from "./stream.js";
import { Tabs } from "./tabs.js";

const POLL = 1000;
/** Milliseconds after which a node that does not respond counts as down. */
const TIMEOUT = 4000;

/**
 * Keeps the connection to the node. Calls the functions of `handlers`: `reset({held})`,
 * `client(feature)`, `forget({id})` and `ready()` for events, `herd(overview)` every second, and
 * `state(name)` when the state changes to connecting, live, or gone.
 */
export class Connection {
  #handlers;
  #tabs = new Tabs(() => this.#streams.forEach((stream) => stream.share()));
  #streams = [];
  #stream;
  #box = "";
  #maxAge = "";
  #subscribed = false;
  #responds = null;
  #state = "connecting";

  constructor({ herd, state, ...events }) {
    this.#handlers = { herd, state };
    this.#stream = new Stream(this.#tabs, events, (subscribed) => this.#update({ subscribed }));
    this.#streams.push(this.#stream);
    this.#subscribe();
    this.#poll();
  }

  /** Subscribes to the clients in `box`, "west,south,east,north", or to all if it is "". */
  watch(box) {
    this.#box = box;
    this.#subscribe();
  }

  /** Subscribes to the clients heard from in the last `seconds`, or to all if it is "". */
  limitAge(seconds) {
    this.#maxAge = seconds;
    this.#subscribe();
  }

  /** Adds a stream. `handlers` are functions of the data of events, by their type. Returns a function that
   * subscribes with a query, or ends the subscription if it is null. */
  follow(handlers) {
    const stream = new Stream(this.#tabs, handlers);
    this.#streams.push(stream);
    return (query) => {
      this.#tabs.streams = query === null ? 1 : 2;
      this.#streams.forEach((each) => each.share());
      stream.subscribe(query);
    };
  }

  #subscribe() {
    const parameters = Object.entries({ bbox: this.#box, max_age: this.#maxAge });
    this.#stream.subscribe(`${new URLSearchParams(parameters.filter(([, value]) => value))}`);
  }

  async #poll() {
    this.#tabs.announce();
    const overview = await fetchOverview();
    setTimeout(() => this.#poll(), POLL);
    if (!overview) return this.#update({ responds: false });
    // A machine that lost power never closed the stream, which would stay silent forever.
    if (this.#responds === false) this.#streams.filter((stream) => stream.isOpen).forEach((stream) => stream.open());
    this.#update({ responds: true });
    this.#handlers.herd(overview);
  }

  #update({ subscribed = this.#subscribed, responds = this.#responds }) {
    this.#subscribed = subscribed;
    this.#responds = responds;
    const state = responds === false ? "gone" : subscribed && responds ? "live" : "connecting";
    if (state !== this.#state) this.#handlers.state((this.#state = state));
  }
}

// Returns null if the node does not respond.
async function fetchOverview() {
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    const response = await fetch("/api/herd", { signal, cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}
