// The page in a real browser, connected to real nodes.
//
// Usage: node --test tests/browser/page.test.mjs. With SCREENSHOTS=1 it also regenerates the pictures in
// docs/images, which requires python3 and pngquant.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PHONE, axeProblems, find, painted, setUp, shows } from "./browser.mjs";
import { Herd, root, until } from "./herd.mjs";
import { Relay } from "./relay.mjs";

const NAMES = ["Bailey", "Bona", "Campbell", "Clark", "Jaquez"];
const EDGES = [
  ["Bailey", "Bona"],
  ["Bailey", "Campbell"],
  ["Bona", "Clark"],
  ["Bona", "Campbell"],
  ["Campbell", "Jaquez"],
  ["Clark", "Jaquez"],
];

const stage = setUp();
let herd, campbell;

before(async () => {
  herd = await Herd.start(NAMES, EDGES);
  campbell = await herd.clients("Campbell");
  await campbell.report("bus.example", 34.06893, -118.445127);
});
after(async () => {
  campbell?.close();
  await herd?.stop();
});

const visit = (url = herd.url("Bailey"), options = {}) => stage.visit(url, options);

/** The pixels with the color of a node; see `painted`. */
const ink = (page, node) => painted(page, `--node-${NAMES.indexOf(node)}`);

const dot = (page, node) =>
  until(`a client of ${node} on the map`, async () => {
    const found = await ink(page, node);
    return found.dots > 20 && found;
  });

test("a client appears, moves and leaves a trail", async () => {
  const page = await visit();
  await shows(page, "#count", "1 in view");
  const first = await dot(page, "Campbell");
  assert.equal((await ink(page, "Clark")).dots, 0);

  const clark = await herd.clients("Clark");
  await clark.report("tram.example", 34.06, -118.43);
  await dot(page, "Clark");
  await shows(page, "#clients", "tram.example");
  clark.close();

  await campbell.report("bus.example", 34.06893, -118.425127);
  // 0.02 degrees are 58 pixels at the scale at which the page shows a single client
  const second = await until("it has moved to the east", async () => {
    const now = await ink(page, "Campbell");
    return now.x > first.x + 50 && now;
  });
  assert.ok(Math.abs(second.y - first.y) < 2, "and not to the north");
  assert.ok(second.trail > first.trail + 60, `a trail: ${first.trail}, ${second.trail}`);
});

test("a search finds a client and shows its record and places", async () => {
  const page = await visit();
  await find(page, "missing.example");
  await shows(page, "#found", "no client named missing.example");
  await find(page, "BUS");
  await shows(page, "#client-title", "bus.example");
  const { properties } = await (await fetch(`${herd.url("Jaquez")}/api/clients/bus.example`)).json();
  await shows(page, "#line", properties.line);
  await shows(page, "#server", "Campbell");
  await shows(page, "#age", /^\d+ s$/);
  await shows(page, "#places", "Beverly Hills");
  await shows(page, "#places", /\d\.\d km/);
  await shows(page, "#credits", "GeoNames");
  assert.equal(await page.locator("#credits a").first().getAttribute("href"), "https://www.geonames.org/");
  assert.ok(page.url().endsWith("#bus.example"));

  await campbell.report("bus.example", 34.07, -118.43);
  await shows(page, "#line", "+34.070000-118.430000");
});

// https://developers.google.com/maps/documentation/places/web-service/policies
test("places from Google are listed under its name and not drawn on the map", async () => {
  const [name, lat, lng] = ["Café Grün", 34.05, -118.4];
  const google = { places: [{ displayName: { text: name }, location: { latitude: lat, longitude: lng } }] };
  const legacy = { html_attributions: [], results: [{ name, geometry: { location: { lat, lng } } }], status: "OK" };
  const overpass = { elements: [{ id: 1, lat, lon: lng, tags: { name, amenity: "cafe" } }] };
  const provider = createServer(({ url }, response) => {
    const answer = url.startsWith("/v1/") ? google : url.startsWith("/maps/") ? legacy : overpass;
    response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(answer));
  });
  await new Promise((done) => provider.listen(0, "127.0.0.1", done));
  const folder = mkdtempSync(join(tmpdir(), "proxy-herd-key-"));
  writeFileSync(join(folder, "key"), "a-key");
  try {
    for (const [providerName, isGoogles] of [["overpass", false], ["google", true], ["google_legacy", true]]) {
      const places = `places: {provider: ${providerName}, url: "http://127.0.0.1:${provider.address().port}"}`;
      const key = `api_key_file: ${join(folder, "key")}`;
      const alone = await Herd.start(["Bailey"], [], isGoogles ? `${places}\n${key}` : places);
      try {
        const clients = await alone.clients("Bailey");
        await clients.report("bus.example", 34.06893, -118.445127);
        const page = await visit(alone.url("Bailey"));
        await find(page, "bus.example");
        await shows(page, "#places", name);
        await shows(page, "#places", /\d\.\d km/);
        await shows(page, "#credits", isGoogles ? "Google Maps" : "OpenStreetMap contributors");
        // Places are drawn in the next frame.
        await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
        const { dots } = await painted(page, "--muted");
        assert.equal(dots > 0, !isGoogles, `${providerName}: ${dots} pixels`);
        assert.equal((await page.locator("#credits").innerText()).includes("Google Maps"), isGoogles);
        clients.close();
      } finally {
        await alone.stop();
      }
    }
  } finally {
    provider.closeAllConnections();
    provider.close();
    rmSync(folder, { recursive: true });
  }
});

test("a click selects a client, and a click elsewhere clears the selection", async () => {
  const page = await visit();
  const { x, y } = await dot(page, "Campbell");
  await page.mouse.click(x, y);
  await shows(page, "#client-title", "bus.example");
  await page.mouse.click(x - 150, y - 150);
  await until("no client is selected", () => page.locator("#client").isHidden());
});

test("every function is accessible by keyboard", async () => {
  const page = await visit();
  await shows(page, "#count", /[12] in view/);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "skip");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "map");
  await page.keyboard.press("n");
  await until("a client is selected", () => page.locator("#client").isVisible());
  const first = await page.locator("#client-title").innerText();
  await page.keyboard.press("n");
  await until("another client is selected", async () => (await page.locator("#client-title").innerText()) !== first);
  await page.keyboard.press("p");
  await shows(page, "#client-title", first);
  await page.keyboard.press("Escape");
  await until("no client is selected", () => page.locator("#client").isHidden());

  const before = await dot(page, "Campbell");
  await page.keyboard.press("ArrowRight");
  await until("the map has moved", async () => (await ink(page, "Campbell")).x < before.x - 20);

  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter"); // skips the map
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "choice");
  await page.keyboard.press("Enter");
  await until("a client is selected", () => page.locator("#client").isVisible());
});

test("the page is accessible in both color schemes, on desktop and phone", async () => {
  for (const options of [{ colorScheme: "light" }, { colorScheme: "dark" }, { ...PHONE, colorScheme: "dark" }]) {
    const page = await visit(herd.url("Bailey"), options);
    for (const role of ["banner", "main", "complementary", "search"]) {
      assert.equal(await page.getByRole(role).count(), 1, role);
    }
    assert.equal(await page.getByRole("status").first().innerText(), "Live");
    await page.getByRole("searchbox", { name: "Name or part of a name" }).fill("bus.example");
    await page.keyboard.press("Enter");
    await shows(page, "#places", "Beverly Hills");
    await page.getByRole("img", { name: /^5 nodes, 6 links up/ }).waitFor();
    assert.deepEqual(await axeProblems(page), []);
  }
});

test("the color scheme follows the preference of the user", async () => {
  const page = await visit();
  const light = () =>
    page.evaluate(() => {
      const ground = getComputedStyle(document.documentElement).backgroundColor;
      return ground.match(/\d+/g).reduce((sum, part) => sum + Number(part), 0);
    });
  assert.ok((await light()) > 600);
  await page.emulateMedia({ colorScheme: "dark" });
  await until("the page is dark", async () => (await light()) < 150);
  await dot(page, "Campbell"); // in the dark color
});

test("the page fits a phone", async () => {
  const page = await visit(herd.url("Bailey"), PHONE);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `the page must not scroll sideways, but is ${width} pixels wide`);
  const { x, y } = await dot(page, "Campbell");
  await page.touchscreen.tap(x, y);
  await shows(page, "#client-title", "bus.example");
  await page.locator("#rates").scrollIntoViewIfNeeded();
});

test("the page shows a neighbor that goes down and comes back", async () => {
  const page = await visit();
  await herd.kill("Bona");
  await shows(page, "#problems", "the link to Bona is down");
  await shows(page, "#links", /Bona\s+down/);
  await until("the graph shows it as unreachable", async () =>
    (await page.locator("#graph title").textContent()).includes("Unreachable: Bona."));
  herd.run("Bona");
  await until("all links are up", async () => (await page.locator("#graph title").textContent()).startsWith("5 nodes, 6 links up."));
  await until("no problem is left", async () => (await page.locator("#problems li").count()) === 0);
});

test("the page reconnects when its node goes down and comes back", async () => {
  const page = await visit();
  await find(page, "bus.example");
  await shows(page, "#client-title", "bus.example");
  await herd.kill("Bailey");
  await shows(page, "#state", "Disconnected");
  await shows(page, "#gone", "The node does not respond");
  assert.equal(await page.getByRole("alert").innerText(), await page.locator("#gone").innerText());
  await campbell.report("bus.example", 34.075, -118.41);
  herd.run("Bailey");
  await shows(page, "#state", "Live");
  await shows(page, "#line", "+34.075000-118.410000");
  assert.equal(await page.locator("#gone").innerText(), "");
});

test("a broken event stream is resumed", async () => {
  const relay = await new Relay(herd.webPorts.get("Bailey")).open();
  try {
    const page = await visit(`http://127.0.0.1:${relay.port}`);
    await find(page, "bus.example");
    await shows(page, "#client-title", "bus.example");
    await relay.cut();
    await shows(page, "#state", "Disconnected");
    await campbell.report("bus.example", 34.08, -118.4);
    relay.sent = "";
    await relay.open();
    await shows(page, "#state", "Live");
    await shows(page, "#line", "+34.080000-118.400000");
    assert.match(relay.sent, /GET \/events\?[^ ]* HTTP[^]*\r\nLast-Event-ID: \d+-\d+-\d+\r\n/i);
  } finally {
    await relay.cut();
  }
});

test("12,000 clients are drawn on one canvas, above tiles from the configured server", async () => {
  let requests = 0;
  const pixel = Buffer.from("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7", "base64");
  const tiles = createServer((request, response) => {
    requests++;
    response.writeHead(200, { "Content-Type": "image/gif" }).end(pixel);
  });
  await new Promise((done) => tiles.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${tiles.address().port}`;
  const configured = `  tiles: {url: "${origin}/{z}/{x}/{y}.png", attribution: "© <b>some</b>body"}`;
  const alone = await Herd.start(["Bailey"], [], configured);
  try {
    const clients = await alone.clients("Bailey");
    for (let at = 0; at < 12_000; at++) {
      await clients.report(`car-${at}`, 60 * Math.sin(at), ((at * 7.3) % 300) - 150);
    }
    const page = await visit(alone.url("Bailey"), { allowed: [origin] });
    await shows(page, "#count", /^12,000 in view; 11,950 more/);
    await until("there are groups of clients", async () => (await ink(page, "Bailey")).dots > 10_000);
    const elements = await page.evaluate(() => document.querySelectorAll("*").length);
    assert.ok(elements < 800, `there must not be an element per client, but there are ${elements}`);
    await until("tiles are requested", () => requests > 0);
    await shows(page, ".leaflet-control-attribution", "© <b>some</b>body");
    // Zoomed in, the page subscribes only to the surroundings of the view.
    const subscribes = page.waitForRequest((request) => request.url().includes("/events?bbox="));
    await find(page, "car-4321");
    await shows(page, "#client-title", "car-4321");
    await subscribes;
    const first = await page.locator("#line").innerText();
    await shows(page, "#count", /^[1-9]\d* in view/);
    await clients.report("car-4321", 60 * Math.sin(4321) + 0.01, ((4321 * 7.3) % 300) - 150);
    const { properties } = await until("the node has received the update", async () => {
      const feature = await (await fetch(`${alone.url("Bailey")}/api/clients/car-4321`)).json();
      return feature.properties.line !== first && feature;
    });
    await shows(page, "#line", properties.line);
    await find(page, "car-1234"); // which the page no longer holds
    await shows(page, "#client-title", "car-1234");
    await shows(page, "#count", /^[1-9]\d* in view/);
    clients.close();
  } finally {
    await alone.stop();
    await new Promise((done) => {
      tiles.close(done);
      tiles.closeAllConnections();
    });
  }
});

// A simulated fleet in Paris and elsewhere, with the fences of the demo, provides the content of the pictures.
if (process.env.SCREENSHOTS) {
  test("pictures for the README", async () => {
    const fences = join(root, "conf", "demo.geojson");
    const herd = await Herd.start(NAMES, EDGES, `fences: {file: "${fences}"}`);
    const addresses = NAMES.map((name) => `127.0.0.1:${herd.ports.get(name)}`);
    const options = ["--vehicles", "300", "--speed", "30", "--fences", fences];
    const fleet = spawn("python3", [join(root, "scripts", "fleet.py"), ...options, ...addresses], { stdio: "inherit" });
    try {
      const page = await visit(herd.url("Bailey"));
      const picture = async (name) => {
        const path = join(root, "docs", "images", `${name}.png`);
        await page.screenshot({ path });
        execFileSync("pngquant", ["--force", "--strip", "--ext", ".png", "96", path]);
      };
      await until("there is a fleet", () => page.locator("#clients li").nth(20).isVisible());
      await find(page, ".paris.");
      await shows(page, "#places", "km");
      await page.evaluate(() => document.activeElement.blur());
      await until("there are long trails", async () => {
        let trail = 0;
        for (const name of NAMES) trail += (await ink(page, name)).trail;
        return trail > 2500;
      });
      await picture("map");
      await page.emulateMedia({ colorScheme: "dark" });
      await page.locator("#close").click();
      await page.reload(); // shows all clients
      await shows(page, "#count", /^300 in view/);
      await herd.kill("Clark");
      await until("the page shows it", async () => (await page.locator("#graph title").textContent()).includes("Clark"));
      await picture("dark");
    } finally {
      fleet.kill();
      await herd.stop();
    }
  });
}
