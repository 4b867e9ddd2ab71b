"""What nodes shall have, put together from units; after a change only those units are made anew that it concerns.

| unit | made from |
|---|---|
| fabric of a node | nodes, links, what nodes say of themselves |
| a SID of a gateway that a neighbour knows | the agreement; all stitches that share it |
| an SR Policy of a node | its paths; all stitches and networks whose traffic takes them share it |
| an SR Policy at an OpenFlow switch on its way | the same |
| a network at one of its edges | the network, the SR Policies to its other edges |
| what is on the link of a network at an edge | the network, the rules for its hosts there |
| classes of ports of a node | the ports of all rules there |
| a tunnel | the gateway, whose stitches use it |

When nodes, links or networks change, all units of what they concern are looked at again; when a node says something
else of itself, its own, and the fabric of its neighbours. Other than a unit, the rules of all stitches and of the
network in a VRF of a node are one value, which itself says what a change of a few of them changes of its entries
(vrf_rules.py). What else a stitch adds is kept nowhere: what it was follows from the stitch as it was
(contributions.py).
"""

import itertools
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import immutables
import msgspec

from controller.fulfillment.acl import MAX_CLASS, NoCapacity, PortClasses, Rule, port_classes, port_entries
from controller.fulfillment.contribution import (
    Contribution,
    Edge,
    Entries,
    Networks,
    Policy,
    Service,
    Vrf,
    ranks_of_use,
)
from controller.fulfillment.contributions import Contributions, MadeOnce
from controller.fulfillment.crossings import crossing_entries
from controller.fulfillment.edges import edge_entries, edge_sr_policies, reached
from controller.fulfillment.fabric import SegmentList, edges, sr_policy_entries, tunnel_entries, tunnel_list
from controller.fulfillment.groups import Rank
from controller.fulfillment.host_states import PathProbes, Probing, TunnelEnd, host_states
from controller.fulfillment.networks import (
    NetworkIds,
    OnLink,
    network_entries,
    network_ids,
    network_rules,
    on_link,
)
from controller.fulfillment.plan_entries import Place
from controller.fulfillment.probes import path_probes
from controller.fulfillment.shared_uses import SharedUses, SharedUsesChange
from controller.fulfillment.units import Placed, Units
from controller.fulfillment.vrf_rules import NO_RULES, VrfChange, VrfRules
from controller.fulfillment.vrf_rules import changed as vrf_changed
from controller.fulfillment.wanted import Wanted
from controller.model.intent import Ports
from controller.model.requirements import Isolation
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Stage, Stitch
from dataplane.host_api import HostState

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Changes(NamedTuple):
    """Names of what may be other than before."""

    stitches: set[str]
    sr_policies: set[str]

    def copy(self) -> "Changes":
        return Changes(set(self.stitches), set(self.sr_policies))


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    wanted: Wanted
    units: "immutables.Map[str, Placed]"
    vrfs: "immutables.Map[Vrf, VrfRules]"
    on_link: "immutables.Map[Vrf, OnLink]"
    """Of own networks."""
    withheld: "immutables.Map[Vrf, immutables.Map[Rank, None]]"
    """Rules of stitches that are not in use."""
    unused: "immutables.Map[str, Mapping[Vrf, tuple[Rank, ...]]]"
    """The same by stitch."""
    classes: Mapping[str, PortClasses]
    """Of each node."""
    uses: SharedUses
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
    probes: PathProbes = immutables.Map()
    gone: Mapping[str, Sequence[Entries]] = {}
    """Of each node, what is not there any more."""
    new: Mapping[str, Sequence[Entries]] = {}


class Compiled(NamedTuple):
    """How a VRF was last changed in this step."""

    gone: Collection[Rank]
    new: Mapping[Rank, Rule]
    classes_before: PortClasses
    change: VrfChange


class Made(NamedTuple):
    """What was made in this step."""

    vrfs: dict[Vrf, Compiled]
    contributions: MadeOnce


class Beside(NamedTuple):
    """What is counted and what is installed are mostly the same, and then made once: each finds here what the other
    has made."""

    assembly: Assembly | None
    made: Made


def assemble(wanted: Wanted, before: Assembly | None, changed: Changes | None, beside: Beside) -> Assembly:
    """`changed`: None: nobody knows.

    Raises NoCapacity.
    """
    return _Assembler(wanted, before, beside).assembled(changed)


class _Assembler:
    def __init__(self, wanted: Wanted, before: Assembly | None, beside: Beside) -> None:
        self._wanted = wanted
        self._before = before
        self._compiled = beside.made.vrfs
        self._made = beside.made.contributions
        self._other = beside.assembly
        self._units = Units(
            before.units if before is not None else immutables.Map(),
            beside.assembly.units if beside.assembly is not None else immutables.Map(),
            wanted.inventory.nodes,
        )
        self._unused = before.unused if before is not None else immutables.Map()
        self._withheld = before.withheld if before is not None else immutables.Map()
        self._vrfs = before.vrfs if before is not None else immutables.Map()
        self._on_link = before.on_link if before is not None else immutables.Map()
        self._uses = SharedUsesChange(before.uses if before is not None else SharedUses())
        self._classes = dict(before.classes) if before is not None else {}
        self._network = before.networks if before is not None else {}
        self._own = before.own if before is not None else {}
        self._crossed = before.crossed if before is not None else immutables.Map()
        self._between_edges = before.between_edges if before is not None else {}
        self._same_ways = before is not None and before.wanted.has_ways_of(wanted)
        """What a stitch is made into follows from the same as before, but for the stitch."""
        self._places = before.places if before is not None and self._same_ways else {}
        self._earlier = self._contributions_of(before) if before is not None else None
        """What stitches added."""
        self._contributions: Contributions
        """What they add, once networks are known."""
        self._told = _told(before.wanted, wanted) if before is not None else set()
        """Nodes that say other than they did."""
        if self._other is not None and not self._other.wanted.has_ways_of(wanted):
            self._other = None
        self._everything = not self._same_ways or bool(self._told and wanted.fabric.switches)
        """Else what is other of the fabric are paths between edges, and entries of nodes that say other than they did
        and of their neighbours. Switches have the MACs of others in the entries of SR Policies."""
        self._probing = Probing(before.probes if before is not None else immutables.Map(), wanted.descriptions)
        known = before.wanted.inventory.nodes if before is not None else {}
        self._stayed = wanted.inventory.nodes.keys() & known.keys()
        """Nodes that were there before, and are."""
        self._gone_rules: dict[Vrf, set[Rank]] = {}
        self._new_rules: dict[Vrf, dict[Rank, Rule]] = {}
        self._moved_rules: dict[Vrf, set[Rank]] = {}
        """Withheld now and not before, or the other way about."""

    def assembled(self, changed: Changes | None) -> Assembly:
        wanted = self._wanted
        everything = self._everything or changed is None  # also where there was nothing before
        if everything:
            self._vrfs = self._staying(self._vrfs)
            self._on_link = self._staying(self._on_link)
            self._probing.clear()
        isolated = self._isolated()
        repathed, resized = self._repathed() if not everything else (set(), None)
        if resized is not None:
            self._fabric_anew()
            resized |= self._told
        if resized is None or resized or isolated:
            self._networks(isolated, resized)
        if repathed:
            self._join_edges(repathed)
        if everything:
            self._uses.policies |= {*self._uses.now.policies, *self._between_edges}
            self._uses.services |= {*self._uses.now.services}
            self._uses.port_nodes |= {*wanted.inventory.nodes, *self._classes}
        self._contributions = Contributions(wanted, self._network, self._places, self._made)
        known = self._before.wanted.stitches if self._before is not None else ()
        names = {*wanted.stitches, *known} if everything or changed is None else self._concerned(changed)
        if not everything and (booted := self._booted()):
            names |= {name for name, stitch in wanted.stitches.items() if not booted.isdisjoint(stitch.plan_to_be.ends)}
        for name in names:
            self._stitch(name)
        self._classes_anew()
        for vrf in {*self._gone_rules, *self._new_rules, *self._moved_rules}:
            self._vrf(vrf)
        for policy in self._uses.policies:
            self._policy(policy)
        for service in self._uses.services:
            self._service(service)
        hosts = self._hosts(everything)
        if everything:
            self._sweep()
        return Assembly(
            wanted=wanted,
            units=self._units.all,
            vrfs=self._vrfs,
            on_link=self._on_link,
            withheld=self._withheld,
            unused=self._unused,
            classes=self._classes,
            uses=self._uses.now,
            networks=self._network,
            own=self._own,
            crossed=self._crossed,
            between_edges=self._between_edges,
            places=self._places,
            hosts=hosts,
            probes=self._probing.all,
            gone=self._units.gone,
            new=self._units.new,
        )

    # ---- units

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
        there |= {f"tunnel {link}" for link in self._uses.now.links}
        there |= {f"sr policy {node} {number}" for node, number in self._uses.policies}
        there |= {_at(policy, switch) for policy, switches in self._crossed.items() for switch in switches}
        there |= {f"service {node} {number}" for node, number in self._uses.services}
        there |= {f"ports {node}" for node in self._classes}
        for unit in [unit for unit, (node, _) in self._units.all.items() if unit not in there or node not in nodes]:
            self._units.drop(unit)

    def _fabric_anew(self) -> None:
        """Of nodes that were told other, and of their neighbours."""
        now, then = self._wanted.fabric.entries, self._before.wanted.fabric.entries if self._before is not None else {}
        for node in now if now is not then else ():
            if now[node] is not then.get(node):
                self._units.put(f"fabric {node}", node, now[node])

    def _booted(self) -> set[str]:
        """Nodes of which it is now known that they were booted at another time than was known before."""
        then = self._before.wanted.fabric.boot_epochs_s if self._before is not None else {}
        now = self._wanted.fabric.boot_epochs_s
        return {node for node in self._told if now.get(node) != then.get(node)}

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
                self._units.put(f"fabric {node}", node, entries)
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
                self._units.put(f"network {name} {node}", node, entries)
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
                self._uses.policies.add(key)

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
                if end in self._uses.now.policies:
                    self._uses.policies.add(end)
            if self._wanted.fabric.inner_mtu(was) != self._wanted.fabric.inner_mtu(now):
                use = self._uses.now.policies.get((now.headend, now.numbers[0]))
                concerned |= {*use.users} if use is not None else set()
        return concerned

    def _contributions_of(self, assembly: Assembly) -> Contributions:
        return Contributions(assembly.wanted, assembly.networks, assembly.places, self._made)

    def _stitch(self, name: str) -> None:
        earlier = self._before.wanted.stitch(name) if self._before is not None else None
        stitch = self._wanted.stitch(name)
        is_same = self._adds_the_same(earlier, stitch)
        withheld = stitch is not None and stitch.stage != Stage.ACTIVE
        if not is_same or withheld != (name in self._unused):
            self._withhold(name, self._contributions[name] if withheld else None)
        if is_same:
            return
        before = self._earlier[name] if self._earlier is not None and earlier is not None else None
        made = self._contributions[name] if stitch is not None else None
        was, shall = _units_of(before), _units_of(made)
        for node in was.keys() | shall.keys():
            gone = was.get(node, ()) if node in self._stayed else ()
            new = shall.get(node, ()) if node in self._wanted.inventory.nodes else ()
            if gone != new:
                self._units.change(node, gone, new)
        self._use(name, before, made)

    def _adds_the_same(self, earlier: Stitch | None, stitch: Stitch | None) -> bool:
        if earlier is None or stitch is None or self._earlier is None:
            return earlier is stitch
        if not self._same_ways or earlier.serial != stitch.serial:
            return False
        return self._earlier.basis(earlier) == self._contributions.basis(stitch)

    def _withhold(self, name: str, made: Contribution | None) -> None:
        """Notes which rules of a stitch are withheld, of those that it has now. None: none are."""
        was, now = self._unused.get(name, {}), ranks_of_use(name, made) if made is not None else {}
        for vrf in was.keys() | now.keys():
            before = self._withheld.get(vrf, immutables.Map())
            after = before
            for rank in was.get(vrf, ()):
                after = after.delete(rank)
            for rank in now.get(vrf, ()):
                after = after.set(rank, None)
            moved = {rank for rank in (*was.get(vrf, ()), *now.get(vrf, ())) if (rank in before) != (rank in after)}
            if moved:
                self._moved_rules.setdefault(vrf, set()).update(moved)
                self._withheld = self._withheld.set(vrf, after) if after else self._withheld.delete(vrf)
        if made is not None:
            self._unused = self._unused.set(name, now)
        elif name in self._unused:
            self._unused = self._unused.delete(name)

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
        self._uses.change(name, earlier, made)

    # ---- what stitches share

    def _classes_anew(self) -> None:
        """Classes of ports where others are asked for, and the VRFs that these are about."""
        if not self._uses.port_nodes:
            return
        uses: dict[str, set[tuple[bool, Ports]]] = {node: set() for node in self._uses.port_nodes}
        for node, is_source, ports in self._uses.now.ports:
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
                self._units.drop(f"ports {node}")
                continue
            self._classes[node] = classes
            self._units.put(f"ports {node}", node, port_entries(used, classes, f"nodes/{node}"))
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
        self._units.change(node, tuple(entries_gone), tuple(entries_new))
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
            self._units.put(f"on link {node} {number}", node, made.entries(number))

    def _policy(self, policy: Policy) -> None:
        node, number = policy
        use = self._uses.now.policies.get(policy)
        shared = use.policy if use is not None else None
        fabric, paths = self._wanted.fabric, self._between_edges.get(policy)
        if shared is not None and shared.policy:
            paths = self._wanted.sr_policies[shared.policy]
        if shared is not None and shared.border_port is not None:
            lists: tuple[SegmentList, ...] = (tunnel_list(shared.border_port),)
        elif paths is not None:
            lists = fabric.segment_lists(paths, node)
        else:
            self._units.drop(f"sr policy {node} {number}")
            self._cross(policy, {})
            self._probing.put(policy, ())
            return
        owner = f"sr_policies/{node}/{number}"
        entries = sr_policy_entries(number, fabric.locators[node], lists, owner)
        self._units.put(f"sr policy {node} {number}", node, entries)
        crossed = [crossing for segment_list in lists for crossing in segment_list.crossings]
        at_switches = crossing_entries(number, fabric.locators[node], crossed, fabric.macs, owner)
        self._cross(policy, at_switches)
        self._probing.put(policy, () if paths is None else path_probes(fabric, paths, node, number))

    def _cross(self, policy: Policy, entries: Mapping[str, Entries]) -> None:
        """What an SR Policy needs of the OpenFlow switches on its way."""
        before = self._crossed.get(policy, ())
        for switch in before:
            if switch not in entries:
                self._units.drop(_at(policy, switch))
        for switch, content in entries.items():
            self._units.put(_at(policy, switch), switch, content)
        if entries:
            self._crossed = self._crossed.set(policy, tuple(entries))
        elif before:
            self._crossed = self._crossed.delete(policy)

    def _service(self, service: Service) -> None:
        node, number = service
        users = self._wanted.stitches.in_order(self._uses.now.services.get(service, ()))
        if users:
            entry = self._contributions[users[0]].services[service].entry
            self._units.put(f"service {node} {number}", node, (entry,))
        else:
            self._units.drop(f"service {node} {number}")

    # ---- hosts

    def _hosts(self, everything: bool) -> Mapping[str, HostState]:
        """Gateways, tunnels and probes of each node; the entries of tunnels are units."""
        known: Mapping[str, HostState] = self._before.hosts if self._before is not None else {}
        links, fabric = self._uses.links, self._wanted.fabric
        concerned: set[str] | None = None
        if not everything:
            known = self._probing.put_into(known)
            if self._before is not None and self._before.wanted.tunnel_keys is not self._wanted.tunnel_keys:
                before, now = self._before.wanted.tunnel_keys, self._wanted.tunnel_keys
                links = links | {link for link in {*before, *now} if before.get(link) != now.get(link)}
            if not links and not self._told:
                return known
            border_ports = (fabric.border_ports.get(link) for link in links)
            ends = {border_port.node for border_port in border_ports if border_port is not None}
            concerned = (ends | self._told) & self._wanted.inventory.nodes.keys()
        tunnel_ends = self._tunnel_ends(everything)
        return host_states(self._wanted.inventory, fabric, self._probing, known, tunnel_ends, concerned, self._told)

    def _tunnel_ends(self, everything: bool) -> dict[str, list[TunnelEnd]]:
        """Of each node, oldest first."""
        fabric = self._wanted.fabric
        ends: dict[str, list[TunnelEnd]] = {}
        for link in sorted({*self._uses.now.links, *self._uses.links}):
            users = self._wanted.stitches.in_order(self._uses.now.links.get(link, ()))
            border_port = fabric.border_ports.get(link)
            if not users or border_port is None:
                self._units.drop(f"tunnel {link}")
                continue
            if everything or link in self._uses.links:
                owner = self._wanted.stitches[users[0]].plan.owner
                self._units.put(f"tunnel {link}", border_port.node, tunnel_entries(border_port, owner))
            domain = self._wanted.inventory.domains.get(border_port.domain)
            newest = self._contributions[users[-1]].borders[link]
            sid_block = domain.sid_block if domain is not None else ""
            ends.setdefault(border_port.node, []).append((newest, sid_block, self._wanted.tunnel_keys.get(link)))
        return ends


def _told(before: Wanted, now: Wanted) -> set[str]:
    """Nodes that say other than they did."""
    if before.descriptions is now.descriptions:
        return set()
    names = before.descriptions.keys() | now.descriptions.keys()
    return {name for name in names if before.descriptions.get(name) != now.descriptions.get(name)}


def _at(policy: Policy, switch: str) -> str:
    node, number = policy
    return f"sr policy {node} {number} at {switch}"


def _units_of(contribution: Contribution | None) -> Mapping[str, Entries]:
    return contribution.units if contribution is not None else {}


def _rules_of(contribution: Contribution | None) -> Mapping[Vrf, tuple[Rule, ...]]:
    return contribution.rules if contribution is not None else {}


def _by_network(isolations: Iterable[Isolation]) -> dict[str, tuple[Isolation, ...]]:
    isolated: dict[str, tuple[Isolation, ...]] = {}
    for isolation in isolations:
        isolated[isolation.network] = (*isolated.get(isolation.network, ()), isolation)
    return isolated
