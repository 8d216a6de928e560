// The panel of the herd: problems, the graph, and the links of this node.

import { byId, element, setText, svg } from "./dom.js";
import { count, countOf, delay } from "./format.js";
import { NODE_COLORS } from "./theme.js";

const [CENTER_X, CENTER_Y, RADIUS_X, RADIUS_Y] = [160, 115, 112, 80];

/** Edges seen since the page was opened, so that a lost one can be shown as down. */
const seen = new Map();
let drawn = "";

/** Shows the state of the herd, as returned by /api/herd. */
export function showHerd(overview) {
  setText(byId("node"), `seen from ${overview.node} · ${countOf(overview.clients, "client")}`);
  document.title = `${overview.node} · proxy-herd`;
  showProblems(overview.problems);
  showLinks(overview.links);
  byId("herd").hidden = overview.nodes.length < 2 && overview.problems.length === 0;
  const edges = edgesOf(overview);
  const now = JSON.stringify([overview.nodes, edges]);
  if (now !== drawn) {
    drawn = now;
    drawGraph(overview, edges);
  }
}

function showProblems(problems) {
  const list = byId("problems");
  if (list.dataset.problems === problems.join("\n")) return;
  list.dataset.problems = problems.join("\n");
  list.replaceChildren(...problems.map((problem) => element("li", { className: "problem" }, problem)));
}

function edgesOf({ node, nodes, links }) {
  const up = new Set();
  const key = (one, other) => [one, other].sort().join("\n");
  for (const { name, links: peers } of nodes) {
    for (const peer of peers) up.add(key(name, peer));
  }
  const own = new Map(links.map((link) => [key(node, link.peer), link]));
  for (const [edge, link] of own) link.up ? up.add(edge) : up.delete(edge);
  for (const edge of [...up, ...own.keys()]) seen.set(edge, edge.split("\n"));
  return [...seen].sort().map(([edge, [from, to]]) => {
    const link = own.get(edge);
    const trip = link?.up && link.round_trip !== null ? delay(link.round_trip) : "";
    const backlog = link?.backlog ? `, backlog ${count(link.backlog)}` : "";
    return { from, to, up: up.has(edge), label: trip + backlog };
  });
}

function drawGraph({ node, nodes }, edges) {
  const places = new Map(
    nodes.map(({ name }, index) => {
      const angle = (2 * Math.PI * index) / nodes.length - Math.PI / 2;
      return [name, [CENTER_X + RADIUS_X * Math.cos(angle), CENTER_Y + RADIUS_Y * Math.sin(angle)]];
    }),
  );
  const parts = [];
  for (const { from, to, up, label } of edges) {
    const [[x1, y1], [x2, y2]] = [places.get(from), places.get(to)];
    parts.push(svg("line", { x1, y1, x2, y2, class: up ? "edge" : "edge lost" }));
    if (label || !up) {
      const at = { x: (x1 + x2) / 2, y: (y1 + y2) / 2 + 3, class: up ? "lag" : "lag lost" };
      parts.push(svg("text", at, up ? label : "down"));
    }
  }
  nodes.forEach(({ name, reachable }, index) => {
    const [x, y] = places.get(name);
    const color = `node-${index % NODE_COLORS}`;
    const kind = `${reachable ? color : "unreachable"}${name === node ? " own" : ""}`;
    parts.push(svg("circle", { cx: x, cy: y, r: name === node ? 11 : 9, class: `node ${kind}` }));
    parts.push(svg("text", { x, y: y > CENTER_Y ? y + 24 : y - 16, class: "name" }, name));
  });
  const lost = edges.filter(({ up }) => !up).map(({ from, to }) => `${from} and ${to}`);
  const unreachable = nodes.filter(({ reachable }) => !reachable).map(({ name }) => name);
  const title = svg("title", { id: "graph-title" }, [
    `${nodes.length} nodes, ${edges.length - lost.length} links up.`,
    lost.length ? `Down: ${lost.join(", ")}.` : "",
    unreachable.length ? `Unreachable: ${unreachable.join(", ")}.` : "",
  ].join(" "));
  byId("graph").replaceChildren(title, ...parts);
}

function showLinks(links) {
  const rows = byId("links").tBodies[0];
  byId("links").hidden = links.length === 0;
  while (rows.rows.length > links.length) rows.deleteRow(-1);
  links.forEach((link, index) => {
    const row = rows.rows[index] ?? newRow(rows);
    const state = !link.up
      ? "down"
      : link.clock_is_off
        ? "clock off"
        : link.digests_equal === false
          ? "catching up"
          : "up";
    row.dataset.state = state;
    const trip = link.up && link.round_trip !== null ? delay(link.round_trip) : "–";
    [link.peer, state, trip, link.up ? count(link.backlog) : "–"].forEach((text, cell) => setText(row.cells[cell], text));
  });
}

function newRow(rows) {
  const row = rows.insertRow();
  row.append(element("th", { scope: "row" }), element("td"), element("td"), element("td"));
  return row;
}
