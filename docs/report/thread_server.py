#!/usr/bin/env python3
"""A node on a thread pool, for comparison, without places and peers. A connection keeps its thread
until it is closed.

Usage: thread_server.py NAME HOST PORT
"""

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from protocol import Node

THREADS = 2000  # also the number of connections served at a time


def serve(client, node, lock):
    partial = b""
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := client.recv(65536):
            *lines, partial = (partial + data).split(b"\n")
            with lock:
                out = b"".join(map(node.answer, lines))
            client.sendall(out)
        if partial:
            with lock:
                client.sendall(node.answer(partial))


def main(name, host, port):
    node, lock = Node(name), threading.Lock()
    with socket.create_server((host, int(port)), backlog=4096) as listener:
        with ThreadPoolExecutor(THREADS) as pool:
            while True:
                pool.submit(serve, listener.accept()[0], node, lock)


main(*sys.argv[1:])
