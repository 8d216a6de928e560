// Herds of real nodes for the tests of the page.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** Milliseconds in which something that must happen has to have happened on a busy machine. */
export const PATIENCE = 20_000;

/** The folder of the project. */
export const root = join(import.meta.dirname, "..", "..");
const program = join(process.env.CARGO_TARGET_DIR ?? join(root, "target"), "debug", "proxy-herd");

/** Waits until `check` returns or resolves to something true, and returns that. */
export async function until(what, check) {
  const deadline = Date.now() + PATIENCE;
  let last;
  do {
    try {
      const value = await check();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    await pause(30);
  } while (Date.now() < deadline);
  throw new Error(`not within ${PATIENCE / 1000} s: ${what}`, { cause: last });
}

// Below those that the kernel gives to whoever asks for any, so that nobody has it in between.
let next = 12_000 + ((process.pid * 41) % 18_000);
async function freePort() {
  for (;;) {
    const port = next++;
    const server = createServer();
    const free = await new Promise((done) => {
      server.once("error", () => done(false));
      server.listen(port, "127.0.0.1", () => done(true));
    });
    if (!free) continue;
    await new Promise((done) => server.close(done));
    return port;
  }
}

export class Herd {
  #processes = new Map();

  /** Starts a herd; `edges` are pairs of names, `more` is YAML for its configuration. */
  static async start(names, edges, more = "") {
    const herd = new Herd();
    herd.folder = mkdtempSync(join(tmpdir(), "proxy-herd-page-"));
    herd.ports = new Map();
    herd.webPorts = new Map();
    for (const name of names) {
      herd.ports.set(name, await freePort());
      herd.webPorts.set(name, await freePort());
    }
    const flow = (map) => `{${[...map].map(([name, value]) => `${name}: ${value}`).join(", ")}}`;
    const neighbours = new Map(names.map((name) => [name, []]));
    for (const [from, to] of edges) neighbours.get(from).push(to);
    const lists = new Map([...neighbours].map(([name, to]) => [name, `[${to.join(", ")}]`]));
    const config = [
      'api_key: "API_KEY"',
      `ports: ${flow(herd.ports)}`,
      `neighbors: ${flow(lists)}`,
      `logging: {directory: "${herd.folder}", level: INFO}`,
      `http:\n  ports: ${flow(herd.webPorts)}`,
      more,
    ];
    writeFileSync(join(herd.folder, "herd.yml"), `${config.join("\n")}\n`);
    for (const name of names) herd.run(name);
    for (const name of names) await herd.answers(name);
    return herd;
  }

  /** Where people look at this node. */
  url(name) {
    return `http://127.0.0.1:${this.webPorts.get(name)}`;
  }

  /** Starts one node. */
  run(name) {
    const env = { PATH: process.env.PATH };
    const child = spawn(program, ["-c", "herd.yml", name], { cwd: this.folder, env, stdio: ["ignore", "ignore", "inherit"] });
    this.#processes.set(name, child);
  }

  /** Waits until a node answers. */
  answers(name) {
    return until(`${name} answers`, async () => (await fetch(`${this.url(name)}/healthz`)).ok);
  }

  /** Ends one node at once. */
  async kill(name) {
    const child = this.#processes.get(name);
    this.#processes.delete(name);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((done) => child.once("exit", done));
    child.kill("SIGKILL");
    await gone;
  }

  /** Ends all of them. */
  async stop() {
    for (const name of [...this.#processes.keys()]) await this.kill(name);
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A connection of clients to a node. */
  async clients(name) {
    const socket = connect(this.ports.get(name), "127.0.0.1");
    await new Promise((done, failed) => socket.once("connect", done).once("error", failed));
    socket.on("error", () => {});
    socket.resume();
    return {
      /** Says where a client is. */
      say(client, latitude, longitude) {
        return new Promise((done) => socket.write(iamat(client, latitude, longitude), done));
      },
      /** Ends the connection; what was said still arrives. */
      close: () => socket.end(),
    };
  }
}

function iamat(client, latitude, longitude) {
  const degrees = (number) => `${number < 0 ? "-" : "+"}${Math.abs(number).toFixed(6)}`;
  return `IAMAT ${client} ${degrees(latitude)}${degrees(longitude)} ${(Date.now() / 1000).toFixed(6)}\n`;
}
