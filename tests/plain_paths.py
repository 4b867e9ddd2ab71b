"""The slow and plain twin of the path engine: every way there is, one after the other, and all pairs of them."""

import itertools
import random
from collections.abc import Iterator
from fractions import Fraction

import msgspec

from controller.fulfillment.topology import Apart, Demand, FoundPath, GaveUp, Topology, TopologyLink

Links = tuple[int, ...]
Rank = tuple[int, int, int]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A graph, and what is asked of it, from node 0 to node 1."""

    nodes: int
    links: tuple[TopologyLink, ...]
    down: frozenset[str]
    demand: Demand
    apart: Apart | None
    """None: one path is asked for."""


LOSSES = (0.0, 0.0, 0.1, 0.25, 1.0, 5.0, 50.0, 100.0, None)


def generated(chance: random.Random) -> Case:
    """Every mix of constraints; small numbers, so that many ways are equal in something. Where nodes are to be passed
    there are few links: what can be gone twice makes millions of ways."""
    nodes = chance.randint(2, 8)
    count = chance.randint(0, chance.choice((8, 12, 16, 20)))
    links = tuple(
        TopologyLink(
            f"l{index:02}",
            f"n{a}",
            f"n{b}",
            chance.randint(0, 6),
            chance.randint(0, 6),
            chance.randint(0, 2),
            chance.choice(LOSSES),
            tuple(sorted({f"r{chance.randint(0, 4)}" for _ in range(chance.choice((0, 0, 1, 2)))})),
        )
        for index in range(count)
        for a, b in [chance.sample(range(nodes), 2)]
    )
    asks = [chance.random() < 0.4 for _ in range(7)]
    demand = Demand(
        prefer_cost=chance.random() < 0.5,
        trust_min=chance.choice((0, 0, 0, 1)),
        delay_us_max=chance.randint(0, 24) if asks[0] else None,
        cost_max=chance.randint(0, 24) if asks[1] else None,
        loss_ppm_max=chance.choice((0, 1000, 3496, 20_000, 60_000, 900_000, 1_000_000)) if asks[2] else None,
        hops_max=chance.randint(1, 8) if asks[3] else 255,
        waypoints=tuple(chance.choices(range(nodes), k=chance.choice((1, 1, 2)))) if asks[4] and count <= 10 else (),
        without_nodes=tuple(node for node in range(2, nodes) if asks[5] and chance.random() < 0.2),
        without_links=tuple(index for index in range(count) if asks[6] and chance.random() < 0.15),
    )
    down = frozenset(link.name for link in links if chance.random() < 0.05)
    return Case(
        nodes=nodes,
        links=links,
        down=down,
        demand=demand,
        apart=chance.choice((None, Apart.LINKS, *Apart, Apart.RISKS)),
    )


def may_take(case: Case, index: int) -> bool:
    link, demand = case.links[index], case.demand
    ends = {int(link.a[1:]), int(link.b[1:])}
    return (
        link.trust >= demand.trust_min
        and link.name not in case.down
        and index not in demand.without_links
        and ends.isdisjoint(demand.without_nodes)
        and (demand.loss_ppm_max is None or link.loss_percent is not None)
    )


def simple_ways(case: Case, source: int, target: int) -> Iterator[Links]:
    """Every way that passes no node twice."""
    around: dict[int, list[tuple[int, int]]] = {}
    for index, link in enumerate(case.links):
        if may_take(case, index):
            a, b = int(link.a[1:]), int(link.b[1:])
            around.setdefault(a, []).append((b, index))
            around.setdefault(b, []).append((a, index))

    def extend(node: int, passed: frozenset[int], taken: Links) -> Iterator[Links]:
        if len(taken) > case.demand.hops_max:
            return
        if node == target:
            yield taken
            return
        for far, index in around.get(node, ()):
            if far not in passed:
                yield from extend(far, passed | {far}, (*taken, index))

    yield from extend(source, frozenset([source]), ())


def ways(case: Case) -> list[Links]:
    """Every one that holds the demand, the most preferred first."""
    stops = [0, *case.demand.waypoints, 1]
    stretches = [tuple(simple_ways(case, near, far)) for near, far in itertools.pairwise(stops)]
    found = {tuple(itertools.chain(*parts)) for parts in itertools.product(*stretches)}
    return sorted((way for way in found if holds(case, way)), key=lambda way: (rank(case, way), way))


def rank(case: Case, way: Links) -> Rank:
    delay_us, cost = sum(case.links[index].delay_us for index in way), sum(case.links[index].cost for index in way)
    return (cost, delay_us, len(way)) if case.demand.prefer_cost else (delay_us, cost, len(way))


def holds(case: Case, way: Links) -> bool:
    demand, taken = case.demand, [case.links[index] for index in way]
    if demand.loss_ppm_max is not None:
        arrives = Fraction(1)
        for link in taken:
            if link.loss_percent is None:
                return False
            arrives *= 1 - Fraction(str(link.loss_percent)) / 100
        if 1 - arrives > Fraction(demand.loss_ppm_max, 1_000_000):
            return False
    return (
        len(way) <= demand.hops_max
        and (demand.delay_us_max is None or sum(link.delay_us for link in taken) <= demand.delay_us_max)
        and (demand.cost_max is None or sum(link.cost for link in taken) <= demand.cost_max)
    )


def nodes_of(case: Case, way: Links) -> list[int]:
    nodes = [0]
    for index in way:
        ends = {int(case.links[index].a[1:]), int(case.links[index].b[1:])}
        (far,) = ends - {nodes[-1]}
        nodes.append(far)
    return nodes


def are_apart(case: Case, one: Links, other: Links) -> bool:
    if {*one} & {*other}:
        return False
    if case.apart is Apart.NODES:
        inner = [{*nodes_of(case, way)} - {0, 1, *case.demand.waypoints} for way in (one, other)]
        return not inner[0] & inner[1]
    if case.apart is Apart.RISKS:
        risks = [{name for index in way for name in case.links[index].srlg} for way in (one, other)]
        return not risks[0] & risks[1]
    return True


def least_pair(case: Case) -> Rank | None:
    """Of the pair that is shortest together."""
    known = [(rank(case, way), way) for way in ways(case)]
    best: Rank | None = None
    for index, (ours, one) in enumerate(known):
        if best is not None and _sum(ours, ours) >= best:
            break
        for theirs, other in known[index:]:
            together = _sum(ours, theirs)
            if best is not None and together >= best:
                break
            if are_apart(case, one, other):
                best = together
    return best


def _sum(one: Rank, other: Rank) -> Rank:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def difference(case: Case) -> str:
    """What the engine finds otherwise than its twin; empty: nothing."""
    topology = Topology((f"n{index}" for index in range(case.nodes)), case.links)
    down = topology.flags(case.down)
    if case.apart is None:
        path = topology.path(0, 1, case.demand, down)
        wanted = [rank(case, way) for way in ways(case)][:1]
        return _differs(case, wanted, path if path is None or isinstance(path, GaveUp) else (path,))
    pair = topology.pair(0, 1, case.demand, case.apart, down)
    least = least_pair(case)
    return _differs(case, [] if least is None else [least], pair)


def _differs(case: Case, wanted: list[Rank], found: tuple[FoundPath, ...] | GaveUp | None) -> str:
    if found is None or isinstance(found, GaveUp):
        return f"found {found}, there is {wanted}" if wanted or found is not None else ""
    total: Rank = (0, 0, 0)
    for path in found:
        if list(path.nodes) != nodes_of(case, path.links) or path.nodes[-1] != 1:
            return f"{path} is no way"
        if not all(may_take(case, index) for index in path.links) or not holds(case, path.links):
            return f"{path} does not hold the demand"
        if not _passes(path.nodes, case.demand.waypoints):
            return f"{path} does not pass {case.demand.waypoints}"
        total = _sum(total, rank(case, path.links))
    if len(found) == 2 and not are_apart(case, found[0].links, found[1].links):
        return f"{found} share something"
    if len(found) == 2 and rank(case, found[0].links) > rank(case, found[1].links):
        return f"{found} are in the wrong order"
    return "" if [total] == wanted else f"found {total} {found}, the best is {wanted}"


def _passes(nodes: tuple[int, ...], waypoints: tuple[int, ...]) -> bool:
    rest = iter(nodes)
    return all(waypoint in rest for waypoint in _without_repeats(waypoints))


def _without_repeats(waypoints: tuple[int, ...]) -> list[int]:
    """To pass a node twice in a row is to pass it."""
    return [node for node, _ in itertools.groupby(waypoints)]
