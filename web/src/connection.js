// The connection to the node: a stream of events, and the state of the herd every second.
//
// A tab that may not keep a connection open, because it is hidden or there are too many, closes the
// stream when it is up to date and resumes it every two seconds.

import { Tabs } from "./tabs.js";

const POLL = 1000;
/** Milliseconds after which a node that does not respond counts as down. */
const TIMEOUT = 4000;
const REOPEN = 2000;
/** Milliseconds without an event after which a stream is up to date: the node sends what there is at once. */
const QUIET = 150;
/** Milliseconds after which a stream is closed even if events keep arriving. */
const MOST_TURN = 1000;

/**
 * Keeps the connection to the node. Calls the functions of `handlers`: `reset(held)`,
 * `client(feature)`, `forget(id)` and `ready()` for events, `herd(overview)` every second, and `state(name)` when
 * the state changes to connecting, live, or gone.
 */
export class Connection {
  #handlers;
  #source = null;
  #reopen = 0;
  #quiet = 0;
  #tabs = new Tabs(() => this.#share());
  #inSnapshot = false;
  #paused = false;
  #liveSince = 0;
  #lastId = "";
  #box = "";
  #subscribed = false;
  #responds = null;
  #state = "connecting";

  constructor(handlers) {
    this.#handlers = handlers;
    this.#open();
    this.#poll();
  }

  /** Subscribes to the clients in `box`, "west,south,east,north", or to all if it is "". */
  watch(box) {
    if (box === this.#box) return;
    this.#box = box;
    this.#lastId = ""; // resuming would omit clients in the box that do not move
    this.#open();
  }

  #open() {
    clearTimeout(this.#reopen);
    clearTimeout(this.#quiet);
    this.#source?.close();
    this.#paused = false;
    this.#inSnapshot = !this.#lastId;
    this.#liveSince = performance.now();
    const query = new URLSearchParams();
    if (this.#box) query.set("bbox", this.#box);
    if (this.#lastId) query.set("last_event_id", this.#lastId);
    const source = new EventSource(`/events?${query}`);
    this.#source = source;
    const on = (type, handle) =>
      source.addEventListener(type, (event) => {
        this.#lastId = event.lastEventId;
        if (type === "reset" || type === "ready") {
          this.#inSnapshot = type === "reset";
          this.#liveSince = performance.now();
        }
        this.#share();
        handle(JSON.parse(event.data));
      });
    on("reset", ({ held }) => this.#handlers.reset(held));
    on("client", (feature) => this.#handlers.client(feature));
    on("forget", ({ id }) => this.#handlers.forget(id));
    on("ready", () => this.#handlers.ready());
    source.onopen = () => {
      this.#update({ subscribed: true });
      this.#share();
    };
    source.onerror = () => {
      this.#update({ subscribed: false });
      // The browser reconnects by itself after a broken connection, but not after an error status.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#reopen = setTimeout(() => this.#open(), REOPEN);
      }
    };
  }

  // Closes the stream for a while once it is up to date, if other tabs have more need of the connection.
  #share() {
    clearTimeout(this.#quiet);
    if (this.#tabs.mayStream) {
      if (this.#paused) this.#open();
      return;
    }
    if (this.#paused || this.#inSnapshot || this.#source?.readyState !== EventSource.OPEN) return;
    if (performance.now() - this.#liveSince > MOST_TURN) this.#pause();
    else this.#quiet = setTimeout(() => this.#pause(), QUIET);
  }

  #pause() {
    this.#source.close();
    this.#paused = true;
    this.#reopen = setTimeout(() => this.#open(), REOPEN);
  }

  async #poll() {
    this.#tabs.announce();
    const overview = await fetchOverview();
    setTimeout(() => this.#poll(), POLL);
    if (!overview) return this.#update({ responds: false });
    // A machine that lost power never closed the stream, which would stay silent forever.
    if (this.#responds === false && this.#source.readyState === EventSource.OPEN) this.#open();
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
