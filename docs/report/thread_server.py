#!/usr/bin/env python3
"""One node of the protocol on a pool of threads, for comparison: a connection keeps its thread as
long as it lives. It knows no places and no peers.

Usage: thread_server.py NAME HOST PORT
"""

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from protocol import Node

THREADS = 2000  # as many connections are served at a time


def serve(client, node, lock):
    held = b""
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := client.recv(65536):
            *lines, held = (held + data).split(b"\n")
            with lock:
                out = b"".join(map(node.answer, lines))
            client.sendall(out)
        if held:
            with lock:
                client.sendall(node.answer(held))


def main(name, host, port):
    node, lock = Node(name), threading.Lock()
    with socket.create_server((host, int(port)), backlog=4096) as listener:
        with ThreadPoolExecutor(THREADS) as pool:
            while True:
                pool.submit(serve, listener.accept()[0], node, lock)


main(*sys.argv[1:])
