"""Paths through a wide-area network of 10,000 nodes and 50,000 links, against networkx.

Nodes are points in a square; 35,000 links or so lead to near ones, the others anywhere; a link's delay grows with its
length. What is asked: the quickest path between two nodes that holds a bound on its delay, over links of some trust.
"""

import math
import random
import time
from collections.abc import Sequence

import networkx

from bench.report import Row, row
from bench.slices import Slices
from controller.fulfillment.topology import Demand, FoundPath, GaveUp, Topology, TopologyLink

NODES, LINKS, PATHS = 10_000, 50_000, 10_000
NEAREST = 7
SAMPLE = 15
"""Paths that networkx is asked for between two slices of ours."""
ROUNDS = 6
DEMAND = Demand(trust_min=1, delay_us_max=60_000)


def rows() -> list[Row]:
    chance = random.Random(9)
    links = wide_area_links(chance)
    topology = Topology((f"n{index:05}" for index in range(NODES)), links)
    asked = [(chance.randrange(NODES), chance.randrange(NODES)) for _ in range(PATHS)]
    nobody = topology.flags()
    topology.path(*asked[0], DEMAND, nobody)  # finds its landmarks
    known = networkx.Graph()
    known.add_nodes_from(range(NODES))
    for link, (a, b) in zip(links, topology.ends.tolist(), strict=True):
        if link.trust >= DEMAND.trust_min:
            known.add_edge(a, b, delay_us=link.delay_us)
    taken = Slices()
    paths: list[FoundPath | GaveUp | None] = []
    for number in range(ROUNDS):
        part = asked[number * PATHS // ROUNDS : (number + 1) * PATHS // ROUNDS]
        began = time.thread_time()
        mine = [topology.path(source, target, DEMAND, nobody) for source, target in part]
        taken.add("ours", (time.thread_time() - began) / len(part))
        paths += mine
        began = time.thread_time()
        theirs = [_networkx(known, source, target) for source, target in part[:SAMPLE]]
        taken.add("networkx", (time.thread_time() - began) / SAMPLE)
        if [path.delay_us if isinstance(path, FoundPath) else None for path in mine[:SAMPLE]] != theirs:
            raise RuntimeError("networkx finds other paths")
    worst_s = _worst_link(topology, asked, paths)
    return [
        row(
            "scale.paths_10k_wan",
            PATHS * taken.lower("ours"),
            "s",
            better="lower",
            target=100,
            peer=f"networkx, {ROUNDS * SAMPLE} of them",
            peer_value=PATHS * taken.lower("networkx"),
            spread=taken.spread("ours"),
        ),
        row("scale.worst_link_wan_ms", 1000 * worst_s, "ms", better="lower", target=50),
    ]


def wide_area_links(chance: random.Random) -> list[TopologyLink]:
    places = [(chance.random(), chance.random()) for _ in range(NODES)]
    cells: dict[tuple[int, int], list[int]] = {}
    size = math.isqrt(NODES // 3)
    for index, (x, y) in enumerate(places):
        cells.setdefault((int(x * size), int(y * size)), []).append(index)
    ends = set()
    for index, (x, y) in enumerate(places):
        around = [(int(x * size) + dx, int(y * size) + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        near = [other for cell in around for other in cells.get(cell, ()) if other != index]
        near.sort(key=lambda other: math.dist(places[other], places[index]))
        ends |= {(min(index, other), max(index, other)) for other in near[:NEAREST]}
    while len(ends) < LINKS:
        a, b = sorted(chance.sample(range(NODES), 2))
        ends.add((a, b))
    return [
        TopologyLink(
            f"l{number:05}",
            f"n{a:05}",
            f"n{b:05}",
            int(100 + 40_000 * math.dist(places[a], places[b]) * chance.uniform(1, 1.4)),
            chance.randint(1, 10),
            chance.choices((0, 1, 2), (1, 4, 5))[0],
        )
        for number, (a, b) in enumerate(sorted(ends)[:LINKS])
    ]


def _networkx(known: networkx.Graph, source: int, target: int) -> int | None:
    try:
        delay_us, _ = networkx.bidirectional_dijkstra(known, source, target, weight="delay_us")
    except networkx.NetworkXNoPath:
        return None
    assert DEMAND.delay_us_max is not None
    return delay_us if delay_us <= DEMAND.delay_us_max else None


def _worst_link(
    topology: Topology, asked: Sequence[tuple[int, int]], paths: Sequence[FoundPath | GaveUp | None]
) -> float:
    """CPU time to find all paths anew that the link is of which most are."""
    users: dict[int, list[int]] = {}
    for number, path in enumerate(paths):
        for link in path.links if isinstance(path, FoundPath) else ():
            users.setdefault(link, []).append(number)
    worst = max(users, key=lambda link: len(users[link]))
    down = topology.flags([topology.links[worst]])
    taken = Slices()
    for _ in range(ROUNDS):
        began = time.thread_time()
        for number in users[worst]:
            topology.path(*asked[number], DEMAND, down)
        taken.add("worst", time.thread_time() - began)
    return taken.lower("worst")
