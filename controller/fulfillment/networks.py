"""Own networks at their edges: hosts, gateways, who may reach whom."""

from collections.abc import Iterable, Mapping

from controller.fulfillment import numbering
from controller.fulfillment.fabric import attachment_entry, mac_address, port_status, resolve_entry, route_entry
from controller.fulfillment.rules import (
    DEFAULT_PRIORITY,
    ISOLATE_PRIORITY,
    PortClasses,
    Rule,
    compile_rules,
)
from controller.model.entry import Entry, Match
from controller.model.inventory import Attachment, Network
from controller.model.requirements import Isolation
from dataplane.host_api import Gateway, NodeDescription
from dataplane.reasons import DropReason


def network_entries(
    network: Network,
    node: str,
    index: int,
    rules: tuple[Rule, ...],
    classes: PortClasses,
    descriptions: Mapping[str, NodeDescription],
) -> tuple[Entry, ...]:
    """All of a network at one of its edges. Next hops of ports whose MAC is not known yet are left out."""
    owner = f"networks/{network.name}"
    entries: list[Entry] = []
    ports: set[int] = set()
    for attachment in _here(network, node):
        hop = numbering.ATTACHED_HOP + attachment.port
        if attachment.port not in ports:
            ports.add(attachment.port)
            entries.append(attachment_entry(attachment.port, "attach", ("context", index), owner))
            status = port_status(descriptions, node, attachment.port)
            if status is not None and status.mac:
                entries.append(resolve_entry(hop, attachment.port, mac_address(status.mac), owner))
        for address in map(numbering.address, attachment.addresses):
            entries.append(_admit(attachment.port, address, owner))
            entries.append(route_entry(index, (address, 128), hop, owner))
    leg = numbering.network_leg(index)
    hosts = {numbering.host_prefix(address) for one in network.attachments for address in one.addresses}
    default = Rule(
        source=None,  # source_guard admits only the network's own hosts
        destination=tuple(sorted(hosts)),  # not its prefixes: another network's host may have an address inside them
        default=True,
        leg=leg,
        priority=DEFAULT_PRIORITY,
        owner=owner,
    )
    steer = Entry(table="steer", match=(Match(field="leg", value=leg),), action="deliver", owner=owner)
    return (*entries, steer, *compile_rules(index, (default, *rules), classes))


def gateways(networks: Iterable[Network], node: str) -> tuple[Gateway, ...]:
    """Addresses that the edge answers for on its ports."""
    found: dict[int, Gateway] = {}
    for network in networks:
        ipv4 = next((address for address in network.gateways if ":" not in address), "")
        ipv6 = next((address for address in network.gateways if ":" in address), "")
        for attachment in _here(network, node):
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


def together_rules(index: int, *isolations: Isolation) -> tuple[Rule, ...]:
    """What of one network (with `index`) is isolated by the very same intents reaches each other as ever."""
    owners: dict[str, list[str]] = {}
    for isolation in isolations:
        for address in sorted({address for host in isolation.hosts for address in host.addresses}):
            owners.setdefault(address, []).append(isolation.owner)
    alike: dict[tuple[str, ...], list[str]] = {}
    for address, ones in owners.items():
        alike.setdefault(tuple(sorted(ones)), []).append(address)
    return tuple(
        Rule(
            source=tuple(sorted(addresses)),
            destination=tuple(sorted(addresses)),
            default=True,
            leg=numbering.network_leg(index),
            priority=ISOLATE_PRIORITY + 1,
            owner=f"networks/{isolations[0].network}",
        )
        for _, addresses in sorted(alike.items())
        if len(addresses) > 1
    )


def _here(network: Network, node: str) -> list[Attachment]:
    return sorted((one for one in network.attachments if one.node == node), key=lambda one: (one.port, one.name))


def _admit(port: int, address: int, owner: str) -> Entry:
    match = (Match(field="ingress_port", value=port), Match(field="source", value=address, prefix_length=128))
    return Entry(table="source_guard", match=match, action="admit", owner=owner)
