// The list of the clients in view: the accessible equivalent of the map.

import { byId, setText } from "./dom.js";
import { count, duration } from "./format.js";
import { Rows } from "./rows.js";

const MAX_ROWS = 50;
/** Number of clients that are sorted. Sorting more on every update would be noticeable. */
const MAX_SORTED = 1000;

/** Creates the list, which calls `select(id)` for a chosen client. Returns a function to update it. */
export function makeList(clients, dots, select) {
  const rows = new Rows(byId("clients"), select);
  return () => {
    const inView = dots.inView();
    const some = inView.slice(0, MAX_SORTED);
    const byName = (one, other) =>
      compare(clients.names[one], clients.names[other]) || (clients.ids[one] < clients.ids[other] ? -1 : 1);
    const first = some.sort(byName).slice(0, MAX_ROWS);
    const more = inView.length - first.length;
    const rest = more > 0 ? `; ${count(more)} more are not listed, zoom in or search` : "";
    setText(byId("count"), inView.length === 0 ? "No clients in view." : `${count(inView.length)} in view${rest}.`);
    const shown = first.map((at) => {
      const age = dots.clock ? duration(Math.max(0, dots.clock - clients.received[at])) : "";
      return { id: clients.ids[at], name: clients.names[at], about: `${clients.servers[clients.server[at]]} · ${age}` };
    });
    rows.show(shown, dots.selected);
  };
}

const { compare } = new Intl.Collator("en", { numeric: true });
