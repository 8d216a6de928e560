// Search for a client by name.

import { byId, element, isolated, setText } from "./dom.js";
import { shorten } from "./format.js";
import { idOf } from "./ids.js";

const MAX_MATCHES = 8;
/** Number of characters of a name in a message. */
const MAX_SHOWN = 80;

/** Creates the search. Calls `select(id)` for the client that was found, and `learn(feature)` for one
 * that the page did not know; it returns the index of the client. */
export function makeSearch(clients, select, learn) {
  const [form, query, matches, found] = ["find", "query", "matches", "found"].map(byId);
  let searches = 0;

  const choose = (at) => {
    if (at === undefined) return; // the client has gone meanwhile
    const focused = matches.contains(document.activeElement);
    matches.replaceChildren();
    found.replaceChildren("Found ", isolated(shorten(clients.names[at], MAX_SHOWN)), ".");
    select(clients.ids[at]);
    // The match that had the focus is no longer in the document.
    if (focused) byId("client-title").focus({ preventScroll: true });
  };

  query.addEventListener("input", () => {
    setText(found, "");
    const text = query.value.trim();
    const ids = text ? clients.find(text, MAX_MATCHES).map((at) => clients.ids[at]) : [];
    matches.replaceChildren(
      ...ids.map((id) => {
        const onclick = () => choose(clients.indexOf(id));
        const name = isolated(clients.names[clients.indexOf(id)]);
        return element("li", {}, element("button", { type: "button", className: "choice", onclick }, name));
      }),
    );
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = query.value.trim();
    if (!text) return;
    const exact = clients.indexOf(idOf(text));
    if (exact !== undefined) return choose(exact);
    // The page may know only the clients near the view. The node knows all of them.
    const search = ++searches;
    try {
      const response = await fetch(`/api/clients/${idOf(text)}`, { cache: "no-store" });
      const feature = response.ok ? await response.json() : null;
      if (search !== searches) return; // another search has begun
      if (feature) return choose(learn(feature));
      const [best] = clients.find(text, 1);
      if (best !== undefined) return choose(best);
      found.replaceChildren("There is no client named ", isolated(shorten(text, MAX_SHOWN)), ".");
    } catch {
      setText(found, "The node does not respond.");
    }
  });
}
