"""What nodes shall have, put together from units; after a change only those units are made anew that it concerns.

| unit | made from |
|---|---|
| fabric of a node | nodes, links, what nodes say of themselves |
| a course at a node | the course, ways through the fabric, classes of its ports, its networks' numbers |
| edges of a network at a node | the network, the SR Policies between its edges |
| a network at one of its edges; its routes there | the network, isolations in it, rules of all courses there |
| a tunnel | the gateway, whose courses use it |

When nodes, links, networks or descriptions change, all units of what they concern are looked at again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import immutables
import msgspec

from controller.fulfillment.carry import (
    Border,
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
from controller.fulfillment.rules import PortClasses, Rule, port_classes
from controller.model.course import Course, Stage
from controller.model.entry import Entry
from controller.model.intent import Ports, Replies
from controller.model.inventory import Inventory
from controller.model.persistent import PersistentMap
from controller.model.requirements import Connection, Isolation
from dataplane.host_api import HostState, NodeDescription

Packed = Any
"""Entries that are made together, as who asks for them keeps them."""
Pack = Callable[[tuple[Entry, ...]], Packed]
Place = tuple[str, str]
"""Network, and a node that is one of its edges."""
Legs = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Of each own network, from edge to edge."""


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
    courses: PersistentMap[Course]
    """Those that are still negotiated add nothing."""


class Contribution(NamedTuple):
    """What one course adds."""

    course: Course
    classes: PortClasses
    """Of its ports."""
    ends: "Ends"
    units: Mapping[str, Packed]
    """By node."""
    rules: Mapping[Place, tuple[Rule, ...]]
    routes: Mapping[Place, tuple[Entry, ...]]
    """To attached hosts of other networks."""
    borders: Mapping[str, Border]
    """By link."""


class Ends(NamedTuple):
    """What of its networks a course depends on."""

    indices: tuple[int | None, int | None]
    stateful: Mapping[str, int]
    """Those whose edges let pass only replies to what was asked, with their index."""


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    wanted: Wanted
    units: "immutables.Map[str, tuple[str, Packed]]"
    """Node and content."""
    contributions: "immutables.Map[str, Contribution]"
    """By course."""
    ports: "immutables.Map[Ports, int]"
    """How many courses ask for them."""
    classes: PortClasses
    users: "immutables.Map[Place, immutables.Map[str, None]]"
    """Courses with rules or routes there."""
    carried: "immutables.Map[str, immutables.Map[str, None]]"
    """Courses over a border link."""
    legs: Legs
    hosts: Mapping[str, HostState]
    gone: Mapping[str, Sequence[Packed]] = {}
    """Of each node, content of units that is not there any more."""
    new: Mapping[str, Sequence[Packed]] = {}


def assemble(
    wanted: Wanted,
    before: Assembly | None,
    changed: Iterable[str] | None,
    pack: Pack,
    as_if: Callable[[Course], Course] = lambda course: course,
) -> Assembly:
    """`changed`: courses that may be others than before; None: nobody knows. `as_if`: what is taken for a course.

    Raises NoRoom, and ValueError where there are too many different ranges of ports.
    """
    return _Assembler(wanted, before, pack, as_if).assembled(changed)


class _Assembler:
    def __init__(self, wanted: Wanted, before: Assembly | None, pack: Pack, as_if: Callable[[Course], Course]) -> None:
        self._wanted = wanted
        self._as_if = as_if
        self._before = before
        self._pack = pack
        self._units = before.units if before is not None else immutables.Map()
        self._contributions = before.contributions if before is not None else immutables.Map()
        self._ports = before.ports if before is not None else immutables.Map()
        self._users = before.users if before is not None else immutables.Map()
        self._carried = before.carried if before is not None else immutables.Map()
        self._classes = before.classes if before is not None else PortClasses()
        same = before is not None and _shared(before.wanted) == _shared(wanted)
        self._same_ways = same and before is not None and _ways(before.wanted.fabric) == _ways(wanted.fabric)
        """What a course is made into follows from the same as before, but for the course."""
        self._same_edges = same and before is not None and before.wanted.descriptions is wanted.descriptions
        """The same of a network at its edges."""
        self._dirty: set[Place] = set()
        self._dirty_links: set[str] = set()
        self._gone: dict[str, list[Packed]] = {}
        self._new: dict[str, list[Packed]] = {}

    def assembled(self, changed: Iterable[str] | None) -> Assembly:
        wanted, before = self._wanted, self._before
        everything = before is None or changed is None or not self._same_edges or not self._same_ways
        everything = everything or (before is not None and before.wanted.fabric is not wanted.fabric)
        written: set[str] = set()
        legs: Legs = before.legs if before is not None else {}
        if everything:
            written |= self._fabric()
            legs, of_edges = self._edges()
            written |= of_edges
        names = set(changed) if self._same_ways and changed is not None else {*wanted.courses, *self._contributions}
        if self._count_ports(names):
            names |= {*self._contributions}
        for name in names:
            self._course(name)
        self._networks(self._concerned(legs), legs)
        hosts = self._hosts(everything)
        if everything:
            for network, node in self._places():
                written |= {f"network {network} {node}", f"routes {network} {node}"}
            written |= {f"course {name} {node}" for name, one in self._contributions.items() for node in one.units}
            written |= {f"tunnel {link}" for link in self._carried}
            nodes = wanted.inventory.nodes
            for unit in [unit for unit, (node, _) in self._units.items() if unit not in written or node not in nodes]:
                self._drop(unit)
        return Assembly(
            wanted=wanted,
            units=self._units,
            contributions=self._contributions,
            ports=self._ports,
            classes=self._classes,
            users=self._users,
            carried=self._carried,
            legs=legs,
            hosts=hosts,
            gone=self._gone,
            new=self._new,
        )

    # ---- units

    def _put(self, unit: str, node: str, content: Packed) -> None:
        if node not in self._wanted.inventory.nodes:
            return
        held = self._units.get(unit)
        if held is not None and held[1] == content:
            return
        self._drop(unit)
        self._units = self._units.set(unit, (node, content))
        self._new.setdefault(node, []).append(content)

    def _drop(self, unit: str) -> None:
        held = self._units.get(unit)
        if held is not None:
            self._units = self._units.delete(unit)
            self._gone.setdefault(held[0], []).append(held[1])

    # ---- what concerns everything

    def _fabric(self) -> set[str]:
        for node, entries in self._wanted.fabric.entries.items():
            self._put(f"fabric {node}", node, self._pack(entries))
        return {f"fabric {node}" for node in self._wanted.fabric.entries}

    def _edges(self) -> tuple[Legs, set[str]]:
        wanted, written = self._wanted, set[str]()
        legs: dict[str, Mapping[str, Mapping[str, int]]] = {}
        for name, index in wanted.indices.items():
            network = wanted.inventory.networks.get(name)
            if network is None:
                continue
            numbers = wanted.edge_numbers.get(name, {})
            legs[name] = edge_legs(network, numbers, wanted.fabric)
            for node, entries in edge_entries(network, index, numbers, wanted.fabric).items():
                self._put(f"edges {name} {node}", node, self._pack(entries))
                written.add(f"edges {name} {node}")
        return legs, written

    def _places(self) -> Iterator[Place]:
        for name in self._wanted.indices:
            network = self._wanted.inventory.networks.get(name)
            for node in edges(network) if network is not None else ():
                if node in self._wanted.inventory.nodes:
                    yield name, node

    # ---- courses

    def _installed(self, name: str) -> Course | None:
        course = self._wanted.courses.get(name)
        course = self._as_if(course) if course is not None else None
        return course if course is not None and course.stage != Stage.NEGOTIATING else None

    def _count_ports(self, names: Collection[str]) -> bool:
        """Whether the classes of ports are others now."""
        kinds = self._ports
        for name in names:
            held, course = self._contributions.get(name), self._installed(name)
            before = _ports_of(held.course) if held is not None else frozenset()
            now = _ports_of(course) if course is not None else frozenset()
            for ports in before - now:
                left = self._ports[ports] - 1
                self._ports = self._ports.set(ports, left) if left else self._ports.delete(ports)
            for ports in now - before:
                self._ports = self._ports.set(ports, self._ports.get(ports, 0) + 1)
        if self._ports is kinds or self._ports.keys() == kinds.keys():
            return False
        before_classes, self._classes = self._classes, port_classes(self._ports)
        return before_classes != self._classes

    def _course(self, name: str) -> None:
        held, course = self._contributions.get(name), self._installed(name)
        made: Contribution | None = None
        if course is not None:
            classes, ends = _classes_of(self._classes, course.plan.connection), _ends(self._wanted, course)
            if held is not None and self._same_ways and held[:3] == (course, classes, ends):
                return
            made = self._contribution(course, classes, ends)
        for node in held.units if held is not None else ():
            if made is None or node not in made.units:
                self._drop(f"course {name} {node}")
        for node, content in made.units.items() if made is not None else ():
            self._put(f"course {name} {node}", node, content)
        self._use(name, held, made)
        if made is not None:
            self._contributions = self._contributions.set(name, made)
        elif held is not None:
            self._contributions = self._contributions.delete(name)

    def _contribution(self, course: Course, classes: PortClasses, ends: Ends) -> Contribution:
        fabric, indices, owner = self._wanted.fabric, self._wanted.indices, course.plan.owner
        entries = carry(course, fabric, classes, ends.stateful)
        rules: dict[Place, list[Rule]] = {}
        routes: dict[Place, list[Entry]] = {}
        if course.stage == Stage.ACTIVE:
            for node, ones in local_steering(course, fabric).items():
                entries[node] = (*entries.get(node, ()), *ones)
            for network, node, rule in use(course, ends.stateful):
                rules.setdefault((network, node), []).append(rule)
            for network, node, host in local_routes(course):
                if network in indices:
                    routes.setdefault((network, node), []).extend(local_route_entries(indices[network], host, owner))
        return Contribution(
            course=course,
            classes=classes,
            ends=ends,
            units={node: self._pack(ones) for node, ones in entries.items()},
            rules={place: tuple(ones) for place, ones in rules.items()},
            routes={place: tuple(ones) for place, ones in routes.items()},
            borders={one.crossing.link: one for one in borders(course, fabric) if one is not None},
        )

    def _use(self, name: str, held: Contribution | None, made: Contribution | None) -> None:
        """Which networks and tunnels a course uses, and which of them is concerned."""
        before = {**held.rules, **held.routes}.keys() if held is not None else set()
        now = {**made.rules, **made.routes}.keys() if made is not None else set()
        for place in before | now:
            self._users = _listed(self._users, place, name, there=place in now)
            if _at(held, place) != _at(made, place):
                self._dirty.add(place)
        left = held.borders.keys() if held is not None else set()
        crossed = made.borders.keys() if made is not None else set()
        for link in left | crossed:
            self._carried = _listed(self._carried, link, name, there=link in crossed)
            self._dirty_links.add(link)

    # ---- networks at their edges

    def _concerned(self, legs: Legs) -> set[Place]:
        before = self._before
        if before is None or not self._same_edges:
            return set(self._places())
        found = set(self._dirty)
        isolated, isolated_before = _by_network(self._wanted.isolations), _by_network(before.wanted.isolations)
        names = {*isolated, *isolated_before}
        others = {name for name in names if isolated.get(name) != isolated_before.get(name)}
        if others or legs is not before.legs:
            led_before = before.legs
            found |= {
                (name, node)
                for name, node in self._places()
                if name in others or legs[name].get(node) != led_before.get(name, {}).get(node)
            }
        return found

    def _networks(self, places: Collection[Place], legs: Legs) -> None:
        wanted = self._wanted
        isolations = _by_network(wanted.isolations) if places else {}
        for place in places:
            name, node = place
            network = wanted.inventory.networks.get(name)
            if network is None or name not in wanted.indices or node not in legs.get(name, {}):
                continue
            index, to_others, mine = wanted.indices[name], legs[name][node], isolations.get(name, ())
            users = self._oldest_first(self._users.get(place, ()))
            rules = tuple(
                [rule for isolation in mine for rule in isolation_rules(isolation)]
                + [*together_rules(network, node, index, to_others, *mine)]
                + [rule for one in users for rule in one.rules.get(place, ())]
            )
            local = tuple(entry for one in users for entry in one.routes.get(place, ()))
            description = wanted.descriptions.get(node)
            descriptions = {node: description} if description is not None else {}
            entries = network_entries(network, node, index, to_others, rules, self._classes, descriptions)
            self._put(f"network {name} {node}", node, self._pack(entries))
            routes = (*local, *on_link_entries(network, index, rules, local))
            self._put(f"routes {name} {node}", node, self._pack(routes))

    def _oldest_first(self, names: Iterable[str]) -> list[Contribution]:
        return [self._contributions[name] for name in self._wanted.courses.in_order(names)]

    # ---- hosts

    def _hosts(self, everything: bool) -> Mapping[str, HostState]:
        """Gateways and tunnels of each node; the entries of tunnels are units."""
        wanted, fabric = self._wanted, self._wanted.fabric
        concerned = set(wanted.inventory.nodes)
        if not everything and self._before is not None:
            crossings = (fabric.crossings.get(link) for link in self._dirty_links)
            concerned &= {one.node for one in crossings if one is not None}
            if not concerned and not self._dirty_links:
                return self._before.hosts
        ends: dict[str, list[tuple[Border, str]]] = {}
        for link in sorted({*self._carried, *self._dirty_links}):
            users = self._oldest_first(self._carried.get(link, ()))
            crossing = fabric.crossings.get(link)
            if not users or crossing is None:
                self._drop(f"tunnel {link}")
                continue
            if everything or link in self._dirty_links:
                owner = users[0].course.plan.owner
                self._put(f"tunnel {link}", crossing.node, self._pack(tunnel_entries(crossing, owner)))
            domain = wanted.inventory.domains.get(crossing.domain)
            newest = users[-1].borders[link]
            ends.setdefault(crossing.node, []).append((newest, domain.sid_block if domain is not None else ""))
        networks = [wanted.inventory.networks[name] for name in sorted(wanted.inventory.networks)]
        hosts = {} if everything or self._before is None else dict(self._before.hosts)
        for node in concerned:
            host = HostState(
                gateways=gateways(networks, node, wanted.descriptions),
                tunnels=tunnels(ends.get(node, [])).get(node, ()),
            )
            held = self._before.hosts.get(node) if self._before is not None else None
            hosts[node] = held if held is not None and held == host else host
        return hosts


def _shared(wanted: Wanted) -> tuple[object, ...]:
    inventory = wanted.inventory
    return inventory.networks, inventory.nodes, inventory.domains, wanted.indices, wanted.edge_numbers


def _ways(fabric: Fabric) -> tuple[object, ...]:
    return (
        fabric.locators,
        fabric.ports,
        fabric.links_towards,
        fabric.links,
        fabric.crossings,
        fabric.boot_epochs_s,
    )


def _at(contribution: Contribution | None, place: Place) -> tuple[object, ...]:
    """All that a network at an edge is made of there."""
    if contribution is None:
        return ()
    return contribution.classes, contribution.rules.get(place), contribution.routes.get(place)


def _listed(
    lists: "immutables.Map[Any, immutables.Map[str, None]]", key: Any, name: str, *, there: bool
) -> "immutables.Map[Any, immutables.Map[str, None]]":
    held = lists.get(key, immutables.Map())
    if there:
        return lists if name in held else lists.set(key, held.set(name, None))
    if name not in held:
        return lists
    left = held.delete(name)
    return lists.set(key, left) if left else lists.delete(key)


def _by_network(isolations: Iterable[Isolation]) -> dict[str, tuple[Isolation, ...]]:
    found: dict[str, tuple[Isolation, ...]] = {}
    for isolation in isolations:
        found[isolation.network] = (*found.get(isolation.network, ()), isolation)
    return found


def _ports_of(course: Course) -> frozenset[Ports]:
    return frozenset(ports for flow in course.plan.connection.flows for ports in flow.ports)


def _classes_of(classes: PortClasses, connection: Connection) -> PortClasses:
    """Those that a connection is about, so that others may change."""
    used = {one for flow in connection.flows for ports in flow.ports for one in classes.of(ports)}
    return PortClasses(ranges=tuple(sorted(used)))


def _ends(wanted: Wanted, course: Course) -> Ends:
    connection = course.plan.connection
    stateful = {}
    for name in (connection.source_network, connection.destination_network):
        network = wanted.inventory.networks.get(name)
        if network is not None and network.replies is Replies.STATEFUL and name in wanted.indices:
            stateful[name] = wanted.indices[name]
    indices = wanted.indices.get(connection.source_network), wanted.indices.get(connection.destination_network)
    return Ends(indices, stateful)
