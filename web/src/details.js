// What is known of one client, and what is around it.

import { project } from "./clients.js";
import { byId, element, setText } from "./dom.js";
import { distance, duration, position } from "./format.js";

const RADIUS_KM = 10;
const MOST = 10;

/** The panel of the selected client. */
export class Details {
  #clients;
  #dots;
  #id = null;
  #question = 0;
  #answer = null;
  #provider = null;

  constructor(clients, dots) {
    this.#clients = clients;
    this.#dots = dots;
    byId("again").addEventListener("click", () => this.#ask());
  }

  /** Shows the client with this id; null shows none. */
  show(id) {
    this.#id = id;
    byId("client").hidden = id === null;
    this.#clearPlaces();
    if (id === null) return;
    this.refresh(this.#dots.clock);
    this.#ask();
  }

  /** Shows it as it is at `clock`, POSIX seconds of the node. */
  refresh(clock) {
    const { received, time, servers, server, lines, names } = this.#clients;
    const at = this.#id === null ? undefined : this.#clients.indexOf(this.#id);
    if (at === undefined) {
      if (this.#id !== null) setText(byId("age"), "the node holds it no longer");
      return;
    }
    setText(byId("client-title"), names[at]);
    setText(byId("age"), clock ? `${duration(Math.max(0, clock - received[at]))}` : "");
    setText(byId("server"), servers[server[at]]);
    setText(byId("position"), position(...this.#clients.position(at)));
    setText(byId("time"), utc(time[at]));
    setText(byId("line"), lines[at]);
  }

  /** Who answers, as /api/herd names it. */
  set provider(name) {
    if (name === this.#provider) return;
    this.#provider = name;
    this.#placeAndCredit();
  }

  #clearPlaces() {
    this.#question++;
    this.#answer = null;
    this.#dots.places = [];
    byId("places").replaceChildren();
    byId("credits").replaceChildren();
    setText(byId("places-state"), "");
  }

  async #ask() {
    this.#clearPlaces();
    const question = this.#question;
    const state = byId("places-state");
    setText(state, "Asking…");
    try {
      const path = `/api/clients/${this.#id}/places?radius=${RADIUS_KM}&max=${MOST}`;
      const response = await fetch(path, { cache: "no-store" });
      const document = await response.json();
      if (question !== this.#question) return; // somebody else is looked at by now
      if (!response.ok) throw new Error(document.error);
      this.#showPlaces(document);
    } catch (error) {
      if (question === this.#question) setText(state, `The places could not be had: ${error.message}`);
    }
  }

  #showPlaces(answer) {
    const { status, results, error_message } = answer;
    const state = byId("places-state");
    if (status === "ZERO_RESULTS") setText(state, `Nothing is known within ${RADIUS_KM} km.`);
    else if (status === "OK") setText(state, `Within ${RADIUS_KM} km of it:`);
    else setText(state, error_message ?? status);
    const at = this.#clients.indexOf(this.#id);
    const here = at === undefined ? null : this.#clients.position(at);
    const items = results.map(({ name, vicinity, geometry }) => {
      const there = geometry?.location;
      const far = there && here ? `${distance(here, [there.lat, there.lng]).toFixed(1)} km` : "";
      const about = element("span", { className: "quiet" }, vicinity ?? "");
      return element("li", { className: "place" }, element("span", {}, name, about), element("span", { className: "far" }, far));
    });
    byId("places").replaceChildren(...items);
    this.#answer = answer;
    this.#placeAndCredit();
  }

  // Google's places must be shown on no map but Google's, and under its name:
  // https://developers.google.com/maps/documentation/places/web-service/policies
  #placeAndCredit() {
    if (this.#answer === null || this.#provider === null) return;
    const { results, html_attributions } = this.#answer;
    const googles = this.#provider === "google" || this.#provider === "google_legacy";
    const shown = googles ? [] : results;
    this.#dots.places = shown
      .filter(({ geometry }) => geometry?.location)
      .map(({ name, geometry: { location } }) => {
        const [x, y] = project(location.lng, location.lat);
        return { name, x, y };
      });
    this.#dots.redraw();
    const google = googles && results.length > 0 ? [element("span", { translate: false }, "Google Maps"), " "] : [];
    const others = (html_attributions ?? []).flatMap((html) => [...credit(html), " "]);
    byId("credits").replaceChildren(...google, ...others);
  }
}

// Providers want to be named in HTML of their own. Their words and links are taken, nothing else.
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
