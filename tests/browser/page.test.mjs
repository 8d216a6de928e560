// The page in a real browser, looking at real nodes.
//
// node --test tests/browser/page.test.mjs; with SCREENSHOTS=1 the pictures in docs/images are made
// anew, for which it needs python3 and pngquant.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { axeProblems, launch, open } from "./browser.mjs";
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
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

let browser, herd, campbell;
const views = [];

before(async () => {
  [browser, herd] = await Promise.all([launch(), Herd.start(NAMES, EDGES)]);
  campbell = await herd.clients("Campbell");
  await campbell.say("bus.example", 34.06893, -118.445127);
});
after(async () => {
  campbell?.close();
  await browser?.close();
  await herd?.stop();
});
// Whatever a test was about: nothing is to go wrong meanwhile.
afterEach(async () => {
  for (const view of views.splice(0)) {
    await view.close();
    assert.deepEqual(view.complaints, []);
  }
});

async function look(url = herd.url("Bailey"), options = {}) {
  const view = await open(browser, url, options);
  views.push(view);
  await shows(view.page, "#state", "Live");
  return view.page;
}

/** Waits until the element shows text that holds, or matches, `wanted`. */
const shows = (page, selector, wanted) =>
  until(`${selector} shows ${wanted}`, async () => {
    const text = (await page.locator(selector).innerText({ timeout: 1000 })).trim();
    const fits = wanted instanceof RegExp ? wanted.test(text) : text.includes(wanted);
    if (!fits) throw new Error(`it shows: ${text}`);
    return true;
  });

/** The middle of all that has the colour of a node, in pixels of the page, and how much that is:
 * the dots of its clients, and their trails, which are paler. */
const ink = (page, node) => painted(page, `--node-${NAMES.indexOf(node)}`);

const painted = (page, colour) =>
  page.evaluate((colour) => {
    const canvas = document.querySelector(".leaflet-overlay-pane canvas");
    const { width, height } = canvas;
    const style = getComputedStyle(document.documentElement);
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = style.getPropertyValue(colour);
    probe.fillRect(0, 0, 1, 1);
    const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    let [dots, trail, x, y] = [0, 0, 0, 0];
    for (let at = 0; at < data.length; at += 4) {
      const off = Math.max(Math.abs(data[at] - red), Math.abs(data[at + 1] - green), Math.abs(data[at + 2] - blue));
      if (off > 6 || data[at + 3] < 16) continue;
      if (data[at + 3] < 250) {
        trail++;
      } else if (off === 0) {
        dots++;
        x += (at / 4) % width;
        y += Math.floor(at / 4 / width);
      }
    }
    const box = canvas.getBoundingClientRect();
    const scale = box.width / width;
    return { dots, trail, x: box.x + (x / dots) * scale, y: box.y + (y / dots) * scale };
  }, colour);

const dot = (page, node) =>
  until(`a client of ${node} on the map`, async () => {
    const found = await ink(page, node);
    return found.dots > 20 && found;
  });

const find = async (page, name) => {
  await page.fill("#query", name);
  await page.press("#query", "Enter");
};

test("a client appears, moves and leaves a trail", async () => {
  const page = await look();
  await shows(page, "#count", "1 in view");
  const first = await dot(page, "Campbell");
  assert.equal((await ink(page, "Clark")).dots, 0);

  const clark = await herd.clients("Clark");
  await clark.say("tram.example", 34.06, -118.43);
  await dot(page, "Clark");
  await shows(page, "#clients", "tram.example");
  clark.close();

  await campbell.say("bus.example", 34.06893, -118.425127);
  // 0.02 degrees are 58 pixels at the scale at which the page shows a single client
  const second = await until("it has moved to the east", async () => {
    const now = await ink(page, "Campbell");
    return now.x > first.x + 50 && now;
  });
  assert.ok(Math.abs(second.y - first.y) < 2, "and not to the north");
  assert.ok(second.trail > first.trail + 60, `a trail: ${first.trail}, ${second.trail}`);
});

test("a client is found, and its record and places are shown", async () => {
  const page = await look();
  await find(page, "nobody.example");
  await shows(page, "#found", "holds no client named nobody.example");
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

  await campbell.say("bus.example", 34.07, -118.43);
  await shows(page, "#line", "+34.070000-118.430000");
});

// https://developers.google.com/maps/documentation/places/web-service/policies
test("Google's places are listed under its name, and on no map", async () => {
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
    for (const [who, isGoogles] of [["overpass", false], ["google", true], ["google_legacy", true]]) {
      const places = `places: {provider: ${who}, url: "http://127.0.0.1:${provider.address().port}"}`;
      const key = `api_key_file: ${join(folder, "key")}`;
      const alone = await Herd.start(["Bailey"], [], isGoogles ? `${places}\n${key}` : places);
      try {
        const clients = await alone.clients("Bailey");
        await clients.say("bus.example", 34.06893, -118.445127);
        const page = await look(alone.url("Bailey"));
        await find(page, "bus.example");
        await shows(page, "#places", name);
        await shows(page, "#places", /\d\.\d km/);
        await shows(page, "#credits", isGoogles ? "Google Maps" : "OpenStreetMap contributors");
        // What there is to draw is drawn in the next frame.
        await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
        const { dots } = await painted(page, "--muted");
        assert.equal(dots > 0, !isGoogles, `${who}: ${dots} pixels`);
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

test("a click on a client selects it, and one beside it lets go", async () => {
  const page = await look();
  const { x, y } = await dot(page, "Campbell");
  await page.mouse.click(x, y);
  await shows(page, "#client-title", "bus.example");
  await page.mouse.click(x - 150, y - 150);
  await until("it is let go", () => page.locator("#client").isHidden());
});

test("everything can be done with the keyboard", async () => {
  const page = await look();
  await shows(page, "#count", /[12] in view/);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "skip");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "map");
  await page.keyboard.press("n");
  await until("one is selected", () => page.locator("#client").isVisible());
  const first = await page.locator("#client-title").innerText();
  await page.keyboard.press("n");
  await until("another is selected", async () => (await page.locator("#client-title").innerText()) !== first);
  await page.keyboard.press("p");
  await shows(page, "#client-title", first);
  await page.keyboard.press("Escape");
  await until("none is selected", () => page.locator("#client").isHidden());

  const before = await dot(page, "Campbell");
  await page.keyboard.press("ArrowRight");
  await until("the map has moved", async () => (await ink(page, "Campbell")).x < before.x - 20);

  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter"); // skips the map
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "choice");
  await page.keyboard.press("Enter");
  await until("one is selected", () => page.locator("#client").isVisible());
});

test("a screen reader finds its way, light and dark, on a screen and on a phone", async () => {
  for (const options of [{ colorScheme: "light" }, { colorScheme: "dark" }, { ...PHONE, colorScheme: "dark" }]) {
    const page = await look(herd.url("Bailey"), options);
    for (const role of ["banner", "main", "complementary", "search"]) {
      assert.equal(await page.getByRole(role).count(), 1, role);
    }
    assert.equal(await page.getByRole("status").first().innerText(), "Live");
    await page.getByRole("searchbox", { name: "Its name" }).fill("bus.example");
    await page.keyboard.press("Enter");
    await shows(page, "#places", "Beverly Hills");
    await page.getByRole("img", { name: /^5 nodes, 6 links up/ }).waitFor();
    assert.deepEqual(await axeProblems(page), []);
  }
});

test("dark where people want it dark", async () => {
  const page = await look();
  const light = () =>
    page.evaluate(() => {
      const ground = getComputedStyle(document.documentElement).backgroundColor;
      return ground.match(/\d+/g).reduce((sum, part) => sum + Number(part), 0);
    });
  assert.ok((await light()) > 600);
  await page.emulateMedia({ colorScheme: "dark" });
  await until("the page is dark", async () => (await light()) < 150);
  await dot(page, "Campbell"); // in the colours of the dark
});

test("on a phone", async () => {
  const page = await look(herd.url("Bailey"), PHONE);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 390, `nothing is to be moved sideways, but it is ${wide} wide`);
  const { x, y } = await dot(page, "Campbell");
  await page.touchscreen.tap(x, y);
  await shows(page, "#client-title", "bus.example");
  await page.locator("#rates").scrollIntoViewIfNeeded();
});

test("a neighbour dies and returns", async () => {
  const page = await look();
  await herd.kill("Bona");
  await shows(page, "#problems", "the link to Bona is down");
  await shows(page, "#links", /Bona\s+down/);
  await until("it is out of reach in the graph", async () =>
    (await page.locator("#graph title").textContent()).includes("Out of reach: Bona."));
  herd.run("Bona");
  await until("all is well", async () => (await page.locator("#graph title").textContent()).startsWith("5 nodes, 6 links up."));
  await until("no problem is left", async () => (await page.locator("#problems li").count()) === 0);
});

test("the node dies and returns", async () => {
  const page = await look();
  await find(page, "bus.example");
  await shows(page, "#client-title", "bus.example");
  await herd.kill("Bailey");
  await shows(page, "#state", "Node gone");
  await shows(page, "#gone", "The node does not answer");
  assert.equal(await page.getByRole("alert").innerText(), await page.locator("#gone").innerText());
  await campbell.say("bus.example", 34.075, -118.41);
  herd.run("Bailey");
  await shows(page, "#state", "Live");
  await shows(page, "#line", "+34.075000-118.410000");
  assert.equal(await page.locator("#gone").innerText(), "");
});

test("a connection that broke goes on where it was", async () => {
  const relay = await new Relay(herd.webPorts.get("Bailey")).open();
  try {
    const page = await look(`http://127.0.0.1:${relay.port}`);
    await find(page, "bus.example");
    await shows(page, "#client-title", "bus.example");
    await relay.cut();
    await shows(page, "#state", "Node gone");
    await campbell.say("bus.example", 34.08, -118.4);
    relay.sent = "";
    await relay.open();
    await shows(page, "#state", "Live");
    await shows(page, "#line", "+34.080000-118.400000");
    assert.match(relay.sent, /GET \/events\?[^ ]* HTTP[^]*\r\nLast-Event-ID: \d+-\d+-\d+\r\n/i);
  } finally {
    await relay.cut();
  }
});

test("many thousands are one picture, and tiles come from where they are configured", async () => {
  let asked = 0;
  const pixel = Buffer.from("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7", "base64");
  const tiles = createServer((request, response) => {
    asked++;
    response.writeHead(200, { "Content-Type": "image/gif" }).end(pixel);
  });
  await new Promise((done) => tiles.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${tiles.address().port}`;
  const configured = `  tiles: {url: "${origin}/{z}/{x}/{y}.png", attribution: "© <b>some</b>body"}`;
  const alone = await Herd.start(["Bailey"], [], configured);
  try {
    const clients = await alone.clients("Bailey");
    for (let at = 0; at < 12_000; at++) {
      await clients.say(`car-${at}`, 60 * Math.sin(at), ((at * 7.3) % 300) - 150);
    }
    const page = await look(alone.url("Bailey"), { mayAsk: [origin] });
    await shows(page, "#count", /^12,000 in view; 11,950 more/);
    await until("there are dots for thousands", async () => (await ink(page, "Bailey")).dots > 30_000);
    const elements = await page.evaluate(() => document.querySelectorAll("*").length);
    assert.ok(elements < 800, `no element for each client, but there are ${elements}`);
    await until("tiles are asked for", () => asked > 0);
    await shows(page, ".leaflet-control-attribution", "© <b>some</b>body");
    // Close by, the page listens only to what is around.
    const listens = page.waitForRequest((request) => request.url().includes("/events?bbox="));
    await find(page, "car-4321");
    await shows(page, "#client-title", "car-4321");
    await listens;
    const first = await page.locator("#line").innerText();
    await shows(page, "#count", /^[1-9]\d* in view/);
    await clients.say("car-4321", 60 * Math.sin(4321) + 0.01, ((4321 * 7.3) % 300) - 150);
    const { properties } = await until("the node has heard it", async () => {
      const feature = await (await fetch(`${alone.url("Bailey")}/api/clients/car-4321`)).json();
      return feature.properties.line !== first && feature;
    });
    await shows(page, "#line", properties.line);
    await find(page, "car-1234"); // which the page has forgotten
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

// A fleet drives in Paris and elsewhere; the pictures are of what the page makes of that.
if (process.env.SCREENSHOTS) {
  test("pictures for the README", async () => {
    const addresses = NAMES.map((name) => `127.0.0.1:${herd.ports.get(name)}`);
    const fleet = spawn("python3", [join(root, "scripts", "fleet.py"), "--vehicles", "300", "--speed", "30", ...addresses], { stdio: "inherit" });
    try {
      const page = await look();
      const picture = async (name) => {
        const path = join(root, "docs", "images", `${name}.png`);
        await page.screenshot({ path });
        execFileSync("pngquant", ["--force", "--strip", "--ext", ".png", "96", path]);
      };
      await until("there is a fleet", () => page.locator("#clients li").nth(20).isVisible());
      await find(page, ".paris.");
      await shows(page, "#places", "km");
      await page.evaluate(() => document.activeElement.blur());
      await page.getByRole("button", { name: "Zoom out" }).click();
      await until("there are long trails", async () => {
        let trail = 0;
        for (const name of NAMES) trail += (await ink(page, name)).trail;
        return trail > 2500;
      });
      await picture("map");
      await page.emulateMedia({ colorScheme: "dark" });
      await page.locator("#close").click();
      await page.reload(); // looks at all clients
      await shows(page, "#count", /^30\d in view/);
      await herd.kill("Clark");
      await until("it is noticed", async () => (await page.locator("#graph title").textContent()).includes("Clark"));
      await picture("dark");
      herd.run("Clark");
    } finally {
      fleet.kill();
    }
  });
}
