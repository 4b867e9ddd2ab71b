"""What a domain knows of the network, as a graph: its own nodes and links, its borders, and what lies behind them."""

import heapq
from collections.abc import Collection

import msgspec

from controller.model.intent import Trust
from controller.model.inventory import Inventory, Link


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a link inside the domain."""

    link: str
    to: str
    delay_us: int
    trust: Trust


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    own: str
    edges: dict[str, tuple[Edge, ...]]
    """Of each node."""
    borders: tuple[Link, ...]
    inventory: Inventory


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A way through own nodes."""

    latency_us: int
    nodes: tuple[str, ...]
    links: tuple[str, ...]


def graph(inventory: Inventory, own: str) -> Graph:
    edges: dict[str, list[Edge]] = {name: [] for name in sorted(inventory.nodes)}
    borders = []
    for _, link in sorted(inventory.links.items()):
        if link.b is None:
            borders.append(link)
            continue
        for near, far in ((link.a, link.b), (link.b, link.a)):
            edges.setdefault(near.node, []).append(
                Edge(link=link.name, to=far.node, delay_us=link.delay_us, trust=link.trust)
            )
    frozen = {name: tuple(ones) for name, ones in edges.items()}
    return Graph(own=own, edges=frozen, borders=tuple(borders), inventory=inventory)


def shortest(
    graph: Graph,
    source: str,
    *,
    trust_min: Trust = Trust.PUBLIC,
    without_nodes: Collection[str] = (),
    without_links: Collection[str] = (),
) -> dict[str, Route]:
    """The quickest route to each node (Dijkstra); among equals the one with fewer hops, then the first by name."""
    routes: dict[str, Route] = {}
    queue: list[tuple[int, int, tuple[str, ...], tuple[str, ...]]] = [(0, 0, (source,), ())]
    while queue:
        latency_us, hops, nodes, links = heapq.heappop(queue)
        if nodes[-1] in routes:
            continue
        routes[nodes[-1]] = Route(latency_us=latency_us, nodes=nodes, links=links)
        for edge in graph.edges.get(nodes[-1], ()):
            if edge.to in routes or edge.to in without_nodes or edge.link in without_links or edge.trust < trust_min:
                continue
            heapq.heappush(queue, (latency_us + edge.delay_us, hops + 1, (*nodes, edge.to), (*links, edge.link)))
    return routes
