// The map: Leaflet, the land, and tiles if they are configured.

import "leaflet/dist/leaflet.css";
import { Canvas, GeoJSON, Map, TileLayer, control } from "leaflet/dist/leaflet-src.esm.js";
import { pieces } from "./land.js";
import * as theme from "./theme.js";

/** The inhabited part of the world. */
const WORLD = [[-57, -170], [76, 180]];

/** Creates the map in `container`, showing the whole world. */
export function makeMap(container) {
  const map = new Map(container, {
    attributionControl: false,
    maxBounds: [[-89, -220], [89, 220]],
    maxBoundsViscosity: 0.8,
    minZoom: 1,
    maxZoom: 18,
    zoomControl: false,
    zoomSnap: 0.5,
  });
  map.fitBounds(WORLD);
  control.zoom({ position: "topright" }).addTo(map);
  control.scale({ position: "bottomright", imperial: false }).addTo(map);
  const credits = control.attribution({ prefix: false, position: "bottomleft" }).addTo(map);
  credits.addAttribution('Leaflet · Natural Earth · <a href="https://www.geonames.org/">GeoNames</a>');
  map.createPane("land").style.zIndex = 150;
  map.createPane("names").style.zIndex = 250;
  map.createPane("fences").style.zIndex = 300;
  return map;
}

/** Returns a function that calls `change`, which changes the view of `map`. Leaflet ignores a change while it animates
 * another zoom; this one is made at the end of the animation, and only the last if there are several. */
export function viewChanges(map) {
  const pane = map.getPane("mapPane");
  let next = null;
  return (change) => {
    if (!pane.classList.contains("leaflet-zoom-anim")) return change();
    if (!next) {
      map.once("zoomend", () => {
        const last = next;
        next = null;
        last();
      });
    }
    next = change;
  };
}

/** Draws land and borders. */
export async function addLand(map) {
  const response = await fetch("/land.json");
  const topology = await response.json();
  const renderer = new Canvas({ pane: "land", padding: 0.5 });
  const options = { renderer, pane: "land", interactive: false };
  // One shape per piece of land, so that pieces out of view cost nothing.
  const shapes = pieces(topology);
  const land = new GeoJSON(shapes.land, options).addTo(map);
  const borders = new GeoJSON(shapes.borders, options).addTo(map);
  const paint = () => {
    const colors = theme.colors();
    land.setStyle({ fillColor: colors.land, fillOpacity: 1, color: colors.shore, weight: 1 });
    borders.setStyle({ color: colors.border, weight: 1, fill: false });
  };
  paint();
  theme.onChange(paint);
}

/** Adds a layer of tiles above the land. Calls `report` with a problem as a sentence, or "" if there is
 * none. */
export function addTiles(map, { url, attribution }, report) {
  const text = document.createElement("span");
  text.textContent = attribution; // Leaflet expects HTML, so the text is escaped
  const layer = new TileLayer(url, { attribution: text.innerHTML, noWrap: true, maxZoom: 18 });
  const host = /^[a-z]+:\/\/([^/]*)/.exec(url)?.[1] ?? url;
  let [loaded, failed] = [0, 0];
  layer.on("loading", () => ([loaded, failed] = [0, 0]));
  layer.on("tileload", () => loaded++);
  layer.on("tileerror", () => failed++);
  layer.on("load", () => {
    // A server may lack some tiles, such as those of the sea.
    if (loaded > 0) report("");
    else if (failed > 0) report(`The map tiles of ${host} cannot be loaded, so the map shows outlines and names only.`);
  });
  try {
    layer.addTo(map);
  } catch (error) {
    map.removeLayer(layer);
    report(`The map tiles of ${host} cannot be shown: ${error.message}`);
  }
}
