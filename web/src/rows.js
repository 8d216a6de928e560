// Lists of clients to choose from.

import { byId, element, isolated, setText } from "./dom.js";

/** The rows of a list. They are reused, so that the keyboard focus stays in place. */
export class Rows {
  #list;
  #rows = new Map(); // by id
  #select;

  /** `select(id)` is called for a chosen client. */
  constructor(list, select) {
    this.#list = list;
    this.#select = select;
  }

  /** Shows the clients {id, name, about} in this order. `current` is the id of the selected one. */
  show(clients, current) {
    const focused = document.activeElement;
    const hadFocus = this.#list.contains(focused);
    const wanted = new Set(clients.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.item.remove();
      this.#rows.delete(id);
    }
    clients.forEach(({ id, name, about }, index) => {
      let row = this.#rows.get(id);
      if (!row) this.#rows.set(id, (row = makeRow(name, () => this.#select(id))));
      if (this.#list.children[index] !== row.item) this.#list.insertBefore(row.item, this.#list.children[index] ?? null);
      setText(row.about, about);
      if (id === current) row.button.setAttribute("aria-current", "true");
      else row.button.removeAttribute("aria-current");
    });
    if (!hadFocus || document.activeElement === focused) return;
    // The row was moved or is gone: the focus must not fall to the document.
    const next = this.#list.contains(focused) ? focused : byId(current === null ? "list" : "client-title");
    next.focus({ preventScroll: true });
  }
}

function makeRow(name, onclick) {
  const about = element("span", { className: "quiet" });
  const button = element("button", { type: "button", className: "choice", onclick }, isolated(name), about);
  return { about, button, item: element("li", {}, button) };
}
