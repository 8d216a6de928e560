// The clients in view as a list: the same as the map for those who do not see it.

import { byId, element, setText } from "./dom.js";
import { count, duration } from "./format.js";

const MOST = 50;
/** Of more than that, those that are listed are not the first by name: sorting all would be felt. */
const SORTED = 1000;

/** Makes the list; `select(id)` is called when one is chosen. Returns what brings it up to date. */
export function makeList(clients, dots, select) {
  const rows = new Map(); // by id: rows stay where they are, or the keyboard would lose its place
  const list = byId("clients");
  return () => {
    const inView = dots.inView();
    const some = inView.slice(0, SORTED);
    const first = some.sort((one, other) => compare(clients.names[one], clients.names[other])).slice(0, MOST);
    const more = inView.length - first.length;
    const rest = more > 0 ? `; ${count(more)} more are not listed: zoom in or search` : "";
    setText(byId("count"), inView.length === 0 ? "No client is in view." : `${count(inView.length)} in view${rest}.`);
    const wanted = new Set(first.map((at) => clients.ids[at]));
    for (const [id, row] of rows) {
      if (wanted.has(id)) continue;
      row.item.remove();
      rows.delete(id);
    }
    first.forEach((at, index) => {
      const id = clients.ids[at];
      let row = rows.get(id);
      if (!row) rows.set(id, (row = makeRow(clients.names[at], () => select(id))));
      if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null);
      const age = duration(Math.max(0, dots.clock - clients.received[at]));
      setText(row.about, `${clients.servers[clients.server[at]]} · ${dots.clock ? age : ""}`);
      if (id === dots.selected) row.button.setAttribute("aria-current", "true");
      else row.button.removeAttribute("aria-current");
    });
  };
}

const { compare } = new Intl.Collator("en", { numeric: true });

function makeRow(name, choose) {
  const about = element("span", { className: "quiet" });
  const button = element("button", { type: "button", className: "choice", onclick: choose }, element("span", {}, name), about);
  return { about, button, item: element("li", {}, button) };
}
