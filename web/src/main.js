// Entry point: connects the parts of the page.

import "./style.css";
import { Clients } from "./clients.js";
import { Connection } from "./connection.js";
import { Details } from "./details.js";
import { byId, setText } from "./dom.js";
import { Dots } from "./dots.js";
import { showHerd } from "./herd.js";
import { makeList } from "./list.js";
import { addLand, addTiles, makeMap } from "./map.js";
import { showRates } from "./rates.js";
import { makeSearch } from "./search.js";
import * as theme from "./theme.js";

/** Number of clients above which the page subscribes only to those near the view. */
const MAX_ALL = 10000;
/** Zoom level at which a selected client is shown. */
const CLOSE_ZOOM = 11;

const clients = new Clients();
const map = makeMap(byId("map"));
const dots = new Dots(clients).addTo(map);
const details = new Details(clients, dots);
const showList = makeList(clients, dots, visit);
let clock = null; // times of the node and of the page at the last overview
let fitted = false;
let held = 0;
let watched = null; // the box subscribed to, and the zoom level at that time
let nodes = "";
let hasTiles = false;

theme.onChange(() => dots.retheme());
addLand(map).catch((error) => console.error("cannot draw the land:", error));
makeSearch(clients, visit, (feature) => clients.put(feature, performance.now()));

const connection = new Connection({
  reset(count) {
    held = count;
    clients.beginSnapshot();
  },
  client(feature) {
    clients.put(feature, performance.now());
    dots.redraw();
  },
  ready() {
    clients.endSnapshot();
    dots.redraw();
    fit();
    watchView();
    showList();
  },
  herd(overview) {
    clock = { node: overview.time, page: performance.now() };
    held = overview.clients;
    const names = overview.nodes.map(({ name }) => name);
    if (names.join("\n") !== nodes) {
      nodes = names.join("\n");
      dots.setNodes(names);
    }
    if (overview.tiles && !hasTiles) {
      hasTiles = true;
      addTiles(map, overview.tiles);
    }
    details.provider = overview.places.provider;
    showHerd(overview);
    showRates(overview);
  },
  state(name) {
    const words = { connecting: "Connecting…", live: "Live", gone: "Disconnected" };
    byId("state").dataset.state = name;
    setText(byId("state"), words[name]);
    showGone(name);
  },
});

function showGone(state) {
  const last = clock ? ` The map shows its state at ${new Date().toLocaleTimeString()}.` : "";
  const words = `The node does not respond.${last} The page keeps trying to reconnect.`;
  setText(byId("gone"), state === "gone" ? words : "");
}

// Fits the view to the clients once, when they are first known. After that the user controls it.
function fit() {
  const bounds = clients.bounds();
  if (fitted || !bounds) return;
  fitted = true;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const at = wanted && clients.find(wanted, 1)[0];
  if (at !== undefined && clients.names[at] === wanted) visit(clients.ids[at]);
  else map.fitBounds(bounds, { padding: [40, 40], maxZoom: 12 });
}

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
  const [west, east] = [Math.max(-180, box.getWest()), Math.min(180, box.getEast())];
  const [south, north] = [Math.max(-90, box.getSouth()), Math.min(90, box.getNorth())];
  const everywhere = west === -180 && east === 180 && south <= -85 && north >= 85;
  connection.watch(everywhere ? "" : [west, south, east, north].map((degrees) => degrees.toFixed(4)).join());
}

/** Selects a client; null clears the selection. */
function select(id) {
  dots.selected = id;
  details.show(id);
  dots.redraw();
  const at = id === null ? undefined : clients.indexOf(id);
  history.replaceState(null, "", at === undefined ? location.pathname : `#${encodeURIComponent(clients.names[at])}`);
  showList();
}

/** Selects a client and moves the view to it if it is out of view or too small to find. */
function visit(id) {
  select(id);
  const position = clients.position(clients.indexOf(id));
  if (map.getZoom() < CLOSE_ZOOM || !map.getBounds().pad(-0.1).contains(position)) {
    map.setView(position, Math.max(map.getZoom(), CLOSE_ZOOM));
  }
}

map.on("moveend", () => {
  watchView();
  showList();
});
map.on("click", ({ containerPoint }) => {
  const at = dots.nearest(containerPoint);
  select(at === undefined ? null : clients.ids[at]);
});
map.on("mousemove", ({ containerPoint }) => {
  const at = dots.nearest(containerPoint, 10);
  const id = at === undefined ? null : clients.ids[at];
  if (id === dots.hovered) return;
  dots.hovered = id;
  byId("map").classList.toggle("pointing", id !== null);
  dots.redraw();
});

byId("close").addEventListener("click", () => {
  select(null);
  byId("query").focus();
});

// Keys that select clients. Leaflet handles the keys that move the map.
byId("map").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") select(null);
  const step = { n: 1, p: -1 }[event.key];
  if (!step) return;
  const inView = dots.inView().map((at) => clients.ids[at]).sort();
  if (inView.length === 0) return;
  const at = inView.indexOf(dots.selected);
  select(inView[at < 0 ? 0 : (at + step + inView.length) % inView.length]);
});

setInterval(() => {
  if (clock) dots.clock = clock.node + (performance.now() - clock.page) / 1000;
  details.refresh(dots.clock);
  showList();
  const at = dots.selected === null ? undefined : clients.indexOf(dots.selected);
  if (at !== undefined && byId("follow").checked && !map.getBounds().pad(-0.2).contains(clients.position(at))) {
    map.panTo(clients.position(at));
  }
}, 1000);
