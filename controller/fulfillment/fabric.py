"""What every node has whatever the intents are: End SIDs, ways to other nodes, links; and how a path is compiled."""

import ipaddress
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from controller.fulfillment import numbering, paths
from controller.fulfillment.containers import CONTAINERS_MAX, Containers, encapsulation_bytes, pack
from controller.fulfillment.crossings import Crossing, color, crossings
from controller.fulfillment.crossings import node_entries as switch_entries
from controller.fulfillment.graph import Graph, graph
from controller.fulfillment.ports import end_objection
from controller.fulfillment.waypoints import each_version
from controller.model.entry import Match, OwnedEntry, Shape, owned_entry
from controller.model.inventory import Inventory, Link, Network
from controller.model.p4_switch import port_mac
from controller.model.sr_policy import CandidatePath, SrPolicy, SrPolicyId
from dataplane import addressing
from dataplane.host_api import LEAST_TUNNEL_MTU, BorderStatus, NodeDescription, PortRole, PortStatus
from dataplane.reasons import CANDIDATE_PATHS, FABRIC_CLASS, FABRIC_VRF, DropReason

LARGEST_MTU = 65535
_OF_UNATTACHED = Match(field="ingress_class", value=numbering.UNATTACHED_CLASS, mask=0xFFFF)
_ASKING = (
    (_OF_UNATTACHED, Match(field="ether_type", value=numbering.ETHERTYPE_ARP, mask=0xFFFF)),
    *(
        (
            _OF_UNATTACHED,
            Match(field="ether_type", value=numbering.ETHERTYPE_IPV6, mask=0xFFFF),
            Match(field="protocol", value=numbering.ICMPV6, mask=0xFF),
            Match(field="icmp_type", value=kind, mask=0xFF),
        )
        for kind in (
            numbering.ROUTER_SOLICITATION,
            numbering.NEIGHBOR_SOLICITATION,
            numbering.NEIGHBOR_ADVERTISEMENT,
        )
    ),
)
"""Frames with which a host says who it is."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What a packet belongs to at a node, from there on."""

    vrf: int
    policy_class: int


class BorderPort(msgspec.Struct, frozen=True, kw_only=True):
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
    border: str
    reaches: tuple[str, ...] = ()
    """Prefixes in which the neighbour's end may be; empty: an older agent does not say."""
    renews: bool = False
    """Its keys can be renewed."""


class SegmentList(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate path, compiled for one direction."""

    containers: Containers
    first_hop: int
    """Next hop of the headend: the port of the path's first link."""
    mtu: int
    """Smallest link MTU on it."""
    crossings: tuple[Crossing, ...] = ()
    """Of the OpenFlow switches on it."""

    @property
    def inner_mtu(self) -> int:
        return self.mtu - encapsulation_bytes(len(self.containers.values))


class Fabric(msgspec.Struct, frozen=True, kw_only=True):
    inventory: Inventory
    descriptions: Mapping[str, NodeDescription]
    """As nodes were when this was made."""
    entries: dict[str, tuple[OwnedEntry, ...]]
    """Of each node; the same object while what is made of it is the same."""
    parts: dict[str, dict[str, tuple[OwnedEntry, ...]]] = msgspec.field(default_factory=dict)
    """The same, by the link that they are about; empty: none. What a node says changes its own, and those of its links
    at their other ends."""
    locators: dict[str, int]
    ports: dict[tuple[str, str], int]
    """(link, node) -> port."""
    links_towards: dict[tuple[str, str], str]
    """(node, neighbouring node) -> link by which it is reached where nothing says otherwise."""
    links: dict[str, Link]
    border_ports: dict[str, BorderPort]
    """Of border links whose gateway has described itself."""
    edge_policies: dict[tuple[str, str], SrPolicy | None]
    """Between each two edges (first by name, second) that have a network in common. None: no path leads there. The same
    object while this, the nodes, the links and which of them are down are the same."""
    boot_epochs_s: dict[str, int] = msgspec.field(default_factory=dict)
    """Unix time at which each node that has described itself was booted."""
    down: tuple[str, ...] = ()
    """Links that they do not take."""
    switches: frozenset[str] = frozenset()
    """Nodes that are OpenFlow switches, and so no segments."""
    macs: dict[tuple[str, int], int] = msgspec.field(default_factory=dict)
    """(node, port) -> MAC, as nodes have told."""
    inner_mtus: dict[tuple[tuple[str, ...], ...], int] = msgspec.field(default_factory=dict)
    """By the links of the candidate paths, as far as they were asked for: it follows from nodes and links."""

    def compile_path(self, path: CandidatePath, *, reverse: bool) -> SegmentList:
        """For one direction."""
        nodes, links = (path.nodes[::-1], path.links[::-1]) if reverse else (path.nodes, path.links)
        return SegmentList(
            containers=pack(self.steps(nodes, links), self.locators[nodes[-1]]),
            first_hop=self.ports[links[0], nodes[0]],
            mtu=min(self.links[link].mtu for link in links),
            crossings=crossings(nodes, links, self.switches, self.locators, self.ports) if self.switches else (),
        )

    def steps(self, nodes: Sequence[str], links: Sequence[str]) -> list[tuple[int, int]]:
        """Of each inner node its locator, and its function of End.X, where the planned link is not the ordinary one (as
        none to a switch is), or 0: End."""
        steps = []
        for near, far, link in zip(nodes[1:], nodes[2:], links[1:], strict=False):
            if near in self.switches:
                continue
            is_ordinary = self.links_towards.get((near, far)) == link
            steps.append((self.locators[near], 0 if is_ordinary else numbering.END_X + self.ports[link, near]))
        return steps

    def segment_lists(self, policy: SrPolicy, headend: str) -> tuple[SegmentList, ...]:
        """Of its candidate paths, best first, from one of its ends."""
        lists = (self.compile_path(path, reverse=headend != policy.headend) for path in policy.candidate_paths)
        return tuple(segment_list for segment_list in lists if not segment_list.containers.is_too_long)

    def inner_mtu(self, policy: SrPolicy) -> int:
        """Largest inner packet that all its candidate paths take."""
        key = tuple(path.links for path in policy.candidate_paths)
        if key not in self.inner_mtus:
            sizes = (segment_list.inner_mtu for segment_list in self.segment_lists(policy, policy.headend))
            self.inner_mtus[key] = min(sizes, default=LARGEST_MTU)
        return self.inner_mtus[key]


def fabric(
    inventory: Inventory,
    descriptions: Mapping[str, NodeDescription],
    own: str,
    before: Fabric | None = None,
    down: Collection[str] = (),
) -> Fabric:
    """Entries that need what a node has not said yet (its MACs) are left out until it has.

    `before`: the last one; what follows from nodes and links alone is kept while these are the same. `down`: links that
    SR Policies do not take; the ways from node to neighbouring node do not depend on it.
    """
    known, own_nodes = before, inventory.nodes
    if known is None or (known.inventory.links, known.inventory.nodes) != (inventory.links, own_nodes):
        known = None
    locators = known.locators if known is not None else _locators(inventory)
    switches = known.switches if known is not None else _switches(inventory)
    ports = known.ports if known is not None else _ports(inventory)
    towards = known.links_towards if known is not None else _links_towards(inventory, locators.keys() - switches)
    told: Collection[str] = own_nodes
    """Nodes that say other than they did."""
    if known is not None:
        told = {name for name in own_nodes if descriptions.get(name) is not known.descriptions.get(name)}
    macs = _macs(inventory, locators, descriptions, told)
    if known is not None:
        macs = {end: mac for end, mac in known.macs.items() if end[0] not in told} | macs
    parts, entries = (dict(known.parts), dict(known.entries)) if known is not None else ({}, {})
    is_attached_alike = known is not None and known.inventory.networks is inventory.networks
    is_served_alike = known is not None and known.inventory.services is inventory.services
    concerned = told if is_attached_alike and is_served_alike else own_nodes
    own_parts = _own_entries(inventory, descriptions, concerned, locators, towards, ports, macs)
    for name, of_itself in own_parts.items():
        parts[name] = {**parts.get(name, {}), "": of_itself}
    of_links = _link_parts(inventory, descriptions, told, locators, switches, towards, macs)
    for name, of_node in of_links.items():
        parts[name] = {**parts[name], **of_node}
    for name in own_parts.keys() | of_links.keys():
        made = tuple(itertools.chain.from_iterable(parts[name].values()))
        if entries.get(name) != made:
            entries[name] = made
    is_as_before = known is not None and known.down == tuple(sorted(down))
    if known is not None and is_as_before and is_attached_alike:
        edge_policies = known.edge_policies
    else:
        edge_policies = _edge_policies(
            graph(inventory, own, down), known.edge_policies if known is not None and is_as_before else {}
        )
    return Fabric(
        inventory=inventory,
        descriptions=descriptions,
        entries=entries,
        parts=parts,
        locators=locators,
        ports=ports,
        links_towards=towards,
        links=inventory.links,
        border_ports=_border_ports(inventory, descriptions),
        boot_epochs_s={name: description.boot_epoch_s for name, description in descriptions.items()},
        edge_policies=edge_policies,
        down=tuple(sorted(down)),
        switches=switches,
        macs=macs,
        inner_mtus=known.inner_mtus if known is not None else {},
    )


def _locators(inventory: Inventory) -> dict[str, int]:
    return {name: int(ipaddress.ip_network(node.locator).network_address) for name, node in inventory.nodes.items()}


def _switches(inventory: Inventory) -> frozenset[str]:
    return frozenset(name for name, node in inventory.nodes.items() if node.switch is not None)


def _ports(inventory: Inventory) -> dict[tuple[str, str], int]:
    ports: dict[tuple[str, str], int] = {}
    for link in inventory.links.values():
        for end in (link.a, link.b):
            if end is not None and not end.border:
                ports[link.name, end.node] = end.port
    return ports


def _macs(
    inventory: Inventory,
    locators: Mapping[str, int],
    descriptions: Mapping[str, NodeDescription],
    nodes: Collection[str],
) -> dict[tuple[str, int], int]:
    """Of the ports of these nodes, and of P4 switches, which have those that we give them."""
    macs = {
        (name, port.number): addressing.mac(port.mac)
        for name in nodes
        if name in descriptions
        for port in descriptions[name].ports
        if port.mac
    }
    p4_switches = {name for name, node in inventory.nodes.items() if node.p4_switch is not None}
    return macs | {
        (end.node, end.port): port_mac(locators[end.node], end.port)
        for link in (inventory.links.values() if p4_switches else ())
        for end in (link.a, link.b)
        if end is not None and end.node in p4_switches
    }


def _own_entries(
    inventory: Inventory,
    descriptions: Mapping[str, NodeDescription],
    nodes: Collection[str],
    locators: Mapping[str, int],
    towards: Mapping[tuple[str, str], str],
    ports: Mapping[tuple[str, str], int],
    macs: Mapping[tuple[str, int], int],
) -> dict[str, tuple[OwnedEntry, ...]]:
    """Of these nodes, what is not about a link."""
    switches = {name for name in nodes if inventory.nodes[name].switch is not None}
    entries = {
        name: switch_entries(name) if name in switches else _node_entries(name, locators[name]) for name in nodes
    }
    for (name, other), first in towards.items():
        if name in entries:
            entries[name].append(route_entry(FABRIC_VRF, (locators[other], 48), ports[first, name], f"links/{first}"))
    unused = (*_undeclared(inventory, descriptions, nodes), *_unattached(inventory, descriptions, nodes))
    for name, entry in (*unused, *_into_services(inventory, macs)):
        if name in entries and name not in switches:
            entries[name].append(entry)
    return {name: tuple(of_node) for name, of_node in entries.items()}


def _link_parts(
    inventory: Inventory,
    descriptions: Mapping[str, NodeDescription],
    told: Collection[str],
    locators: Mapping[str, int],
    switches: Collection[str],
    towards: Mapping[tuple[str, str], str],
    macs: Mapping[tuple[str, int], int],
) -> dict[str, dict[str, tuple[OwnedEntry, ...]]]:
    """Of the links of these nodes, at both ends."""
    parts: dict[str, dict[str, tuple[OwnedEntry, ...]]] = {}
    for link in inventory.links.values() if told else ():
        if link.b is None or (link.a.node not in told and link.b.node not in told):
            continue
        for near, far in ((link.a, link.b), (link.b, link.a)):
            if near.node not in locators or far.node not in locators or near.node in switches:
                continue
            entries: list[OwnedEntry] = []
            if not end_objection(near, descriptions.get(near.node)):
                is_ordinary = towards.get((near.node, far.node)) == link.name
                entries = _link_entries(
                    f"links/{link.name}", near.port, locators[near.node], is_parallel=not is_ordinary
                )
                source, target = macs.get((near.node, near.port)), macs.get((far.node, far.port))
                if source is not None and target is not None:
                    entries.append(forward_entry(near.port, near.port, source, target, f"links/{link.name}"))
            parts.setdefault(near.node, {})[link.name] = tuple(entries)
    return parts


def around(before: Fabric, known: Graph) -> Fabric:
    """The same with SR Policies between edges by what of the links is in use; the very same where they stay."""
    kept = {
        pair: policy
        for pair, policy in before.edge_policies.items()
        if set(before.down) <= set(known.down) and not _takes(policy, known.down)
    }
    policies = _edge_policies(known, kept)
    if policies == before.edge_policies:
        return before
    return msgspec.structs.replace(before, edge_policies=policies, down=known.down)


def _takes(policy: SrPolicy | None, links: Collection[str]) -> bool:
    return policy is not None and any(link in links for path in policy.candidate_paths for link in path.links)


def _links_towards(inventory: Inventory, nodes: Collection[str]) -> dict[tuple[str, str], str]:
    """Of several links between two nodes the quickest."""
    best: dict[tuple[str, str], tuple[int, int, str]] = {}
    for link in inventory.links.values():
        if link.b is None or link.a.node not in nodes or link.b.node not in nodes:
            continue
        rank = (link.delay_us, link.cost, link.name)
        for ends in ((link.a.node, link.b.node), (link.b.node, link.a.node)):
            best[ends] = min(rank, best.get(ends, rank))
    return {ends: name for ends, (_, _, name) in best.items()}


def _edge_policies(
    known: Graph, before: dict[tuple[str, str], SrPolicy | None]
) -> dict[tuple[str, str], SrPolicy | None]:
    """The very object of before if nothing is new."""
    networks = known.inventory.networks.values()
    pairs = {pair for network in networks for pair in itertools.combinations(edges(network), 2)}
    if pairs == before.keys():
        return before
    return {
        (near, far): before[near, far] if (near, far) in before else _between(known, near, far)
        for near, far in sorted(pairs)
    }


def _between(known: Graph, near: str, far: str) -> SrPolicy | None:
    return paths.sr_policy(known, SrPolicyId(headend=near, endpoint=far))


def edges(network: Network) -> tuple[str, ...]:
    """Nodes with hosts of it."""
    return tuple(sorted({attachment.node for attachment in network.attachments}))


def _node_entries(name: str, locator: int) -> list[OwnedEntry]:
    """The node as a segment, and what becomes of packets for a function that it does not have: without that, End would
    take the function for the next node."""
    owner, functions = f"nodes/{name}", (numbering.sid(locator, numbering.FIRST_FUNCTION), 48 + 3)
    return [
        local_sid_entry(FABRIC_CLASS, (locator, 48), "end", (), owner),
        local_sid_entry(FABRIC_CLASS, functions, "drop", (("reason", DropReason.SID_GONE),), owner),
        *(_lldp_entry(ingress_class, owner) for ingress_class in (FABRIC_CLASS, numbering.UNDECLARED_CLASS)),
    ]


def _lldp_entry(ingress_class: int, owner: str) -> OwnedEntry:
    """LLDP that comes in by a link goes to the controller; what hosts send does not."""
    match = (
        Match(field="ingress_class", value=ingress_class, mask=0xFFFF),
        Match(field="ether_type", value=numbering.ETHERTYPE_LLDP, mask=0xFFFF),
    )
    params = (("reason", numbering.PUNT_LLDP),)
    return owned_entry(table="punt_frame", match=match, priority=1, action="punt", params=params, owner=owner)


def _undeclared(
    inventory: Inventory, descriptions: Mapping[str, NodeDescription], nodes: Collection[str]
) -> Iterator[tuple[str, OwnedEntry]]:
    """Ports for links at which the inventory has none, by node."""
    declared = {
        (end.node, end.port) for link in inventory.links.values() for end in (link.a, link.b) if end is not None
    }
    params = (("ingress_class", numbering.UNDECLARED_CLASS),)
    for node in nodes:
        description = descriptions.get(node)
        for port in description.ports if description is not None else ():
            if port.role == PortRole.FABRIC and (node, port.number) not in declared:
                yield node, attachment_entry(port.number, "link", params, f"nodes/{node}")


def _unattached(
    inventory: Inventory, descriptions: Mapping[str, NodeDescription], nodes: Collection[str]
) -> Iterator[tuple[str, OwnedEntry]]:
    """Ports for hosts at which no network has one, by node, and what is heard there."""
    attached = {(host.node, host.port) for network in inventory.networks.values() for host in network.attachments}
    params = (("ingress_class", numbering.UNATTACHED_CLASS),)
    for node in nodes:
        description = descriptions.get(node)
        ports = description.ports if description is not None else ()
        free = [port.number for port in ports if port.role == PortRole.ATTACHMENT]
        free = [number for number in free if (node, number) not in attached]
        for number in free:
            yield node, attachment_entry(number, "link", params, f"nodes/{node}")
        for match in _ASKING if free else ():
            said = (("reason", numbering.PUNT_HOST),)
            yield (
                node,
                owned_entry(
                    table="punt_frame", match=match, priority=1, action="punt", params=said, owner=f"nodes/{node}"
                ),
            )


def _into_services(inventory: Inventory, macs: Mapping[tuple[str, int], int]) -> Iterator[tuple[str, OwnedEntry]]:
    """To the hosts of services that traffic can pass, at either of their ports, by node."""
    for service in inventory.services.values():
        network = inventory.networks.get(service.name.rpartition("/")[0])
        if network is None or service.through is None:
            continue
        for attachment in network.attachments:
            mac = macs.get((attachment.node, attachment.port))
            if attachment.name not in service.through or attachment.node not in inventory.nodes or mac is None:
                continue
            for text in each_version(attachment.addresses):
                hop = service_hops(attachment.port)[":" in text]
                via = numbering.address(text)
                yield attachment.node, resolve_via_entry(hop, attachment.port, mac, via, f"networks/{network.name}")


def _link_entries(owner: str, port: int, locator: int, *, is_parallel: bool) -> list[OwnedEntry]:
    """At one end of a link: what comes in by it, and End.X over it where the ordinary way is another."""
    arrival = attachment_entry(port, "link", (("ingress_class", FABRIC_CLASS),), owner)
    if not is_parallel:
        return [arrival]
    end_x = numbering.sid(locator, numbering.END_X + port)
    return [arrival, local_sid_entry(FABRIC_CLASS, (end_x, 64), "end_x", (("next_hop", port),), owner)]


def _border_ports(inventory: Inventory, descriptions: Mapping[str, NodeDescription]) -> dict[str, BorderPort]:
    by_node: dict[str, list[tuple[str, str]]] = {}
    for link in inventory.links.values():
        if link.b is None:
            by_node.setdefault(link.a.node, []).append((link.a.border, link.name))
    border_ports = {}
    for node, borders in by_node.items():
        description = descriptions.get(node)
        for border, name in sorted(borders):
            status = _status(description, border)
            if description is None or status is None or not status.public_key or not status.endpoint:
                continue
            link = inventory.links[name]
            underlay = 80 if status.endpoint.startswith("[") else 60  # IP, UDP and WireGuard's own 32 octets
            sizes = [link.mtu - underlay, *([status.mtu] if status.mtu > 0 else [])]
            border_ports[name] = BorderPort(
                link=name,
                node=node,
                domain=link.domain,
                ingress_class=numbering.BORDER_CLASS + status.port,
                port=status.port,
                mac=addressing.mac(status.mac) if status.mac else 0,
                kernel_mac=addressing.mac(status.kernel_mac) if status.kernel_mac else 0,
                public_key=status.public_key,
                endpoint=status.endpoint,
                inner_mtu=max(min(sizes), LEAST_TUNNEL_MTU) - encapsulation_bytes(1),
                reaches=status.reaches,
                renews=status.renews,
                border=border,
            )
    return border_ports


def _status(description: NodeDescription | None, border: str) -> BorderStatus | None:
    borders = description.borders if description is not None else ()
    return next((border_status for border_status in borders if border_status.name == border), None)


def tunnel_entries(border_port: BorderPort, owner: str) -> tuple[OwnedEntry, ...]:
    """What a gateway needs to send into a tunnel and to take what comes out of it."""
    entries = [attachment_entry(border_port.port, "link", (("ingress_class", border_port.ingress_class),), owner)]
    if border_port.mac and border_port.kernel_mac:
        hop = numbering.TUNNEL_HOP + border_port.port
        entries.append(forward_entry(hop, border_port.port, border_port.mac, border_port.kernel_mac, owner))
    return tuple(entries)


def port_status(descriptions: Mapping[str, NodeDescription], node: str, port: int) -> PortStatus | None:
    description = descriptions.get(node)
    ports = description.ports if description is not None else ()
    return next((status for status in ports if status.number == port), None)


def tunnel_list(border_port: BorderPort) -> SegmentList:
    """The way into a tunnel: the neighbour's SID is all that it needs."""
    mtu = border_port.inner_mtu + encapsulation_bytes(1)
    return SegmentList(containers=pack((), 0), first_hop=numbering.TUNNEL_HOP + border_port.port, mtu=mtu)


# ---- entries of the tables that are about forwarding


def attachment_entry(port: int, action: str, params: tuple[tuple[str, int], ...], owner: str) -> OwnedEntry:
    match = (Match(field="ingress_port", value=port), Match(field="vlan_id", value=0))
    return owned_entry(table="attachment", match=match, action=action, params=params, owner=owner)


def local_sid_entry(
    ingress_class: int, sid: tuple[int, int], action: str, params: tuple[tuple[str, int], ...], owner: str
) -> OwnedEntry:
    match = (
        Match(field="ingress_class", value=ingress_class),
        Match(field="destination", value=sid[0], prefix_length=sid[1]),
    )
    return owned_entry(table="local_sid", match=match, action=action, params=params, owner=owner)


def route_entry(vrf: int, prefix: tuple[int, int], next_hop: int, owner: str) -> OwnedEntry:
    match = (
        Match(field="vrf", value=vrf),
        Match(field="destination", value=prefix[0], prefix_length=prefix[1]),
    )
    return owned_entry(table="route", match=match, action="set_next_hop", params=(("next_hop", next_hop),), owner=owner)


def resolve_entry(next_hop: int, port: int, mac: int, owner: str) -> OwnedEntry:
    params = (("port", port), ("source_mac", mac), ("vlan", 0))
    match = (Match(field="next_hop", value=next_hop),)
    return owned_entry(table="next_hop", match=match, action="resolve", params=params, owner=owner)


def service_hops(port: int) -> tuple[int, int]:
    """Next hops of IPv4 and IPv6 into a service behind a port."""
    return numbering.SERVICE_HOP_IPV4 + port, numbering.SERVICE_HOP_IPV6 + port


def resolve_via_entry(next_hop: int, port: int, mac: int, via: int, owner: str) -> OwnedEntry:
    params = (("port", port), ("source_mac", mac), ("vlan", 0), ("via", via))
    match = (Match(field="next_hop", value=next_hop),)
    return owned_entry(table="next_hop", match=match, action="resolve_via", params=params, owner=owner)


def admit_entry(port: int, prefix: tuple[int, int], owner: str) -> OwnedEntry:
    """Sources of packets that may come in at a host's port."""
    match = (Match(field="ingress_port", value=port), Match(field="source", value=prefix[0], prefix_length=prefix[1]))
    return owned_entry(table="source_guard", match=match, action="admit", owner=owner)


def forward_entry(next_hop: int, port: int, source_mac: int, destination_mac: int, owner: str) -> OwnedEntry:
    params = (("port", port), ("source_mac", source_mac), ("destination_mac", destination_mac), ("vlan", 0))
    match = (Match(field="next_hop", value=next_hop),)
    return owned_entry(table="next_hop", match=match, action="forward", params=params, owner=owner)


def boottime(unix_s: int, boot_epoch_s: int) -> int:
    """On a node's clock. Fields have 32 bits: a later time is that of 136 years."""
    return min(max(0, unix_s - boot_epoch_s), 2**32 - 1)


def lease_entry(forwarding_class: int, expires_s: int, boot_epoch_s: int | None, owner: str) -> OwnedEntry:
    """The forwarding class closes at a Unix time, with every process dead; at once where nobody knows when the node was
    booted."""
    params = (("boottime_s", boottime(expires_s, boot_epoch_s) if boot_epoch_s is not None else 0),)
    return owned_entry(
        table="lease",
        match=(Match(field="forwarding_class", value=forwarding_class),),
        action="expire_at",
        params=params,
        owner=owner,
    )


# ---- entries of forwarding classes and SR Policies


_ENCAPSULATE = Shape(
    "steer",
    ("forwarding_class",),
    "encapsulate",
    ("sr_policy", "liveness_group", "service_sid", "dscp", "inner_mtu"),
)
_DELIVER = Shape("steer", ("forwarding_class",), "deliver", ("vrf",))
_TO_SERVICE = Shape("steer", ("forwarding_class",), "to_service", ("ipv4_next_hop", "ipv6_next_hop", "inner_mtu"))
_SERVICE = Shape("local_sid", ("ingress_class", "destination"), "end_dt46", ("vrf", "policy_class", "answer_class"))


def deliver_entry(forwarding_class: int, vrf: int, owner: str) -> OwnedEntry:
    return _DELIVER.entry((forwarding_class, None, None, None), (vrf,), owner)


def encapsulate_entry(
    forwarding_class: int, sr_policy: int, service_sid: int, dscp: int, inner_mtu: int, owner: str
) -> OwnedEntry:
    """The liveness group of an SR Policy has the same number."""
    params = (sr_policy, sr_policy, service_sid, dscp, inner_mtu)
    return _ENCAPSULATE.entry((forwarding_class, None, None, None), params, owner)


def service_way_entry(forwarding_class: int, hops: tuple[int, int], inner_mtu: int, owner: str) -> OwnedEntry:
    """Into a service that is passed. `hops`: of IPv4 and IPv6, 0: it takes none of that."""
    return _TO_SERVICE.entry((forwarding_class, None, None, None), (*hops, inner_mtu), owner)


def translated_entry(entry: OwnedEntry) -> OwnedEntry:
    """A `steer` entry whose class is translated (`move_entry`)."""
    return entry.replaced(action=f"translate_{entry.action}")


def move_entry(side: str, forwarding_class: int, prefix: tuple[int, int], to: int, owner: str) -> OwnedEntry:
    """Of a class that is translated: `side` (source or destination) from one prefix into another of the same length."""
    match = (
        Match(field="forwarding_class", value=forwarding_class),
        Match(field="address", value=prefix[0], prefix_length=prefix[1]),
    )
    params = (("prefix", to), ("host_mask", (1 << (128 - prefix[1])) - 1))
    return owned_entry(table=f"translate_{side}", match=match, action=f"move_{side}", params=params, owner=owner)


def service_entry(ingress_class: int, sid: int, into: Arrival, answer_class: int, owner: str) -> OwnedEntry:
    """End.DT46. `answer_class`: on which a sender is told what becomes of its packets; 0: by the VRF's routes."""
    match = (ingress_class, None, None, None, sid, None, 128, None)
    return _SERVICE.entry(match, (into.vrf, into.policy_class, answer_class), owner)


def sr_policy_entries(sr_policy: int, source: int, lists: Sequence[SegmentList], owner: str) -> tuple[OwnedEntry, ...]:
    """`source`: locator of the headend. `lists`: of the candidate paths, best first."""
    entries = [
        owned_entry(
            table="path_liveness",
            match=(Match(field="liveness_group", value=sr_policy),),
            action="set_live",
            params=(("live", (1 << len(lists)) - 1),),
            owner=owner,
        )
    ]
    for index, segment_list in enumerate(lists):
        values = segment_list.containers.values
        entries.append(
            owned_entry(
                table="sr_policy",
                match=(
                    Match(field="sr_policy", value=sr_policy),
                    Match(field="live", value=1 << index, mask=1 << index),
                ),
                priority=CANDIDATE_PATHS - index,
                action="h_encaps",
                params=(
                    ("source", source),
                    ("color", color(sr_policy)),
                    ("first_hop", segment_list.first_hop),
                    ("last_container", len(values) - 1),
                    ("merge_bits", segment_list.containers.merge_bits),
                    *((f"container_{place}", value) for place, value in enumerate(_filled(values))),
                ),
                owner=owner,
            )
        )
    return tuple(entries)


def _filled(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values, *([0] * (CONTAINERS_MAX - len(values))))
