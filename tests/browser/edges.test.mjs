// The page at its edges: the poles and the antimeridian, unusual names, fragments, many tabs.
//
// Usage: node --test tests/browser/edges.test.mjs

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { PHONE, find, open, painted, setUp, shows } from "./browser.mjs";
import { until } from "./herd.mjs";

const stage = setUp();
const { solo, visit } = stage;

const selected = (page) => page.locator("#client-title").innerText({ timeout: 1000 });
const selects = (page, name) => until(`${name} is selected`, async () => (await selected(page)) === name);

test("a client near a pole is shown at its position, and drawn at the edge of the map", async () => {
  const { url } = await solo([["pole", -89.98289386, 139.2669926], ["north", 90, 0], ["kiwi", 34, -118]]);
  const page = await visit(`${url}/#pole`);
  await selects(page, "pole");
  await shows(page, "#position", "89.98289° S, 139.26699° E");
  await until("there is a dot", async () => (await painted(page, "--node-0")).dots > 20);
  await shows(page, "#count", "1 in view");
  await find(page, "north");
  await selects(page, "north");
  await shows(page, "#position", "90.00000° N, 0.00000° E");
  await shows(page, "#count", "1 in view");
});

test("distances near a pole are those of the real positions", async () => {
  const provider = createServer((_, response) => {
    const elements = [{ id: 1, lat: -89.9, lon: 139, tags: { name: "Dome", amenity: "cafe" } }];
    response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ elements }));
  });
  await new Promise((done) => provider.listen(0, "127.0.0.1", done));
  try {
    const places = `places: {provider: overpass, url: "http://127.0.0.1:${provider.address().port}"}`;
    const { url } = await solo([["pole", -89.95, 139]], places);
    const page = await visit(`${url}/#pole`);
    await shows(page, "#places", /Dome[^]*5\.6 km/);
  } finally {
    provider.closeAllConnections();
    provider.close();
  }
});

test("an exact name comes first, however many names begin with it", async () => {
  const others = Array.from({ length: 30 }, (_, at) => [`truck-1${at}`, 1, at / 10]);
  const { url } = await solo([...others, ["my-truck-1", 1, 1], ["TRUCK-1", 1, 1], ["truck-1", 2, 2]]);
  const page = await visit(`${url}/#truck-1`);
  await selects(page, "truck-1");
  await page.fill("#query", "truck-1");
  const matches = await page.locator("#matches li").allInnerTexts();
  assert.deepEqual(matches.slice(0, 2), ["truck-1", "TRUCK-1"]);
  assert.equal(matches.length, 8);
  await page.press("#query", "Enter");
  await selects(page, "truck-1");
});

test("a fragment may be any text, and is followed when it changes", async () => {
  const { url, report } = await solo([["100%", 1, 1], ["kiwi", 2, 2], ["..", 3, 3], [".", 4, 4], ["café", 5, 5], ["a%41", 6, 6]]);
  for (const [fragment, name] of [
    ["100%", "100%"],
    ["100%25", "100%"],
    ["a%2541", "a%41"],
    ["..", ".."],
    [".%20", "."],
    ["caf%C3%A9", "café"],
    ["café", "café"],
  ]) {
    const page = await visit(`${url}/#${fragment}`);
    await selects(page, name);
    await shows(page, "#places-state", /km/);
    await stage.views.pop().close();
  }
  const page = await visit(`${url}/#caf%E9`);
  await shows(page, "#count", "6 in view");
  assert.ok(await page.locator("#client").isHidden());
  await page.evaluate(() => (location.hash = "#kiwi"));
  await selects(page, "kiwi");
  await page.evaluate(() => (location.hash = "#later"));
  await report("later", 7, 7);
  await selects(page, "later");
});

test("a page that was opened on an empty herd fits and selects later", async () => {
  const { url, report } = await solo();
  const [plain, named] = [await visit(url), await visit(`${url}/#second`)];
  await report("first", 48.85, 2.35);
  // At the scale of the whole world, two clients so near to each other share a pixel.
  await report("beside", 48.86, 2.36);
  await shows(plain, "#count", "2 in view");
  await until("the map is fitted", async () => (await plain.locator(".leaflet-control-scale-line").innerText()).match(/^\d+ m$|^[1-9] km$/));
  await report("second", -33, 151);
  await selects(named, "second");
  await shows(named, "#count", "1 in view");
});

test("choosing a client scrolls to its details, and the focus is not lost", async () => {
  const positions = Array.from({ length: 40 }, (_, at) => [`bus-${at}`, 48 + at / 1000, 2]);
  const { url } = await solo(positions);
  for (const options of [{}, PHONE]) {
    const page = await visit(url, options);
    await shows(page, "#count", "40 in view");
    const row = page.locator("#clients button").nth(35);
    await row.scrollIntoViewIfNeeded();
    await row.focus();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => {
      const { top, bottom } = document.getElementById("client-title").getBoundingClientRect();
      return top >= 0 && bottom > top && bottom <= innerHeight;
    });
    // Not hidden by the header.
    assert.ok(await page.evaluate(() => {
      const { left, top } = document.getElementById("client-title").getBoundingClientRect();
      return document.elementFromPoint(left + 3, top + 3).closest("#client") !== null;
    }));
    assert.equal(await page.evaluate(() => document.activeElement.closest("#clients, #client") !== null), true);
    await page.fill("#query", "bus-2");
    await page.locator("#matches button").nth(1).focus();
    await page.keyboard.press("Enter");
    await until("the focus is at the details", () => page.evaluate(() => document.activeElement.id === "client-title"));
    await page.waitForTimeout(1200); // the list is updated every second
    assert.notEqual(await page.evaluate(() => document.activeElement.tagName), "BODY");
  }
});

test("long names and right-to-left overrides do not affect the rest of the page", async () => {
  const [long, override] = ["x".repeat(3900), "a\u202eb-txt.exe"];
  const { url } = await solo([[long, 48, 2], [override, 48.01, 2.01], ["z-last", 48.02, 2.02]]);
  for (const options of [{}, PHONE]) {
    const page = await visit(url, options);
    await shows(page, "#count", "3 in view");
    const height = (selector, at = 0) => page.locator(selector).nth(at).evaluate((it) => it.getBoundingClientRect().height);
    for (let row = 0; row < 3; row++) assert.ok((await height("#clients li", row)) < 110, `row ${row}`);
    await find(page, "xxx");
    await until("it is selected", async () => (await height("#client-title")) > 0);
    assert.ok((await height("#client-title")) < 110);
    assert.ok((await height("#line")) < 200);
    assert.ok((await height("#found")) < 110);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false);
    await find(page, override);
    await until("it is selected", async () => (await page.locator("#client-title").textContent()) === override);
    // The field after the name is to the right of the name or below it, as it is without the override.
    const after = await page.evaluate(() => {
      const range = document.createRange();
      const { lastChild } = document.getElementById("line");
      const at = (index) => {
        range.setStart(lastChild, index);
        range.setEnd(lastChild, index + 1);
        return range.getBoundingClientRect();
      };
      return [at(1), at(3)].map(({ left, top }) => [top, left]);
    });
    assert.ok(after[0][0] < after[1][0] || after[0][1] < after[1][1], JSON.stringify(after));
    const isolated = await page.locator("#clients button > :first-child").evaluateAll((all) => all.map((it) => getComputedStyle(it).unicodeBidi));
    assert.deepEqual(isolated, ["isolate", "isolate", "isolate"]);
  }
});

test("ten tabs of one browser all stay up to date", async () => {
  const { url, report } = await solo([["kiwi", 1, 1]]);
  const context = await stage.browser.newContext();
  try {
    const pages = await Promise.all(Array.from({ length: 10 }, () => context.newPage()));
    await Promise.all(pages.map((page) => page.goto(`${url}/#kiwi`, { waitUntil: "domcontentloaded" })));
    for (const page of pages) await shows(page, "#state", "Live");
    for (const latitude of [2, 3]) {
      await report("kiwi", latitude, 1);
      for (const page of pages) await shows(page, "#position", `${latitude}.00000° N`);
    }
    await new Promise((done) => setTimeout(done, 6000)); // longer than the timeout of a request
    for (const page of pages) assert.equal(await page.locator("#state").innerText(), "Live");
    const subscribers = async () => (await (await fetch(`${url}/api/herd`)).json()).subscribers;
    assert.ok((await subscribers()) <= 6, "the browser has connections left");
    // When the first tabs are closed, others take over their streams.
    for (const page of pages.splice(0, 8)) await page.close();
    await until("both have a stream", async () => (await subscribers()) === 2);
    await report("kiwi", 4, 1);
    for (const page of pages) await shows(page, "#position", "4.00000° N");
  } finally {
    await context.close();
  }
});

test("tiles that cannot be loaded are a problem on the page, which stays connected", async () => {
  const tiles = createServer((_, response) => response.writeHead(403).end());
  await new Promise((done) => tiles.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${tiles.address().port}`;
  let referrer = null;
  tiles.on("request", ({ headers }) => (referrer ??= headers.referer));
  try {
    const { url } = await solo([["kiwi", 1, 1]], `  tiles: {url: "${origin}/{z}/{x}/{y}.png"}`);
    const view = await open(stage.browser, url, { allowed: [origin] });
    await shows(view.page, "#problems", `The map tiles of 127.0.0.1:${tiles.address().port} cannot be loaded`);
    await shows(view.page, "#state", "Live");
    assert.equal(referrer, `${url}/`);
    await view.close();
  } finally {
    tiles.closeAllConnections();
    tiles.close();
  }
});

test("with many clients, the view may lie beyond the antimeridian", async () => {
  const positions = Array.from({ length: 10_050 }, (_, at) => [`car-${at}`, ((at * 7.1) % 160) - 80, ((at * 13.3) % 359) - 179.5]);
  const { url, report } = await solo([...positions, ["fiji", -17.7, 179.9]]);
  const page = await visit(url);
  await shows(page, "#count", /in view/);
  await find(page, "fiji");
  await selects(page, "fiji");
  await page.locator("#map").focus();
  for (let step = 0; step < 12; step++) {
    await page.keyboard.press("Shift+ArrowRight");
    await page.waitForTimeout(350);
  }
  await shows(page, "#count", "No clients in view");
  await page.waitForTimeout(2500); // longer than the pause after an error
  await shows(page, "#state", "Live");
  for (let step = 0; step < 12; step++) {
    await page.keyboard.press("Shift+ArrowLeft");
    await page.waitForTimeout(350);
  }
  await report("fiji", -17.71, 179.9);
  await shows(page, "#position", "17.71000° S");
  await shows(page, "#state", "Live");
});
