"""What nodes shall have, put together from units; after a change only those units are made anew that it concerns.

| unit | made from |
|---|---|
| fabric of a node | nodes, links, what nodes say of themselves |
| a stitch at a node | the stitch, ways through the fabric, its networks' numbers |
| a SID of a gateway that a neighbour knows | the agreement; all stitches that share it |
| an SR Policy of a node | its paths; all stitches and networks whose traffic takes them share it |
| an SR Policy at an OpenFlow switch on its way | the same |
| a network at one of its edges | the network, the SR Policies to its other edges |
| what is on the link of a network at an edge | the network, the rules for its hosts there |
| classes of ports of a node | the ports of all rules there |
| a tunnel | the gateway, whose stitches use it |

When nodes, links, networks or descriptions change, all units of what they concern are looked at again. Other than a
unit, the rules of all stitches and of the network in a VRF of a node are one value, which itself says what a change of
a few of them changes of its entries (vrf_rules.py).
"""

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import immutables
import msgspec

from controller.fulfillment.acl import MAX_CLASS, NoCapacity, PortClasses, Rule, port_classes, port_entries
from controller.fulfillment.contribution import (
    Basis,
    Contribution,
    Edge,
    Entries,
    Policy,
    PortUse,
    Service,
    Vrf,
    contribution,
    ranks_of_use,
)
from controller.fulfillment.crossings import crossing_entries
from controller.fulfillment.edges import edge_entries, edge_sr_policies, reached
from controller.fulfillment.fabric import Fabric, SegmentList, edges, sr_policy_entries, tunnel_entries, tunnel_list
from controller.fulfillment.groups import Rank
from controller.fulfillment.networks import (
    NetworkIds,
    OnLink,
    attached_prefixes,
    gateways,
    network_entries,
    network_ids,
    network_rules,
    on_link,
)
from controller.fulfillment.plan_entries import (
    Border,
    Place,
    SharedPolicy,
    inside_mtu,
    tunnels,
)
from controller.fulfillment.probes import link_probes, path_probes
from controller.fulfillment.vrf_rules import NO_RULES, VrfChange, VrfRules
from controller.fulfillment.vrf_rules import changed as vrf_changed
from controller.model.intent import Ports, Replies
from controller.model.inventory import Inventory
from controller.model.persistent import PersistentMap
from controller.model.requirements import Isolation
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Stage, Stitch
from dataplane.host_api import HostState, NodeDescription, Probe

Networks = Mapping[Edge, tuple[NetworkIds, tuple[Rule, ...]]]
"""Numbers of each own network at its edges, and what holds there whatever is permitted besides."""
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes' states follow from."""

    inventory: Inventory
    fabric: Fabric
    descriptions: Mapping[str, NodeDescription]
    ids: Mapping[str, int]
    """Numbers of own networks at their edges; those of plans are in their stitches."""
    isolations: Sequence[Isolation]
    stitches: PersistentMap[Stitch]
    """Those that are still negotiated add nothing."""
    sr_policies: PersistentMap[SrPolicy]
    """All that their plans name."""


class Changes(NamedTuple):
    """Names of what may be other than before."""

    stitches: set[str]
    sr_policies: set[str]

    def copy(self) -> "Changes":
        return Changes(set(self.stitches), set(self.sr_policies))


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    wanted: Wanted
    units: "immutables.Map[str, tuple[str, Entries]]"
    """Node and content."""
    vrfs: "immutables.Map[Vrf, VrfRules]"
    on_link: "immutables.Map[Vrf, OnLink]"
    """Of own networks."""
    contributions: "immutables.Map[str, Contribution]"
    """By stitch."""
    withheld: "immutables.Map[Vrf, immutables.Map[Rank, None]]"
    """Rules of stitches that are not in use."""
    ports: "immutables.Map[PortUse, int]"
    """How many stitches ask for them."""
    classes: Mapping[str, PortClasses]
    """Of each node."""
    travelled: "immutables.Map[Policy, immutables.Map[str, None]]"
    """Courses that take an SR Policy."""
    served: "immutables.Map[Service, immutables.Map[str, None]]"
    """Courses for which a neighbour sends to a SID of ours."""
    carried: "immutables.Map[str, immutables.Map[str, None]]"
    """Courses over a border link."""
    networks: Networks
    own: Mapping[Vrf, Edge]
    """Of VRFs of own networks."""
    crossed: "immutables.Map[Policy, tuple[str, ...]]"
    """OpenFlow switches on the way of an SR Policy."""
    between_edges: Mapping[Policy, SrPolicy]
    """SR Policies between edges of own networks."""
    places: dict[Edge, Place]
    """Of networks at their edges, as far as they were asked for: they follow from inventory and numbers."""
    hosts: Mapping[str, HostState]
    probes: "immutables.Map[str, immutables.Map[int, tuple[Probe, ...]]]" = immutables.Map()
    """Of the candidate paths of SR Policies, by headend and number."""
    gone: Mapping[str, Sequence[Entries]] = {}
    """Of each node, what is not there any more."""
    new: Mapping[str, Sequence[Entries]] = {}


class Compiled(NamedTuple):
    """How a VRF was last changed in this step."""

    gone: Collection[Rank]
    new: Mapping[Rank, Rule]
    classes_before: PortClasses
    change: VrfChange


class Beside(NamedTuple):
    """What is counted and what is installed are mostly the same, and then made once: each finds here what the other
    has made."""

    assembly: Assembly | None
    compiled: dict[Vrf, Compiled]


def assemble(
    wanted: Wanted,
    before: Assembly | None,
    changed: Changes | None,
    beside: Beside,
    as_if: Callable[[Stitch], Stitch] = lambda stitch: stitch,
) -> Assembly:
    """`changed`: None: nobody knows. `as_if`: what is taken for a stitch.

    Raises NoCapacity.
    """
    return _Assembler(wanted, before, beside, as_if).assembled(changed)


class _Assembler:
    def __init__(
        self, wanted: Wanted, before: Assembly | None, beside: Beside, as_if: Callable[[Stitch], Stitch]
    ) -> None:
        self._wanted = wanted
        self._as_if = as_if
        self._before = before
        self._compiled = beside.compiled
        self._other = beside.assembly
        self._units = before.units if before is not None else immutables.Map()
        self._contributions = before.contributions if before is not None else immutables.Map()
        self._withheld = before.withheld if before is not None else immutables.Map()
        self._ports = before.ports if before is not None else immutables.Map()
        self._vrfs = before.vrfs if before is not None else immutables.Map()
        self._on_link = before.on_link if before is not None else immutables.Map()
        self._travelled = before.travelled if before is not None else immutables.Map()
        self._served = before.served if before is not None else immutables.Map()
        self._carried = before.carried if before is not None else immutables.Map()
        self._classes = dict(before.classes) if before is not None else {}
        self._network = before.networks if before is not None else {}
        self._own = before.own if before is not None else {}
        self._crossed = before.crossed if before is not None else immutables.Map()
        self._between_edges = before.between_edges if before is not None else {}
        same = before is not None and _shared(before.wanted) == _shared(wanted)
        self._places = before.places if before is not None and same else {}
        self._same_ways = same and before is not None and _ways(before.wanted.fabric) == _ways(wanted.fabric)
        """What a stitch is made into follows from the same as before, but for the stitch."""
        same_nodes = before is not None and before.wanted.descriptions is wanted.descriptions
        same_fabric = before is not None and before.wanted.fabric.entries is wanted.fabric.entries
        if not _is_alike(self._other, wanted):
            self._other = None
        self._everything = not (self._same_ways and same_fabric and same_nodes)
        """Else what is other of the fabric are paths between edges alone."""
        self._probes = before.probes if before is not None else immutables.Map()
        known = before.wanted.inventory.nodes if before is not None else {}
        self._stayed = wanted.inventory.nodes.keys() & known.keys()
        """Nodes that were there before, and are."""
        self._gone_rules: dict[Vrf, set[Rank]] = {}
        self._new_rules: dict[Vrf, dict[Rank, Rule]] = {}
        self._moved_rules: dict[Vrf, set[Rank]] = {}
        """Withheld now and not before, or the other way about."""
        self._dirty_policies: set[Policy] = set()
        self._dirty_services: set[Service] = set()
        self._dirty_links: set[str] = set()
        self._dirty_ports: set[str] = set()
        """Nodes."""
        self._dirty_probes: set[str] = set()
        """Nodes."""
        self._gone: dict[str, list[Entries]] = {}
        self._new: dict[str, list[Entries]] = {}

    def assembled(self, changed: Changes | None) -> Assembly:
        wanted = self._wanted
        everything = self._everything or changed is None
        if everything:
            self._vrfs = self._staying(self._vrfs)
            self._on_link = self._staying(self._on_link)
            self._probes = immutables.Map()
        isolated = self._isolated()
        repathed, resized = self._repathed() if not everything else (set(), None)
        if resized is None or resized or isolated:
            self._networks(isolated, resized)
        if repathed:
            self._join_edges(repathed)
        if everything:
            self._dirty_policies |= {*self._travelled, *self._between_edges}
            self._dirty_services |= {*self._served}
            self._dirty_ports |= {*wanted.inventory.nodes, *self._classes}
        names = {*wanted.stitches, *self._contributions} if everything or changed is None else self._concerned(changed)
        for name in names:
            self._stitch(name)
        self._classes_anew()
        for vrf in {*self._gone_rules, *self._new_rules, *self._moved_rules}:
            self._vrf(vrf)
        for policy in self._dirty_policies:
            self._policy(policy)
        for service in self._dirty_services:
            self._service(service)
        hosts = self._hosts(everything)
        if everything:
            self._sweep()
        return Assembly(
            wanted=wanted,
            units=self._units,
            vrfs=self._vrfs,
            on_link=self._on_link,
            contributions=self._contributions,
            withheld=self._withheld,
            ports=self._ports,
            classes=self._classes,
            travelled=self._travelled,
            served=self._served,
            carried=self._carried,
            networks=self._network,
            own=self._own,
            crossed=self._crossed,
            between_edges=self._between_edges,
            places=self._places,
            hosts=hosts,
            probes=self._probes,
            gone=self._gone,
            new=self._new,
        )

    # ---- units

    def _put(self, unit: str, node: str, content: Entries) -> None:
        if node not in self._wanted.inventory.nodes:
            return
        before = self._units.get(unit)
        if before is not None and before[1] == content:
            return
        self._drop(unit)
        self._units = self._units.set(unit, (node, content))
        self._new.setdefault(node, []).append(content)

    def _drop(self, unit: str) -> None:
        before = self._units.get(unit)
        if before is not None:
            self._units = self._units.delete(unit)
            self._gone.setdefault(before[0], []).append(before[1])

    def _staying(self, by_vrf: "immutables.Map[Vrf, T]") -> "immutables.Map[Vrf, T]":
        """Of nodes that were there before, and are."""
        for vrf in [vrf for vrf in by_vrf if vrf[0] not in self._stayed]:
            by_vrf = by_vrf.delete(vrf)
        return by_vrf

    def _sweep(self) -> None:
        """What nothing asks for any more, after all of it was looked at."""
        nodes = self._wanted.inventory.nodes
        there = {f"fabric {node}" for node in self._wanted.fabric.entries}
        there |= {f"network {name} {node}" for name, node in self._network}
        there |= {f"on link {node} {number}" for node, number in self._on_link}
        there |= {
            f"course {name} {node}" for name, contribution in self._contributions.items() for node in contribution.units
        }
        there |= {f"tunnel {link}" for link in self._carried}
        there |= {f"sr policy {node} {number}" for node, number in self._dirty_policies}
        there |= {_at(policy, switch) for policy, switches in self._crossed.items() for switch in switches}
        there |= {f"service {node} {number}" for node, number in self._dirty_services}
        there |= {f"ports {node}" for node in self._classes}
        for unit in [unit for unit, (node, _) in self._units.items() if unit not in there or node not in nodes]:
            self._drop(unit)

    # ---- networks at their edges

    def _isolated(self) -> set[str]:
        """Networks in which other hosts are isolated than before."""
        before = self._before.wanted.isolations if self._before is not None else ()
        now, then = _by_network(self._wanted.isolations), _by_network(before)
        return {name for name in {*now, *then} if now.get(name) != then.get(name)}

    def _repathed(self) -> tuple[set[str], set[str]]:
        """Nodes that are edges of networks, with another path to another edge than before; those of them that reach
        others than before, or with packets of another size."""
        fabric = self._wanted.fabric
        now, then = fabric.edge_policies, self._before.wanted.fabric.edge_policies if self._before else {}
        if now is then:
            return set(), set()
        pairs = [pair for pair in now.keys() | then.keys() if now.get(pair) != then.get(pair)]
        resized = set()
        for pair in pairs:
            paths, earlier = now.get(pair), then.get(pair)
            if paths is None or earlier is None or fabric.inner_mtu(paths) != fabric.inner_mtu(earlier):
                resized |= {*pair}
        return {node for pair in pairs for node in pair}, resized

    def _networks(self, isolated: Collection[str], nodes: Set[str] | None) -> None:
        """`isolated`: networks of which the rules may be others; `nodes`: where all may be; None: everywhere."""
        wanted = self._wanted
        isolations = _by_network(wanted.isolations)
        if nodes is None:
            for node, entries in wanted.fabric.entries.items():
                self._put(f"fabric {node}", node, entries)
        by_edge: dict[Edge, tuple[NetworkIds, tuple[Rule, ...]]] = {}
        for name, network in wanted.inventory.networks.items():
            here = edges(network)
            if nodes is not None and name not in isolated and nodes.isdisjoint(here):
                continue
            ids = {
                node: numbers
                for node in here
                if node in wanted.inventory.nodes and (numbers := network_ids(network, node, wanted.ids)) is not None
            }
            for node, numbers in ids.items():
                is_whole = nodes is None or node in nodes
                if not is_whole and name not in isolated:
                    continue
                others = reached(wanted.fabric, node, numbers)
                rules = network_rules(
                    network, node, numbers, others, isolations.get(name, ()), wanted.fabric.boot_epochs_s.get(node)
                )
                by_edge[name, node] = numbers, rules
                if not is_whole:
                    continue
                description = wanted.descriptions.get(node)
                descriptions = {node: description} if description is not None else {}
                entries = (
                    *network_entries(network, node, numbers, descriptions),
                    *edge_entries(network, node, ids, wanted.fabric),
                )
                self._put(f"network {name} {node}", node, entries)
        for edge in {*self._network, *by_edge} if nodes is None else by_edge:
            before, now = self._network.get(edge), by_edge.get(edge)
            self._rules(
                (-1, edge[0]),
                {(edge[1], before[0].vrf): before[1]} if before is not None else {},
                {(edge[1], now[0].vrf): now[1]} if now is not None else {},
            )
        known, self._network = self._network, by_edge if nodes is None else {**self._network, **by_edge}
        self._join_edges(nodes)
        if nodes is None:
            self._own = {(node, numbers.vrf): (name, node) for (name, node), (numbers, _) in by_edge.items()}
            self._forget_links(known, by_edge)

    def _join_edges(self, nodes: Collection[str] | None) -> None:
        """SR Policies from these nodes (None: all) to other edges of their networks."""
        before = self._between_edges
        kept = {key: policy for key, policy in before.items() if nodes is not None and key[0] not in nodes}
        self._between_edges = kept | {
            (node, number): policy
            for (_, node), (numbers, _) in self._network.items()
            if nodes is None or node in nodes
            for number, policy in edge_sr_policies(self._wanted.fabric, node, numbers)
        }
        for key in before.keys() | self._between_edges.keys():
            if before.get(key) != self._between_edges.get(key):
                self._dirty_policies.add(key)

    def _forget_links(self, before: Networks, after: Networks) -> None:
        """Of networks that are others than they were."""
        inventory = self._wanted.inventory
        known = self._before.wanted.inventory.networks if self._before is not None else {}
        same = {
            (node, ids.vrf)
            for (name, node), (ids, _) in after.items()
            if (earlier := before.get((name, node))) is not None
            and earlier[0] == ids
            and known.get(name) is inventory.networks[name]
        }
        for vrf in [vrf for vrf in self._on_link if vrf not in same]:
            self._on_link = self._on_link.delete(vrf)
        for vrf in self._own.keys() - same:
            self._new_rules.setdefault(vrf, {})  # what they lead to is made anew

    # ---- stitches

    def _concerned(self, changed: Changes) -> set[str]:
        """Stitches. Of those that share an SR Policy with other paths, only where packets may be of another size."""
        before = self._before.wanted.sr_policies if self._before is not None else self._wanted.sr_policies
        concerned = set(changed.stitches)
        for name in changed.sr_policies:
            was, now = before.get(name), self._wanted.sr_policies.get(name)
            if was is None or now is None or was.candidate_paths == now.candidate_paths:
                continue
            for end in ((now.headend, now.numbers[0]), (now.endpoint, now.numbers[1])):
                if end in self._travelled:
                    self._dirty_policies.add(end)
            if self._wanted.fabric.inner_mtu(was) != self._wanted.fabric.inner_mtu(now):
                concerned |= {*self._travelled.get((now.headend, now.numbers[0]), ())}
        return concerned

    def _stitch(self, name: str) -> None:
        before, stitch = self._contributions.get(name), self._installed(name)
        made: Contribution | None = None
        if stitch is not None:
            made = self._made(stitch, before)
        elif before is None:
            return
        self._withhold(name, made, withheld=stitch is not None and stitch.stage != Stage.ACTIVE)
        if made is before:
            return
        for node in before.units if before is not None else ():
            if made is None or node not in made.units:
                self._drop(f"course {name} {node}")
        for node, content in made.units.items() if made is not None else ():
            self._put(f"course {name} {node}", node, content)
        self._use(name, before, made)
        if made is not None:
            self._contributions = self._contributions.set(name, made)
        elif before is not None:
            self._contributions = self._contributions.delete(name)

    def _made(self, stitch: Stitch, before: Contribution | None) -> Contribution:
        """As it is already, here or beside, where it is to be made from the same."""
        places = self._places_of(stitch)
        mtu = inside_mtu(stitch.plan, self._wanted.fabric, self._wanted.sr_policies)
        basis = Basis(stitch.plan, stitch.ids, stitch.upstream, stitch.downstream, stitch.expires_s, places, mtu)
        if before is not None and self._same_ways and before.basis == basis:
            return before
        other = self._other.contributions.get(stitch.plan.name) if self._other is not None else None
        if other is not None and other.serial == stitch.serial and other.basis == basis:
            return other
        earlier = before if self._same_ways else None
        return contribution(stitch, basis, self._wanted.fabric, self._wanted.sr_policies, earlier)

    def _withhold(self, name: str, made: Contribution | None, *, withheld: bool) -> None:
        """Notes which rules of a stitch are withheld, of those that it has now."""
        earlier = self._contributions.get(name)
        was, now = ranks_of_use(name, earlier), ranks_of_use(name, made) if withheld else {}
        for vrf in was.keys() | now.keys():
            before = self._withheld.get(vrf, immutables.Map())
            after = before
            for rank in was.get(vrf, ()):
                after = after.delete(rank) if rank in after else after
            for rank in now.get(vrf, ()):
                after = after.set(rank, None)
            moved = {rank for rank in (*was.get(vrf, ()), *now.get(vrf, ())) if (rank in before) != (rank in after)}
            if moved:
                self._moved_rules.setdefault(vrf, set()).update(moved)
                self._withheld = self._withheld.set(vrf, after) if after else self._withheld.delete(vrf)

    def _installed(self, name: str) -> Stitch | None:
        stitch = self._wanted.stitches.get(name)
        stitch = self._as_if(stitch) if stitch is not None else None
        return stitch if stitch is not None and stitch.stage != Stage.NEGOTIATING else None

    def _places_of(self, stitch: Stitch) -> dict[Edge, Place]:
        connection = stitch.plan.connection
        ends = stitch.plan.ends
        places = {}
        for network in (connection.source_network, connection.destination_network):
            for node in ends:
                if (network, node) in self._network:
                    places[network, node] = self._place((network, node))
        return places

    def _place(self, edge: Edge) -> Place:
        if edge not in self._places:
            (name, node), (ids, _) = edge, self._network[edge]
            network = self._wanted.inventory.networks[name]
            self._places[edge] = Place(
                vrf=ids.vrf,
                policy_class=ids.hosts,
                attached=attached_prefixes(network, node),
                is_stateful=network.replies is Replies.STATEFUL,
            )
        return self._places[edge]

    def _rules(
        self, whose: tuple[int, str], before: Mapping[Vrf, Sequence[Rule]], now: Mapping[Vrf, Sequence[Rule]]
    ) -> None:
        """What of somebody's rules is other than before."""
        for vrf in before.keys() | now.keys():
            was = before.get(vrf, ()) if vrf[0] in self._stayed else ()
            shall = now.get(vrf, ()) if vrf[0] in self._wanted.inventory.nodes else ()
            if was == shall:
                continue
            for place, (old, new) in enumerate(itertools.zip_longest(was, shall)):
                if new is None:
                    self._gone_rules.setdefault(vrf, set()).add((*whose, place))
                elif old != new:
                    self._new_rules.setdefault(vrf, {})[*whose, place] = new

    def _use(self, name: str, earlier: Contribution | None, made: Contribution | None) -> None:
        """What a stitch uses together with others, and what of it is concerned."""
        if earlier is not None and made is not None and earlier.serial == made.serial:
            self._rules((earlier.serial, name), earlier.rules, made.rules)
        else:  # another that has the name of one that is gone has ranks of its own
            for contribution, before, now in ((earlier, _rules_of(earlier), {}), (made, {}, _rules_of(made))):
                if contribution is not None:
                    self._rules((contribution.serial, name), before, now)
        taken, takes = _policies_of(earlier), _policies_of(made)
        for policy in taken.keys() | takes.keys():
            others = self._travelled.get(policy, immutables.Map())
            self._travelled = _listed(self._travelled, policy, name, there=policy in takes)
            if taken.get(policy) == takes.get(policy):
                continue
            other = next((self._contributions[sharer] for sharer in others if sharer != name), None)
            if other is None or other.policies[policy] != (takes.get(policy) or taken.get(policy)):
                self._dirty_policies.add(policy)  # else there is what others have made of the same
        known = earlier.services if earlier is not None else {}
        knows = made.services if made is not None else {}
        for service in known.keys() | knows.keys():
            self._served = _listed(self._served, service, name, there=service in knows)
            if known.get(service) != knows.get(service):
                self._dirty_services.add(service)
        left = earlier.borders.keys() if earlier is not None else set()
        crossed = made.borders.keys() if made is not None else set()
        for link in left | crossed:
            self._carried = _listed(self._carried, link, name, there=link in crossed)
            self._dirty_links.add(link)
        asked = earlier.ports if earlier is not None else frozenset()
        asks = made.ports if made is not None else frozenset()
        for use in asked - asks:
            rest = self._ports[use] - 1
            self._ports = self._ports.set(use, rest) if rest else self._ports.delete(use)
            if not rest:
                self._dirty_ports.add(use[0])
        for use in asks - asked:
            if use not in self._ports:
                self._dirty_ports.add(use[0])
            self._ports = self._ports.set(use, self._ports.get(use, 0) + 1)

    # ---- what stitches share

    def _classes_anew(self) -> None:
        """Classes of ports where others are asked for, and the VRFs that these are about."""
        if not self._dirty_ports:
            return
        uses: dict[str, set[tuple[bool, Ports]]] = {node: set() for node in self._dirty_ports}
        for node, is_source, ports in self._ports:
            if node in uses:
                uses[node].add((is_source, ports))
        others: set[str] = set()
        for node, used in uses.items():
            before = self._classes.get(node, PortClasses())
            try:
                classes = port_classes(ports for _, ports in used)
            except ValueError as full:
                raise NoCapacity("destination_port_class", MAX_CLASS + 1, node) from full
            if classes != before:
                others.add(node)
            if not used:
                self._classes.pop(node, None)
                self._drop(f"ports {node}")
                continue
            self._classes[node] = classes
            self._put(f"ports {node}", node, port_entries(used, classes, f"nodes/{node}"))
        for vrf in self._vrfs if others else ():
            if vrf[0] in others:
                self._new_rules.setdefault(vrf, {})  # its rules about ports of other classes are made anew

    def _vrf(self, vrf: Vrf) -> None:
        """What its rules come to now, of what is other than before."""
        node, _ = vrf
        gone, new, moved = (
            self._gone_rules.get(vrf, set()),
            self._new_rules.get(vrf, {}),
            self._moved_rules.get(vrf, ()),
        )
        withheld_before = self._before.withheld.get(vrf, ()) if self._before is not None else ()
        withheld = self._withheld.get(vrf, ())
        change = self._changed(vrf, gone, new)
        entries_gone, entries_new = change.entries(withheld_before, withheld, moved)
        if entries_gone:
            self._gone.setdefault(node, []).append(tuple(entries_gone))
        if entries_new:
            self._new.setdefault(node, []).append(tuple(entries_new))
        if change.now.rules:
            self._vrfs = self._vrfs.set(vrf, change.now)
        elif vrf in self._vrfs:
            self._vrfs = self._vrfs.delete(vrf)
        if vrf in self._own:
            ranks = {*gone, *new, *moved}
            before, now = change.before.rules, change.now.rules
            self._led_to(
                vrf,
                {rank: before[rank] for rank in ranks if rank in before and rank not in withheld_before},
                {rank: now[rank] for rank in ranks if rank in now and rank not in withheld},
            )

    def _changed(self, vrf: Vrf, gone: Collection[Rank], new: Mapping[Rank, Rule]) -> VrfChange:
        node, number = vrf
        vrf_rules = self._vrfs.get(vrf, NO_RULES)
        classes = self._classes.get(node, PortClasses())
        classes_before = self._before.classes.get(node, PortClasses()) if self._before is not None else PortClasses()
        known = self._compiled.get(vrf)
        if (
            known is not None
            and known.change.before is vrf_rules
            and (known.gone, known.new) == (gone, new)
            and (known.classes_before, known.change.classes) == (classes_before, classes)
        ):
            return known.change
        try:
            change = vrf_changed(number, vrf_rules, gone, new, classes_before, classes)
        except NoCapacity as full:
            raise NoCapacity(full.table, full.needed, node) from full
        if self._other is not None and self._other.classes.get(node) == classes:
            other = self._other.vrfs.get(vrf, change.now)
            if other is not change.now and other.rules == change.now.rules:
                change = change._replace(now=other)  # the very same: from here on both are one again
        self._compiled[vrf] = Compiled(gone, new, classes_before, change)
        return change

    def _led_to(self, vrf: Vrf, gone: Mapping[Rank, Rule], new: Mapping[Rank, Rule]) -> None:
        """What is on the link of a network at an edge."""
        (name, node), (_, number) = self._own[vrf], vrf
        network, ids = self._wanted.inventory.networks[name], self._network[name, node][0]
        led = self._on_link.get(vrf)
        if led is None:
            withheld = self._withheld.get(vrf, ())
            rules = self._vrfs[vrf].rules if vrf in self._vrfs else {}
            led, gone, new = on_link(network), {}, {rank: rule for rank, rule in rules.items() if rank not in withheld}
        here = ({rank: rule for rank, rule in rules.items() if rule.policy_class == ids.hosts} for rules in (gone, new))
        made = led.changed(*here)
        if made is not self._on_link.get(vrf):
            self._on_link = self._on_link.set(vrf, made)
            self._put(f"on link {node} {number}", node, made.entries(number))

    def _policy(self, policy: Policy) -> None:
        node, number = policy
        user = next(iter(self._travelled.get(policy, ())), None)
        shared = self._contributions[user].policies[policy] if user is not None else None
        fabric, paths = self._wanted.fabric, self._between_edges.get(policy)
        if shared is not None and shared.policy is not None:
            paths = self._wanted.sr_policies[shared.policy.name]
        if shared is not None and shared.border_port is not None:
            lists: tuple[SegmentList, ...] = (tunnel_list(shared.border_port),)
        elif paths is not None:
            lists = fabric.segment_lists(paths, node)
        else:
            self._drop(f"sr policy {node} {number}")
            self._cross(policy, {})
            self._probe(policy, ())
            return
        owner = f"sr_policies/{node}/{number}"
        entries = sr_policy_entries(number, fabric.locators[node], lists, owner)
        self._put(f"sr policy {node} {number}", node, entries)
        crossed = [crossing for segment_list in lists for crossing in segment_list.crossings]
        at_switches = crossing_entries(number, fabric.locators[node], crossed, fabric.macs, owner)
        self._cross(policy, at_switches)
        self._probe(policy, () if paths is None else path_probes(fabric, paths, node, number))

    def _cross(self, policy: Policy, entries: Mapping[str, Entries]) -> None:
        """What an SR Policy needs of the OpenFlow switches on its way."""
        before = self._crossed.get(policy, ())
        for switch in before:
            if switch not in entries:
                self._drop(_at(policy, switch))
        for switch, content in entries.items():
            self._put(_at(policy, switch), switch, content)
        if entries:
            self._crossed = self._crossed.set(policy, tuple(entries))
        elif before:
            self._crossed = self._crossed.delete(policy)

    def _probe(self, policy: Policy, probes: tuple[Probe, ...]) -> None:
        node, number = policy
        before = self._probes.get(node, immutables.Map())
        if probes == before.get(number, ()):
            return
        self._probes = self._probes.set(node, before.set(number, probes) if probes else before.delete(number))
        self._dirty_probes.add(node)

    def _service(self, service: Service) -> None:
        node, number = service
        users = self._oldest_first(self._served.get(service, ()))
        if users:
            self._put(f"service {node} {number}", node, (users[0].services[service].entry,))
        else:
            self._drop(f"service {node} {number}")

    def _oldest_first(self, names: Iterable[str]) -> list[Contribution]:
        return [self._contributions[name] for name in self._wanted.stitches.in_order(names)]

    # ---- hosts

    def _hosts(self, everything: bool) -> Mapping[str, HostState]:
        """Gateways, tunnels and probes of each node; the entries of tunnels are units."""
        wanted, fabric = self._wanted, self._wanted.fabric
        concerned = set(wanted.inventory.nodes)
        known: Mapping[str, HostState] = self._before.hosts if self._before is not None else {}
        if not everything and self._before is not None:
            if self._dirty_probes:
                probed = {
                    node: msgspec.structs.replace(known[node], probes=self._probes_of(node, _of_links(known[node])))
                    for node in self._dirty_probes & known.keys()
                }
                known = {**known, **probed}
            border_ports = (fabric.border_ports.get(link) for link in self._dirty_links)
            concerned &= {border_port.node for border_port in border_ports if border_port is not None}
            if not concerned and not self._dirty_links:
                return known
        ends: dict[str, list[tuple[Border, str]]] = {}
        for link in sorted({*self._carried, *self._dirty_links}):
            users = self._oldest_first(self._carried.get(link, ()))
            border_port = fabric.border_ports.get(link)
            if not users or border_port is None:
                self._drop(f"tunnel {link}")
                continue
            if everything or link in self._dirty_links:
                owner = users[0].basis.plan.owner
                self._put(f"tunnel {link}", border_port.node, tunnel_entries(border_port, owner))
            domain = wanted.inventory.domains.get(border_port.domain)
            newest = users[-1].borders[link]
            ends.setdefault(border_port.node, []).append((newest, domain.sid_block if domain is not None else ""))
        networks = [wanted.inventory.networks[name] for name in sorted(wanted.inventory.networks)]
        of_links = link_probes(fabric) if everything or self._before is None else {}
        hosts = {} if everything or self._before is None else dict(known)
        for node in concerned:
            host_before = known.get(node)
            links = of_links.get(node, ()) if node not in hosts else _of_links(hosts[node])
            host = HostState(
                gateways=gateways(networks, node, wanted.descriptions),
                tunnels=tunnels(ends.get(node, [])).get(node, ()),
                probes=self._probes_of(node, links),
            )
            hosts[node] = host_before if host_before is not None and host_before == host else host
        return hosts

    def _probes_of(self, node: str, of_links: tuple[Probe, ...]) -> tuple[Probe, ...]:
        """Those of links first, then by number of the SR Policy, as many as the node can send."""
        description = self._wanted.descriptions.get(node)
        numbers = self._probes.get(node, immutables.Map())
        probes = (*of_links, *(probe for number in sorted(numbers) for probe in numbers[number]))
        return probes[: description.probes_max] if description is not None else ()


def _of_links(host: HostState) -> tuple[Probe, ...]:
    return tuple(probe for probe in host.probes if probe.slot is None)


def _at(policy: Policy, switch: str) -> str:
    node, number = policy
    return f"sr policy {node} {number} at {switch}"


def _shared(wanted: Wanted) -> tuple[object, ...]:
    inventory = wanted.inventory
    return inventory.networks, inventory.nodes, inventory.domains, wanted.ids


def _is_alike(assembly: Assembly | None, wanted: Wanted) -> bool:
    """Whether what a stitch is made into there is what it would be made into for this."""
    return (
        assembly is not None
        and _shared(assembly.wanted) == _shared(wanted)
        and _ways(assembly.wanted.fabric) == _ways(wanted.fabric)
    )


def _ways(fabric: Fabric) -> tuple[object, ...]:
    return (
        fabric.locators,
        fabric.ports,
        fabric.links_towards,
        fabric.links,
        fabric.border_ports,
        fabric.boot_epochs_s,
        fabric.switches,
    )


def _rules_of(contribution: Contribution | None) -> Mapping[Vrf, tuple[Rule, ...]]:
    return contribution.rules if contribution is not None else {}


def _policies_of(contribution: Contribution | None) -> Mapping[Policy, SharedPolicy]:
    return contribution.policies if contribution is not None else {}


def _listed(
    lists: "immutables.Map[K, immutables.Map[str, None]]", key: K, name: str, *, there: bool
) -> "immutables.Map[K, immutables.Map[str, None]]":
    names = lists.get(key, immutables.Map())
    if there:
        return lists if name in names else lists.set(key, names.set(name, None))
    if name not in names:
        return lists
    left = names.delete(name)
    return lists.set(key, left) if left else lists.delete(key)


def _by_network(isolations: Iterable[Isolation]) -> dict[str, tuple[Isolation, ...]]:
    isolated: dict[str, tuple[Isolation, ...]] = {}
    for isolation in isolations:
        isolated[isolation.network] = (*isolated.get(isolation.network, ()), isolation)
    return isolated
