// A stream of events from the node.
//
// A tab that may not keep a connection open, because it is hidden or there are too many, closes the
// stream when it is up to date and resumes it every two seconds.

const REOPEN = 2000;
/** Milliseconds without an event after which a stream is up to date: the node sends what there is at once. */
const QUIET = 150;
/** Milliseconds after which a stream is closed even if events keep arriving. */
const MOST_TURN = 1000;

export class Stream {
  #tabs;
  #handlers;
  #onChange;
  #query = null; // URLSearchParams as text; null while the stream is off
  #source = null;
  #reopen = 0;
  #quiet = 0;
  #inSnapshot = false;
  #paused = false;
  #liveSince = 0;
  #lastId = "";

  /** `handlers` are functions of the data of events, by their type. `onChange(subscribed)` is called when
   * the connection is established or lost. */
  constructor(tabs, handlers, onChange = () => {}) {
    this.#tabs = tabs;
    this.#handlers = handlers;
    this.#onChange = onChange;
  }

  /** Subscribes with the parameters of a query, such as `bbox`; null ends the subscription. */
  subscribe(query) {
    if (query === this.#query) return;
    this.#query = query;
    this.#lastId = ""; // resuming would omit clients that pass the new filter and do not move
    this.open();
  }

  /** True if the connection seems to be established. */
  get isOpen() {
    return this.#source?.readyState === EventSource.OPEN;
  }

  /** Opens the stream again, where it was. */
  open() {
    clearTimeout(this.#reopen);
    clearTimeout(this.#quiet);
    this.#source?.close();
    this.#source = null;
    this.#paused = false;
    if (this.#query === null) return;
    this.#inSnapshot = !this.#lastId;
    this.#liveSince = performance.now();
    const query = new URLSearchParams(this.#query);
    if (this.#lastId) query.set("last_event_id", this.#lastId);
    const source = new EventSource(`/events?${query}`);
    this.#source = source;
    for (const [type, handle] of Object.entries(this.#handlers)) {
      source.addEventListener(type, (event) => {
        this.#lastId = event.lastEventId;
        if (type === "reset" || type === "ready") {
          this.#inSnapshot = type === "reset";
          this.#liveSince = performance.now();
        }
        this.share();
        handle(JSON.parse(event.data));
      });
    }
    source.onopen = () => {
      this.#onChange(true);
      this.share();
    };
    source.onerror = () => {
      this.#onChange(false);
      // The browser reconnects by itself after a broken connection, but not after an error status.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#reopen = setTimeout(() => this.open(), REOPEN);
      }
    };
  }

  /** Closes the stream for a while once it is up to date, if other tabs have more need of the connection. */
  share() {
    clearTimeout(this.#quiet);
    if (this.#tabs.mayStream) {
      if (this.#paused) this.open();
      return;
    }
    if (this.#paused || this.#inSnapshot || !this.isOpen) return; // or there is no subscription
    if (performance.now() - this.#liveSince > MOST_TURN) this.#pause();
    else this.#quiet = setTimeout(() => this.#pause(), QUIET);
  }

  #pause() {
    this.#source.close();
    this.#paused = true;
    this.#reopen = setTimeout(() => this.open(), REOPEN);
  }
}
