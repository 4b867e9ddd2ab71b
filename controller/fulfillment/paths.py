"""Ways through own nodes: the one that is preferred of those that are good enough, and the candidate paths of an SR
Policy."""

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import numpy as np

from controller.fulfillment.containers import NODES_MAX, PINNED_NODES_MAX
from controller.fulfillment.graph import Graph
from controller.fulfillment.topology import LOSS_UNIT, Apart, Demand, FoundPath, GaveUp, Pair
from controller.model.constraints import UNCONSTRAINED, Constraints
from controller.model.intent import Disjoint, Level, Prefer
from controller.model.sr_policy import CandidatePath, SrPolicy, SrPolicyId

PREFERENCES = (200, 100)
"""Of the candidate paths, best first."""
KNOWN_MAX = 32_768
"""SR Policies that a graph keeps at hand: bounds on latency may be anything, and others say some of them."""
HARD_MAX = 20
"""Searches on one graph that may give up late: what follows gives up after STEPS_FEW. Who asks for thousands of ways
that are hard to find does not hold up others."""
STEPS_FEW = 1000
_APART = {Disjoint.LINK: Apart.LINKS, Disjoint.NODE: Apart.NODES, Disjoint.SRLG: Apart.RISKS}


_Found = TypeVar("_Found", FoundPath, Pair)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A way through own nodes."""

    latency_us: int
    cost: int
    nodes: tuple[str, ...]
    links: tuple[str, ...]
    """One less than nodes."""


def order(prefer: Prefer, latency_us: int, cost: int) -> tuple[int, int]:
    """What is less is preferred."""
    return (cost, latency_us) if prefer.cost is Level.LOW else (latency_us, cost)


def longest(graph: Graph) -> int:
    """Links of a path that is sure to fit its containers."""
    return 1 + (PINNED_NODES_MAX if graph.topology.has_parallels or graph.has_switches else NODES_MAX)


def demand_of(graph: Graph, constraints: Constraints, hops_max: int | None = None) -> Demand:
    """`hops_max`: None: as many links as fit the containers of a path."""
    return Demand(
        prefer_cost=constraints.prefer.cost is Level.LOW,
        trust_min=constraints.trust_min,
        delay_us_max=constraints.latency_us_max,
        loss_ppm_max=constraints.loss_ppm_max,
        waypoints=tuple(graph.topology.node_index[name] for name in constraints.include_nodes),
        hops_max=longest(graph) if hops_max is None else hops_max,
    )


def best(
    graph: Graph, source: str, target: str, constraints: Constraints = UNCONSTRAINED, *, hops_max: int | None = None
) -> Route | GaveUp | None:
    """The most preferred route that holds the constraints and is of few enough links; None: there is none. Of equals
    that with the fewest links. `hops_max`: None: as many as fit the containers of a path."""
    if _is_hopeless(graph, source, target, constraints):
        return None
    return _route(graph, source, target, constraints, demand_of(graph, constraints, hops_max))


def best_without(
    graph: Graph, source: str, target: str, constraints: Constraints, nodes: Iterable[str], links: Iterable[str]
) -> Route | GaveUp | None:
    """The same for ways that take none of these; the ends do not count."""
    if _is_hopeless(graph, source, target, constraints):
        return None
    demand = msgspec.structs.replace(
        demand_of(graph, constraints),
        without_nodes=tuple(graph.topology.node_index[name] for name in nodes),
        without_links=tuple(graph.topology.link_index[name] for name in links),
    )
    return _route(graph, source, target, constraints, demand)


def least_loss_ppm(graph: Graph, source: str, target: str, constraints: Constraints) -> int | None:
    """Of the way that loses the least, rounded up. Bounds on delay do not count; None: it is known of no way."""
    ends, topology = (graph.topology.node_index[source], graph.topology.node_index[target]), graph.topology
    demand = msgspec.structs.replace(
        demand_of(graph, constraints, len(topology.nodes)), prefer_cost=True, delay_us_max=None, loss_ppm_max=None
    )
    unknown = topology.loses_unknown.view(np.uint8)
    found = topology.by_loss.path(*ends, demand, graph.mask(constraints) | unknown)
    if not isinstance(found, FoundPath):
        return None
    return math.ceil(round(-math.expm1(-found.cost * LOSS_UNIT) * 1_000_000, 3))


def _is_hopeless(graph: Graph, source: str, target: str, constraints: Constraints) -> bool:
    """What lies beyond has used up the time, or an end is to be avoided, or what is to be passed is not there, or not
    where nothing is passed."""
    if (constraints.latency_us_max or 0) < 0:
        return True
    if any(graph.avoids(end, constraints) for end in (source, target)):
        return True
    there = {source} if source == target else graph.topology.node_index.keys()
    return not there >= {*constraints.include_nodes}


def _route(graph: Graph, source: str, target: str, constraints: Constraints, demand: Demand) -> Route | GaveUp | None:
    ends = graph.topology.node_index[source], graph.topology.node_index[target]
    found = _bounded(
        graph, (*ends, constraints), demand, lambda demand: graph.topology.path(*ends, demand, graph.mask(constraints))
    )
    return _named(graph, found) if isinstance(found, FoundPath) else found


def _bounded(
    graph: Graph, asked: tuple[object, ...], demand: Demand, search: Callable[[Demand], _Found | GaveUp | None]
) -> _Found | GaveUp | None:
    """What has given up once on a graph does so again: it is not tried."""
    known, key = graph.given_up, (*asked, demand)
    if key in known:
        return known[key]
    found = search(demand if len(known) < HARD_MAX else msgspec.structs.replace(demand, steps_max=STEPS_FEW))
    if isinstance(found, GaveUp) and len(known) < KNOWN_MAX:
        known[key] = found
    return found


def disjoint(
    graph: Graph, source: str, target: str, constraints: Constraints, apart: Disjoint
) -> tuple[Route, Route] | GaveUp | None:
    """Two routes that hold the constraints and share nothing, the more preferred first: the pair that is preferred of
    all, as far as it was found. None: there are no such two."""
    if _is_hopeless(graph, source, target, constraints):
        return None
    ends = graph.topology.node_index[source], graph.topology.node_index[target]
    found = _bounded(
        graph,
        (*ends, constraints, apart),
        demand_of(graph, constraints),
        lambda demand: graph.topology.pair(*ends, demand, _APART[apart], graph.mask(constraints)),
    )
    if found is None or isinstance(found, GaveUp):
        return found
    return _named(graph, found[0]), _named(graph, found[1])


def _named(graph: Graph, path: FoundPath) -> Route:
    return Route(
        latency_us=path.delay_us,
        cost=path.cost,
        nodes=tuple(graph.topology.nodes[node] for node in path.nodes),
        links=tuple(graph.topology.links[link] for link in path.links),
    )


def sr_policy(graph: Graph, id: SrPolicyId) -> SrPolicy | None:
    """The candidate paths between two own nodes. All hold its color; None: no path does. Where a pair that is disjoint
    as asked is not found, there is one. Stubs are passed only where nothing else holds it. Without paths where headend
    and endpoint are one node."""
    known, name = graph.sr_policies, id.name
    if name not in known:
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[name] = _sr_policy(graph, id)
    return known[name]


def _sr_policy(graph: Graph, id: SrPolicyId) -> SrPolicy | None:
    headend, endpoint, color = id.normal.headend, id.normal.endpoint, id.normal.color
    if headend == endpoint and not _is_hopeless(graph, headend, endpoint, color):
        return SrPolicy(headend=headend, endpoint=endpoint, color=color, candidate_paths=())
    routes = _preferred(graph.without_stubs(headend, endpoint), headend, endpoint, color)
    if graph.stubs and (routes is None or (color.disjoint is not None and len(routes) == 1)):
        routes = _preferred(graph, headend, endpoint, color)
    if routes is None:
        return None
    return SrPolicy(
        headend=headend,
        endpoint=endpoint,
        color=color,
        candidate_paths=tuple(
            CandidatePath(
                preference=preference,
                nodes=route.nodes,
                links=route.links,
                latency_us=route.latency_us,
                cost=route.cost,
            )
            for preference, route in zip(PREFERENCES, routes, strict=False)
        ),
    )


def _preferred(graph: Graph, headend: str, endpoint: str, color: Constraints) -> tuple[Route, ...] | None:
    """By what links take now; which hold the color, and what they take, by what is declared. What is slower than that
    holds it all the same, as a second path or where nothing else does."""
    declared = _routes(graph, headend, endpoint, color)
    if graph.measured is None or declared is None:
        return declared
    links = graph.inventory.links
    now = tuple(
        msgspec.structs.replace(route, latency_us=sum(links[name].delay_us for name in route.links))
        for route in _routes(graph.measured, headend, endpoint, color) or ()
    )
    if len(now) >= len(declared):
        return now
    by_measured = tuple(
        sorted(declared, key=lambda route: order(color.prefer, graph.measured_us(route.links), route.cost))
    )
    if color.disjoint is not None or not now:
        return by_measured
    return (*now, *(route for route in by_measured if route.links != now[0].links))[: len(declared)]


def _routes(graph: Graph, headend: str, endpoint: str, constraints: Constraints) -> tuple[Route, ...] | None:
    if constraints.disjoint is not None:
        pair = disjoint(graph, headend, endpoint, constraints, constraints.disjoint)
        if isinstance(pair, tuple):
            return pair
    first = best(graph, headend, endpoint, constraints)
    if not isinstance(first, Route):
        return None
    if constraints.disjoint is not None:
        return (first,)
    both = {headend, endpoint, *constraints.include_nodes}
    inner = [name for name in first.nodes if name not in both]
    links = () if inner and not constraints.include_nodes else first.links
    second = best_without(graph, headend, endpoint, constraints, inner, links)
    return (first, second) if isinstance(second, Route) else (first,)
