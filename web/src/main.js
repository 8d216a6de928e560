// Entry point: connects the parts of the page.

import "./style.css";
import { Clients } from "./clients.js";
import { Connection } from "./connection.js";
import { Details } from "./details.js";
import { byId, setText } from "./dom.js";
import { Dots } from "./dots.js";
import { Fences } from "./fences.js";
import { showHerd } from "./herd.js";
import { idOfFragment } from "./ids.js";
import { showHint, showLegend } from "./legend.js";
import { makeList } from "./list.js";
import { addLand, addTiles, makeMap, viewChanges } from "./map.js";
import { Names } from "./names.js";
import { Nearest } from "./nearest.js";
import { showRates } from "./rates.js";
import { makeSearch } from "./search.js";
import * as theme from "./theme.js";

/** Number of clients above which the page subscribes only to those near the view. */
const MAX_ALL = 10000;
/** Zoom level at which a selected client is shown. */
const CLOSE_ZOOM = 11;
/** Seconds after which the list of the nearest clients is loaded again. */
const NEAREST_EVERY = 3;
/** Milliseconds to wait for more clients on a herd that was empty. */
const FIRST_CLIENTS = 300;

const clients = new Clients();
const map = makeMap(byId("map"));
const changeView = viewChanges(map);
const names = new Names({ pane: "names" }).addTo(map);
const dots = new Dots(clients).addTo(map);
dots.on("places", (event) => names.omit(event.names));
const details = new Details(clients, dots, (id) => fences.of(id));
const nearest = new Nearest(dots, (id) => visit(id), () => (byId("heard").value ? `&max_age=${byId("heard").value}` : ""));
const showList = makeList(clients, dots, (id) => visit(id));
let clock = null; // times of the node and of the page at the last overview
let fitted = false;
let fitting = 0;
let loaded = false; // the first snapshot
let wanted = idOfFragment(location.hash.slice(1)); // id of the client to select once it is known
let tileProblem = "";
let held = 0;
let watched = null; // the box subscribed to, and the zoom level at that time
let nodes = "";
let hasTiles = false;

theme.onChange(() => [dots, names, fences].forEach((layer) => layer.retheme()));
addLand(map).catch((error) => console.error("cannot draw the land:", error));
makeSearch(clients, (id) => visit(id), (feature) => clients.put(feature, performance.now()));

const connection = new Connection({
  reset(snapshot) {
    held = snapshot.held;
    clients.beginSnapshot();
  },
  client(feature) {
    clients.put(feature, performance.now());
    dots.redraw();
    if (!loaded) return;
    if (feature.id === wanted) visitWanted();
    if (!fitted) fitting ||= setTimeout(fit, FIRST_CLIENTS);
  },
  forget({ id }) {
    if (dots.selected === id) select(null);
    clients.remove(id);
    dots.redraw();
    if (loaded) showList();
  },
  ready() {
    clients.endSnapshot();
    dots.redraw();
    loaded = true;
    keepSelected();
    visitWanted();
    fit();
    watchView();
    showList();
  },
  herd(overview) {
    clock = { node: overview.time, page: performance.now() };
    held = overview.clients;
    const members = overview.nodes.map(({ name }) => name);
    if (members.join("\n") !== nodes) {
      nodes = members.join("\n");
      dots.setNodes(members);
      showLegend(members);
    }
    if (overview.tiles && !hasTiles) {
      hasTiles = true;
      names.show(false); // tiles have their own
      addTiles(map, overview.tiles, (problem) => {
        tileProblem = problem;
        names.show(problem !== "");
      });
    }
    details.provider = overview.places.provider;
    showHerd({ ...overview, problems: [...overview.problems, tileProblem].filter(Boolean) });
    showRates(overview);
    showHint(overview);
    fences.update(overview.fences);
  },
  state(name) {
    const words = { connecting: "Connecting…", live: "Live", gone: "Disconnected" };
    byId("state").dataset.state = name;
    setText(byId("state"), words[name]);
    showGone(name);
  },
});

const fences = new Fences(map, {
  follow: (handlers) => connection.follow(handlers),
  show: (bounds) => changeView(() => map.fitBounds(bounds, { padding: [40, 40] })),
  select: (id) => visit(id),
});

function showGone(state) {
  const last = clock ? ` The map shows its state at ${new Date().toLocaleTimeString()}.` : "";
  const words = `The node does not respond.${last} The page keeps trying to reconnect.`;
  setText(byId("gone"), state === "gone" ? words : "");
}

// Fits the view to the clients once, when they are first known. After that the user controls it, and so from the
// first movement on.
function fit() {
  fitting = 0;
  const bounds = clients.bounds();
  if (fitted || !bounds) return;
  fitted = true;
  // Without an animation, so that a click meets what the map shows.
  map.fitBounds(bounds, { padding: [40, 40], maxZoom: 12, animate: false });
}
map.once("movestart", () => {
  fitted = true;
});

// Selects the client that the fragment names, if it is known.
function visitWanted() {
  if (!wanted || clients.indexOf(wanted) === undefined) return;
  fitted = true;
  visit(wanted, "nearest");
}

// The user has changed the fragment. The page may know only the clients near the view.
window.addEventListener("hashchange", async () => {
  const id = idOfFragment(location.hash.slice(1));
  if (!id) return select(null);
  wanted = id;
  await learn(id);
  if (wanted === id) visitWanted();
});

// Asks the node for a client that the page does not know, because it is far from the view or silent.
async function learn(id) {
  if (clients.indexOf(id) !== undefined) return;
  const response = await fetch(`/api/clients/${id}`, { cache: "no-store" }).catch(() => null);
  if (response?.ok) clients.put(await response.json(), performance.now());
}

// A snapshot need not contain the selected client.
async function keepSelected() {
  if (dots.selected === null) return;
  await learn(dots.selected);
  dots.redraw();
}

// The link is not a fragment of the page, since fragments name clients.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("list").focus();
});

// Subscribes to the surroundings of the view if there are too many clients to subscribe to all.
function watchView() {
  if (held <= MAX_ALL) {
    watched = null;
    return connection.watch("");
  }
  const view = map.getBounds();
  const zoom = map.getZoom();
  if (watched?.box.contains(view) && zoom < watched.zoom + 2) return;
  const box = view.pad(0.5);
  watched = { box, zoom };
  // The view may lie beyond the edges of the map, where there are no clients. Clients nearer to a pole
  // than the map reaches are drawn at its edge.
  const within = (degrees, most) => Math.max(-most, Math.min(most, degrees));
  const toPole = (degrees) => (Math.abs(degrees) > 85 ? 90 * Math.sign(degrees) : degrees);
  const [west, east] = [within(box.getWest(), 180), within(box.getEast(), 180)];
  const [south, north] = [toPole(box.getSouth()), toPole(box.getNorth())];
  const everywhere = west === -180 && east === 180 && south === -90 && north === 90;
  connection.watch(everywhere ? "" : [west, south, east, north].map((degrees) => degrees.toFixed(4)).join());
}

/** Selects a client and scrolls to its details, to the position `block`; null clears the selection. */
function select(id, block = "nearest") {
  wanted = "";
  dots.selected = id;
  details.show(id);
  if (id === null) nearest.clear();
  else nearest.showClient(id, clients.names[clients.indexOf(id)]);
  dots.redraw();
  history.replaceState(null, "", id === null ? location.pathname : `#${id}`);
  showList();
  if (id !== null) details.reveal(block);
}

/** Selects a client and moves the view to it if it is out of view or too small to find. */
async function visit(id, block = "start") {
  if (clients.indexOf(id) === undefined) await learn(id);
  if (clients.indexOf(id) === undefined) return; // it has gone
  select(id, block);
  const position = clients.dot(clients.indexOf(id));
  changeView(() => {
    if (map.getZoom() >= CLOSE_ZOOM && map.getBounds().pad(-0.1).contains(position)) return;
    map.setView(position, Math.max(map.getZoom(), CLOSE_ZOOM));
  });
}

map.on("moveend", () => {
  watchView();
  showList();
});
map.on("click", ({ containerPoint, latlng }) => {
  const found = dots.at(containerPoint);
  if (found?.group) return zoomTo(found.group.members);
  if (found) return select(clients.ids[found.client]);
  select(null);
  showNearest(latlng);
});
map.on("mousemove", ({ containerPoint }) => {
  const found = dots.at(containerPoint, 10);
  const id = found?.client === undefined ? null : clients.ids[found.client];
  byId("map").classList.toggle("pointing", found !== undefined);
  if (id === dots.hovered) return;
  dots.hovered = id;
  dots.redraw();
});

// Fits the view to a group of clients.
function zoomTo(members) {
  const bounds = clients.bounds(members);
  changeView(() => map.fitBounds(bounds, { padding: [60, 60] }));
}

// Lists the clients nearest to a point.
function showNearest(point) {
  nearest.showPoint(point);
  byId("near").scrollIntoView({ block: "nearest" });
}
byId("near-center").addEventListener("click", () => {
  select(null);
  showNearest(map.getCenter());
});

byId("heard").addEventListener("change", () => {
  connection.limitAge(byId("heard").value);
  nearest.load();
});

byId("close").addEventListener("click", () => {
  select(null);
  byId("query").focus();
});

// Keys that select clients. Leaflet handles the keys that move the map.
byId("map").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") select(null);
  if (event.key === "Enter") {
    select(null);
    showNearest(map.getCenter());
  }
  const step = { n: 1, p: -1 }[event.key];
  if (!step) return;
  const inView = dots.inView().map((at) => clients.ids[at]).sort();
  if (inView.length === 0) return;
  const at = inView.indexOf(dots.selected);
  select(inView[at < 0 ? 0 : (at + step + inView.length) % inView.length]);
});

// Removes the clients that the filter hides by now. The node sends those that report again.
function hideSilent() {
  const { value } = byId("heard");
  if (!value || !clock) return;
  const oldest = dots.clock - Number(value);
  for (let at = clients.size - 1; at >= 0; at--) {
    if (clients.received[at] < oldest && clients.ids[at] !== dots.selected) clients.remove(clients.ids[at]);
  }
}

let seconds = 0;
setInterval(() => {
  if (clock) dots.clock = clock.node + (performance.now() - clock.page) / 1000;
  hideSilent();
  if (++seconds % NEAREST_EVERY === 0 && !document.hidden) nearest.load();
  details.refresh(dots.clock);
  showList();
  const at = dots.selected === null ? undefined : clients.indexOf(dots.selected);
  if (at !== undefined && byId("follow").checked && !map.getBounds().pad(-0.2).contains(clients.dot(at))) {
    map.panTo(clients.dot(at));
  }
}, 1000);
