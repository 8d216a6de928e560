// The connection to the node: a stream of events, and the state of the herd every second.

const POLL = 1000;
/** Milliseconds after which a node that does not respond counts as down. */
const TIMEOUT = 4000;
const REOPEN = 2000;

/**
 * Keeps the connection to the node. Calls the functions of `handlers`: `reset(held)`,
 * `client(feature)` and `ready()` for events, `herd(overview)` every second, and `state(name)` when
 * the state changes to connecting, live, or gone.
 */
export class Connection {
  #handlers;
  #source = null;
  #reopen = 0;
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
    this.#source?.close();
    const query = new URLSearchParams();
    if (this.#box) query.set("bbox", this.#box);
    if (this.#lastId) query.set("last_event_id", this.#lastId);
    const source = new EventSource(`/events?${query}`);
    this.#source = source;
    const on = (type, handle) =>
      source.addEventListener(type, (event) => {
        this.#lastId = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    on("reset", ({ held }) => this.#handlers.reset(held));
    on("client", (feature) => this.#handlers.client(feature));
    on("ready", () => this.#handlers.ready());
    source.onopen = () => this.#update({ subscribed: true });
    source.onerror = () => {
      this.#update({ subscribed: false });
      // The browser reconnects by itself after a broken connection, but not after an error status.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#reopen = setTimeout(() => this.#open(), REOPEN);
      }
    };
  }

  async #poll() {
    try {
      const signal = AbortSignal.timeout(TIMEOUT);
      const response = await fetch("/api/herd", { signal, cache: "no-store" });
      if (!response.ok) throw new Error(`status ${response.status}`);
      const overview = await response.json();
      // A machine that lost power never closed the stream, which would stay silent forever.
      if (this.#responds === false && this.#source.readyState === EventSource.OPEN) this.#open();
      this.#update({ responds: true });
      this.#handlers.herd(overview);
    } catch {
      this.#update({ responds: false });
    }
    setTimeout(() => this.#poll(), POLL);
  }

  #update({ subscribed = this.#subscribed, responds = this.#responds }) {
    this.#subscribed = subscribed;
    this.#responds = responds;
    const state = responds === false ? "gone" : subscribed && responds ? "live" : "connecting";
    if (state !== this.#state) this.#handlers.state((this.#state = state));
  }
}
