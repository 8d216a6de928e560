#!/usr/bin/env python3
"""One node of the protocol on asyncio, for comparison. It knows no places and no peers.

Usage: asyncio_server.py NAME HOST PORT
"""

import asyncio
import sys

from protocol import Node


class Connection(asyncio.Protocol):
    """One client, by asyncio's callbacks."""

    def __init__(self, node):
        self.node = node
        self.held = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *lines, self.held = (self.held + data).split(b"\n")
        if out := b"".join(map(self.node.answer, lines)):
            self.transport.write(out)

    def eof_received(self):
        if self.held:
            self.transport.write(self.node.answer(self.held))


async def main(name, host, port):
    node = Node(name)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(node), host, int(port), backlog=4096)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
