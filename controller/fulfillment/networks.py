"""Own networks at their edges: hosts, gateways, who may reach whom."""

import itertools
from collections.abc import Iterable, Mapping

from controller.fulfillment import numbering
from controller.fulfillment.claims import common
from controller.fulfillment.fabric import (
    attachment_entry,
    forward_entry,
    port_status,
    resolve_entry,
    route_entry,
)
from controller.fulfillment.ports import attachable
from controller.fulfillment.rules import (
    DEFAULT_PRIORITY,
    ISOLATE_PRIORITY,
    NoRoom,
    PortClasses,
    Rule,
    compile_rules,
)
from controller.model.entry import Entry, Match
from controller.model.intent import Deny
from controller.model.inventory import Attachment, Network
from controller.model.requirements import Isolation
from dataplane import addressing
from dataplane.host_api import Gateway, NodeDescription
from dataplane.reasons import DropReason


def network_entries(
    network: Network,
    node: str,
    index: int,
    legs: Mapping[str, int],
    rules: tuple[Rule, ...],
    classes: PortClasses,
    descriptions: Mapping[str, NodeDescription],
) -> tuple[Entry, ...]:
    """All of a network at one of its edges. Next hops of ports whose MAC is not known yet are left out.

    `legs`: to its other edges, as far as a path leads there.
    """
    owner = f"networks/{network.name}"
    entries: list[Entry] = []
    ports: set[int] = set()
    for attachment in _here(network, node):
        if not attachable(node, descriptions, attachment.port):
            continue
        hop = numbering.ATTACHED_HOP + attachment.port
        if attachment.port not in ports:
            ports.add(attachment.port)
            action = "attach_reject" if network.deny is Deny.REJECT else "attach"
            entries.append(attachment_entry(attachment.port, action, ("context", index), owner))
            status = port_status(descriptions, node, attachment.port)
            if status is not None and status.mac:
                entries.append(resolve_entry(hop, attachment.port, addressing.mac(status.mac), owner))
        for address in map(numbering.address, attachment.addresses):
            entries.append(_admit(attachment.port, address, owner))
            entries.append(route_entry(index, (address, 128), hop, owner))
    leg = numbering.network_leg(index)
    steer = Entry(table="steer", match=(Match(field="leg", value=leg),), action="deliver", owner=owner)
    rules = (*_default_rules(network, node, index, legs), *rules)
    try:
        return (*entries, steer, *compile_rules(index, rules, classes, _attached(network, node)))
    except NoRoom as full:
        raise NoRoom(full.table, full.needed, node) from full


def on_link_entries(network: Network, index: int, rules: Iterable[Rule], local: Iterable[Entry]) -> tuple[Entry, ...]:
    """At one edge, routes to where `rules` lead inside the network's own prefixes, though it is no host of its.

    A host takes such an address for a neighbour's and asks who has it, and the edge answers only for what it has a
    route to. What is sent there is steered. `local`: routes to attached hosts of other networks, which are enough.
    """
    own = [numbering.prefix(text) for text in network.prefixes]
    known = {(numbering.address(text), 128) for one in network.attachments for text in one.addresses}
    there = [one for entry in local for one in entry.match if one.field == "destination"]
    known |= {(one.value, one.prefix_length or 0) for one in there}
    owners: dict[tuple[int, int], str] = {}
    for rule in rules:
        led_to = () if rule.drop is not None else rule.destination or ()
        for mine, far in itertools.product(own, map(numbering.prefix, led_to)):
            on_link = common(mine, far)
            if on_link is not None and on_link not in known:
                owners[on_link] = min(rule.owner, owners.get(on_link, rule.owner))
    if not owners:
        return ()
    hop = numbering.BEHIND_ANOTHER_EDGE
    routes = [route_entry(index, one, hop, owner) for one, owner in sorted(owners.items())]
    return (forward_entry(hop, 0, 0, 0, min(owners.values())), *routes)


def gateways(
    networks: Iterable[Network], node: str, descriptions: Mapping[str, NodeDescription]
) -> tuple[Gateway, ...]:
    """Addresses that the edge answers for on its ports, as far as it has them."""
    found: dict[int, Gateway] = {}
    for network in networks:
        ipv4 = next((address for address in network.gateways if ":" not in address), "")
        ipv6 = next((address for address in network.gateways if ":" in address), "")
        for attachment in _here(network, node):
            if not attachable(node, descriptions, attachment.port):
                continue
            found[attachment.port] = Gateway(port=attachment.port, ipv4=ipv4, ipv6=ipv6)
    return tuple(found[port] for port in sorted(found))


def isolation_rules(isolation: Isolation) -> tuple[Rule, ...]:
    """To and from the isolated hosts nothing passes, and it is counted as such."""
    hosts = tuple(sorted({address for host in isolation.hosts for address in host.addresses}))
    return tuple(
        Rule(
            source=source,
            destination=destination,
            default=True,
            drop=DropReason.ISOLATED,
            priority=ISOLATE_PRIORITY,
            owner=isolation.owner,
        )
        for source, destination in ((hosts, None), (None, hosts))
    )


def together_rules(
    network: Network, node: str, index: int, legs: Mapping[str, int], *isolations: Isolation
) -> tuple[Rule, ...]:
    """What of one network (with `index`) is isolated by the very same intents reaches each other as ever."""
    owners: dict[str, list[str]] = {}
    for isolation in isolations:
        for address in sorted({address for host in isolation.hosts for address in host.addresses}):
            owners.setdefault(address, []).append(isolation.owner)
    alike: dict[tuple[str, ...], set[str]] = {}
    for address, ones in owners.items():
        alike.setdefault(tuple(sorted(ones)), set()).add(address)
    attached, reached = _attached(network, node), _destinations(network, node, index, legs)
    rules = []
    for _, addresses in sorted(alike.items()):
        for leg, hosts in reached:
            sources = addresses if leg == numbering.network_leg(index) else addresses.intersection(attached)
            destinations = addresses.intersection(hosts)
            if len(addresses) > 1 and sources and destinations:
                rules.append(
                    Rule(
                        source=tuple(sorted(sources)),
                        destination=tuple(sorted(destinations)),
                        default=True,
                        leg=leg,
                        priority=ISOLATE_PRIORITY + 1,
                        owner=f"networks/{network.name}",
                    )
                )
    return tuple(rules)


def _default_rules(network: Network, node: str, index: int, legs: Mapping[str, int]) -> tuple[Rule, ...]:
    """To the network's hosts: not to its prefixes, since another network's host may have an address inside them.

    Who sends is not asked where the destination is attached here: source guards admit only the network's own hosts. To
    another edge is sent only what comes from a host that is attached here.
    """
    return tuple(
        Rule(
            source=None,
            attached=leg != numbering.network_leg(index),
            destination=hosts,
            default=True,
            leg=leg,
            priority=DEFAULT_PRIORITY,
            owner=f"networks/{network.name}",
        )
        for leg, hosts in _destinations(network, node, index, legs)
    )


def _destinations(
    network: Network, node: str, index: int, legs: Mapping[str, int]
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Each leg with the hosts that it leads to from `node`, sorted.

    What is behind an edge that no path leads to has the leg of what is here: it is permitted, and there is no route.
    """
    own = numbering.network_leg(index)
    found: dict[str, int] = {}
    for attachment in sorted(network.attachments, key=lambda one: (one.node != node, one.node)):
        leg = own if attachment.node == node else legs.get(attachment.node, own)
        for address in attachment.addresses:
            found.setdefault(numbering.host_prefix(address), leg)
    hosts: dict[int, list[str]] = {}
    for address in sorted(found):
        hosts.setdefault(found[address], []).append(address)
    return tuple((leg, tuple(hosts[leg])) for leg in sorted(hosts))


def _attached(network: Network, node: str) -> tuple[str, ...]:
    """Prefixes of the hosts at an edge."""
    return tuple(sorted({numbering.host_prefix(address) for one in _here(network, node) for address in one.addresses}))


def _here(network: Network, node: str) -> list[Attachment]:
    return sorted((one for one in network.attachments if one.node == node), key=lambda one: (one.port, one.name))


def _admit(port: int, address: int, owner: str) -> Entry:
    match = (Match(field="ingress_port", value=port), Match(field="source", value=address, prefix_length=128))
    return Entry(table="source_guard", match=match, action="admit", owner=owner)
