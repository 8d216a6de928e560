// The tabs of this page in the same browser.

// Browsers open at most six connections to a node over HTTP/1.1, for all tabs together. Streams that hold
// more than four of them would leave too few for requests. This is the number of tabs that may keep one
// stream, or two, open.
const MOST_TABS = { 1: 3, 2: 2 };
/** Milliseconds after which a tab that announces nothing has gone. */
const SILENCE = 5000;

/**
 * Decides which tabs may keep a connection open. Visible tabs announce themselves to the others over a
 * BroadcastChannel; the oldest of them may.
 */
export class Tabs {
  #id = `${Date.now()} ${Math.random()}`;
  #channel = "BroadcastChannel" in window ? new BroadcastChannel("tabs") : null;
  /** Number of streams of this tab. */
  streams = 1;
  #others = new Map(); // visible tabs by id, with the time of their last announcement

  /** Calls `onChange` when another tab appears, disappears or is closed, or this one does. */
  constructor(onChange) {
    this.#channel?.addEventListener("message", ({ data: { id, visible, greets } }) => {
      const known = this.#others.has(id);
      if (visible) this.#others.set(id, performance.now());
      else this.#others.delete(id);
      if (greets) this.announce();
      if (known !== visible) onChange();
    });
    document.addEventListener("visibilitychange", () => {
      this.announce();
      onChange();
    });
    window.addEventListener("pagehide", () => this.#send({ visible: false }));
    this.#send({ visible: !document.hidden, greets: true });
  }

  /** Announces this tab. Must be called every second or so. */
  announce() {
    this.#send({ visible: !document.hidden });
  }

  /** True if this tab may keep a connection open. */
  get mayStream() {
    if (document.hidden) return false;
    const oldest = performance.now() - SILENCE;
    const before = [...this.#others].filter(([id, seen]) => seen > oldest && id < this.#id);
    return before.length < MOST_TABS[this.streams];
  }

  #send(message) {
    this.#channel?.postMessage({ id: this.#id, ...message });
  }
}
