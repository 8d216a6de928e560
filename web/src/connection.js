// What the node says: events as they come, and the state of the herd each second.

const POLL = 1000;
/** A node that takes longer is gone for people who look at it. */
const PATIENCE = 4000;
const REOPEN = 2000;

/**
 * Keeps in touch with the node. `told` has functions:
 * `reset(held)`, `client(feature)`, `ready()` for events, `herd(overview)` each second, and
 * `state(name)` when that changes: connecting, live, or gone.
 */
export class Connection {
  #told;
  #source = null;
  #reopen = 0;
  #lastId = "";
  #box = "";
  #listens = false;
  #answers = null;
  #state = "connecting";

  constructor(told) {
    this.#told = told;
    this.#open();
    this.#poll();
  }

  /** Listens to the clients in `box` alone, "west,south,east,north"; "" is everywhere. */
  watch(box) {
    if (box === this.#box) return;
    this.#box = box;
    this.#lastId = ""; // it would leave out those in the box that do not move
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
    const on = (type, tell) =>
      source.addEventListener(type, (event) => {
        this.#lastId = event.lastEventId;
        tell(JSON.parse(event.data));
      });
    on("reset", ({ held }) => this.#told.reset(held));
    on("client", (feature) => this.#told.client(feature));
    on("ready", () => this.#told.ready());
    source.onopen = () => this.#note({ listens: true });
    source.onerror = () => {
      this.#note({ listens: false });
      // The browser tries again by itself after a connection that broke, not after a refusal.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#reopen = setTimeout(() => this.#open(), REOPEN);
      }
    };
  }

  async #poll() {
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const response = await fetch("/api/herd", { signal, cache: "no-store" });
      if (!response.ok) throw new Error(`status ${response.status}`);
      const overview = await response.json();
      // A machine that vanished never closed the stream, which would stay silent for ever.
      if (this.#answers === false && this.#source.readyState === EventSource.OPEN) this.#open();
      this.#note({ answers: true });
      this.#told.herd(overview);
    } catch {
      this.#note({ answers: false });
    }
    setTimeout(() => this.#poll(), POLL);
  }

  #note({ listens = this.#listens, answers = this.#answers }) {
    this.#listens = listens;
    this.#answers = answers;
    const state = answers === false ? "gone" : listens && answers ? "live" : "connecting";
    if (state !== this.#state) this.#told.state((this.#state = state));
  }
}
