// Small plots of rates over the last two minutes.

import { byId, element, setText, svg } from "./dom.js";
import { rate } from "./format.js";

const SECONDS = 120;
const [WIDTH, HEIGHT] = [120, 28];

const PLOTS = [
  ["iamat", "Client updates"],
  ["received", "From neighbors"],
  ["flooded", "To neighbors"],
  ["whatsat", "Places queries"],
  ["repaired", "Repaired"],
].map(([counter, label]) => ({ counter, label, values: [] }));

let last = null;

/** Adds the counters of the last second. */
export function showRates({ uptime, counters }) {
  const seconds = last ? uptime - last.uptime : 0;
  // A restarted node counts from 0 again.
  if (seconds > 0) {
    for (const plot of PLOTS) {
      const grown = counters[plot.counter] - last.counters[plot.counter];
      plot.values.push(Math.max(0, grown / seconds));
      if (plot.values.length > SECONDS) plot.values.shift();
      draw(plot);
    }
  }
  last = { uptime, counters };
}

function draw(plot) {
  const { values } = plot;
  plot.parts ??= make(plot.label);
  const { number, line, area, picture } = plot.parts;
  const peak = Math.max(1, ...values);
  const step = WIDTH / (SECONDS - 1);
  const points = values.map((value, index) => {
    const x = WIDTH - (values.length - 1 - index) * step;
    return `${x.toFixed(1)},${(HEIGHT - 2 - (value / peak) * (HEIGHT - 4)).toFixed(1)}`;
  });
  line.setAttribute("points", points.join(" "));
  const first = WIDTH - (values.length - 1) * step;
  area.setAttribute("points", `${first.toFixed(1)},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`);
  setText(number, rate(values.at(-1)));
  picture.setAttribute("aria-label", `maximum of ${rate(Math.max(...values))} in the last two minutes`);
}

function make(label) {
  const [area, line] = [svg("polygon", { class: "area" }), svg("polyline", { class: "line" })];
  const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
  const picture = svg("svg", { role: "img", viewBox, preserveAspectRatio: "none" }, area, line);
  const number = element("span", { className: "number" });
  byId("rates").append(element("dt", {}, label), element("dd", {}, picture, number));
  return { number, line, area, picture };
}
