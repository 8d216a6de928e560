"""What is aimed at, and whether it was reached."""

from dataclasses import dataclass, field

import servers
from servers import ECHO, GEO, MEMCACHED, NODE, NODE_LOGGED


@dataclass
class Found:
    """What was measured."""

    servers: dict  # by server and depth: rps, cpu, p99
    herd: dict = field(default_factory=dict)  # by depth, over five nodes
    propagation: dict = field(default_factory=dict)
    whatsat: dict = field(default_factory=dict)  # by source of places
    memory: dict = field(default_factory=dict)  # by server: bytes a client, KiB a connection
    growth: dict = field(default_factory=dict)  # by row: many against few
    degrees: dict = field(default_factory=dict)  # by neighbours: CPU an update


def table(found):
    """The targets as Markdown, each with what was measured."""
    node, logged, echo = (found.servers[name] for name in (NODE, NODE_LOGGED, ECHO))
    cpu = node[32]["cpu"]
    rows = [at_most("IAMAT, depth 32, log off: {} µs of CPU", 0.6, cpu, "µs")]
    for name, times in ((MEMCACHED, 3), (GEO, 5)):
        if name in found.servers:
            faster = {depth: node[depth]["rps"] / it["rps"] for depth, it in found.servers[name].items()}
            rows.append([
                f"{times} times the requests a second of {name}, depth 32",
                f"{faster[32]:.2f} times; {faster[256]:.2f} at depth 256",
                verdict(times / faster[32]),
            ])
    floor = ratio(node[1]["cpu"], echo[1]["cpu"])
    gazetteer, cache = (it["cpu"] for it in found.whatsat.values())
    client, connection = next(iter(found.memory.values()))
    clients, connections, echoes = found.growth.items()
    degrees = found.degrees
    # Twice the neighbours, at most twice the cost.
    steps = [degrees[2 * few] / (2 * degrees[few]) if degrees[few] else 0 for few in (1, 2, 4)]
    rows += [
        at_most("depth 1: within {} times the CPU of echo", 1.15, floor, "times"),
        at_most("log on, depth 32: within {} times the CPU of log off", 2, ratio(logged[32]["cpu"], cpu), "times"),
        at_most("five nodes, depth 32: {} µs over all five", 4, found.herd[32]["cpu"], "µs"),
        at_most("farthest node, 10,000 updates a second: p99 under {} µs", 1000, found.propagation["far p99"], "µs"),
        at_most("WHATSAT, 5 results, gazetteer: {} µs", 8, gazetteer, "µs"),
        at_most("WHATSAT, 5 results, cache: {} µs", 8, cache, "µs"),
        at_most("memory: {} bytes a client", 160, client, "bytes"),
        at_most("memory: {} KiB an idle connection", 0.6, connection, "KiB"),
        at_most(f"{clients[0]}: the CPU of one within {{}} times that of the other", 2.5, clients[1], "times"),
        [f"{connections[0]}: the same CPU", f"{shown(connections[1])} times, echo {shown(echoes[1])} times",
         verdict(flat(connections[1], echoes[1]))],
        ["flooding: at most linear in the node's degree",
         f"{degrees[0]:.2f} µs with no neighbour, {degrees[8]:.2f} µs with eight", verdict(max(steps))],
    ]
    kernel = (
        f"\nOf the {cpu:.2f} µs at depth 32 the kernel's part is about the {echo[32]['cpu']:.2f} µs that echo "
        f"takes, of the {node[1]['cpu']:.2f} µs at depth 1 about {echo[1]['cpu']:.2f}: system calls and TCP, "
        "which nothing in the node can make less but fewer, larger reads and writes. Connections count "
        "as flat where a request of the node grows by no more than one of echo, give or take 5 %.\n"
    )
    return "## Targets\n\n" + servers.table(["what was aimed at", "measured above", ""], rows) + kernel


def at_most(what, target, measured, unit):
    share = measured / target if measured is not None else None
    return [what.format(f"{target:,}"), f"{shown(measured)} {unit}", verdict(share)]


def flat(growth, floor):
    return growth / max(1, floor) / 1.05 if growth and floor else None


def ratio(a, b):
    return a / b if b else None


def shown(figure):
    if figure is None:
        return "-"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"


def verdict(share):
    """`share` of the target is used up: to 1 it is met."""
    if share is None:
        return "-"
    return "met" if share <= 1 else f"missed by {100 * (share - 1):.0f} %"
