// Search for a client by name.

import { byId, element, setText } from "./dom.js";

const MAX_MATCHES = 8;

/** Creates the search. Calls `select(id)` for the client that was found, and `learn(feature)` for one
 * that the page did not know; it returns the index of the client. */
export function makeSearch(clients, select, learn) {
  const [form, query, matches, found] = ["find", "query", "matches", "found"].map(byId);

  const choose = (at) => {
    matches.replaceChildren();
    setText(found, `Found ${clients.names[at]}.`);
    select(clients.ids[at]);
  };

  query.addEventListener("input", () => {
    setText(found, "");
    const text = query.value.trim();
    const ids = text ? clients.find(text, MAX_MATCHES).map((at) => clients.ids[at]) : [];
    matches.replaceChildren(
      ...ids.map((id) => {
        const onclick = () => choose(clients.indexOf(id));
        const name = clients.names[clients.indexOf(id)];
        return element("li", {}, element("button", { type: "button", className: "choice", onclick }, name));
      }),
    );
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = query.value.trim();
    if (!text) return;
    const known = clients.find(text, MAX_MATCHES);
    const exact = known.find((at) => clients.names[at] === text);
    if (exact !== undefined) return choose(exact);
    // The page may know only the clients near the view. The node knows all of them.
    try {
      const response = await fetch(`/api/clients/${encodeURIComponent(text)}`, { cache: "no-store" });
      if (response.ok) return choose(learn(await response.json()));
      if (known.length > 0) return choose(known[0]);
      setText(found, `There is no client named ${text}.`);
    } catch {
      setText(found, "The node does not respond.");
    }
  });
}
