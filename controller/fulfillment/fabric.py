"""What every node has whatever the intents are: End SIDs, ways to the other nodes, links, the networks' hosts."""

import ipaddress
from collections.abc import Mapping

import msgspec

from controller.fulfillment import numbering
from controller.fulfillment.graph import graph
from controller.fulfillment.paths import Route, shortest
from controller.model.entry import Entry, Match
from controller.model.inventory import Inventory
from controller.model.sr_policy import CandidatePath
from dataplane.host_api import BorderStatus, NodeDescription, PortStatus
from dataplane.reasons import ATTACHMENT_CLASS, FABRIC_CLASS, FABRIC_CONTEXT


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a border link meets its gateway."""

    link: str
    node: str
    domain: str
    ingress_class: int
    port: int
    mac: int
    kernel_mac: int
    public_key: str
    endpoint: str
    inner_mtu: int
    """Of what H.Encaps with one segment takes here."""
    boot_epoch_s: int
    border: str


class SegmentList(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate path, compiled for one direction."""

    segments: tuple[int, ...]
    """Before the last one, which is the tail's SID."""
    last_hop: tuple[str, int] | None
    """Node and next hop that must lead to the tail's SID where the ordinary way would take another link."""
    mtu: int
    """Smallest link MTU on it."""


class Fabric(msgspec.Struct, frozen=True, kw_only=True):
    entries: dict[str, tuple[Entry, ...]]
    """Of each node."""
    locators: dict[str, int]
    ports: dict[tuple[str, str], int]
    """(link, node) -> port."""
    links_towards: dict[tuple[str, str], str]
    """(node, other node) -> link of the ordinary way to the other's locator."""
    mtus: dict[str, int]
    """Of links."""
    crossings: dict[str, Crossing]
    """Of border links whose gateway has described itself."""

    def compile_path(self, path: CandidatePath, *, reverse: bool) -> SegmentList:
        """Segments that pin `path`: End of each inner node, by the planned link."""
        nodes, links = (path.nodes[::-1], path.links[::-1]) if reverse else (path.nodes, path.links)
        segments = []
        last_hop = None
        for index, link in enumerate(links):
            near, far = nodes[index], nodes[index + 1]
            ordinary = self.links_towards.get((near, far)) == link
            if index == len(links) - 1:
                last_hop = None if ordinary else (near, self.ports[link, near])
            else:
                by_port = numbering.END_BY_PORT + self.ports[link, far]
                segments.append(numbering.sid(self.locators[far], numbering.END if ordinary else by_port))
        return SegmentList(segments=tuple(segments), last_hop=last_hop, mtu=min(self.mtus[link] for link in links))


def fabric(inventory: Inventory, descriptions: Mapping[str, NodeDescription], own: str) -> Fabric:
    """Entries that need what a node has not said yet (its MACs) are left out until it has."""
    known = graph(inventory, own)
    ports: dict[tuple[str, str], int] = {}
    for link in inventory.links.values():
        for end in (link.a, link.b):
            if end is not None and not end.border:
                ports[link.name, end.node] = end.port
    macs = {
        (name, port.number): mac_address(port.mac)
        for name, description in descriptions.items()
        for port in description.ports
        if port.mac
    }
    locators = {name: int(ipaddress.ip_network(node.locator).network_address) for name, node in inventory.nodes.items()}
    towards: dict[tuple[str, str], str] = {}
    entries: dict[str, list[Entry]] = {name: _node_entries(name, locator) for name, locator in locators.items()}
    for name in inventory.nodes:
        routes: dict[str, Route] = shortest(known, name)
        for other, route in routes.items():
            if other != name and other in locators:
                towards[name, other] = route.links[0]
                hop = ports[route.links[0], name]
                entries[name].append(route_entry(FABRIC_CONTEXT, (locators[other], 48), hop, f"nodes/{other}"))
    for link in inventory.links.values():
        if link.b is None:
            continue
        for near, far in ((link.a, link.b), (link.b, link.a)):
            if near.node in locators and far.node in locators:
                entries[near.node] += _link_entries(
                    f"links/{link.name}", near.port, locators[near.node], far.port, locators[far.node]
                )
                source, target = macs.get((near.node, near.port)), macs.get((far.node, far.port))
                if source is not None and target is not None:
                    entries[near.node].append(_forward(near.port, near.port, source, target, f"links/{link.name}"))
    return Fabric(
        entries={name: tuple(ones) for name, ones in entries.items()},
        locators=locators,
        ports=ports,
        links_towards=towards,
        mtus={link.name: link.mtu for link in inventory.links.values()},
        crossings=_crossings(inventory, descriptions),
    )


def _node_entries(name: str, locator: int) -> list[Entry]:
    end = numbering.sid(locator, numbering.END)
    return [local_sid_entry(FABRIC_CLASS, end, "end", (), f"nodes/{name}")]


def _link_entries(owner: str, port: int, locator: int, far_port: int, far_locator: int) -> list[Entry]:
    """At one end of a link: what comes in by it, End.X over it, End for what came by it, and the way to the far
    end's End of that kind."""
    end_x = numbering.sid(locator, numbering.END_X + port)
    end_here = numbering.sid(locator, numbering.END_BY_PORT + port)
    end_there = numbering.sid(far_locator, numbering.END_BY_PORT + far_port)
    return [
        attachment_entry(port, "link", ("ingress_class", FABRIC_CLASS), owner),
        local_sid_entry(FABRIC_CLASS, end_x, "end_x", (("next_hop", port),), owner),
        local_sid_entry(FABRIC_CLASS, end_here, "end", (), owner),
        route_entry(FABRIC_CONTEXT, (end_there, 128), port, owner),
    ]


def _crossings(inventory: Inventory, descriptions: Mapping[str, NodeDescription]) -> dict[str, Crossing]:
    by_node: dict[str, list[tuple[str, str]]] = {}
    for link in inventory.links.values():
        if link.b is None:
            by_node.setdefault(link.a.node, []).append((link.a.border, link.name))
    crossings = {}
    for node, borders in by_node.items():
        description = descriptions.get(node)
        for index, (border, name) in enumerate(sorted(borders)):
            status = _status(description, border)
            if description is None or status is None or not status.public_key or not status.endpoint:
                continue
            link = inventory.links[name]
            underlay = 80 if status.endpoint.startswith("[") else 60  # IP, UDP and WireGuard's own 32 octets
            tunnel_mtu = min([link.mtu - underlay, *([status.mtu] if status.mtu > 0 else [])])
            crossings[name] = Crossing(
                link=name,
                node=node,
                domain=link.domain,
                ingress_class=ATTACHMENT_CLASS + 2 + index,
                port=status.port,
                mac=mac_address(status.mac) if status.mac else 0,
                kernel_mac=mac_address(status.kernel_mac) if status.kernel_mac else 0,
                public_key=status.public_key,
                endpoint=status.endpoint,
                inner_mtu=tunnel_mtu - encapsulation_bytes(1),
                boot_epoch_s=description.boot_epoch_s,
                border=border,
            )
    return crossings


def _status(description: NodeDescription | None, border: str) -> BorderStatus | None:
    found = description.borders if description is not None else ()
    return next((one for one in found if one.name == border), None)


def tunnel_entries(crossing: Crossing, owner: str) -> tuple[Entry, ...]:
    """What a gateway needs to send into a tunnel and to take what comes out of it."""
    entries = [attachment_entry(crossing.port, "link", ("ingress_class", crossing.ingress_class), owner)]
    if crossing.mac and crossing.kernel_mac:
        hop = numbering.TUNNEL_HOP + crossing.port
        entries.append(_forward(hop, crossing.port, crossing.mac, crossing.kernel_mac, owner))
    return tuple(entries)


def port_status(descriptions: Mapping[str, NodeDescription], node: str, port: int) -> PortStatus | None:
    description = descriptions.get(node)
    found = description.ports if description is not None else ()
    return next((one for one in found if one.number == port), None)


def encapsulation_bytes(segments: int) -> int:
    """Outer IPv6 header and SRH (RFC 8754 §2)."""
    return 40 + 8 + 16 * segments


def mac_address(text: str) -> int:
    return int(text.replace(":", ""), 16)


# ---- entries of the tables that are about forwarding


def attachment_entry(port: int, action: str, param: tuple[str, int], owner: str) -> Entry:
    match = (Match(field="ingress_port", value=port), Match(field="vlan_id", value=0))
    return Entry(table="attachment", match=match, action=action, params=(param,), owner=owner)


def local_sid_entry(
    ingress_class: int, sid: int, action: str, params: tuple[tuple[str, int], ...], owner: str
) -> Entry:
    match = (
        Match(field="ingress_class", value=ingress_class),
        Match(field="destination", value=sid, prefix_length=128),
    )
    return Entry(table="local_sid", match=match, action=action, params=params, owner=owner)


def route_entry(context: int, prefix: tuple[int, int], next_hop: int, owner: str) -> Entry:
    match = (
        Match(field="context", value=context),
        Match(field="destination", value=prefix[0], prefix_length=prefix[1]),
    )
    return Entry(table="route", match=match, action="set_next_hop", params=(("next_hop", next_hop),), owner=owner)


def resolve_entry(next_hop: int, port: int, mac: int, owner: str) -> Entry:
    params = (("port", port), ("source_mac", mac), ("vlan", 0))
    match = (Match(field="next_hop", value=next_hop),)
    return Entry(table="next_hop", match=match, action="resolve", params=params, owner=owner)


def _forward(next_hop: int, port: int, source_mac: int, destination_mac: int, owner: str) -> Entry:
    params = (("port", port), ("source_mac", source_mac), ("destination_mac", destination_mac), ("vlan", 0))
    match = (Match(field="next_hop", value=next_hop),)
    return Entry(table="next_hop", match=match, action="forward", params=params, owner=owner)
