"""What a vector is, and scapy building blocks for its frames."""

from dataclasses import dataclass
from functools import reduce
from ipaddress import ip_address
from operator import xor

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6, IPv6ExtHdrSegmentRouting
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.entry import TableEntry
from dataplane.reference import Verdict
from vectors.node import (
    A4,
    A6,
    B4,
    B6,
    COLOR,
    DSCP,
    EDGE,
    A,
    B,
    host_mac,
    port_mac,
)

PAYLOAD = b"netstitch" * 8


@dataclass(frozen=True, slots=True)
class Vector:
    name: str
    port: int
    frame: bytes
    expected: Verdict
    before: tuple[tuple[int, bytes], ...] = ()
    """(port, frame) that go first, to teach neighbours; what becomes of them is not compared."""
    entries: tuple[TableEntry, ...] = ()
    """Beside those of the node; one with a key that is there replaces it."""


def ip(version: int, source: str, destination: str, hop_limit: int = 64, traffic_class: int = 0) -> Packet:
    if version == 4:
        return IP(src=source, dst=destination, ttl=hop_limit, tos=traffic_class)
    return IPv6(src=source, dst=destination, hlim=hop_limit, tc=traffic_class)


def from_host(port: int, packet: Packet | bytes, vlan: int | None = None, ether_type: int | None = None) -> bytes:
    """The frame in which the other end of `port` sends `packet` to us."""
    return _frame(host_mac(port), port_mac(port), packet, vlan, ether_type)


def to_host(port: int, packet: Packet | bytes, vlan: int | None = None, ether_type: int | None = None) -> bytes:
    return _frame(port_mac(port), host_mac(port), packet, vlan, ether_type)


def _frame(source: str, destination: str, packet: Packet | bytes, vlan: int | None, ether_type: int | None) -> bytes:
    layer = Raw(packet) if isinstance(packet, bytes) else packet
    header = Ether(src=source, dst=destination)
    if ether_type is not None and vlan is None:
        header.type = ether_type
    if vlan is not None:
        tag = Dot1Q(vlan=vlan)
        if ether_type is not None:
            tag.type = ether_type
        header = header / tag
    return bytes(header / layer)


def to_station(mac: str, frame: bytes) -> bytes:
    """`frame` with another link-layer destination."""
    return bytes.fromhex(mac.replace(":", "")) + frame[6:]


def entropy(source: str, destination: str, protocol: int, source_port: int = 0, destination_port: int = 0) -> int:
    """XOR of all 16-bit words of addresses (IPv4 mapped), ports and protocol; 6 bits."""
    words = [protocol, source_port, destination_port]
    for address in (source, destination):
        parsed = ip_address(address)
        packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
        words += [int.from_bytes(packed[at : at + 2]) for at in range(0, 16, 2)]
    return reduce(xor, words) % 64


def encapsulated(
    inner: Packet | bytes,
    version: int,
    sids: list[str],
    flow_entropy: int,
    *,
    ecn: int = 0,
    dscp: int = DSCP,
    color: int = COLOR,
    hop_limit: int = 63,
    source: str = EDGE,
) -> Packet:
    """`inner` in an outer IPv6 header to the first of `sids` (in the order of travel), the others in an SRH."""
    first, *others = sids
    protocol = 4 if version == 4 else 41
    outer = IPv6(src=source, dst=first, hlim=hop_limit, tc=dscp << 2 | ecn, fl=color << 6 | flow_entropy, nh=protocol)
    if not others:
        return outer / Raw(bytes(inner))
    outer.nh = 43
    left = len(others)
    srh = IPv6ExtHdrSegmentRouting(addresses=others[::-1], segleft=left, lastentry=left - 1, nh=protocol)
    return outer / srh / Raw(bytes(inner))


def srv6(
    inner: Packet | bytes,
    sids: list[str],
    segments_left: int,
    *,
    next_header: int = 4,
    hop_limit: int = 60,
    destination: str = "",
    traffic_class: int = 0,
    **srh: int,
) -> Packet:
    """A packet that is under way: the destination is the active segment unless given."""
    listed = sids[::-1]
    active = destination or listed[segments_left]
    fields = {"segleft": segments_left, "lastentry": len(sids) - 1, "nh": next_header, **srh}
    outer = IPv6(src="5f00:2:10::", dst=active, hlim=hop_limit, tc=traffic_class, fl=0x12345, nh=43)
    return outer / IPv6ExtHdrSegmentRouting(addresses=listed, **fields) / Raw(bytes(inner))


def arp_reply(port: int, address: str) -> bytes:
    message = ARP(op=2, hwsrc=host_mac(port), psrc=address, hwdst=port_mac(port), pdst="10.1.0.1")
    return from_host(port, message)


def neighbor_advertisement(port: int, address: str, mac: str = "") -> bytes:
    """That `address` is at `mac`, or at the other end of `port`."""
    message = ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac or host_mac(port))
    return from_host(port, IPv6(src=address, dst="ff02::1", hlim=255) / message)


KNOWN_HOSTS = (
    (A, arp_reply(A, A4)),
    (A, neighbor_advertisement(A, A6)),
    (B, arp_reply(B, B4)),
    (B, neighbor_advertisement(B, B6)),
)


def tcp(source_port: int = 40000, destination_port: int = 443, flags: str = "A", **fields: object) -> Packet:
    return TCP(sport=source_port, dport=destination_port, flags=flags, **fields) / Raw(PAYLOAD)


def udp(source_port: int = 40000, destination_port: int = 5060) -> Packet:
    return UDP(sport=source_port, dport=destination_port) / Raw(PAYLOAD)
