"""Packets through the whole simulated lab: each node is the reference pipeline over the entries it was given."""

import ipaddress

import msgspec
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from controller.fulfillment.numbering import address
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


class Walk:
    def __init__(self, world: World) -> None:
        self._world = world
        self._topology = world.topology
        self._wires: dict[tuple[str, int], tuple[str, int]] = {}
        self._hosts: dict[tuple[str, int], str] = {}
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
        entries = [
            TableEntry(
                table=entry.table,
                match=tuple(
                    FieldMatch(one.field, one.value, one.mask, one.prefix_length, one.high) for one in entry.match
                ),
                action=entry.action,
                params=entry.params,
                priority=entry.priority,
            )
            for entry in node.entries.values()
        ]
        pipeline = Pipeline(entries, ports)
        for (name, port), host in self._hosts.items():
            if name == node.name:
                for interface in self._topology.host(host).interfaces:
                    for text in interface.addresses:
                        pipeline.neighbors[port, address(text)] = bytes([2, 0, 0, 9, 0, port])
        return pipeline

    def send(self, host: str, packet: Packet) -> Outcome:
        """`packet` (IP) as the host's first interface sends it to its gateway."""
        interface = self._topology.host(host).interfaces[0]
        node = interface.node
        port = self._topology.port_number(node, self._topology.host(host).port(interface))
        gateway = self.pipelines[node].ports[port].mac.hex(":")
        frame = bytes(Ether(src=f"02:00:00:09:00:{port:02x}", dst=gateway) / packet)
        path: list[str] = []
        frames: list[bytes] = []
        for _ in range(MAX_HOPS):
            path.append(node)
            verdict = self.pipelines[node].run(port, frame, self._world.now_s - BOOT_EPOCH_S)
            if isinstance(verdict, Drop):
                return self._outcome(node, DropReason(verdict.reason), path, frames)
            assert isinstance(verdict, Forward), verdict
            if verdict.reason != DropReason.NONE:
                return self._outcome(node, DropReason(verdict.reason), path, frames)
            frames.append(verdict.frame)
            if (node, verdict.port) in self._hosts:
                delivered = self._hosts[node, verdict.port]
                return Outcome(delivered=delivered, node=node, path=tuple(path), frames=tuple(frames))
            if (node, verdict.port) in self._wires:
                node, port = self._wires[node, verdict.port]
                frame = verdict.frame
            else:
                node, port, frame = self._through_tunnel(node, verdict.port, verdict.frame)
        raise AssertionError(f"a packet of {host} goes in circles: {path}")

    def _outcome(self, node: str, reason: DropReason, path: list[str], frames: list[bytes]) -> Outcome:
        return Outcome(node=node, reason=reason, path=tuple(path), frames=tuple(frames))

    def _through_tunnel(self, node: str, port: int, frame: bytes) -> tuple[str, int, bytes]:
        """WireGuard between two gateways: keys and endpoints must fit, and what enters and comes out is filtered."""
        near = next(one for one in self._world.nodes[node].describe().borders if one.port == port)
        assert frame[:6].hex(":") == near.kernel_mac, "not sent to the kernel's side"
        tunnel = next(one for one in self._world.nodes[node].host.tunnels if one.border == near.name)
        for other, held in self._world.nodes.items():
            far = next((one for one in held.describe().borders if one.name == near.name), None)
            if other == node or far is None:
                continue
            back = next(one for one in held.host.tunnels if one.border == near.name)
            assert (tunnel.peer_public_key, tunnel.peer_endpoint) == (far.public_key, far.endpoint)
            assert (back.peer_public_key, back.peer_endpoint) == (near.public_key, near.endpoint)
            source, destination = (ipaddress.IPv6Address(frame[14 + at : 30 + at]) for at in (8, 24))
            assert any(destination in ipaddress.IPv6Network(prefix) for prefix in tunnel.allowed_ips)
            assert any(source in ipaddress.IPv6Network(prefix) for prefix in back.allowed_ips)
            assert len(frame) - 14 <= near.mtu, "too big for the tunnel"
            macs = bytes.fromhex((far.mac + far.kernel_mac).replace(":", ""))
            return other, far.port, macs + frame[12:]
        raise AssertionError(f"nobody is at the other end of {near.name}")


def tcp(source: str, destination: str, port: int, flags: str = "S", source_port: int = 40000) -> Packet:
    return _ip(source, destination) / TCP(sport=source_port, dport=port, flags=flags)


def udp(source: str, destination: str, port: int, source_port: int = 40000, size: int = 0) -> Packet:
    return _ip(source, destination) / UDP(sport=source_port, dport=port) / Raw(bytes(size))


def echo(source: str, destination: str, *, reply: bool = False) -> Packet:
    if ":" in source:
        return _ip(source, destination) / (ICMPv6EchoReply() if reply else ICMPv6EchoRequest())
    return _ip(source, destination) / ICMP(type=0 if reply else 8)


def _ip(source: str, destination: str) -> Packet:
    return (IPv6 if ":" in source else IP)(src=source, dst=destination)
