"""Ways through own nodes: the quickest, the cheapest that is quick enough, and the candidate paths of an SR Policy."""

import heapq
import math
from collections.abc import Collection, Iterator, Mapping

import msgspec

from controller.fulfillment.graph import Edge, Graph
from controller.model.intent import Level, Prefer, Trust
from controller.model.sr_policy import CandidatePath, SrPolicy
from dataplane.reasons import MAX_SEGMENTS

PREFERENCES = (200, 100)
"""Of the candidate paths, best first."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A way through own nodes."""

    latency_us: int
    cost: int
    nodes: tuple[str, ...]
    links: tuple[str, ...]
    """One less than nodes."""


class Usable(msgspec.Struct, frozen=True, kw_only=True):
    """What a route may take."""

    trust_min: Trust = Trust.PUBLIC
    without_nodes: Collection[str] = ()
    without_links: Collection[str] = ()

    def edges(self, graph: Graph, node: str) -> Iterator[Edge]:
        for edge in graph.edges.get(node, ()):
            usable = edge.trust >= self.trust_min and edge.link not in self.without_links
            if usable and edge.to not in self.without_nodes:
                yield edge


EVERYTHING = Usable()
QUICKEST = Prefer()


def order(prefer: Prefer, latency_us: int, cost: int) -> tuple[int, int]:
    """What is less is preferred."""
    return (cost, latency_us) if prefer.cost is Level.LOW else (latency_us, cost)


def shortest(graph: Graph, source: str, usable: Usable = EVERYTHING) -> dict[str, Route]:
    """The quickest route to each node (Dijkstra); among equals the cheapest, then the fewest hops, then by name."""
    routes: dict[str, Route] = {}
    queue: list[tuple[int, int, int, tuple[str, ...], tuple[str, ...]]] = [(0, 0, 0, (source,), ())]
    while queue:
        latency_us, cost, hops, nodes, links = heapq.heappop(queue)
        if nodes[-1] in routes:
            continue
        routes[nodes[-1]] = Route(latency_us=latency_us, cost=cost, nodes=nodes, links=links)
        for edge in usable.edges(graph, nodes[-1]):
            if edge.to not in routes:
                further = (latency_us + edge.delay_us, cost + edge.cost, hops + 1)
                heapq.heappush(queue, (*further, (*nodes, edge.to), (*links, edge.link)))
    return routes


_ARRIVED = Route(latency_us=0, cost=0, nodes=(), links=())
"""Where nothing is left, or what is left is not known."""


def best(
    graph: Graph,
    source: str,
    target: str,
    usable: Usable = EVERYTHING,
    *,
    prefer: Prefer = QUICKEST,
    latency_us_max: int | None = None,
    hops_max: int = MAX_SEGMENTS,
    left: Mapping[str, Route] | None = None,
) -> Route | None:
    """The most preferred route that is quick enough and of few enough links; None: there is none.

    Exact: label setting with dominance. Routes are extended in the order of preference, so one that comes to a node
    later can only be of use if it is shorter than each that came there before, or quicker where the cheapest must be
    quick enough; that bounds how many there are. Then none is extended either that could not reach `target` in time by
    the quickest way left.

    `left`: `shortest` from `target` over all that is usable or more, if it is known: links are the same in both
    directions. The quickest is then looked for in its direction (A*, with what is left at least as lower bound), and
    found to be the same.
    """
    limit_us = math.inf if latency_us_max is None else latency_us_max
    bounded = prefer.cost is Level.LOW and latency_us_max is not None
    if bounded:
        left = shortest(graph, target, usable)
    guided = left is not None and prefer.cost is not Level.LOW
    came: dict[str, list[tuple[int, int]]] = {}
    queue: list[tuple[tuple[int, ...], tuple[str, ...], tuple[str, ...], int, int]]
    queue = [((0, 0, 0), (source,), (), 0, 0)]
    while queue:
        _, nodes, links, latency_us, cost = heapq.heappop(queue)
        node, hops = nodes[-1], len(links)
        before = came.setdefault(node, [])
        if any((quicker <= latency_us or not bounded) and shorter <= hops for quicker, shorter in before):
            continue
        before.append((latency_us, hops))
        if node == target:
            return Route(latency_us=latency_us, cost=cost, nodes=nodes, links=links)
        if hops == hops_max:
            continue
        for edge in usable.edges(graph, node):
            ahead = left.get(edge.to) if left is not None else _ARRIVED
            later_us, dearer = latency_us + edge.delay_us, cost + edge.cost
            if ahead is None or later_us + ahead.latency_us > limit_us:
                continue
            at_least = ahead if guided else _ARRIVED
            rank = order(prefer, later_us + at_least.latency_us, dearer + at_least.cost)
            further = (*nodes, edge.to), (*links, edge.link), later_us, dearer
            heapq.heappush(queue, ((*rank, hops + 1 + len(at_least.links)), *further))
    return None


def sr_policy(
    graph: Graph,
    headend: str,
    endpoint: str,
    *,
    prefer: Prefer = QUICKEST,
    trust_min: Trust = Trust.PUBLIC,
    latency_us_max: int | None = None,
    left: Mapping[str, Route] | None = None,
) -> SrPolicy | None:
    """The best path between two own nodes, and a second that shares no inner node with it (no link, if there is none).

    Both hold what is asked for; None: no path does. Without paths where headend and endpoint are one node.
    `left`: `shortest` from `endpoint`, if it is known.
    """
    if headend == endpoint:
        return SrPolicy(headend=headend, endpoint=endpoint, candidate_paths=())
    usable = Usable(trust_min=trust_min)
    first = best(graph, headend, endpoint, usable, prefer=prefer, latency_us_max=latency_us_max, left=left)
    if first is None:
        return None
    inner = first.nodes[1:-1]
    apart = Usable(trust_min=trust_min, without_nodes=inner, without_links=() if inner else first.links)
    second = best(graph, headend, endpoint, apart, prefer=prefer, latency_us_max=latency_us_max, left=left)
    found = [first] if second is None else [first, second]
    return SrPolicy(
        headend=headend,
        endpoint=endpoint,
        candidate_paths=tuple(
            CandidatePath(
                preference=preference,
                nodes=route.nodes,
                links=route.links,
                latency_us=route.latency_us,
                cost=route.cost,
            )
            for preference, route in zip(PREFERENCES, found, strict=False)
        ),
    )
