"""Nodes and links as arrays, and the paths through them: found by paths.c, which `./run setup` compiles.

Nodes and links are known by their index here; both are in the order of their names. The arrays are never changed; which
links are down is told with each question.
"""

import ctypes
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

LANDMARKS = 16
GUIDED_FROM = 200
"""Nodes: in smaller topologies a search is over before a landmark pays."""
LIBRARY = Path(__file__).parent.parent.parent / "build/paths/paths.so"


class TopologyLink(msgspec.Struct, frozen=True):
    """Usable in both directions."""

    name: str
    a: str
    b: str
    delay_us: int
    cost: int
    trust: int


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a path. Of those that hold it the most preferred is found: by delay, then cost, then hops; or by
    cost, then delay, then hops."""

    prefer_cost: bool = False
    trust_min: int = 0
    delay_us_max: int | None = None
    hops_max: int = 255
    without_nodes: tuple[int, ...] = ()
    """Not to be passed; the ends do not count."""
    without_links: tuple[int, ...] = ()


EVERYTHING = Demand()


class FoundPath(msgspec.Struct, frozen=True):
    delay_us: int
    cost: int
    nodes: tuple[int, ...]
    links: tuple[int, ...]
    """One less than nodes."""


class Tree(msgspec.Struct, frozen=True):
    """The most preferred path from one node to each other one, shape (nodes,)."""

    weight: NDArray[np.int64]
    """Delay in µs, or cost; -1: no path leads there."""
    by_edge: NDArray[np.int32]
    """Edge by which the path comes; -1: none."""


class _Graph(ctypes.Structure):
    _fields_ = (
        ("nodes", ctypes.c_int32),
        ("edges", ctypes.c_int32),
        ("links", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("row", "to", "link", "delay", "cost", "trust", "by_delay", "by_cost")),
    )


class _Demand(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("source", "target", "prefer_cost", "trust_min", "hops_max", "without_nodes", "without_links")
        ),
        *((name, ctypes.c_void_p) for name in ("node", "not_link", "down")),
        ("delay_max", ctypes.c_int64),
    )


class Topology:
    """Raises ValueError for a link to a node that is not there."""

    def __init__(self, nodes: Iterable[str], links: Iterable[TopologyLink]) -> None:
        ordered = sorted(links, key=lambda link: link.name)
        self.nodes: Sequence[str] = tuple(sorted(nodes))
        self.links: Sequence[str] = tuple(link.name for link in ordered)
        self.node_index = {name: index for index, name in enumerate(self.nodes)}
        self.link_index = {name: index for index, name in enumerate(self.links)}
        try:
            ends = [(self.node_index[link.a], self.node_index[link.b]) for link in ordered]
        except KeyError as error:
            raise ValueError(f"a link leads to {error.args[0]}, which is no node") from None
        self.has_parallels = len({(min(a, b), max(a, b)) for a, b in ends}) < len(ends)
        """Two links are between the same nodes."""
        self.delay_us = np.array([link.delay_us for link in ordered], np.int64)
        self.cost = np.array([link.cost for link in ordered], np.int64)
        self.trust = np.array([link.trust for link in ordered], np.uint8)
        self.ends = np.array(ends, np.int32).reshape(-1, 2)
        index = np.arange(len(ordered), dtype=np.int32)
        near = np.concatenate((self.ends[:, 0], self.ends[:, 1]))
        far = np.concatenate((self.ends[:, 1], self.ends[:, 0]))
        link = np.concatenate((index, index))
        order = np.lexsort((link, far, near))
        self.to = np.ascontiguousarray(far[order])
        self.link_of_edge = np.ascontiguousarray(link[order])
        counts = np.bincount(near, minlength=len(self.nodes))
        self.row = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)

    def flags(self, links: Collection[str] = ()) -> NDArray[np.uint8]:
        """Of each link whether it is one of these."""
        flags = np.zeros(len(self.links), np.uint8)
        flags[[self.link_index[name] for name in links if name in self.link_index]] = 1
        return flags

    def near_of_edge(self, edge: int, far: int) -> int:
        """Where an edge to `far` begins."""
        near, other = self.ends[self.link_of_edge[edge]].tolist()
        return int(near if other == far else other)

    def path(self, source: int, target: int, demand: Demand, down: NDArray[np.uint8]) -> FoundPath | None:
        """The most preferred path that holds `demand`; None: there is none."""
        return self._search.path(source, target, demand, down)

    def tree(self, source: int, demand: Demand, down: NDArray[np.uint8]) -> Tree:
        """Bounds of `demand` on delay and hops do not count."""
        return self._search.tree(source, demand, down)

    @cached_property
    def _search(self) -> "_Search":
        return _Search(self)


class _Search:
    """What paths.c works in, for one thread."""

    def __init__(self, topology: Topology) -> None:
        self._library = _library()
        self._topology = topology
        columns = (topology.row, topology.to, topology.link_of_edge, topology.delay_us, topology.cost, topology.trust)
        self._graph = _Graph(
            len(topology.nodes), len(topology.to), len(topology.links), *(column.ctypes.data for column in columns)
        )
        self._search = self._library.new_search(ctypes.byref(self._graph))
        if not self._search:
            raise MemoryError
        self._links = np.zeros(len(topology.nodes) + 1, np.int32)
        self._delay_cost = np.zeros(2, np.int64)
        if len(topology.nodes) >= GUIDED_FROM:
            self._by_delay, self._by_cost = self._landmarks(False), self._landmarks(True)
            self._graph.by_delay, self._graph.by_cost = self._by_delay.ctypes.data, self._by_cost.ctypes.data

    def _landmarks(self, by_cost: bool) -> NDArray[np.int32]:
        """Ways of every node from nodes that are as far from each other as can be, shape (nodes, LANDMARKS)."""
        nobody_down = self._topology.flags()
        ways = np.full((len(self._topology.nodes), LANDMARKS), -1, np.int32)
        nearest = np.full(len(self._topology.nodes), np.iinfo(np.int64).max)
        landmark = 0
        for index in range(LANDMARKS):
            weight = self.tree(landmark, Demand(prefer_cost=by_cost), nobody_down).weight
            if weight.max() <= np.iinfo(np.int32).max:
                ways[:, index] = weight
            nearest = np.where(weight < 0, nearest, np.minimum(nearest, weight))
            nearest[landmark] = 0
            landmark = int(nearest.argmax())
        return ways

    def __del__(self) -> None:
        self._library.free_search(self._search)

    def path(self, source: int, target: int, demand: Demand, down: NDArray[np.uint8]) -> FoundPath | None:
        asked = self._demand(source, target, demand, down)
        count = self._library.find_path(
            self._search, ctypes.byref(asked), self._links.ctypes.data, self._delay_cost.ctypes.data
        )
        if count == -2:
            raise MemoryError
        if count < 0:
            return None
        links = tuple(self._links[:count].tolist())
        nodes = [source]
        for near, other in self._topology.ends[list(links)].tolist():
            nodes.append(other if near == nodes[-1] else near)
        delay_us, cost = self._delay_cost.tolist()
        return FoundPath(delay_us, cost, tuple(nodes), links)

    def tree(self, source: int, demand: Demand, down: NDArray[np.uint8]) -> Tree:
        asked = self._demand(source, source, demand, down)
        weight = np.empty(len(self._topology.nodes), np.int64)
        by_edge = np.empty(len(self._topology.nodes), np.int32)
        if self._library.find_tree(self._search, ctypes.byref(asked), weight.ctypes.data, by_edge.ctypes.data):
            raise MemoryError
        return Tree(weight, by_edge)

    def _demand(self, source: int, target: int, demand: Demand, down: NDArray[np.uint8]) -> _Demand:
        nodes = (ctypes.c_int32 * len(demand.without_nodes))(*demand.without_nodes)
        links = (ctypes.c_int32 * len(demand.without_links))(*demand.without_links)
        asked = _Demand(
            source,
            target,
            demand.prefer_cost,
            demand.trust_min,
            min(demand.hops_max, len(self._topology.nodes)),
            len(nodes),
            len(links),
            ctypes.cast(nodes, ctypes.c_void_p),
            ctypes.cast(links, ctypes.c_void_p),
            down.ctypes.data,
            -1 if demand.delay_us_max is None else demand.delay_us_max,
        )
        asked.kept = (nodes, links, down)  # alive as long as the question
        return asked


def _library() -> Any:
    library = ctypes.CDLL(str(LIBRARY))
    library.new_search.restype = ctypes.c_void_p
    library.free_search.argtypes = (ctypes.c_void_p,)
    library.find_path.argtypes = (ctypes.c_void_p,) * 4
    library.find_tree.argtypes = (ctypes.c_void_p,) * 4
    return library
