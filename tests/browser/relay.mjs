// A relay between a browser and a node that can break their connections.

import { connect, createServer } from "node:net";

export class Relay {
  /** All bytes that browsers have sent since this was last cleared. */
  sent = "";
  #sockets = new Set();
  #server = null;

  constructor(target) {
    this.target = target;
  }

  /** Listens, on the same port as before if there was one. */
  async open() {
    this.#server = createServer((browser) => {
      const node = connect(this.target, "127.0.0.1");
      browser.on("data", (bytes) => (this.sent += bytes.toString("latin1")));
      for (const [socket, other] of [[browser, node], [node, browser]]) {
        this.#sockets.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => {
          this.#sockets.delete(socket);
          other.destroy();
        });
        socket.pipe(other);
      }
    });
    await new Promise((done, failed) => {
      this.#server.once("error", failed);
      this.#server.listen(this.port ?? 0, "127.0.0.1", done);
    });
    this.port = this.#server.address().port;
    return this;
  }

  /** Breaks all connections and stops listening. */
  async cut() {
    const closed = new Promise((done) => this.#server.close(done));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
