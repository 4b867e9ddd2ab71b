"""Plans, agreements and inventory -> all that each node shall have.

What a course adds is compiled once and kept as long as its inputs are the same objects; a node whose parts are all
kept keeps its state.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from controller.fulfillment.carry import (
    borders,
    carry,
    local_route_entries,
    local_routes,
    local_steering,
    tunnels,
    use,
)
from controller.fulfillment.edges import edge_entries, edge_legs
from controller.fulfillment.fabric import Fabric, edges, tunnel_entries
from controller.fulfillment.networks import gateways, isolation_rules, network_entries, on_link_entries, together_rules
from controller.fulfillment.room import NEVER_FULL, in_the_end
from controller.fulfillment.rules import PortClasses, Rule, port_classes
from controller.model.course import Course, Stage
from controller.model.entry import Entry
from controller.model.intent import Replies
from controller.model.inventory import Inventory
from controller.model.node_entries import Ask, Changed, NodeState, ask
from controller.model.requirements import Connection, Isolation
from dataplane.host_api import HostState, NodeDescription

Part = tuple[Ask, ...]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes' states follow from."""

    inventory: Inventory
    fabric: Fabric
    descriptions: Mapping[str, NodeDescription]
    indices: Mapping[str, int]
    """Of own networks."""
    edge_numbers: Mapping[str, Mapping[str, int]]
    """Of the edges of each own network that has several."""
    isolations: Sequence[Isolation]
    courses: Sequence[Course]
    """Oldest first; those that are still negotiated add nothing."""


class Realized(msgspec.Struct, frozen=True, kw_only=True):
    states: dict[str, NodeState] = msgspec.field(default_factory=dict)
    changed: dict[str, Changed] = msgspec.field(default_factory=dict)
    """Of the nodes whose entries are other than before."""
    parts: dict[str, tuple[Part, ...]] = msgspec.field(default_factory=dict)
    """Of each node what its entries are made of; each the same object as long as it is the same."""
    kept: dict[str, tuple[tuple[Any, ...], Any]] = msgspec.field(default_factory=dict)
    """Results by name, with the inputs that they were made from."""


def realize(wanted: Wanted, before: Realized) -> Realized:
    """Raises NoRoom, and ValueError where there are too many different ranges of ports."""
    keeper = _Keeper(before.kept, _part)
    parts, hosts = _assemble(wanted, keeper)
    states: dict[str, NodeState] = {}
    changed: dict[str, Changed] = {}
    for node in sorted(wanted.inventory.nodes):
        state = before.states.get(node, NodeState())
        without, added = _difference(before.parts.get(node, ()), parts[node])
        entries = state.entries
        if without or added:
            found = entries.changed(without, added)
            entries = found.entries
            if found.put or found.gone:
                changed[node] = found
        if entries is not state.entries or hosts[node] is not state.host or node not in before.states:
            state = NodeState(entries=entries, host=hosts[node])
        states[node] = state
    kept_parts = {node: tuple(parts[node]) for node in states}
    return Realized(states=states, changed=changed, parts=kept_parts, kept=keeper.kept)


def _difference(before: Sequence[Part], now: Sequence[Part]) -> tuple[list[Ask], list[Ask]]:
    """What the parts that are not there any more ask for, and what new ones do."""
    counts = Counter(map(id, now))
    counts.subtract(map(id, before))
    parts = {id(part): part for part in (*before, *now)}
    without = [ask for each, count in counts.items() if count < 0 for ask in parts[each] * -count]
    added = [ask for each, count in counts.items() if count > 0 for ask in parts[each] * count]
    return without, added


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries each node would have, by table and owner, but for tables that are never full."""

    entries: dict[str, Counter[tuple[str, str]]] = msgspec.field(default_factory=dict)
    kept: dict[str, tuple[tuple[Any, ...], Any]] = msgspec.field(default_factory=dict)


def need(wanted: Wanted, before: Needed) -> Needed:
    """What `realize` would make in the end, only counted. Raises as `realize`."""
    keeper = _Keeper(before.kept, _count)
    ends = [keeper.keep_same(f"end of course {one.plan.name}", (one,), in_the_end) for one in wanted.courses]
    parts, _ = _assemble(msgspec.structs.replace(wanted, courses=ends), keeper)
    entries: dict[str, Counter[tuple[str, str]]] = {node: Counter() for node in wanted.inventory.nodes}
    for node, counts in entries.items():
        for count in parts[node]:
            counts.update(count)
    return Needed(entries=entries, kept=keeper.kept)


def _assemble(wanted: Wanted, keeper: "_Keeper") -> tuple[dict[str, list[Any]], dict[str, HostState]]:
    """Of each node its parts, as the keeper packs them, and what its host shall have."""
    fabric = wanted.fabric
    installed = [course for course in wanted.courses if course.stage != Stage.NEGOTIATING]
    classes = _classes(installed, keeper)
    parts: dict[str, list[Any]] = {
        name: [keeper.keep(f"fabric {name}", (keeper.same(f"fabric entries {name}", ones),), keeper.pack)]
        for name, ones in fabric.entries.items()
    }
    for course in installed:
        name = f"course {course.plan.name}"
        mine = keeper.keep_same(f"{name} classes", (classes, course.plan.connection), _classes_of)
        stateful = _stateful(wanted, course, keeper)
        carried = keeper.keep(name, (course, fabric, mine, stateful), lambda *inputs: keeper.packed(carry(*inputs)))
        _extend(parts, carried)
        if course.stage == Stage.ACTIVE:
            local = keeper.keep(
                f"{name} local", (course, fabric), lambda *inputs: keeper.packed(local_steering(*inputs))
            )
            _extend(parts, local)
    legs = _edges(wanted, parts, keeper)
    _networks(wanted, legs, installed, classes, parts, keeper)
    return parts, _hosts(wanted, installed, parts, keeper)


def _classes(courses: Sequence[Course], keeper: "_Keeper") -> PortClasses:
    used = frozenset(ports for course in courses for flow in course.plan.connection.flows for ports in flow.ports)
    classes: PortClasses = keeper.keep_equal("port classes", used, port_classes)
    return classes


def _classes_of(classes: PortClasses, connection: Connection) -> PortClasses:
    """Those that a connection is about, so that others may change."""
    used = {one for flow in connection.flows for ports in flow.ports for one in classes.of(ports)}
    return PortClasses(ranges=tuple(sorted(used)))


def _stateful(wanted: Wanted, course: Course, keeper: "_Keeper") -> Mapping[str, int]:
    """Of a course's networks those whose edges let pass only replies to what was asked, with their index."""
    connection = course.plan.connection
    found = {}
    for name in (connection.source_network, connection.destination_network):
        network = wanted.inventory.networks.get(name)
        if network is not None and network.replies is Replies.STATEFUL and name in wanted.indices:
            found[name] = wanted.indices[name]
    stateful: Mapping[str, int] = keeper.same(f"stateful {course.plan.name}", found)
    return stateful


def _edges(
    wanted: Wanted, parts: dict[str, list[Any]], keeper: "_Keeper"
) -> dict[str, Mapping[str, Mapping[str, int]]]:
    """Of each own network the legs from edge to edge; what they need goes to `parts`.

    Of the fabric they depend on what follows from nodes and links, as `edge_policies` does.
    """
    fabric = wanted.fabric
    legs: dict[str, Mapping[str, Mapping[str, int]]] = {}
    for name, index in sorted(wanted.indices.items()):
        network = wanted.inventory.networks.get(name)
        if network is None:
            continue
        numbers = keeper.same(f"edge numbers {name}", wanted.edge_numbers.get(name, {}))
        index = keeper.same(f"index {name}", index)
        legs[name], made = keeper.keep(
            f"edges {name}",
            (network, index, numbers, fabric.edge_policies),
            lambda network, index, numbers, _: (
                edge_legs(network, numbers, fabric),
                keeper.packed(edge_entries(network, index, numbers, fabric)),
            ),
        )
        _extend(parts, made)
    return legs


def _networks(
    wanted: Wanted,
    legs: Mapping[str, Mapping[str, Mapping[str, int]]],
    courses: Sequence[Course],
    classes: PortClasses,
    parts: dict[str, list[Any]],
    keeper: "_Keeper",
) -> None:
    indices, isolations = wanted.indices, wanted.isolations
    everywhere: dict[str, list[Rule]] = {}
    for isolation in isolations:
        rules = keeper.keep(f"isolation {isolation.owner}", (isolation,), isolation_rules)
        everywhere.setdefault(isolation.network, []).extend(rules)
    here: dict[tuple[str, str], list[Rule]] = {}
    routes: dict[tuple[str, str], list[Entry]] = {}
    for course in courses:
        if course.stage != Stage.ACTIVE:
            continue
        stateful = _stateful(wanted, course, keeper)
        for network, node, rule in keeper.keep(f"use {course.plan.name}", (course, stateful), use):
            here.setdefault((network, node), []).append(rule)
        for network, node, host in local_routes(course):
            if network in indices:
                found = local_route_entries(indices[network], host, course.plan.owner)
                routes.setdefault((network, node), []).extend(found)
    for name, index in sorted(indices.items()):
        network = wanted.inventory.networks.get(name)
        if network is None:
            continue
        ones = [isolation for isolation in isolations if isolation.network == name]
        index = keeper.same(f"index {name}", index)
        for node in edges(network):
            if node not in parts:
                continue
            to_others = keeper.same(f"legs {name} {node}", legs[name][node])
            together = keeper.keep(
                f"isolated together {name} {node}",
                (network, node, index, to_others, *ones),
                together_rules,
            )
            rules = keeper.same(
                f"rules {name} {node}", (*everywhere.get(name, ()), *together, *here.get((name, node), ()))
            )
            compiled = keeper.keep(
                f"network {name} {node}",
                (network, node, index, to_others, rules, classes, wanted.descriptions.get(node)),
                lambda network, node, index, legs, rules, classes, description: keeper.pack(
                    network_entries(
                        network, node, index, legs, rules, classes, {node: description} if description else {}
                    )
                ),
            )
            parts[node].append(compiled)
            local = keeper.same(f"local routes {name} {node}", tuple(routes.get((name, node), ())))
            parts[node].append(
                keeper.keep(
                    f"routes {name} {node}",
                    (network, index, rules, local),
                    lambda network, index, rules, local: keeper.pack(
                        (*local, *on_link_entries(network, index, rules, local))
                    ),
                )
            )


def _hosts(
    wanted: Wanted, courses: Sequence[Course], parts: dict[str, list[Any]], keeper: "_Keeper"
) -> dict[str, HostState]:
    """Gateways and tunnels of each node; the entries of tunnels go to `parts`."""
    inventory, fabric = wanted.inventory, wanted.fabric
    ends = []
    owners: dict[str, str] = {}
    for course in courses:
        for border in borders(course, fabric):
            if border is not None:
                domain = inventory.domains.get(border.crossing.domain)
                ends.append((border, domain.sid_block if domain is not None else ""))
                owners.setdefault(border.crossing.link, course.plan.owner)
    for link, owner in owners.items():
        crossing = fabric.crossings[link]
        if crossing.node in parts:
            made = keeper.keep_equal(
                f"tunnel {link}", (crossing, owner), lambda both: keeper.pack(tunnel_entries(*both))
            )
            parts[crossing.node].append(made)
    found = tunnels(ends)
    networks = [inventory.networks[name] for name in sorted(inventory.networks)]
    return {
        node: keeper.same(
            f"host {node}",
            HostState(gateways=gateways(networks, node, wanted.descriptions), tunnels=found.get(node, ())),
        )
        for node in inventory.nodes
    }


def _extend(parts: dict[str, list[Any]], more: Mapping[str, Any]) -> None:
    for node, part in more.items():
        if node in parts:
            parts[node].append(part)


def _part(entries: tuple[Entry, ...]) -> Part:
    return tuple(map(ask, entries))


def _count(entries: tuple[Entry, ...]) -> Counter[tuple[str, str]]:
    """By table and owner."""
    different = {
        (entry.table, entry.match, entry.priority): entry.owner for entry in entries if entry.table not in NEVER_FULL
    }
    return Counter((table, owner) for (table, _, _), owner in different.items())


class _Keeper:
    """Results whose inputs have not changed."""

    def __init__(
        self, before: Mapping[str, tuple[tuple[Any, ...], Any]], pack: Callable[[tuple[Entry, ...]], Any]
    ) -> None:
        self.pack = pack
        """What is kept of entries that are made together."""
        self._before = before
        self.kept: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def keep(self, name: str, inputs: tuple[Any, ...], make: Callable[..., Any]) -> Any:
        """`make(*inputs)`, or what was made of the very same objects before."""
        held = self._before.get(name)
        if held is None or len(held[0]) != len(inputs) or any(a is not b for a, b in zip(held[0], inputs, strict=True)):
            held = (inputs, make(*inputs))
        self.kept[name] = held
        return held[1]

    def keep_equal(self, name: str, value: Any, make: Callable[[Any], Any]) -> Any:
        """As `keep`, with one input, compared by content."""
        return self.keep(name, (self.same(f"{name}: input", value),), make)

    def keep_same(self, name: str, inputs: tuple[Any, ...], make: Callable[..., Any]) -> Any:
        """As `keep`, and the object of before if what is made anew is equal."""
        return self.same(f"{name}: result", self.keep(name, inputs, make))

    def same(self, name: str, value: Any) -> Any:
        """The object of before if it is equal."""
        held = self._before.get(name)
        result = held[1] if held is not None and (held[1] is value or held[1] == value) else value
        self.kept[name] = ((), result)
        return result

    def packed(self, entries: Mapping[str, tuple[Entry, ...]]) -> dict[str, Any]:
        """Of each node."""
        return {node: self.pack(ones) for node, ones in entries.items()}
