// Herds of real nodes for tests of the page.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** Milliseconds within which an expected event must happen, even on a busy machine. */
export const DEADLINE = 20_000;

/** The root directory of the project. */
export const root = join(import.meta.dirname, "..", "..");
const program = join(process.env.CARGO_TARGET_DIR ?? join(root, "target"), "debug", "proxy-herd");

/** Waits until `check` returns or resolves to a truthy value, and returns it. */
export async function until(what, check) {
  const deadline = Date.now() + DEADLINE;
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
  throw new Error(`not within ${DEADLINE / 1000} s: ${what}`, { cause: last });
}

// Below the ephemeral ports, so that no other process is assigned the port before the node binds it.
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

  /**
   * Starts a herd; `edges` are pairs of names, `more` is YAML for its configuration, and `files` are the
   * contents of files beside it, by name.
   */
  static async start(names, edges, more = "", files = {}) {
    const herd = new Herd();
    herd.directory = mkdtempSync(join(tmpdir(), "proxy-herd-page-"));
    herd.ports = new Map();
    herd.webPorts = new Map();
    for (const name of names) {
      herd.ports.set(name, await freePort());
      herd.webPorts.set(name, await freePort());
    }
    const flow = (map) => `{${[...map].map(([name, value]) => `${name}: ${value}`).join(", ")}}`;
    const neighbors = new Map(names.map((name) => [name, []]));
    for (const [from, to] of edges) neighbors.get(from).push(to);
    const lists = new Map([...neighbors].map(([name, to]) => [name, `[${to.join(", ")}]`]));
    const config = [
      'api_key: "API_KEY"',
      `ports: ${flow(herd.ports)}`,
      `neighbors: ${flow(lists)}`,
      `logging: {directory: "${herd.directory}", level: INFO}`,
      `http:\n  ports: ${flow(herd.webPorts)}`,
      more,
    ];
    writeFileSync(join(herd.directory, "herd.yml"), `${config.join("\n")}\n`);
    for (const [name, content] of Object.entries(files)) herd.write(name, content);
    for (const name of names) herd.run(name);
    for (const name of names) await herd.isUp(name);
    return herd;
  }

  /** Writes a file beside the configuration. */
  write(name, content) {
    writeFileSync(join(this.directory, name), content);
  }

  /** Returns the URL of a node's page. */
  url(name) {
    return `http://127.0.0.1:${this.webPorts.get(name)}`;
  }

  /** Starts one node. */
  run(name) {
    const env = { PATH: process.env.PATH };
    const child = spawn(program, ["-c", "herd.yml", name], { cwd: this.directory, env, stdio: ["ignore", "ignore", "inherit"] });
    this.#processes.set(name, child);
  }

  /** Waits until a node responds. */
  isUp(name) {
    return until(`${name} responds`, async () => (await fetch(`${this.url(name)}/healthz`)).ok);
  }

  /** Kills one node. */
  async kill(name) {
    const child = this.#processes.get(name);
    this.#processes.delete(name);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((done) => child.once("exit", done));
    child.kill("SIGKILL");
    await gone;
  }

  /** Sends a signal to a node. */
  signal(name, signal) {
    this.#processes.get(name).kill(signal);
  }

  /** Kills all nodes. */
  async stop() {
    for (const name of [...this.#processes.keys()]) await this.kill(name);
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Opens a connection to a node, for any number of clients. */
  async clients(name) {
    const socket = connect(this.ports.get(name), "127.0.0.1");
    await new Promise((done, failed) => socket.once("connect", done).once("error", failed));
    socket.on("error", () => {});
    socket.resume();
    return {
      /** Reports the position of a client. */
      report(client, latitude, longitude) {
        return new Promise((done) => socket.write(iamat(client, latitude, longitude), done));
      },
      /** Closes the connection after everything has been sent. */
      close: () => socket.end(),
    };
  }
}

function iamat(client, latitude, longitude) {
  const degrees = (number) => `${number < 0 ? "-" : "+"}${Math.abs(number).toFixed(6)}`;
  return `IAMAT ${client} ${degrees(latitude)}${degrees(longitude)} ${(Date.now() / 1000).toFixed(6)}\n`;
}
