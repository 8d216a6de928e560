#!/usr/bin/env python3
"""A node on asyncio, for comparison, without places and peers.

Usage: asyncio_server.py NAME HOST PORT
"""

import asyncio
import sys

from protocol import Node


class Connection(asyncio.Protocol):
    """A client connection, driven by asyncio's callbacks."""

    def __init__(self, node):
        self.node = node
        self.partial = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *lines, self.partial = (self.partial + data).split(b"\n")
        if out := b"".join(map(self.node.answer, lines)):
            self.transport.write(out)

    def eof_received(self):
        if self.partial:
            self.transport.write(self.node.answer(self.partial))


async def main(name, host, port):
    node = Node(name)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(node), host, int(port), backlog=4096)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
