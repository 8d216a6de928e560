// Fences on the page: drawn, listed with the number of clients inside, entries and exits as they happen.
//
// Usage: node --test tests/browser/fences.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { PHONE, axeProblems, find, setUp, shows, written } from "./browser.mjs";
import { until } from "./herd.mjs";

const stage = setUp();
const { visit } = stage;

const square = (name, west, south, size) => ({
  type: "Feature",
  properties: { name },
  geometry: {
    type: "Polygon",
    coordinates: [[[west, south], [west + size, south], [west + size, south + size], [west, south + size], [west, south]]],
  },
});
const circle = (name, longitude, latitude, radius) => ({
  type: "Feature",
  properties: { name, radius },
  geometry: { type: "Point", coordinates: [longitude, latitude] },
});
const DEPOT = square("depot", -118.5, 34, 0.1);
const PORT = circle("port", -118.45, 34.05, 20_000);
const OUTSIDE = [35, -118.45];
const INSIDE = [34.05, -118.45];

const FILE = "fences.geojson";
const collection = (features) => JSON.stringify({ type: "FeatureCollection", features });

async function solo(fences) {
  const node = fences
    ? await stage.solo([], `fences: {file: ${FILE}}`, { [FILE]: collection(fences) })
    : await stage.solo();
  return { ...node, write: (features) => node.herd.write(FILE, collection(features)) };
}

const counts = (page, wanted) =>
  until(`the numbers are ${JSON.stringify(wanted)}`, async () => {
    const rows = (await page.locator("#fence-list li").allInnerTexts()).map((row) => row.split("\n"));
    const found = Object.fromEntries(rows.map(([name, about]) => [name, parseInt(about, 10)]));
    if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(JSON.stringify(rows));
    return true;
  });
const drawn = async (page) => (await written(page, ".leaflet-fences-pane canvas")).map(({ text }) => text);

test("fences are drawn and listed, and entries and exits are shown as they happen", async () => {
  const { url, report } = await solo([DEPOT, PORT]);
  await report("van-1", ...INSIDE);
  await report("van-2", ...OUTSIDE);
  for (const options of [{}, PHONE]) {
    const page = await visit(url, options);
    await counts(page, { depot: 1, port: 1 });
    // A client that was inside before the page was opened has not entered.
    assert.equal(await page.locator("#fence-events li").count(), 0);
    await page.locator("#fence-list button").first().click();
    await until("it is drawn with its number", async () => (await drawn(page)).includes("depot · 1"));
    await report("van-2", ...INSIDE);
    await counts(page, { depot: 2, port: 2 });
    await shows(page, "#fence-events", /van-2 entered (depot|port)/);
    await until("the drawn number follows", async () => (await drawn(page)).includes("depot · 2"));
    await find(page, "van-2");
    await shows(page, "#fences-of", "depot, port");
    await report("van-2", 34.15, -118.45); // in the circle only
    await shows(page, "#fence-events li:first-child", "van-2 left depot");
    await shows(page, "#fences-of", /^port$/);
    await report("van-2", ...OUTSIDE);
    await shows(page, "#fences-of", "none");
    await counts(page, { depot: 1, port: 1 });
    await page.locator("#fence-events button").first().click();
    await shows(page, "#client-title", "van-2");
    assert.deepEqual(await axeProblems(page), []);
  }
});

test("a page without fences shows nothing of them", async () => {
  const { url, report } = await solo(null);
  await report("van-1", ...INSIDE);
  const page = await visit(`${url}/#van-1`);
  await shows(page, "#client-title", "van-1");
  await page.waitForTimeout(1500); // the overview is loaded every second
  for (const selector of ["#fences", "#legend-fence", "#fences-of"]) assert.ok(await page.locator(selector).isHidden(), selector);
});

test("fences that are reloaded are shown without events", async () => {
  const { herd, url, report, write } = await solo([DEPOT]);
  await report("van-1", ...INSIDE);
  const page = await visit(url);
  await counts(page, { depot: 1 });
  write([PORT, square("yard", -118.46, 34.04, 0.02)]);
  herd.signal("Bailey", "SIGHUP");
  await counts(page, { port: 1, yard: 1 });
  await report("van-1", 34.1, -118.45);
  await counts(page, { port: 1, yard: 0 });
  await shows(page, "#fence-events", "van-1 left yard");
  assert.ok(!(await page.locator("#fence-events").innerText()).includes("entered"));
});

test("a circle at the antimeridian is drawn on both sides", async () => {
  const { url, report } = await solo([circle("fiji", 180, -17, 1_500_000)]);
  await report("boat", -17, -179.9);
  await report("bus", 48, 175);
  const page = await visit(url);
  await counts(page, { fiji: 1 });
  const { west, middle, east } = await until("it is drawn", () =>
    page.evaluate(() => {
      const canvas = document.querySelector(".leaflet-fences-pane canvas");
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      const pixels = [0, 0, 0];
      for (let at = 3; at < data.length; at += 4) if (data[at] > 0) pixels[Math.floor((((at >> 2) % width) * 3) / width)]++;
      const [west, middle, east] = pixels;
      return west > 50 && { west, middle, east };
    }),
  );
  assert.ok(west > 50 && middle === 0 && east > 50, `${west}, ${middle} and ${east} pixels`);
});

test("eight tabs of one browser all follow clients and fences", async () => {
  const { url, report } = await solo([DEPOT]);
  await report("van-1", ...OUTSIDE);
  const context = await stage.browser.newContext();
  try {
    const pages = await Promise.all(Array.from({ length: 8 }, () => context.newPage()));
    await Promise.all(pages.map((page) => page.goto(`${url}/#van-1`, { waitUntil: "domcontentloaded" })));
    for (const page of pages) await counts(page, { depot: 0 });
    await report("van-1", ...INSIDE);
    for (const page of pages) {
      await shows(page, "#fences-of", "depot");
      await shows(page, "#position", "34.05000° N");
    }
    const subscribers = async () => (await (await fetch(`${url}/api/herd`)).json()).subscribers;
    await until("the browser has connections left", async () => (await subscribers()) <= 5);
    for (const page of pages) assert.equal(await page.locator("#state").innerText(), "Live");
  } finally {
    await context.close();
  }
});
