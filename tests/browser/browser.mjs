// Chromium as packaged by Debian, driven by the version of playwright-core in web/package-lock.json.

import { createRequire } from "node:module";
import { join } from "node:path";

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
    const known = [url, "data:", ...allowed];
    if (!known.some((start) => request.url().startsWith(start))) {
      errors.push(`request to another host: ${request.url()}`);
    }
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
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
