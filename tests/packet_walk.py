"""Packets through several nodes, each the reference pipeline over the entries it was given; and through the lab so."""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping

import msgspec
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils6 import in6_getnsma, in6_getnsmac

from controller.fulfillment.numbering import address
from controller.model.entry import OwnedEntry
from dataplane.entry import FieldMatch, TableEntry
from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward, Pipeline, Port
from tests.simulator import BOOT_EPOCH_S, SimulatedNode, World

MAX_HOPS = 32


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Where a packet ended."""

    delivered: str = ""
    """Host; empty: it was dropped."""
    node: str
    reason: DropReason = DropReason.NONE
    path: tuple[str, ...]
    frames: tuple[bytes, ...]
    """As they left each node."""
    told: bytes = b""
    """The frame that went back to the sender of a dropped packet."""
    told_at: str = ""
    """The host that got it."""


Place = tuple[str, int]
"""Node and port."""


def table_entries(entries: Iterable[OwnedEntry]) -> list[TableEntry]:
    return [
        TableEntry(
            table=entry.table,
            match=tuple(
                FieldMatch(match.field, match.value, match.mask, match.prefix_length, match.high)
                for match in entry.match
            ),
            action=entry.action,
            params=entry.params,
            priority=entry.priority,
        )
        for entry in entries
    ]


def travel(
    pipelines: Mapping[str, Pipeline],
    wires: Mapping[Place, Place],
    hosts: Mapping[Place, str],
    at: Place,
    frame: bytes,
    boottime_s: float,
    beyond: Callable[[Place, bytes], tuple[Place, bytes]] | None = None,
) -> Outcome:
    """`frame` from where it enters a node. `beyond`: where a frame goes that leaves by a port without a wire.

    Of a packet that is dropped, what its sender is told goes on until it has come to a host.
    """
    path: list[str] = []
    frames: list[bytes] = []
    dropped: Outcome | None = None
    for _ in range(MAX_HOPS):
        node, port = at
        path.append(node)
        verdict = pipelines[node].run(port, frame, boottime_s)
        assert isinstance(verdict, Drop | Forward), verdict
        if verdict.reason != DropReason.NONE and dropped is None:
            reason = DropReason(verdict.reason)
            dropped = Outcome(node=node, reason=reason, path=tuple(path), frames=tuple(frames))
        if isinstance(verdict, Drop):
            assert dropped is not None
            return dropped
        out, frame = (node, verdict.port), verdict.frame
        frames.append(frame)
        if dropped is not None and (out in hosts or (out not in wires and beyond is None)):
            return msgspec.structs.replace(dropped, told=frame, told_at=hosts.get(out, ""))
        if out in hosts:
            return Outcome(delivered=hosts[out], node=node, path=tuple(path), frames=tuple(frames))
        if out in wires:
            at = wires[out]
        else:
            assert beyond is not None, f"nothing is at {out}"
            at, frame = beyond(out, frame)
    raise AssertionError(f"in circles: {path}")


def ask(pipeline: Pipeline, port: int, source: str, target: str) -> str | None:
    """The MAC that the host at `port` is told for `target` when it asks for it (ARP, neighbour solicitation)."""
    mac = f"02:00:00:09:00:{port:02x}"
    if ":" in target:
        group = in6_getnsma(socket.inet_pton(socket.AF_INET6, target))
        ip = IPv6(src=source, dst=socket.inet_ntop(socket.AF_INET6, group), hlim=255)
        asked = (
            Ether(src=mac, dst=in6_getnsmac(group)) / ip / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=mac)
        )
    else:
        asked = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=mac, psrc=source, pdst=target)
    verdict = pipeline.run(port, bytes(asked), 0)
    if verdict == Drop(DropReason.NEIGHBOR_IGNORED):
        return None
    assert isinstance(verdict, Forward) and verdict.port == port, verdict
    told = Ether(verdict.frame)
    assert told.dst == mac
    if ":" in target:
        assert told[ICMPv6ND_NA].tgt == target
        return str(told[ICMPv6NDOptDstLLAddr].lladdr)
    assert (told[ARP].op, told[ARP].psrc, told[ARP].pdst) == (2, target, source)
    return str(told[ARP].hwsrc)


class Walk:
    def __init__(self, world: World) -> None:
        self._world = world
        self._topology = world.topology
        self._wires: dict[Place, Place] = {}
        self._hosts: dict[Place, str] = {}
        for link in self._topology.links:
            if not self._topology.crosses_domains(link):
                a = (link.a.node, self._topology.port_number(link.a.node, link.b.node))
                b = (link.b.node, self._topology.port_number(link.b.node, link.a.node))
                self._wires |= {a: b, b: a}
        for host in self._topology.hosts:
            for interface in host.interfaces:
                port = self._topology.port_number(interface.node, host.port(interface))
                self._hosts[interface.node, port] = host.name
        self.pipelines = {name: self._pipeline(node) for name, node in world.nodes.items()}

    def _pipeline(self, node: SimulatedNode) -> Pipeline:
        gateways = {gateway.port: gateway for gateway in node.host.gateways}
        ports = {}
        description = node.describe()
        for status in description.ports:
            gateway = gateways.get(status.number)
            ports[status.number] = Port(
                mac=bytes.fromhex(status.mac.replace(":", "")),
                ipv4=address(gateway.ipv4) if gateway is not None and gateway.ipv4 else 0,
                ipv6=address(gateway.ipv6) if gateway is not None and gateway.ipv6 else 0,
            )
        tunnels = {tunnel.border for tunnel in node.host.tunnels}
        for border in description.borders:
            if border.name in tunnels:
                ports[border.port] = Port(mac=bytes.fromhex(border.mac.replace(":", "")))
        pipeline = Pipeline(table_entries(node.entries.values()), ports)
        for (name, port), host in self._hosts.items():
            if name == node.name:
                for interface in self._topology.host(host).interfaces:
                    for text in interface.addresses:
                        pipeline.neighbors[port, address(text)] = bytes([2, 0, 0, 9, 0, port])
        return pipeline

    def place(self, host: str) -> Place:
        """Where its first interface is attached."""
        interface = self._topology.host(host).interfaces[0]
        return interface.node, self._topology.port_number(interface.node, self._topology.host(host).port(interface))

    def ask(self, host: str, target: str) -> str | None:
        """The MAC that the host is told for `target`. It asks from its first address of that family."""
        node, port = self.place(host)
        addresses = self._topology.host(host).interfaces[0].addresses
        source = next(own for own in addresses if (":" in own) == (":" in target))
        return ask(self.pipelines[node], port, source, target)

    def send(self, host: str, packet: Packet, *, asked: bool = True) -> Outcome:
        """`packet` (IP) as the host's first interface sends it to its gateway. `asked`: first by who is to get
        it, if it could be a reply."""
        question = asked_by(packet) if asked else None
        for other in self._topology.hosts if question is not None else ():
            if question.src in other.interfaces[0].addresses:
                self.send(other.name, question, asked=False)
        node, port = self.place(host)
        gateway = self.pipelines[node].ports[port].mac.hex(":")
        frame = bytes(Ether(src=f"02:00:00:09:00:{port:02x}", dst=gateway) / packet)
        boottime_s = self._world.now_s - BOOT_EPOCH_S
        return travel(self.pipelines, self._wires, self._hosts, (node, port), frame, boottime_s, self._through_tunnel)

    def _through_tunnel(self, out: Place, frame: bytes) -> tuple[Place, bytes]:
        """WireGuard between two gateways: keys and endpoints must fit, and what enters and comes out is filtered."""
        node, port = out
        near = next(border for border in self._world.nodes[node].describe().borders if border.port == port)
        assert frame[:6].hex(":") == near.kernel_mac, "not sent to the kernel's side"
        tunnel = next(tunnel for tunnel in self._world.nodes[node].host.tunnels if tunnel.border == near.name)
        for other, far_node in self._world.nodes.items():
            far = next((border for border in far_node.describe().borders if border.name == near.name), None)
            if other == node or far is None:
                continue
            back = next(tunnel for tunnel in far_node.host.tunnels if tunnel.border == near.name)
            assert (tunnel.peer_public_key, tunnel.peer_endpoint) == (far.public_key, far.endpoint)
            assert (back.peer_public_key, back.peer_endpoint) == (near.public_key, near.endpoint)
            source, destination = (ipaddress.IPv6Address(frame[14 + at : 30 + at]) for at in (8, 24))
            assert any(destination in ipaddress.IPv6Network(prefix) for prefix in tunnel.allowed_ips)
            assert any(source in ipaddress.IPv6Network(prefix) for prefix in back.allowed_ips)
            assert len(frame) - 14 <= near.mtu, "too big for the tunnel"
            macs = bytes.fromhex((far.mac + far.kernel_mac).replace(":", ""))
            return (other, far.port), macs + frame[12:]
        raise AssertionError(f"nobody is at the other end of {near.name}")


def tcp(source: str, destination: str, port: int, flags: str = "S", source_port: int = 40000) -> Packet:
    return ip(source, destination) / TCP(sport=source_port, dport=port, flags=flags)


def udp(source: str, destination: str, port: int, source_port: int = 40000, size: int = 0) -> Packet:
    return ip(source, destination) / UDP(sport=source_port, dport=port) / Raw(bytes(size))


def echo(source: str, destination: str, *, reply: bool = False) -> Packet:
    if ":" in source:
        return ip(source, destination) / (ICMPv6EchoReply() if reply else ICMPv6EchoRequest())
    return ip(source, destination) / ICMP(type=0 if reply else 8)


def asked_by(packet: Packet) -> Packet | None:
    """What `packet` would answer."""
    back = ip(packet.dst, packet.src)
    if TCP in packet:
        ports = {"sport": packet[TCP].dport, "dport": packet[TCP].sport}
        return None if packet[TCP].flags == "S" else back / TCP(**ports, flags="S")
    if UDP in packet:
        return back / UDP(sport=packet[UDP].dport, dport=packet[UDP].sport)
    if ICMP in packet or ICMPv6EchoReply in packet or ICMPv6EchoRequest in packet:
        is_reply = ICMPv6EchoReply in packet or (ICMP in packet and packet[ICMP].type == 0)
        return echo(packet.dst, packet.src) if is_reply else None
    protocol = packet.nh if IPv6 in packet else packet.proto
    return ip(packet.dst, packet.src, protocol) / Raw(bytes(packet.payload))


def icmp_error(source: str, destination: str, port: int, source_port: int) -> Packet:
    """About what `destination` sent to `source`, which would answer by TCP from `source_port` to `port`."""
    quote = Raw(bytes(tcp(destination, source, source_port, "A", port)))
    return ip(source, destination) / (ICMPv6DestUnreach() if ":" in source else ICMP(type=3, code=1)) / quote


def ip(source: str, destination: str, protocol: int | None = None) -> Packet:
    """As hosts send it: not to be fragmented."""
    if ":" in source:
        return IPv6(src=source, dst=destination, **({} if protocol is None else {"nh": protocol}))
    return IP(src=source, dst=destination, flags="DF", **({} if protocol is None else {"proto": protocol}))
