// Builds the page. Usage: node build.mjs DIRECTORY. Called by scripts/build_page.sh, which compresses
// the result.

import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { build } from "esbuild";
import { meshArcs } from "topojson-client";

const out = process.argv[2];
const here = import.meta.dirname;
const packageFolder = (name) => join(here, "node_modules", name);

await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.js" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none", // they are in licences.txt
  loader: { ".png": "dataurl" },
  logLevel: "warning",
});
for (const file of ["index.html", "icon.svg"]) copyFileSync(join(here, "src", file), join(out, file));
writeFileSync(join(out, "land.json"), JSON.stringify(land()));
writeFileSync(join(out, "licences.txt"), licenses());

// Land and borders from the outlines of countries, without their names.
function land() {
  const require = createRequire(import.meta.url);
  const atlas = require("world-atlas/countries-50m.json");
  const bare = ({ type, arcs }) => ({ type, arcs });
  const borders = meshArcs(atlas, atlas.objects.countries, (one, other) => one !== other);
  return {
    type: "Topology",
    transform: atlas.transform,
    arcs: atlas.arcs,
    objects: { land: bare(atlas.objects.land.geometries[0]), borders: bare(borders) },
  };
}

function licenses() {
  const of = (name, about) => {
    const { version } = JSON.parse(readFileSync(join(packageFolder(name), "package.json")));
    const text = readFileSync(join(packageFolder(name), "LICENSE"), "utf8").trim();
    return `${name} ${version}\n${about}\n\n${text}\n`;
  };
  return [
    "Software and data in the page of a node, besides proxy-herd itself.\n",
    of("leaflet", "The map. https://leafletjs.com"),
    of("topojson-client", "Reads the outlines of the land. https://github.com/topojson/topojson-client"),
    of("world-atlas", "Outlines of land and borders, made from Natural Earth, which is in the public domain\n(https://www.naturalearthdata.com). https://github.com/topojson/world-atlas"),
    readFileSync(join(here, "../src/places/data/ATTRIBUTION.md"), "utf8"),
  ].join(`\n${"-".repeat(80)}\n\n`);
}
