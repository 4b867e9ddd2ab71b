"""What a domain knows of the network, as a graph: its own nodes and links, its borders, and what lies behind them."""

from collections.abc import Collection

import msgspec

from controller.model.intent import Trust
from controller.model.inventory import Inventory, Link


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a link inside the domain. The other is like it."""

    link: str
    to: str
    delay_us: int
    cost: int
    trust: Trust


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    own: str
    edges: dict[str, tuple[Edge, ...]]
    """Of each node."""
    borders: tuple[Link, ...]
    inventory: Inventory
    down: tuple[str, ...] = ()
    """Links that are left out, sorted: they cannot be used now."""


def graph(inventory: Inventory, own: str, down: Collection[str] = ()) -> Graph:
    edges: dict[str, list[Edge]] = {name: [] for name in sorted(inventory.nodes)}
    borders = []
    for name, link in sorted(inventory.links.items()):
        if name in down:
            continue
        if link.b is None:
            borders.append(link)
            continue
        for near, far in ((link.a, link.b), (link.b, link.a)):
            edge = Edge(link=link.name, to=far.node, delay_us=link.delay_us, cost=link.cost, trust=link.trust)
            edges.setdefault(near.node, []).append(edge)
    frozen = {name: tuple(ones) for name, ones in edges.items()}
    return Graph(own=own, edges=frozen, borders=tuple(borders), inventory=inventory, down=tuple(sorted(down)))
