"""Paths with constraints: all mixes of them on small graphs against trying all ways, and disjoint paths through the
wide-area network of wan.py, against networkx.

networkx has no shortest pair of disjoint paths. Its part is two searches of its own: Suurballe's algorithm, the second
with weights that are corrected by the first.
"""

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import networkx

from bench.report import Row, row
from bench.slices import Slices
from bench.wan import LINKS, NODES, wide_area_links
from controller.fulfillment.topology import Apart, Demand, Topology
from tests.plain_paths import difference, generated

GRAPHS = 10_000
PAIRS, SAMPLE, ROUNDS = 300, 2, 6


def rows() -> list[Row]:
    same = sum(not difference(generated(random.Random(f"know {number}"))) for number in range(GRAPHS))
    return [row("know.feasible", 100 * same / GRAPHS, "%", better="higher", target=100), *_disjoint()]


def _disjoint() -> list[Row]:
    chance = random.Random(9)
    topology = Topology((f"n{index:05}" for index in range(NODES)), wide_area_links(chance))
    assert len(topology.links) == LINKS
    nobody, demand = topology.flags(), Demand()
    asked = [tuple(chance.sample(range(NODES), 2)) for _ in range(PAIRS)]
    topology.pair(*asked[0], demand, Apart.LINKS, nobody)  # finds landmarks, and makes room
    known = networkx.Graph()
    for link, (a, b) in enumerate(topology.ends.tolist()):
        known.add_edge(a, b, delay_us=int(topology.delay_us[link]))
    taken, worst_s = Slices(), 0.0
    for number in range(ROUNDS):
        part = asked[number * PAIRS // ROUNDS : (number + 1) * PAIRS // ROUNDS]
        for source, target in part:
            for apart in (Apart.LINKS, Apart.NODES):
                began = time.thread_time()
                topology.pair(source, target, demand, apart, nobody)
                worst_s = max(worst_s, time.thread_time() - began)
                taken.add(apart.name, time.thread_time() - began)
        for source, target in part[:SAMPLE]:
            pair = topology.pair(source, target, demand, Apart.LINKS, nobody)
            began = time.thread_time()
            theirs = _networkx(known, source, target)
            taken.add("networkx", time.thread_time() - began)
            if not isinstance(pair, tuple) or sum(path.delay_us for path in pair) != theirs:
                raise RuntimeError("networkx finds another pair")
    return [
        row(
            "know.disjoint_wan_ms",
            1000 * worst_s,
            "ms",
            better="lower",
            target=20,
        ),
        row(
            "know.disjoint_wan_median_ms",
            1000 * taken.median("LINKS"),
            "ms",
            better="lower",
            peer=f"networkx, {ROUNDS * SAMPLE} of them",
            peer_value=1000 * taken.median("networkx"),
            spread=taken.spread("LINKS"),
        ),
    ]


def _networkx(known: networkx.Graph, source: int, target: int) -> int | None:
    """How long the two are together."""
    lengths, paths = networkx.single_source_dijkstra(known, source, weight="delay_us")
    try:
        return 2 * lengths[target] + networkx.dijkstra_path_length(
            known, source, target, weight=_corrected(lengths, paths[target])
        )
    except (KeyError, networkx.NetworkXNoPath):
        return None


def _corrected(lengths: dict[int, int], path: list[int]) -> Callable[[int, int, dict[str, Any]], int | None]:
    there = {*itertools.pairwise(path)}

    def weight(near: int, far: int, link: dict[str, Any]) -> int | None:
        if (near, far) in there:
            return None
        if (far, near) in there:
            return 0
        return int(link["delay_us"]) + lengths[near] - lengths[far]

    return weight
