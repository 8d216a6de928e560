// The list of the clients in view: the accessible equivalent of the map.

import { byId, element, isolated, setText } from "./dom.js";
import { count, duration } from "./format.js";

const MAX_ROWS = 50;
/** Number of clients that are sorted. Sorting more on every update would be noticeable. */
const MAX_SORTED = 1000;

/** Creates the list, which calls `select(id)` for a chosen client. Returns a function to update it. */
export function makeList(clients, dots, select) {
  const rows = new Map(); // by id; rows are reused, so that the keyboard focus stays in place
  const list = byId("clients");
  return () => {
    const inView = dots.inView();
    const some = inView.slice(0, MAX_SORTED);
    const byName = (one, other) =>
      compare(clients.names[one], clients.names[other]) || (clients.ids[one] < clients.ids[other] ? -1 : 1);
    const first = some.sort(byName).slice(0, MAX_ROWS);
    const focused = document.activeElement;
    const hadFocus = list.contains(focused);
    const more = inView.length - first.length;
    const rest = more > 0 ? `; ${count(more)} more are not listed, zoom in or search` : "";
    setText(byId("count"), inView.length === 0 ? "No clients in view." : `${count(inView.length)} in view${rest}.`);
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
    if (!hadFocus || document.activeElement === focused) return;
    // The row was moved or is gone: the focus must not fall to the document.
    const next = list.contains(focused) ? focused : byId(dots.selected === null ? "list" : "client-title");
    next.focus({ preventScroll: true });
  };
}

const { compare } = new Intl.Collator("en", { numeric: true });

function makeRow(name, onclick) {
  const about = element("span", { className: "quiet" });
  const button = element("button", { type: "button", className: "choice", onclick }, isolated(name), about);
  return { about, button, item: element("li", {}, button) };
}
