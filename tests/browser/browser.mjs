// Debian's Chromium, driven by playwright-core as web/package-lock.json names it.

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
 * Opens a page. What goes wrong on it is in `complaints`: errors of scripts, what was written to the
 * console as an error, violations of the policy, responses that are none, requests to other hosts.
 */
export async function open(browser, url, { mayAsk = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(`${error}`));
  page.on("response", (response) => {
    const path = new URL(response.url()).pathname;
    const mayBeMissing = path.startsWith("/api/clients/");
    if (response.status() >= 400 && !mayBeMissing) complaints.push(`${response.status()} ${response.url()}`);
  });
  page.on("console", (message) => {
    // Of responses that are missing, the browser itself complains; nodes go, and not all is found.
    const isMissing = message.text().startsWith("Failed to load resource:");
    if (message.type() === "error" && !isMissing) complaints.push(message.text());
  });
  page.on("request", (request) => {
    const known = [url, "data:", ...mayAsk];
    if (!known.some((start) => request.url().startsWith(start))) {
      complaints.push(`asked elsewhere: ${request.url()}`);
    }
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  return { page, complaints, close: () => context.close() };
}

/** What axe finds that keeps people from using the page, by the rules of WCAG 2.1, level AA. */
export async function axeProblems(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }),
  );
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
  );
}
