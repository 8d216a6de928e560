// The map as a tool: names of places, groups of clients, the legend, the hint on an empty node, the
// nearest clients, and the filter for silent ones.
//
// Usage: node --test tests/browser/map.test.mjs

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { PHONE, axeProblems, find, open, painted, setUp, shows, written } from "./browser.mjs";
import { until } from "./herd.mjs";

const stage = setUp();
const { solo, visit } = stage;

const NAMES = ".leaflet-names-pane canvas";
const DOTS = ".leaflet-overlay-pane canvas";
const texts = async (page, canvas) => (await written(page, canvas)).map(({ text }) => text);
const isWritten = (page, name) => until(`${name} is on the map`, async () => (await texts(page, NAMES)).includes(name));

test("names of places appear by size as one zooms, without overlap", async () => {
  const { url } = await solo([["west", 34, -118], ["east", 35, 139]]);
  const page = await visit(url);
  await isWritten(page, "Shanghai");
  await isWritten(page, "London");
  assert.ok(!(await texts(page, NAMES)).includes("Beverly Hills"));
  const checked = async () => {
    const boxes = await written(page, NAMES);
    for (const [at, one] of boxes.entries()) {
      for (const other of boxes.slice(at + 1)) {
        const apart = Math.abs(one.y - other.y) >= 11 || one.x + one.width <= other.x || other.x + other.width <= one.x;
        assert.ok(apart, `${one.text} and ${other.text} overlap`);
      }
    }
    return boxes.length;
  };
  await checked();
  await find(page, "west");
  await isWritten(page, "Long Beach");
  assert.ok((await checked()) > 10);
  // Larger places have larger names, and come first.
  const sizes = new Map((await written(page, NAMES)).map(({ text, size }) => [text, size]));
  assert.ok(sizes.get("Long Beach") > Math.min(...sizes.values()));
  const grid = (text) => /°/.test(text);
  const inOrder = (await written(page, NAMES)).filter(({ text }) => !grid(text)).map(({ size }) => Math.round(size));
  assert.deepEqual(inOrder, inOrder.toSorted((one, other) => other - one));
  // Airports are shown at this zoom level only.
  await until("there is an airport", async () => (await texts(page, NAMES)).some((text) => text.startsWith("✈")));
  // The places near the selected client are drawn once.
  await until("no name is on the map twice", async () => {
    const near = (await texts(page, DOTS)).filter((text) => text !== "west");
    const all = await texts(page, NAMES);
    return near.length > 2 && near.every((text) => !all.includes(text));
  });
  await page.emulateMedia({ colorScheme: "dark" });
  await isWritten(page, "Long Beach");
  await shows(page, ".leaflet-control-attribution", "GeoNames");
});

test("tiles replace the names, unless they cannot be loaded", async () => {
  let status = 200;
  const pixel = Buffer.from("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7", "base64");
  const tiles = createServer((_, response) => response.writeHead(status, { "Content-Type": "image/gif" }).end(status === 200 ? pixel : ""));
  await new Promise((done) => tiles.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${tiles.address().port}`;
  try {
    const { url } = await solo([["kiwi", 33.8, -118.19]], `  tiles: {url: "${origin}/{z}/{x}/{y}.png"}`);
    const page = await visit(url, { allowed: [origin] });
    await until("no name is left", async () => (await texts(page, NAMES)).length === 0);
    status = 403;
    const other = await open(stage.browser, url, { allowed: [origin] });
    await isWritten(other.page, "Long Beach");
    await other.close(); // with errors of the tiles
  } finally {
    tiles.closeAllConnections();
    tiles.close();
  }
});

test("many clients are grouped with their number, and a click on a group zooms in", async () => {
  const positions = Array.from({ length: 300 }, (_, at) => [`van-${at}`, 48.8 + (at % 20) / 1000, 2.3 + Math.floor(at / 20) / 1000]);
  const { url } = await solo([...positions, ["far", -33, 151]]);
  const page = await visit(url);
  await shows(page, "#count", "301 in view");
  const groups = async () => (await written(page, DOTS)).filter(({ text }) => /^\d+$/.test(text));
  await until("there is one group", async () => (await groups()).length === 1);
  const ink = await painted(page, "--node-0");
  const paris = (await groups()).find(({ text }) => text === "300");
  const box = await page.locator(DOTS).boundingBox();
  await page.mouse.click(box.x + paris.x + paris.width / 2, box.y + paris.y);
  await shows(page, "#count", "300 in view");
  assert.ok(await page.locator("#client").isHidden());
  await until("the sum of the groups is smaller, as dots appear", async () => {
    const sum = (await groups()).reduce((total, { text }) => total + Number(text), 0);
    return sum <= 300 && (await groups()).length !== 1;
  });
  assert.ok(ink.dots > 100, "the ring of the group has the color of the node");
  // The selected client is drawn even in a group.
  await find(page, "van-7");
  await page.locator("#map").focus();
  for (let step = 0; step < 5; step++) {
    await page.keyboard.press("-");
    await page.waitForTimeout(350);
  }
  await until("its name is on the map", async () => (await texts(page, DOTS)).includes("van-7"));
});

test("of two clients that are chosen in quick succession, the second is shown", async () => {
  const { url } = await solo([["first", 34, -118], ["second", 34.5, -117], ["third", 33, -119]]);
  const page = await visit(url);
  await shows(page, "#count", "3 in view");
  await page.evaluate(async () => {
    const [first, second] = document.querySelectorAll("#clients button");
    first.click();
    const isAnimated = () => document.querySelector(".leaflet-zoom-anim") !== null;
    for (let frame = 0; frame < 100 && !isAnimated(); frame++) await new Promise(requestAnimationFrame);
    if (!isAnimated()) throw new Error("the map is not animated");
    second.click();
  });
  await shows(page, "#client-title", "second");
  await shows(page, "#count", "1 in view");
  await until("second is on the map", async () => (await texts(page, DOTS)).includes("second"));
});

test("a node without clients explains how to report one, and the legend names the nodes", async () => {
  const { herd, url, report } = await solo();
  for (const options of [{}, PHONE, { colorScheme: "dark" }]) {
    const page = await visit(url, options);
    await shows(page, "#report", `nc -N 127.0.0.1 ${herd.ports.get("Bailey")}`);
    assert.deepEqual(await axeProblems(page), []);
    if (options === PHONE) await page.locator("#legend summary").click();
    await shows(page, "#legend", "Bailey");
    await shows(page, "#legend", "silent for five minutes");
  }
  const [page] = stage.views.map((view) => view.page);
  await report("kiwi", 34, -118);
  await until("the hint is gone", () => page.locator("#empty").isHidden());
  assert.ok(await page.locator("#legend").isVisible());
});

test("a click lists the nearest clients of a point or a client, and so does the keyboard", async () => {
  const vans = [["here", 34.07, -118.45], ["near", 34.071, -118.45], ["far", 34.2, -118.45], ["paris", 48.8584, 2.2945]];
  const { url, report } = await solo(vans);
  const page = await visit(`${url}/#here`);
  const listed = () => page.locator("#nearest li").allInnerTexts();
  const lists = (names) => until(`the list is ${names}`, async () => `${(await listed()).map((row) => row.split("\n")[0])}` === `${names}`);
  await lists(["near", "far", "paris"]);
  assert.match((await listed())[0], /111 m/);
  assert.match((await listed())[1], /14\.5 km/);
  await shows(page, "#near-state", "3 clients nearest to here");
  // The list follows the clients.
  await report("paris", 34.0701, -118.45);
  await lists(["paris", "near", "far"]);

  // A click beside all clients.
  const map = await page.locator("#map").boundingBox();
  await page.mouse.click(map.x + map.width / 2, map.y + 60);
  await until("no client is selected", () => page.locator("#client").isHidden());
  await shows(page, "#near-state", /^4 clients nearest to 34\.\d+° N, 118\.\d+° W/);
  await until("the point is marked", async () => (await painted(page, "--accent")).dots > 20);
  await page.locator("#nearest button").first().click();
  await shows(page, "#client-title", "far");
  await shows(page, "#near-state", "3 clients nearest to far");

  await page.locator("#map").focus();
  await page.keyboard.press("Escape");
  await shows(page, "#near-state", "Click the map");
  assert.deepEqual(await listed(), []);
  await page.keyboard.press("Enter");
  await shows(page, "#near-state", /^4 clients nearest to 34\./);
  await page.getByRole("button", { name: "Clear" }).press("Enter");
  await shows(page, "#near-state", "Click the map");
  assert.equal(await page.evaluate(() => document.activeElement.id), "near-center");
  await page.keyboard.press("Enter");
  await shows(page, "#near-state", /^4 clients nearest to 34\./);
  assert.deepEqual(await axeProblems(page), []);
});

test("silent clients can be hidden", async () => {
  const { url, report } = await solo([["silent", 34, -118], ["moving", 34.1, -118.1]]);
  const page = await visit(url);
  await shows(page, "#count", "2 in view");
  // Five seconds instead of a minute.
  await page.evaluate(() => (document.querySelector("#heard option[value='60']").value = "5"));
  const moves = setInterval(() => report("moving", 34.1, -118.1 - Math.random() / 100), 500);
  try {
    await page.getByLabel("Show clients heard from").selectOption("5");
    await shows(page, "#clients", /^moving\s/);
    await until("silent is hidden", async () => !(await page.locator("#clients").innerText()).includes("silent"));
    await shows(page, "#count", "1 in view");
    // It can be found and stays while it is selected, and is not among the nearest.
    await find(page, "silent");
    await shows(page, "#client-title", "silent");
    await shows(page, "#near-state", "1 client nearest to silent");
    await page.waitForTimeout(1500); // the list is updated every second
    assert.match(await page.locator("#age").innerText(), /^\d+ s$/);
    await page.locator("#close").click();
    await shows(page, "#count", "1 in view");
    // It appears when it reports again, and is hidden once it is silent.
    await report("silent", 34.05, -118.05);
    await shows(page, "#count", "2 in view");
    await shows(page, "#count", "1 in view");
    await page.getByLabel("Show clients heard from").selectOption("");
    await shows(page, "#count", "2 in view");
  } finally {
    clearInterval(moves);
  }
});
