"""What a domain knows of the network, as a graph: its own nodes and links, its borders, and what lies behind them."""

from collections.abc import Collection, Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.fulfillment.topology import GaveUp, Topology, TopologyLink
from controller.model.advertising import Heard
from controller.model.constraints import Constraints
from controller.model.inventory import Inventory, Link
from controller.model.sr_policy import SrPolicy

Labels = tuple[tuple[str, str], ...]


MASKS_MAX = 256
"""That a graph keeps at hand: what is avoided may be anything."""


class Graph(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    own: str
    topology: Topology
    """Of the links inside the domain."""
    borders: tuple[Link, ...]
    """That can be used now."""
    inventory: Inventory
    routes: Mapping[str, Heard] = msgspec.field(default_factory=dict)
    """To other domains, as neighbours advertise them and may be used; by `heard_name`."""
    down: tuple[str, ...] = ()
    """Links that cannot be used now, sorted."""
    stubs: tuple[str, ...] = ()
    """`nodes/NAME` and `links/NAME` that are not passed where there is another way (as RFC 6987 has it of routers),
    sorted."""
    services_down: tuple[str, ...] = ()
    """Services that no traffic can pass now, sorted."""
    renewing: frozenset[str] = frozenset()
    """Borders where keys can be renewed, by us and by the neighbour: so they have post-quantum ones."""
    has_switches: bool = False
    """Some nodes are OpenFlow switches: whoever sends to one says by which link."""
    flags: NDArray[np.uint8]
    """The same of each link of the topology."""
    losses: Mapping[str, float] = msgspec.field(default_factory=dict)
    """In percent, as measured, of links of which the operator says none."""
    delays: Mapping[str, int] = msgspec.field(default_factory=dict)
    """In us, as measured, of links that take longer than is declared."""
    measured: "Graph | None" = None
    """The same with these for what is declared; None: there are none."""
    sr_policies: dict[str, SrPolicy | None] = msgspec.field(default_factory=dict)
    """By SrPolicyId.name, as far as they were asked for: the paths that are best here. None: there are none."""
    masks: dict[tuple[Labels, tuple[str, ...]], NDArray[np.uint8]] = msgspec.field(default_factory=dict)
    """By labels and nodes that are avoided: `flags`, and the links that have any of these or end there."""
    given_up: dict[tuple[object, ...], GaveUp] = msgspec.field(default_factory=dict)
    """Searches that have come to nothing: what was asked, and what was answered."""
    narrowed: dict[tuple[str, ...], "Graph"] = msgspec.field(default_factory=dict)
    """By stubs, without them."""

    @property
    def around(self) -> tuple[str, ...]:
        """What plans that are made on it go around."""
        return (*self.down, *self.stubs)

    def passes_stub(self, nodes: Collection[str], links: Collection[str]) -> bool:
        parts = (*(f"nodes/{name}" for name in nodes), *(f"links/{name}" for name in links)) if self.stubs else ()
        return any(part in self.stubs for part in parts)

    def without_stubs(self, *ends: str) -> "Graph":
        """For ways between two nodes, which may be stubs themselves."""
        stubs = tuple(stub for stub in self.stubs if stub.removeprefix("nodes/") not in ends)
        if not stubs:
            return self
        if stubs not in self.narrowed:
            if len(self.narrowed) >= MASKS_MAX:
                self.narrowed.clear()
            links = self.topology.flags(stub.removeprefix("links/") for stub in stubs)
            nodes = [self.topology.node_index.get(stub.removeprefix("nodes/"), -1) for stub in stubs]
            links |= np.isin(self.topology.ends, nodes).any(axis=1).astype(np.uint8)
            self.narrowed[stubs] = msgspec.structs.replace(
                self,
                flags=self.flags | links,
                stubs=(),
                measured=self.measured.without_stubs(*ends) if self.measured is not None else None,
                sr_policies={},
                masks={},
                given_up={},
                narrowed={},
            )
        return self.narrowed[stubs]

    def measured_us(self, links: Iterable[str]) -> int:
        """How long a path over these takes."""
        return sum(self.delays.get(name, self.inventory.links[name].delay_us) for name in links)

    def avoids(self, name: str, constraints: Constraints) -> bool:
        """Of a node."""
        labels = self.inventory.nodes[name].labels
        return name in constraints.avoid_nodes or has_any(labels, constraints.avoid_labels)

    def mask(self, constraints: Constraints) -> NDArray[np.uint8]:
        """Of each link of the topology whether it must not be taken."""
        avoided = constraints.avoid_labels, constraints.avoid_nodes
        if avoided == ((), ()):
            return self.flags
        if avoided not in self.masks:
            if len(self.masks) >= MASKS_MAX:
                self.masks.clear()
            nodes = {name for name in self.inventory.nodes if self.avoids(name, constraints)}
            self.masks[avoided] = self.flags | self.topology.flags(
                link.name
                for link in self.inventory.links.values()
                if has_any(link.labels, constraints.avoid_labels)
                or link.a.node in nodes
                or (link.b is not None and link.b.node in nodes)
            )
        return self.masks[avoided]


def has_any(labels: Labels, avoided: Labels) -> bool:
    return not {*labels}.isdisjoint(avoided)


def graph(
    inventory: Inventory,
    own: str,
    down: Collection[str] = (),
    before: Graph | None = None,
    losses: Mapping[str, float] | None = None,
    stubs: Collection[str] = (),
    delays: Mapping[str, int] | None = None,
) -> Graph:
    """`before`: an earlier graph, of which is kept what is still so. `losses`, `stubs`, `delays`: as in Graph."""
    losses, delays = losses or {}, delays or {}
    same = before is not None and _same(before.inventory, inventory) and before.losses == losses
    topology = before.topology if before is not None and same else _topology(inventory, losses)
    made = Graph(
        has_switches=before.has_switches
        if before is not None and same
        else any(node.switch is not None for node in inventory.nodes.values()),
        own=own,
        topology=topology,
        borders=tuple(link for name, link in sorted(inventory.links.items()) if link.b is None and name not in down),
        inventory=inventory,
        down=tuple(sorted(down)),
        stubs=tuple(sorted(stubs)),
        flags=topology.flags(down),
        losses=losses,
        delays=delays,
    )
    if not delays:
        return made
    if before is not None and before.measured is not None and same and before.delays == delays:
        by_measured = before.measured.topology
    else:
        by_measured = _topology(inventory, losses, delays)
    measured = msgspec.structs.replace(made, topology=by_measured, sr_policies={}, masks={}, given_up={}, narrowed={})
    return msgspec.structs.replace(made, measured=measured)


def _same(inventory: Inventory, other: Inventory) -> bool:
    return inventory.nodes is other.nodes and inventory.links is other.links


def _topology(inventory: Inventory, losses: Mapping[str, float], delays: Mapping[str, int] | None = None) -> Topology:
    """`delays`: in place of those that are declared."""
    delays = delays or {}
    return Topology(
        inventory.nodes,
        (
            TopologyLink(
                link.name,
                link.a.node,
                link.b.node,
                delays.get(link.name, link.delay_us),
                link.cost,
                link.trust,
                losses.get(link.name) if link.loss_percent is None else link.loss_percent,
                link.srlg,
            )
            for link in inventory.links.values()
            if link.b is not None
        ),
    )
