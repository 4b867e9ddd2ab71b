"""Own networks at their edges: hosts, gateways, who may reach whom."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import immutables
import msgspec

from controller.fulfillment import numbering
from controller.fulfillment.acl import DEFAULT_PRIORITY, ISOLATE_PRIORITY, SILENCE_PRIORITY, Rule
from controller.fulfillment.fabric import (
    admit_entry,
    attachment_entry,
    boottime,
    deliver_entry,
    edges,
    forward_entry,
    port_status,
    resolve_entry,
    route_entry,
)
from controller.fulfillment.groups import Rank
from controller.fulfillment.numbering import Kind, id_key
from controller.fulfillment.ports import attachable
from controller.fulfillment.prefix_map import common
from controller.model.entry import OwnedEntry
from controller.model.intent import Deny
from controller.model.inventory import Attachment, Network
from controller.model.prefix_trie import Prefix
from controller.model.requirements import Isolation
from dataplane import addressing
from dataplane.host_api import Gateway, NodeDescription
from dataplane.reasons import DropReason


class ToEdge(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one edge of a network that are about another one."""

    far: str
    forwarding_class: int
    """Of what goes there."""
    sr_policy: int


class NetworkIds(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a network at one of its edges."""

    vrf: int
    hosts: int
    """Policy class of its hosts there."""
    edges: int
    """Policy class of what comes from its other edges."""
    function: int
    """End.DT46 into that."""
    here: int
    """Forwarding class of what goes to its hosts there."""
    to_edges: tuple[ToEdge, ...] = ()


def network_keys(network: Network) -> Iterator[str]:
    """Of all numbers that it needs at its edges."""
    here = edges(network)
    for node in here:
        yield id_key(node, Kind.VRF, network.name)
        yield id_key(node, Kind.POLICY_CLASS, f"hosts {network.name}")
        yield id_key(node, Kind.POLICY_CLASS, f"edges {network.name}")
        yield id_key(node, Kind.FUNCTION, f"edges {network.name}")
        yield id_key(node, Kind.FORWARDING_CLASS, f"hosts {network.name}")
        for far in here:
            if far != node:
                yield id_key(node, Kind.FORWARDING_CLASS, f"{network.name} to {far}")
                yield id_key(node, Kind.SR_POLICY, f"edge {far}")


def network_ids(network: Network, node: str, ids: Mapping[str, int]) -> NetworkIds | None:
    """None: they have not been given out."""
    if id_key(node, Kind.VRF, network.name) not in ids:
        return None
    return NetworkIds(
        vrf=ids[id_key(node, Kind.VRF, network.name)],
        hosts=ids[id_key(node, Kind.POLICY_CLASS, f"hosts {network.name}")],
        edges=ids[id_key(node, Kind.POLICY_CLASS, f"edges {network.name}")],
        function=ids[id_key(node, Kind.FUNCTION, f"edges {network.name}")],
        here=ids[id_key(node, Kind.FORWARDING_CLASS, f"hosts {network.name}")],
        to_edges=tuple(
            ToEdge(
                far=far,
                forwarding_class=ids[id_key(node, Kind.FORWARDING_CLASS, f"{network.name} to {far}")],
                sr_policy=ids[id_key(node, Kind.SR_POLICY, f"edge {far}")],
            )
            for far in edges(network)
            if far != node
        ),
    )


def network_entries(
    network: Network, node: str, ids: NetworkIds, descriptions: Mapping[str, NodeDescription]
) -> tuple[OwnedEntry, ...]:
    """Its hosts at one of its edges. Next hops of ports whose MAC is not known yet are left out."""
    owner = f"networks/{network.name}"
    entries: list[OwnedEntry] = []
    ports: set[int] = set()
    for attachment in _here(network, node):
        if not attachable(node, descriptions, attachment.port):
            continue
        hop = numbering.ATTACHED_HOP + attachment.port
        if attachment.port not in ports:
            ports.add(attachment.port)
            action = "attach_reject" if network.deny is Deny.REJECT else "attach"
            into = (("vrf", ids.vrf), ("policy_class", ids.hosts))
            entries.append(attachment_entry(attachment.port, action, into, owner))
            status = port_status(descriptions, node, attachment.port)
            if status is not None and status.mac:
                entries.append(resolve_entry(hop, attachment.port, addressing.mac(status.mac), owner))
        for address in map(numbering.address, attachment.addresses):
            entries.append(admit_entry(attachment.port, (address, 128), owner))
            entries.append(route_entry(ids.vrf, (address, 128), hop, owner))
    return (*entries, deliver_entry(ids.here, ids.vrf, owner))


class OnLink(NamedTuple):
    """Addresses inside a network's own prefixes to which its rules lead at one edge, though they are no host of its.

    A host takes such an address for a neighbour's and asks who has it, and the edge answers only for what it has a
    route to. What is sent there is steered.
    """

    own: tuple[Prefix, ...]
    hosts: frozenset[Prefix]
    led_to: "immutables.Map[Prefix, immutables.Map[Rank, str]]" = immutables.Map()
    """By which rules, and whose these are."""

    def changed(self, gone: Mapping[Rank, Rule], new: Mapping[Rank, Rule]) -> "OnLink":
        led_to = self.led_to
        for rank, rule in gone.items():
            for at in self._inside(rule):
                left = led_to[at].delete(rank)
                led_to = led_to.set(at, left) if left else led_to.delete(at)
        for rank, rule in new.items():
            for at in self._inside(rule):
                led_to = led_to.set(at, led_to.get(at, immutables.Map()).set(rank, rule.owner))
        return self if led_to is self.led_to else self._replace(led_to=led_to)

    def _inside(self, rule: Rule) -> set[Prefix]:
        far = () if rule.drop is not None else map(numbering.prefix, rule.destination or ())
        met = (common(mine, theirs) for theirs in far for mine in self.own)
        return {inner for inner in met if inner is not None and inner not in self.hosts}

    def entries(self, vrf: int) -> tuple[OwnedEntry, ...]:
        if not self.led_to:
            return ()
        hop = numbering.BEHIND_ANOTHER_EDGE
        owners = {at: min(rules.values()) for at, rules in self.led_to.items()}
        routes = [route_entry(vrf, at, hop, owner) for at, owner in sorted(owners.items())]
        return (forward_entry(hop, 0, 0, 0, min(owners.values())), *routes)


def on_link(network: Network) -> OnLink:
    """Before any rule is known."""
    return OnLink(
        own=tuple(map(numbering.prefix, network.prefixes)),
        hosts=frozenset(
            (numbering.address(text), 128) for attachment in network.attachments for text in attachment.addresses
        ),
    )


def gateways(
    networks: Iterable[Network], node: str, descriptions: Mapping[str, NodeDescription]
) -> tuple[Gateway, ...]:
    """Addresses that the edge answers for on its ports, as far as it has them."""
    by_port: dict[int, Gateway] = {}
    for network in networks:
        ipv4 = next((address for address in network.gateways if ":" not in address), "")
        ipv6 = next((address for address in network.gateways if ":" in address), "")
        for attachment in _here(network, node):
            if not attachable(node, descriptions, attachment.port):
                continue
            by_port[attachment.port] = Gateway(port=attachment.port, ipv4=ipv4, ipv6=ipv6)
    return tuple(by_port[port] for port in sorted(by_port))


def network_rules(
    network: Network,
    node: str,
    ids: NetworkIds,
    reached: Collection[str],
    isolations: Sequence[Isolation],
    boot_epoch_s: int | None,
) -> tuple[Rule, ...]:
    """What holds at one edge whatever is permitted besides. `reached`: other edges that a path leads to.
    `boot_epoch_s`: of the node; None: nobody knows, so that no isolation there ends by itself.

    What comes from another edge is judged once more, and not sent on to a third; what the edge itself has to say of it
    comes from a host that is attached here.
    """
    attached = attached_prefixes(network, node)
    to_others = {to_edge.far: to_edge.forwarding_class for to_edge in ids.to_edges if to_edge.far in reached}
    destinations = _destinations(network, node, ids.here, to_others)
    isolated = _isolated(isolations, boot_epoch_s)
    rules = list(_rules(network, ids.hosts, destinations, isolated))
    if ids.to_edges:
        for rule in _rules(network, ids.edges, destinations, isolated):
            is_onward = rule.drop is None and rule.forwarding_class != ids.here
            onward = attached if rule.source is None else tuple(sorted({*rule.source}.intersection(attached)))
            if not is_onward or onward:
                rules.append(msgspec.structs.replace(rule, source=onward) if is_onward else rule)
    return tuple(rules)


MAX_APART = 512
"""Pairs of hosts isolated in different ways that are let together by the node itself: of more they stay apart until a
controller is there."""
Destinations = tuple[tuple[int, tuple[str, ...]], ...]
"""Each forwarding class with the hosts that it leads to."""


class _Isolated(NamedTuple):
    """The hosts of an isolation, at one node."""

    owner: str
    hosts: tuple[str, ...]
    until_s: int | None
    """Boot time of its end."""
    silences: bool


def _isolated(isolations: Iterable[Isolation], boot_epoch_s: int | None) -> list[_Isolated]:
    return [
        _Isolated(
            isolation.owner,
            tuple(sorted({address for host in isolation.hosts for address in host.addresses})),
            None if isolation.until_s is None or boot_epoch_s is None else boottime(isolation.until_s, boot_epoch_s),
            isolation.silences,
        )
        for isolation in isolations
    ]


def _rules(
    network: Network, policy_class: int, destinations: Destinations, isolated: Sequence[_Isolated]
) -> Iterator[Rule]:
    yield from _default_rules(network, policy_class, destinations)
    for owner, hosts, until_s, silences in isolated:
        for source, destination in ((hosts, None), (None, hosts)):
            yield _drop_rule(policy_class, source, destination, ISOLATE_PRIORITY, owner, until_s)
        if silences:
            yield _drop_rule(policy_class, hosts, None, SILENCE_PRIORITY, owner, until_s)
    yield from _together_rules(network, policy_class, destinations, isolated)


def _drop_rule(
    policy_class: int,
    source: tuple[str, ...] | None,
    destination: tuple[str, ...] | None,
    priority: int,
    owner: str,
    until_s: int | None,
) -> Rule:
    """Nothing passes, and it is counted as isolated."""
    return Rule(
        policy_class=policy_class,
        source=source,
        destination=destination,
        default=True,
        drop=DropReason.ISOLATED,
        until_s=until_s,
        priority=priority,
        owner=owner,
    )


def _together_rules(
    network: Network, policy_class: int, destinations: Destinations, isolated: Sequence[_Isolated]
) -> Iterator[Rule]:
    """What is isolated by the very same intents reaches each other as ever; and what others isolate besides, from when
    the last of these ends."""
    isolators: dict[str, list[int]] = {}
    for number, (_, hosts, *_) in enumerate(isolated):
        for address in hosts:
            isolators.setdefault(address, []).append(number)
    alike: dict[tuple[int, ...], set[str]] = {}
    for address, numbers in isolators.items():
        alike.setdefault(tuple(numbers), set()).add(address)
    for _, addresses in sorted(alike.items()):
        if len(addresses) > 1:
            hosts = tuple(sorted(addresses))
            yield from _permit_rules(network, policy_class, destinations, hosts, hosts, ISOLATE_PRIORITY + 1)
    overlapping = sorted(_overlapping(alike))
    for mine, theirs in overlapping if len(overlapping) <= MAX_APART else ():
        apart = {*mine} ^ {*theirs}
        ends = [isolated[number].until_s for number in apart]
        last = max(apart, key=lambda number: isolated[number].until_s or 0)
        until_s = isolated[last].until_s
        if None in ends or until_s is None:
            continue
        source, destination = (tuple(sorted(alike[numbers])) for numbers in (mine, theirs))
        owner = isolated[last].owner
        yield _drop_rule(policy_class, source, destination, ISOLATE_PRIORITY + 2, owner, until_s)
        yield from _permit_rules(network, policy_class, destinations, source, destination, ISOLATE_PRIORITY + 1)


def _overlapping(alike: Collection[tuple[int, ...]]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs, each both ways, of which both are isolated by one intent, and one by another too."""
    by_isolation: dict[int, list[tuple[int, ...]]] = {}
    for numbers in alike:
        for number in numbers:
            by_isolation.setdefault(number, []).append(numbers)
    return {pair for sharing in by_isolation.values() for pair in itertools.permutations(sharing, 2)}


def _permit_rules(
    network: Network,
    policy_class: int,
    destinations: Destinations,
    source: tuple[str, ...] | None,
    to: Collection[str],
    priority: int,
) -> Iterator[Rule]:
    for forwarding_class, hosts in destinations:
        receivers = tuple(sorted({*to}.intersection(hosts)))
        if receivers:
            yield Rule(
                policy_class=policy_class,
                source=source,
                destination=receivers,
                default=True,
                forwarding_class=forwarding_class,
                priority=priority,
                owner=f"networks/{network.name}",
            )


def _default_rules(network: Network, policy_class: int, destinations: Destinations) -> Iterator[Rule]:
    """To the network's hosts: not to its prefixes, since another network's host may have an address inside them. Who
    sends is not asked: source guards admit only the network's own hosts."""
    for forwarding_class, hosts in destinations:
        yield Rule(
            policy_class=policy_class,
            source=None,
            destination=hosts,
            default=True,
            forwarding_class=forwarding_class,
            priority=DEFAULT_PRIORITY,
            owner=f"networks/{network.name}",
        )


def _destinations(network: Network, node: str, here: int, to_others: Mapping[str, int]) -> Destinations:
    """`here`: of what is at `node`. What is behind an edge that no path leads to has the same: it is permitted, and
    there is no route."""
    numbers: dict[str, int] = {}
    for attachment in sorted(network.attachments, key=lambda attachment: (attachment.node != node, attachment.node)):
        number = here if attachment.node == node else to_others.get(attachment.node, here)
        for address in attachment.addresses:
            numbers.setdefault(numbering.host_prefix(address), number)
    hosts: dict[int, list[str]] = {}
    for address in sorted(numbers):
        hosts.setdefault(numbers[address], []).append(address)
    return tuple((number, tuple(hosts[number])) for number in sorted(hosts))


def attached_prefixes(network: Network, node: str) -> tuple[str, ...]:
    """Of the hosts at an edge, sorted."""
    return tuple(
        sorted(
            {numbering.host_prefix(address) for attachment in _here(network, node) for address in attachment.addresses}
        )
    )


def _here(network: Network, node: str) -> list[Attachment]:
    return sorted(
        (attachment for attachment in network.attachments if attachment.node == node),
        key=lambda attachment: (attachment.port, attachment.name),
    )
