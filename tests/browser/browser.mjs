// Chromium as packaged by Debian, driven by the version of playwright-core in web/package-lock.json.

import { createRequire } from "node:module";
import { join } from "node:path";
import { until } from "./herd.mjs";

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

export const launch = () => chromium.launch({ executablePath, headless: true, args });

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
