#!/usr/bin/env python3
"""A stand-in for the original Python server, as a neighbour of real nodes in the tests.

Usage: seed_standin.py NAME PORT [NEIGHBOUR_PORT...]

It behaves as the original does where a neighbour can tell, on loopback, and no better:

- Every connection is alike. There is no handshake: an AT line is taken from whoever sends it.
- IAMAT is answered with an AT line, and the update goes to all neighbours.
- AT is taken without a reply, and goes to all neighbours as it came, the sender included.
- An update is taken and sent on only if its time, read as a float, is newer than the one that is
  held. What has been seen ends with the process: there is no catching up.
- To send an update to a neighbour it opens a connection, writes one bare AT line and closes. A
  neighbour that is not there has missed it.
- Everything else gets "? " and the line, WHATSAT too: this stand-in knows no places.
"""

from __future__ import annotations

import asyncio
import sys
import time


class Server:
    """One server of the seed: the newest AT line of each client and where it sends news."""

    def __init__(self, name: str, neighbours: list[int]):
        self.name = name
        self.neighbours = neighbours
        self.times: dict[str, float] = {}
        self.sending: set[asyncio.Task] = set()  # or the tasks could be collected half done

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        try:
            while line := await reader.readline():
                writer.write(self.answer(line.decode("latin-1").strip()).encode("latin-1"))
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # it is gone, or its line is longer than asyncio takes
        finally:
            writer.close()

    def answer(self, line: str) -> str:
        """What a line is answered with; nothing for an update of another server."""
        now = time.time()
        match line.split():
            case ["IAMAT", client, location, stamp] if is_number(stamp):
                difference = now - float(stamp)
                update = f"AT {self.name} {difference:+.9f} {client} {location} {stamp}"
                self.offer(client, float(stamp), update)
                return update + "\n"
            case ["AT", _, _, client, _, stamp] if is_number(stamp):
                self.offer(client, float(stamp), line)
                return ""
            case []:
                return ""
        return f"? {line}\n"

    def offer(self, client: str, stamp: float, update: str) -> None:
        """Takes an update and sends it on, if it is newer."""
        if stamp <= self.times.get(client, float("-inf")):
            return
        self.times[client] = stamp
        for port in self.neighbours:
            task = asyncio.create_task(self.send(port, update))
            self.sending.add(task)
            task.add_done_callback(self.sending.discard)

    async def send(self, port: int, update: str) -> None:
        """One update to one neighbour, on a connection of its own."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{update}\n".encode("latin-1"))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError:
            pass  # it has missed it


def is_number(text: str) -> bool:
    """Whether Python reads it as a float, as the original asks."""
    try:
        float(text)
    except ValueError:
        return False
    return True


async def main() -> None:
    """Serves until it is killed."""
    name, port, *neighbours = sys.argv[1:]
    server = Server(name, [int(neighbour) for neighbour in neighbours])
    listener = await asyncio.start_server(server.serve, "127.0.0.1", int(port))
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
