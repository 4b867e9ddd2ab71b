"""Ways through own nodes: the one that is preferred of those that are good enough, and the candidate paths of an SR
Policy."""

from collections.abc import Collection

import msgspec

from controller.fulfillment.containers import NODES_MAX, PINNED_NODES_MAX
from controller.fulfillment.graph import Graph
from controller.fulfillment.topology import Demand
from controller.model.constraints import UNCONSTRAINED, Constraints
from controller.model.intent import Level, Prefer
from controller.model.sr_policy import CandidatePath, SrPolicy

PREFERENCES = (200, 100)
"""Of the candidate paths, best first."""
KNOWN_MAX = 32_768
"""SR Policies that a graph keeps at hand: bounds on latency may be anything, and others say some of them."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A way through own nodes."""

    latency_us: int
    cost: int
    nodes: tuple[str, ...]
    links: tuple[str, ...]
    """One less than nodes."""


class Besides(msgspec.Struct, frozen=True, kw_only=True):
    """What a route must not take, beside what the constraints rule out."""

    nodes: Collection[str] = ()
    links: Collection[str] = ()


NOTHING = Besides()


def order(prefer: Prefer, latency_us: int, cost: int) -> tuple[int, int]:
    """What is less is preferred."""
    return (cost, latency_us) if prefer.cost is Level.LOW else (latency_us, cost)


def longest(graph: Graph) -> int:
    """Links of a path that is sure to fit its containers."""
    return 1 + (PINNED_NODES_MAX if graph.topology.has_parallels or graph.has_switches else NODES_MAX)


def best(
    graph: Graph,
    source: str,
    target: str,
    constraints: Constraints = UNCONSTRAINED,
    without: Besides = NOTHING,
    *,
    hops_max: int | None = None,
) -> Route | None:
    """The most preferred route that holds the constraints and is of few enough links; None: there is none. Of equals
    that with the fewest links. `hops_max`: None: as many as fit the containers of a path."""
    topology = graph.topology
    if hops_max is None:
        hops_max = longest(graph)
    demand = Demand(
        prefer_cost=constraints.prefer.cost is Level.LOW,
        trust_min=constraints.trust_min,
        delay_us_max=constraints.latency_us_max,
        hops_max=hops_max,
        without_nodes=tuple(topology.node_index[name] for name in without.nodes),
        without_links=tuple(topology.link_index[name] for name in without.links),
    )
    path = topology.path(topology.node_index[source], topology.node_index[target], demand, graph.flags)
    if path is None:
        return None
    return Route(
        latency_us=path.delay_us,
        cost=path.cost,
        nodes=tuple(topology.nodes[node] for node in path.nodes),
        links=tuple(topology.links[link] for link in path.links),
    )


def sr_policy(graph: Graph, headend: str, endpoint: str, constraints: Constraints = UNCONSTRAINED) -> SrPolicy | None:
    """The best path between two own nodes, and a second that shares no inner node with it (no link, if there is none).

    Both hold what is asked for; None: no path does. Without paths where headend and endpoint are one node.
    """
    asked, known = (headend, endpoint, constraints), graph.sr_policies
    if asked not in known:
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[asked] = _sr_policy(graph, headend, endpoint, constraints)
    return known[asked]


def _sr_policy(graph: Graph, headend: str, endpoint: str, constraints: Constraints) -> SrPolicy | None:
    if headend == endpoint:
        return SrPolicy(headend=headend, endpoint=endpoint, candidate_paths=())
    first = best(graph, headend, endpoint, constraints)
    if first is None:
        return None
    inner = first.nodes[1:-1]
    second = best(graph, headend, endpoint, constraints, Besides(nodes=inner, links=() if inner else first.links))
    routes = [first] if second is None else [first, second]
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
            for preference, route in zip(PREFERENCES, routes, strict=False)
        ),
    )
