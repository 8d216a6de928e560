// The legend of the map, and the hint on a node without clients.

import { byId, element, setText } from "./dom.js";
import { NODE_COLORS } from "./theme.js";

/** Number of nodes in the legend. The graph of the herd names all of them. */
const MAX_NODES = 12;

/** Shows the nodes in the legend. */
export function showLegend(nodes) {
  byId("legend").open ||= byId("legend-nodes").children.length === 0 && matchMedia("(min-width: 48.01rem)").matches;
  const items = nodes.slice(0, MAX_NODES).map((name, index) => {
    const mark = element("span", { className: "mark" });
    mark.style.background = `var(--node-${index % NODE_COLORS})`;
    return element("li", {}, mark, name);
  });
  if (nodes.length > MAX_NODES) items.push(element("li", {}, `and ${nodes.length - MAX_NODES} more, in the same colors`));
  byId("legend-nodes").replaceChildren(...items);
}

/** Shows how to report a position while the node has no clients. */
export function showHint({ clients, address }) {
  byId("empty").hidden = clients > 0;
  if (clients > 0 || !address.port) return;
  const [host, port] = [address.host.replace(/^\[(.*)\]$/, "$1"), address.port];
  setText(byId("report"), `printf 'IAMAT my-phone +34.06893-118.445127 %s\\n' "$(date +%s)" | nc -N ${host} ${port}`);
}
