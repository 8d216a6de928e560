// The panel of the selected client: its record, and the places near it.

import { project } from "./clients.js";
import { byId, element, isolated, setText } from "./dom.js";
import { distance, duration, position } from "./format.js";

const RADIUS_KM = 10;
const MAX_PLACES = 10;

/** The panel of the selected client. */
export class Details {
  #clients;
  #dots;
  #id = null;
  #request = 0;
  #answer = null;
  #provider = null;
  #fencesOf;

  /** `fencesOf(id)` returns the names of the fences that a client is in, or null if they are unknown. */
  constructor(clients, dots, fencesOf) {
    this.#fencesOf = fencesOf;
    this.#clients = clients;
    this.#dots = dots;
    byId("again").addEventListener("click", () => this.#load());
  }

  /** Shows the client with this id; null hides the panel. */
  show(id) {
    this.#id = id;
    byId("client").hidden = id === null;
    this.#clearPlaces();
    if (id === null) return;
    this.refresh(this.#dots.clock);
    this.#load();
  }

  /** Updates the panel. `clock` is the time of the node in POSIX seconds. */
  refresh(clock) {
    const { received, time, servers, server, lines, names } = this.#clients;
    const at = this.#id === null ? undefined : this.#clients.indexOf(this.#id);
    if (at === undefined) {
      if (this.#id !== null) setText(byId("age"), "no longer held by the node");
      return;
    }
    const title = byId("client-title");
    if (title.textContent !== names[at]) title.replaceChildren(isolated(names[at]));
    setText(byId("age"), clock ? `${duration(Math.max(0, clock - received[at]))}` : "");
    setText(byId("server"), servers[server[at]]);
    setText(byId("position"), position(...this.#clients.position(at)));
    setText(byId("time"), utc(time[at]));
    const fences = this.#fencesOf(this.#id);
    byId("fences-title").hidden = byId("fences-of").hidden = fences === null;
    setText(byId("fences-of"), fences?.join(", ") || "none");
    if (byId("line").textContent !== lines[at]) byId("line").replaceChildren(...record(lines[at]));
  }

  /** Scrolls to the panel; `block` as in `scrollIntoView`. */
  reveal(block) {
    byId("client").scrollIntoView({ block });
  }

  /** Sets the places provider, as /api/herd names it. */
  set provider(name) {
    if (name === this.#provider) return;
    this.#provider = name;
    this.#drawAndCredit();
  }

  #clearPlaces() {
    this.#request++;
    this.#answer = null;
    this.#dots.setPlaces([]);
    byId("places").replaceChildren();
    byId("credits").replaceChildren();
    setText(byId("places-state"), "");
  }

  async #load() {
    this.#clearPlaces();
    const request = this.#request;
    const state = byId("places-state");
    setText(state, "Loading…");
    try {
      const path = `/api/clients/${this.#id}/places?radius=${RADIUS_KM}&max=${MAX_PLACES}`;
      const response = await fetch(path, { cache: "no-store" });
      const document = await response.json();
      if (request !== this.#request) return; // another client is selected by now
      if (!response.ok) throw new Error(document.error);
      this.#showPlaces(document);
    } catch (error) {
      if (request === this.#request) setText(state, `Cannot load places: ${error.message}`);
    }
  }

  #showPlaces(answer) {
    const { status, results, error_message } = answer;
    const state = byId("places-state");
    if (status === "ZERO_RESULTS") setText(state, `No known places within ${RADIUS_KM} km.`);
    else if (status === "OK") setText(state, `Within ${RADIUS_KM} km:`);
    else setText(state, error_message ?? status);
    const at = this.#clients.indexOf(this.#id);
    const here = at === undefined ? null : this.#clients.position(at);
    const items = results.map(({ name, vicinity, geometry }) => {
      const there = geometry?.location;
      const far = there && here ? `${distance(here, [there.lat, there.lng]).toFixed(1)} km` : "";
      const about = element("bdi", { className: "quiet" }, vicinity ?? "");
      return element("li", { className: "place" }, element("span", {}, isolated(name), about), element("span", { className: "far" }, far));
    });
    byId("places").replaceChildren(...items);
    this.#answer = answer;
    this.#drawAndCredit();
  }

  // Google's policies allow its places on Google's maps only, and require its name next to them:
  // https://developers.google.com/maps/documentation/places/web-service/policies
  #drawAndCredit() {
    if (this.#answer === null || this.#provider === null) return;
    const { results, html_attributions } = this.#answer;
    const googles = this.#provider === "google" || this.#provider === "google_legacy";
    const shown = googles ? [] : results;
    const drawn = shown
      .filter(({ geometry }) => geometry?.location)
      .map(({ name, geometry: { location } }) => {
        const [x, y] = project(location.lng, location.lat);
        return { name, x, y };
      });
    this.#dots.setPlaces(drawn);
    const google = googles && results.length > 0 ? [element("span", { translate: false }, "Google Maps"), " "] : [];
    const others = (html_attributions ?? []).flatMap((html) => [...credit(html), " "]);
    byId("credits").replaceChildren(...google, ...others);
  }
}

// Splits an AT record, so that the direction of a name does not affect the fields after it.
function record(line) {
  const fields = line.split(" ");
  if (fields.length < 4) return [isolated(line)];
  return [`${fields.slice(0, 3).join(" ")} `, isolated(fields[3]), ` ${fields.slice(4).join(" ")}`];
}

// Converts the HTML of an attribution. Only its text and its links are kept.
function credit(html) {
  const { body } = new DOMParser().parseFromString(html, "text/html");
  return [...body.childNodes].map((node) =>
    node.nodeName === "A" && /^https?:/.test(node.href)
      ? element("a", { href: node.href, rel: "noreferrer" }, node.textContent)
      : node.textContent,
  );
}

function utc(seconds) {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return `${seconds}`;
  return date.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
}
