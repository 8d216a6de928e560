#!/usr/bin/env python3
"""A stand-in for the original Python server, as a neighbor of real nodes in tests.

Usage: seed_standin.py NAME ADDRESS [NEIGHBOR...]

ADDRESS and NEIGHBOR are a host and a port: 127.0.0.1:5000 or [::1]:5000. Every AT line that it
receives is printed.

To its neighbors it behaves exactly like the original:

- There is no handshake: an AT line is accepted on any connection.
- It answers an IAMAT with an AT line, and forwards the update to all neighbors.
- It does not answer an AT line, and forwards it unchanged to all neighbors, including the sender.
- It stores and forwards an update only if its time, parsed as a float, is newer than the stored one.
  The state is lost when the process ends, and there is no recovery.
- To forward an update, it opens a connection, writes one AT line and closes. An unreachable neighbor
  misses the update.
- It answers everything else with "? " and the line, including WHATSAT: it has no places.
"""

from __future__ import annotations

import asyncio
import sys
import time


class Server:
    """The original server: the newest time of each client, and the neighbors to forward updates to."""

    def __init__(self, name: str, host: str, neighbors: list[tuple[str, int]]):
        self.name = name
        self.host = host
        self.neighbors = neighbors
        self.times: dict[str, float] = {}
        self.sending: set[asyncio.Task] = set()  # keeps the tasks from being garbage-collected

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        try:
            while line := await reader.readline():
                writer.write(self.answer(line.decode("latin-1").strip()).encode("latin-1"))
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # closed, or the line is too long for asyncio
        finally:
            writer.close()

    def answer(self, line: str) -> str:
        """Returns the reply to a line; an empty string for an update of another server."""
        now = time.time()
        match line.split():
            case ["IAMAT", client, location, stamp] if is_number(stamp):
                difference = now - float(stamp)
                update = f"AT {self.name} {difference:+.9f} {client} {location} {stamp}"
                self.apply(client, float(stamp), update)
                return update + "\n"
            case ["AT", _, _, client, _, stamp] if is_number(stamp):
                print(line, flush=True)
                self.apply(client, float(stamp), line)
                return ""
            case []:
                return ""
        return f"? {line}\n"

    def apply(self, client: str, stamp: float, update: str) -> None:
        """Stores an update and forwards it, if it is newer."""
        if stamp <= self.times.get(client, float("-inf")):
            return
        self.times[client] = stamp
        for host, port in self.neighbors:
            task = asyncio.create_task(self.send(host, port, update))
            self.sending.add(task)
            task.add_done_callback(self.sending.discard)

    async def send(self, host: str, port: int, update: str) -> None:
        """Sends an update to a neighbor on its own connection."""
        # On another machine, this would be its source address.
        own = (self.host, 0) if (":" in host) == (":" in self.host) else None
        try:
            _, writer = await asyncio.open_connection(host, port, local_addr=own)
            writer.write(f"{update}\n".encode("latin-1"))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError:
            pass  # it misses the update


def is_number(text: str) -> bool:
    """Returns true if Python can parse the text as a float, like the original."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_address(text: str) -> tuple[str, int]:
    """Returns host and port."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def main() -> None:
    """Serves until it is killed."""
    name, address, *neighbors = sys.argv[1:]
    host, port = parse_address(address)
    server = Server(name, host, [parse_address(neighbor) for neighbor in neighbors])
    listener = await asyncio.start_server(server.serve, host, port)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
