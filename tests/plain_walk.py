"""Packets through all nodes of all domains by plain table semantics: longest prefix, highest priority, nothing else.

An implementation beside the reference pipeline: entries as the controllers wrote them, packets as values. The outer
packet is walked node by node too, once for each SR Policy and candidate path, since it does not depend on the inner
one: all live candidate paths must end in the same policy class.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from controller.fulfillment.meaning import Packet
from controller.fulfillment.numbering import address, address_text, prefix
from controller.model.entry import OwnedEntry
from dataplane.reasons import ATTACHMENT_CLASS, FABRIC_CLASS, FABRIC_VRF, DropReason, L4Class
from tests.simulator import BOOT_EPOCH_S, World

MAX_HOPS = 32
PROTOCOLS = {L4Class.TCP_OPEN: 6, L4Class.TCP: 6, L4Class.UDP: 17}
Place = tuple[str, int]
"""Node and port."""
Arrival = tuple[str, int, int]
"""Node, VRF and policy class."""


class End(NamedTuple):
    """Where a packet ended."""

    delivered: Place | None
    """Node and port of the host; None: it was dropped."""
    why: str
    first: OwnedEntry | None
    """Which decided first."""
    nodes: tuple[str, ...]
    """Which decided about the inner packet."""
    packet: Packet | None = None
    """As it was delivered."""


class Tables:
    """Of one node. What was asked before is remembered."""

    def __init__(self, entries: Iterable[OwnedEntry]) -> None:
        self._entries: dict[str, list[OwnedEntry]] = {}
        for entry in entries:
            self._entries.setdefault(entry.table, []).append(entry)
        for entries_of_table in self._entries.values():
            entries_of_table.sort(
                key=lambda listed: (-listed.priority, -sum(match.prefix_length or 0 for match in listed.match))
            )
        self._found: dict[tuple[str, tuple[int, ...]], OwnedEntry | None] = {}
        self._matching: dict[tuple[str, tuple[int, ...]], list[OwnedEntry]] = {}

    def look_up(self, table: str, **fields: int) -> OwnedEntry | None:
        key = (table, tuple(fields.values()))
        try:
            return self._found[key]
        except KeyError:
            candidates = self._entries.get(table, ())
            entry = self._found[key] = next(
                (candidate for candidate in candidates if _matches(candidate, fields)), None
            )
            return entry

    def says(self, now_boottime_s: float, **fields: int) -> OwnedEntry | None:
        """What decides in `flow_policy`: the highest that has not ended, if it permits; else the highest of all that
        permit or have not ended."""
        key = ("all of flow_policy", tuple(fields.values()))
        if key not in self._matching:
            of_table = self._entries.get("flow_policy", ())
            self._matching[key] = [entry for entry in of_table if _matches(entry, fields)]
        there = self._matching[key]
        decides = next((entry for entry in there if not self.has_ended(entry, now_boottime_s)), None)
        if decides is not None and decides.action.startswith("permit"):
            return decides
        return next((entry for entry in there if entry is decides or entry.action.startswith("permit")), None)

    def sent(self, steer: OwnedEntry, packet: Packet) -> Packet:
        """With the addresses that it leaves with."""
        if not steer.action.startswith("translate_"):
            return packet
        number = steer.match[0].value
        ends = (self._moved(side, number, address(getattr(packet, side))) for side in ("source", "destination"))
        source, destination = map(address_text, ends)
        return msgspec.structs.replace(packet, source=source, destination=destination)

    def _moved(self, side: str, forwarding_class: int, value: int) -> int:
        move = self.look_up(f"translate_{side}", forwarding_class=forwarding_class, address=value)
        params = dict(move.params) if move is not None else {"prefix": value, "host_mask": 0}
        return params["prefix"] | value & params["host_mask"]

    def has_ended(self, entry: OwnedEntry, now_boottime_s: float) -> bool:
        params = dict(entry.params)
        if "forwarding_class" in params:
            lease = self.look_up("lease", forwarding_class=params["forwarding_class"])
            return lease is not None and now_boottime_s >= lease.params[0][1]
        return now_boottime_s >= params.get("boottime_s", math.inf)

    def value(self, table: str, **fields: int) -> int:
        entry = self.look_up(table, **fields)
        return entry.params[0][1] if entry is not None else 0

    def decide(self, vrf: int, policy_class: int, packet: Packet, now_boottime_s: float = 0) -> OwnedEntry | None:
        # an ICMP error as what it is about
        kind = L4Class.TCP if packet.l4_class == L4Class.ICMP_ERROR else packet.l4_class
        protocol = PROTOCOLS.get(kind, 0)
        return self.says(
            now_boottime_s,
            policy_class=policy_class,
            l4_class=int(kind),
            source_group=self.value("source_group", vrf=vrf, address=address(packet.source)),
            destination_group=self.value("destination_group", vrf=vrf, address=address(packet.destination)),
            source_port_class=self.value("source_port_class", protocol=protocol, port=packet.source_port),
            destination_port_class=self.value(
                "destination_port_class", protocol=protocol, port=packet.destination_port
            ),
        )


def _matches(entry: OwnedEntry, fields: dict[str, int]) -> bool:
    for match in entry.match:
        value = fields[match.field]
        if match.prefix_length is not None:
            if value >> (128 - match.prefix_length) != match.value >> (128 - match.prefix_length):
                return False
        elif match.high is not None:
            if not match.value <= value <= match.high:
                return False
        elif (value if match.mask is None else value & match.mask) != match.value:
            return False
    return True


class Dropped(Exception):
    """On the way of an outer packet."""


class PlainWalk:
    def __init__(self, world: World, now_s: float) -> None:
        self._prefixes = {network.name: tuple(map(prefix, network.prefixes)) for network in world.topology.networks}
        self._now_boottime_s = now_s - BOOT_EPOCH_S
        self._tables = {name: Tables(node.entries.values()) for name, node in world.nodes.items()}
        self._wires = _wires(world)
        self._gateways = {
            (name, gateway.port): {address(text) for text in (gateway.ipv4, gateway.ipv6) if text}
            for name, node in world.nodes.items()
            for gateway in node.host.gateways
        }
        self._ends: dict[tuple[str, int, int], Arrival | str] = {}
        self.trails: dict[tuple[str, int, int], tuple[str, ...]] = {}
        """Headend, SR Policy, candidate path -> nodes that the outer packet passes; of those that were walked."""

    def send(self, node: str, port: int, packet: Packet) -> End:
        """`packet` as a host behind `port` sends it."""
        at, source, destination = self._tables[node], address(packet.source), address(packet.destination)
        attachment = at.look_up("attachment", ingress_port=port, vlan_id=0)
        if attachment is None or attachment.action not in ("attach", "attach_reject"):
            return End(None, "unknown attachment", None, (node,))
        if destination in self._gateways[node, port]:
            return End(None, "for the gateway", None, (node,))
        if at.look_up("source_guard", ingress_port=port, source=source) is None:
            return End(None, "source not admitted", None, (node,))
        (_, vrf), (_, policy_class) = attachment.params
        end = self.decapsulated(node, vrf, policy_class, packet)
        if end.delivered is not None and not self._is_next_mac_known(node, port, vrf, packet):
            return End(None, "nobody answers for it", end.first, (node,))
        return end

    def _is_next_mac_known(self, node: str, port: int, vrf: int, packet: Packet) -> bool:
        """A host asks who has what is on its link. The edge answers for what is behind another port, hosts for
        themselves."""
        destination = address(packet.destination)
        on_link = self._prefixes[packet.network]
        if not any(destination >> (128 - length) == value >> (128 - length) for value, length in on_link):
            return True
        at = self._tables[node]
        route = at.look_up("route", vrf=vrf, destination=destination)
        hop = at.look_up("next_hop", next_hop=route.params[0][1]) if route is not None else None
        return hop is not None and hop.params[0][1] != port

    def arrive(self, node: str, port: int, sid: int, packet: Packet) -> End:
        """`packet` inside an outer one to `sid`, as a neighbour sends it into the tunnel that ends at `port`."""
        try:
            end = self._outer(node, port, (sid,), [])
        except Dropped as dropped:
            return End(None, str(dropped), None, ())
        return self.decapsulated(*end, packet)

    def decapsulated(self, node: str, vrf: int, policy_class: int, packet: Packet) -> End:
        """From where `packet` belongs to a policy class."""
        first: OwnedEntry | None = None
        nodes: list[str] = []
        for _ in range(MAX_HOPS):
            nodes.append(node)
            at = self._tables[node]
            entry = at.decide(vrf, policy_class, packet, self._now_boottime_s)
            first = first or entry
            if entry is None or not entry.action.startswith("permit"):
                return End(None, "not permitted" if entry is None else "isolated", first, tuple(nodes))
            number = entry.params[0][1]  # replies answer something
            if at.has_ended(entry, self._now_boottime_s):
                return End(None, "lease expired", first, tuple(nodes))
            steer = at.look_up("steer", forwarding_class=number)
            if steer is None:
                return End(None, "no steering", first, tuple(nodes))
            packet = at.sent(steer, packet)
            if steer.action.endswith("deliver"):
                return self._deliver(node, steer.params[0][1], packet, first, tuple(nodes))
            end = self._end_of(node, dict(steer.params))
            if isinstance(end, str):
                return End(None, end, first, tuple(nodes))
            node, vrf, policy_class = end
        raise AssertionError(f"in circles: {packet} {nodes}")

    def _deliver(self, node: str, vrf: int, packet: Packet, first: OwnedEntry | None, nodes: tuple[str, ...]) -> End:
        at = self._tables[node]
        route = at.look_up("route", vrf=vrf, destination=address(packet.destination))
        if route is None:
            return End(None, "no route", first, nodes)
        hop = at.look_up("next_hop", next_hop=route.params[0][1])
        if hop is None or hop.action != "resolve":
            return End(None, "no next hop", first, nodes)
        return End((node, hop.params[0][1]), "", first, nodes, packet)

    def _end_of(self, node: str, steering: dict[str, int]) -> Arrival | str:
        """What traffic belongs to where an SR Policy and a service SID lead, or why they do not."""
        policy, service = steering["sr_policy"], steering["service_sid"]
        known = self._ends.get((node, policy, service))
        if known is not None:
            return known
        at = self._tables[node]
        live = at.value("path_liveness", liveness_group=steering["liveness_group"])
        ends: set[Arrival | str] = set()
        for index in range(8):
            path = at.look_up("sr_policy", sr_policy=policy, live=live & 1 << index)
            if path is None:
                continue
            params = dict(path.params)
            containers = [params[f"container_{place}"] for place in range(params["last_container"] + 1)]
            if params["merge_bits"]:
                containers[-1] |= (service % (1 << 96)) >> params["merge_bits"]
            else:
                containers[-1] = service
            trail = [node]
            try:
                entered = self._sent(node, containers[0], params["first_hop"])
                ends.add(self._outer(*entered, tuple(containers), trail))
                self.trails[node, policy, index] = tuple(trail)
            except Dropped as dropped:
                ends.add(str(dropped))
        assert len(ends) <= 1, f"{node}: the candidate paths of {policy} lead to {ends}"
        end = self._ends[node, policy, service] = ends.pop() if ends else "no live path"
        return end

    def _outer(self, node: str, port: int, containers: tuple[int, ...], trail: list[str]) -> Arrival:
        """The outer packet, from where it enters a node; `containers` in the order of travel (RFC 9800 §4.1). Nodes it
        passes are added to `trail`."""
        destination, *waiting = containers
        for _ in range(MAX_HOPS):
            trail.append(node)
            at = self._tables[node]
            attachment = at.look_up("attachment", ingress_port=port, vlan_id=0)
            if attachment is None or attachment.action != "link":
                raise Dropped(f"no link at {node} port {port}")
            ingress = attachment.params[0][1]
            assert ingress != ATTACHMENT_CLASS
            sid = at.look_up("local_sid", ingress_class=ingress, destination=destination)
            if sid is None and ingress != FABRIC_CLASS:
                raise Dropped(f"SID not admitted at {node}")
            if sid is not None and sid.action == "end_dt46":
                if waiting:
                    raise Dropped(f"segments left at {node}")
                return node, sid.params[0][1], sid.params[1][1]
            if sid is not None:
                used = 48 if sid.action == "end" else 64
                argument = destination % (1 << 128 - used)
                if argument:
                    destination = destination >> 96 << 96 | argument << used - 32
                elif waiting:
                    destination = waiting.pop(0)
                else:
                    raise Dropped(f"no segments left at {node}")
            hop = sid.params[0][1] if sid is not None and sid.action == "end_x" else None
            node, port = self._sent(node, destination, hop)
        raise AssertionError(f"an outer packet in circles: {node} {containers}")

    def _sent(self, node: str, destination: int, hop: int | None = None) -> Place:
        """Where the outer packet enters next."""
        at = self._tables[node]
        if hop is None:
            route = at.look_up("route", vrf=FABRIC_VRF, destination=destination)
            if route is None:
                raise Dropped(f"no route at {node}")
            hop = route.params[0][1]
        next_hop = at.look_up("next_hop", next_hop=hop)
        if next_hop is None or next_hop.action != "forward":
            raise Dropped(f"no next hop at {node}")
        params = dict(next_hop.params)
        wire = self._wires.get((node, params["port"]))
        if wire is None:
            raise Dropped(f"nothing behind {node} port {params['port']}")
        far, admitted = wire
        if not any(destination >> (128 - length) == value >> (128 - length) for value, length in admitted):
            raise Dropped(f"the tunnel at {node} does not take it")
        return far


def _wires(world: World) -> dict[Place, tuple[Place, tuple[tuple[int, int], ...]]]:
    """Port -> port behind it, and where what goes there may be going to: links inside domains, tunnels that are up."""
    wires: dict[Place, tuple[Place, tuple[tuple[int, int], ...]]] = {}
    topology = world.topology
    anywhere = ((0, 0),)
    for link in topology.links:
        nodes = link.a.node, link.b.node
        if not topology.crosses_domains(link):
            a, b = ((near, topology.port_number(near, far)) for near, far in zip(nodes, reversed(nodes), strict=True))
            wires |= {a: (b, anywhere), b: (a, anywhere)}
            continue
        ends, tunnels = {}, {}
        for node in nodes:
            ends[node] = next(border for border in world.nodes[node].describe().borders if border.name == link.name)
            tunnels[node] = next(
                (tunnel for tunnel in world.nodes[node].host.tunnels if tunnel.border == link.name), None
            )
        for near, far in (nodes, nodes[::-1]):
            mine, theirs = tunnels[near], tunnels[far]
            if mine is None or theirs is None:
                continue
            fits = (mine.peer_public_key, mine.peer_endpoint) == (ends[far].public_key, ends[far].endpoint)
            assert fits, f"{link.name}: the tunnel of {near} is not made to {far}"
            wires[near, ends[near].port] = (far, ends[far].port), tuple(map(prefix, mine.allowed_ips))
    return wires


def reason_of(entry: OwnedEntry | None) -> int:
    return dict(entry.params).get("reason", DropReason.NONE) if entry is not None else DropReason.NONE
