// Chromium as packaged by Debian, driven by the version of playwright-core in web/package-lock.json.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, afterEach, before } from "node:test";
import { Herd, until } from "./herd.mjs";

const root = join(import.meta.dirname, "..", "..");
const require = createRequire(join(root, "web", "package.json"));
const { chromium } = require("playwright-core");
const { source: axe } = require("axe-core");

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Options of `open` for a phone. */
export const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

const launch = () => chromium.launch({ executablePath, headless: true, args });

/**
 * Sets up the tests of a file: one browser for all of them, and after each test the end of its pages and
 * herds. No test may leave errors on a page.
 */
export function setUp() {
  const [views, herds] = [[], []];
  const stage = { browser: undefined, views, visit, solo };

  before(async () => {
    stage.browser = await launch();
  });
  after(() => stage.browser?.close());
  afterEach(async () => {
    const errors = [];
    for (const view of views.splice(0)) {
      await view.close();
      errors.push(...view.errors);
    }
    for (const herd of herds.splice(0)) await herd.stop();
    assert.deepEqual(errors, []);
  });

  /** Opens a page of a node, and waits until it is live. */
  async function visit(url, options = {}) {
    const view = await open(stage.browser, url, options);
    views.push(view);
    await shows(view.page, "#state", "Live");
    return view.page;
  }

  /** Starts a herd of one node with clients at these positions; `more` and `files` as in `Herd.start`. */
  async function solo(positions = [], more = "", files = {}) {
    const herd = await Herd.start(["Bailey"], [], more, files);
    herds.push(herd);
    const { report } = await herd.clients("Bailey");
    for (const [name, latitude, longitude] of positions) await report(name, latitude, longitude);
    const url = herd.url("Bailey");
    const names = new Set(positions.map(([name]) => name));
    const held = async () => (await (await fetch(`${url}/api/herd`)).json()).clients;
    await until("the node has the clients", async () => (await held()) === names.size);
    return { herd, url, report };
  }

  return stage;
}

/**
 * Opens a page. Collects in `errors`: script errors, console errors, violations of the content security
 * policy, error responses, and requests to hosts that are not in `allowed`.
 */
export async function open(browser, url, { allowed = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(`${error}`));
  page.on("response", (response) => {
    const path = new URL(response.url()).pathname;
    const mayFail = path.startsWith("/api/clients/");
    if (response.status() >= 400 && !mayFail) errors.push(`${response.status()} ${response.url()}`);
  });
  page.on("console", (message) => {
    // The browser logs error responses itself. They are expected when a node goes down or a client is
    // not found.
    const isFailedLoad = message.text().startsWith("Failed to load resource:");
    if (message.type() === "error" && !isFailedLoad) errors.push(message.text());
  });
  page.on("request", (request) => {
    const known = [new URL(url).origin, "data:", ...allowed];
    if (!known.some((start) => request.url().startsWith(start))) {
      errors.push(`request to another host: ${request.url()}`);
    }
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  // Canvases record the texts that have been written on them since they were cleared; see `written`.
  await page.addInitScript(() => {
    const { prototype } = CanvasRenderingContext2D;
    const { clearRect, fillText } = prototype;
    prototype.clearRect = function (...box) {
      this.canvas.texts = [];
      return clearRect.apply(this, box);
    };
    prototype.fillText = function (text, x, y) {
      const { width } = this.measureText(text);
      const left = this.textAlign === "center" ? x - width / 2 : x;
      const scale = this.canvas.clientWidth / this.canvas.width;
      const plain = text.replace(/[\u2068\u2069\ufe0e]/g, "");
      const size = parseFloat(/[\d.]+px/.exec(this.font)) * scale;
      this.canvas.texts?.push({ text: plain, x: left * scale, y: y * scale, width: width * scale, size });
      return fillText.call(this, text, x, y);
    };
  });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  return { page, errors, close: () => context.close() };
}

/** Returns the violations of WCAG 2.1, level AA, that axe finds. */
export async function axeProblems(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }),
  );
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
  );
}

/** Waits until the element shows text that contains or matches `wanted`. */
export const shows = (page, selector, wanted) =>
  until(`${selector} shows ${wanted}`, async () => {
    const text = (await page.locator(selector).innerText({ timeout: 1000 })).trim();
    const fits = wanted instanceof RegExp ? wanted.test(text) : text.includes(wanted);
    if (!fits) throw new Error(`it shows: ${text}`);
    return true;
  });

/** Returns the center of the pixels with a color of the style sheet, in page coordinates, and how many
 * there are in dots and in trails, which are paler. */
export const painted = (page, color) =>
  page.evaluate((color) => {
    const canvas = document.querySelector(".leaflet-overlay-pane canvas");
    const { width, height } = canvas;
    const style = getComputedStyle(document.documentElement);
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = style.getPropertyValue(color);
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
  }, color);

/** Returns the texts on a canvas: {text, x, y, width, size} in CSS pixels, where y is the middle. */
export const written = (page, canvas) => page.locator(canvas).evaluate((it) => it.texts ?? []);

/** Searches for a client. */
export const find = async (page, name) => {
  await page.fill("#query", name);
  await page.press("#query", "Enter");
};
