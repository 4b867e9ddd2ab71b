"""Nodes and links as arrays, and the paths through them: found by paths.c and disjoint.c, which `./run setup` compiles.

Nodes and links are known by their index here; both are in the order of their names. The arrays are never changed; which
links are down is told with each question.
"""

import ctypes
import enum
import math
from collections.abc import Iterable, Sequence
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


STEPS_MAX = 100_000
"""Paths that are begun, as far as no bound forbids them, until a search gives up: some 50 ms. It decides all between
nine nodes that are linked to each other by one link each, where no nodes are to be passed."""
LOSS_UNIT = 1e-12
_LOSS_SLACK = 128
"""For roundings: two hundred links that each lose half a unit more than is counted."""
_LOST_ALL = 10**14


class TopologyLink(msgspec.Struct, frozen=True):
    """Usable in both directions."""

    name: str
    a: str
    b: str
    delay_us: int
    cost: int
    trust: int
    loss_percent: float | None = None
    """None: unknown, and no path with a bound on its loss takes it."""
    srlg: tuple[str, ...] = ()
    """Shared risk link groups (RFC 4202)."""


class Apart(enum.IntEnum):
    """What two paths do not share (`enum apart` of disjoint.c)."""

    LINKS = 0
    NODES = 1
    """No inner node, and no link."""
    RISKS = 2
    """No shared risk link group, and no link."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a path. Of those that hold it the most preferred is found: by delay, then cost, then hops; or by
    cost, then delay, then hops."""

    prefer_cost: bool = False
    trust_min: int = 0
    delay_us_max: int | None = None
    cost_max: int | None = None
    loss_ppm_max: int | None = None
    hops_max: int = 255
    waypoints: tuple[int, ...] = ()
    """Nodes to pass, in this order. Between them the path passes no node twice; before and after one it may."""
    steps_max: int = STEPS_MAX
    without_nodes: tuple[int, ...] = ()
    """Not to be passed; the ends do not count."""
    without_links: tuple[int, ...] = ()

    @property
    def is_hopeless(self) -> bool:
        """A bound is below what the shortest path takes, whatever it is."""
        return any(most is not None and most < 0 for most in (self.delay_us_max, self.cost_max, self.loss_ppm_max))


EVERYTHING = Demand()


class FoundPath(msgspec.Struct, frozen=True):
    delay_us: int
    cost: int
    nodes: tuple[int, ...]
    links: tuple[int, ...]
    """One less than nodes."""


class GaveUp(msgspec.Struct, frozen=True):
    """Nothing was found in so many steps; whether there is something nobody knows."""

    steps: int


Pair = tuple[FoundPath, FoundPath]
"""The more preferred first."""


class Tree(msgspec.Struct, frozen=True):
    """The most preferred path from one node to each other one, shape (nodes,)."""

    weight: NDArray[np.int64]
    """Delay in µs, or cost; -1: no path leads there."""
    by_edge: NDArray[np.int32]
    """Edge by which the path comes; -1: none."""


_COLUMNS = ("row", "to", "link", "delay", "cost", "loss", "trust", "by_delay", "by_cost")


class _Graph(ctypes.Structure):
    _fields_ = (
        ("nodes", ctypes.c_int32),
        ("edges", ctypes.c_int32),
        ("links", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in _COLUMNS),
    )


class _Demand(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "source",
                "target",
                "prefer_cost",
                "trust_min",
                "hops_max",
                "without_nodes",
                "without_links",
                "waypoints",
            )
        ),
        *((name, ctypes.c_void_p) for name in ("node", "not_link", "waypoint", "down")),
        *((name, ctypes.c_int64) for name in ("delay_max", "cost_max", "loss_max", "steps_max")),
    )


class _Risks(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("row", "risk", "link_row", "link"))


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
        self.loss = np.array([_additive(link.loss_percent or 0) for link in ordered], np.int64)
        """As it adds up: -ln of the share that arrives."""
        self.loses_unknown = np.array([link.loss_percent is None for link in ordered], np.bool_)
        self._srlg = [link.srlg for link in ordered]
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

    def flags(self, links: Iterable[str] = ()) -> NDArray[np.uint8]:
        """Of each link whether it is one of these."""
        flags = np.zeros(len(self.links), np.uint8)
        flags[[self.link_index[name] for name in links if name in self.link_index]] = 1
        return flags

    def near_of_edge(self, edge: int, far: int) -> int:
        """Where an edge to `far` begins."""
        near, other = self.ends[self.link_of_edge[edge]].tolist()
        return int(near if other == far else other)

    def path(self, source: int, target: int, demand: Demand, down: NDArray[np.uint8]) -> FoundPath | GaveUp | None:
        """The most preferred path that holds `demand`; None: there is none."""
        if demand.is_hopeless:
            return None
        return self._search.path(source, target, demand, self._taken(demand, down))

    def pair(
        self, source: int, target: int, demand: Demand, apart: Apart, down: NDArray[np.uint8]
    ) -> Pair | GaveUp | None:
        """Of the paths that hold `demand` two that share nothing and are the shortest together; None: there are no
        such two. Where bounds, waypoints or shared risks make it a search, the two that were found when it ends."""
        if demand.is_hopeless:
            return None
        return self._search.pair(source, target, demand, apart, self._taken(demand, down))

    def _taken(self, demand: Demand, down: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What cannot be taken."""
        if demand.loss_ppm_max is None or not self.loses_unknown.any():
            return down
        return down | self.loses_unknown.view(np.uint8)

    @cached_property
    def by_loss(self) -> "Topology":
        """The same with what links lose, as it adds up, for their costs; what is unknown is as nothing."""
        links = zip(self.links, self.ends.tolist(), self.loss.tolist(), self.trust.tolist(), strict=True)
        return Topology(
            self.nodes,
            (TopologyLink(name, self.nodes[a], self.nodes[b], 0, loss, trust) for name, (a, b), loss, trust in links),
        )

    @cached_property
    def risks(self) -> "tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]":
        """Which links share which risks: rows of links, their risks; rows of risks, their links."""
        names = {name: number for number, name in enumerate(sorted({name for srlg in self._srlg for name in srlg}))}
        pairs = [(link, names[name]) for link, srlg in enumerate(self._srlg) for name in sorted({*srlg})]
        return (*_rows(len(self.links), pairs), *_rows(len(names), [(risk, link) for link, risk in pairs]))

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
        columns = (
            topology.row,
            topology.to,
            topology.link_of_edge,
            topology.delay_us,
            topology.cost,
            topology.loss,
            topology.trust,
        )
        self._graph = _Graph(
            len(topology.nodes), len(topology.to), len(topology.links), *(column.ctypes.data for column in columns)
        )
        self._search = self._library.new_search(ctypes.byref(self._graph))
        if not self._search:
            raise MemoryError
        self._links = np.zeros(0, np.int32)
        self._counts = np.zeros(2, np.int32)
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

    def path(self, source: int, target: int, demand: Demand, down: NDArray[np.uint8]) -> FoundPath | GaveUp | None:
        asked = self._demand(source, target, demand, down)
        links = self._room(asked.hops_max)
        count = self._library.find_path(
            self._search, ctypes.byref(asked), links.ctypes.data, self._delay_cost.ctypes.data
        )
        if not _was_found(count):
            return GaveUp(demand.steps_max) if count == _GAVE_UP else None
        delay_us, cost = self._delay_cost.tolist()
        path = links[:count]
        return FoundPath(delay_us, cost, self._nodes(source, path), tuple(path.tolist()))

    def pair(
        self, source: int, target: int, demand: Demand, apart: Apart, down: NDArray[np.uint8]
    ) -> Pair | GaveUp | None:
        asked = self._demand(source, target, demand, down)
        links = self._room(asked.hops_max)
        risks = _Risks(*(column.ctypes.data for column in self._topology.risks))
        found = self._library.find_pair(
            self._search,
            ctypes.byref(asked),
            int(apart),
            ctypes.byref(risks),
            links.ctypes.data,
            self._counts.ctypes.data,
            len(links) // 2,
        )
        if not _was_found(found):
            return GaveUp(demand.steps_max) if found == _GAVE_UP else None
        first, second = self._counts.tolist()
        return self._measured(source, links[:first]), self._measured(source, links[first : first + second])

    def _room(self, hops_max: int) -> NDArray[np.int32]:
        """For the links of two paths."""
        room = 2 * (max(hops_max, len(self._topology.nodes)) + 1)
        if len(self._links) < room:
            self._links = np.zeros(room, np.int32)
        return self._links

    def _nodes(self, source: int, links: NDArray[np.int32]) -> tuple[int, ...]:
        nodes = [source]
        for near, other in self._topology.ends[links].tolist():
            nodes.append(other if near == nodes[-1] else near)
        return tuple(nodes)

    def _measured(self, source: int, links: NDArray[np.int32]) -> FoundPath:
        delay_us, cost = int(self._topology.delay_us[links].sum()), int(self._topology.cost[links].sum())
        return FoundPath(delay_us, cost, self._nodes(source, links), tuple(links.tolist()))

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
        waypoints = (ctypes.c_int32 * len(demand.waypoints))(*demand.waypoints)
        asked = _Demand(
            source,
            target,
            demand.prefer_cost,
            demand.trust_min,
            min(demand.hops_max, len(self._topology.nodes) * (len(waypoints) + 1)),
            len(nodes),
            len(links),
            len(waypoints),
            *(ctypes.cast(indices, ctypes.c_void_p) for indices in (nodes, links, waypoints)),
            down.ctypes.data,
            *(-1 if most is None else most for most in (demand.delay_us_max, demand.cost_max)),
            _loss_max(demand.loss_ppm_max),
            demand.steps_max,
        )
        asked.kept = (nodes, links, waypoints, down)  # alive as long as the question
        return asked


_NO_MEMORY, _GAVE_UP = -2, -3
"""What find_path and find_pair answer beside that there is none."""


def _was_found(answer: int) -> bool:
    if answer == _NO_MEMORY:
        raise MemoryError
    return answer >= 0


def _additive(loss_percent: float) -> int:
    """So that the losses of the links of a path add up to what it loses."""
    return round(-math.log1p(-loss_percent / 100) / LOSS_UNIT) if loss_percent < 100 else _LOST_ALL


def _loss_max(loss_ppm_max: int | None) -> int:
    """-1: any."""
    return -1 if loss_ppm_max is None or loss_ppm_max >= 1_000_000 else _additive(loss_ppm_max / 10_000) + _LOSS_SLACK


def _rows(count: int, pairs: Iterable[tuple[int, int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Of pairs (row, value), for each of so many rows, where its values begin, and all values."""
    ordered = np.array(sorted(pairs), np.int32).reshape(-1, 2)
    begins = np.concatenate(([0], np.cumsum(np.bincount(ordered[:, 0], minlength=count)))).astype(np.int32)
    return begins, np.ascontiguousarray(ordered[:, 1])


def _library() -> Any:
    library = ctypes.CDLL(str(LIBRARY))
    library.new_search.restype = ctypes.c_void_p
    library.free_search.argtypes = (ctypes.c_void_p,)
    library.find_path.argtypes = (ctypes.c_void_p,) * 4
    library.find_pair.argtypes = (
        *(ctypes.c_void_p,) * 2,
        ctypes.c_int,
        *(ctypes.c_void_p,) * 3,
        ctypes.c_int32,
    )
    library.find_tree.argtypes = (ctypes.c_void_p,) * 4
    return library
