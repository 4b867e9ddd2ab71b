"""ARP (RFC 826) and neighbour discovery (RFC 4861): what a message says, its answer, and a question of our own."""

import struct
from dataclasses import dataclass

from dataplane.reference.icmp import checksum_is_right, icmpv6_packet
from dataplane.reference.packet import ETHERTYPE_ARP, ETHERTYPE_IPV6, MAPPED, PROTOCOL_ICMPV6, Ethernet, Ip, untagged

ARP_FIXED = struct.pack("!HHBB", 1, 0x0800, 6, 4)
ARP_REQUEST = 1
ARP_REPLY = 2
ARP_LENGTH = 28
ROUTER_SOLICITATION = 133
SOLICITATION = 135
ADVERTISEMENT = 136
REDIRECT = 137
SOURCE_LINK_LAYER = 1
TARGET_LINK_LAYER = 2
ND_HOP_LIMIT = 255
ND_LONGEST = 1460
"""ICMPv6 bytes that fit a link without jumbo frames (RFC 2464 §2)."""
ND_OPTIONS = 32
"""In one message; one with more is ignored."""
ROUTER, SOLICITED, OVERRIDE = 0x80000000, 0x40000000, 0x20000000
"""Flags of an advertisement. A proxy does not override (RFC 4861 §7.2.8)."""
SOLICITED_NODE = int.from_bytes(bytes.fromhex("ff0200000000000000000001ff000000"))
"""/104, RFC 4291 §2.7.1."""
ALL_NODES = 0xFF02 << 112 | 1
ALL_NODES_MAC = bytes.fromhex("333300000001")


@dataclass(frozen=True, slots=True)
class NeighborMessage:
    version: int
    asks: bool
    asker: int
    """Who wants the answer; unspecified while it has no address yet (RFC 5227, RFC 4862 §5.4)."""
    target: int
    speaks_of: int
    """Whose MAC `mac` is; 0 if nobody's."""
    mac: bytes
    """The one in the message, else the frame's source: there the answer goes."""
    has_mac: bool = True
    confirms: bool = False
    """It answers a question of ours."""
    overrides: bool = True
    """It holds even where another MAC is known (RFC 4861 §7.2.5)."""

    @property
    def probes(self) -> bool:
        """Duplicate address detection by IPv6."""
        return self.version == 6 and self.asker == 0


def parse_arp(ethernet: Ethernet, gateway: int) -> NeighborMessage | None:
    """None where it is no Ethernet/IPv4 request or reply. `gateway`: ours, or 0; some hosts answer it by broadcast."""
    message = ethernet.payload
    kind, mac, sender, target = struct.unpack_from("!H6sI6xI", message, 6)
    if message[:6] != ARP_FIXED or kind not in (ARP_REQUEST, ARP_REPLY):
        return None
    asker, asks = MAPPED | sender, kind == ARP_REQUEST
    confirms = not asks and (not ethernet.is_to_group or MAPPED | target == gateway)
    return NeighborMessage(4, asks, asker, MAPPED | target, asker if sender else 0, mac, confirms=confirms)


def is_discovery(ip: Ip) -> bool:
    return (
        ip.version == 6
        and ip.protocol == PROTOCOL_ICMPV6
        and ip.transport_offset == 40
        and len(ip.transport) > 0
        and ROUTER_SOLICITATION <= ip.transport[0] <= REDIRECT
    )


def parse_discovery(ethernet: Ethernet, ip: Ip) -> NeighborMessage | None:
    """None where it is no right solicitation or advertisement (RFC 4861 §7.1)."""
    icmp = ip.transport
    if ip.hop_limit != ND_HOP_LIMIT or not 24 <= len(icmp) <= ND_LONGEST or not checksum_is_right(ip):
        return None
    kind, code, flags, target = struct.unpack_from("!BB2xI16s", icmp)
    if kind not in (SOLICITATION, ADVERTISEMENT) or code != 0 or target[0] == 0xFF:
        return None
    asks = kind == SOLICITATION
    macs = _macs(icmp[24:], SOURCE_LINK_LAYER if asks else TARGET_LINK_LAYER)
    if macs is None:
        return None
    mac, address = macs[0] if macs else ethernet.source, int.from_bytes(target)
    if asks:
        if ip.source == 0 and (macs or ip.destination >> 24 != SOLICITED_NODE >> 24):
            return None
        return NeighborMessage(6, True, ip.source, address, ip.source if macs else 0, mac, has_mac=bool(macs))
    solicited, overrides = bool(flags & SOLICITED), bool(macs) and bool(flags & OVERRIDE)
    if solicited and ip.destination >> 120 == 0xFF:
        return None
    return NeighborMessage(
        6, False, ip.source, address, address, mac, has_mac=bool(macs), confirms=solicited, overrides=overrides
    )


def _macs(options: bytes, wanted: int) -> list[bytes] | None:
    """Of all options of the type `wanted`; None where the options are wrong (RFC 4861 §4.6)."""
    addresses = []
    for _ in range(ND_OPTIONS):
        if not options:
            break
        if len(options) < 8 or not 0 < options[1] * 8 <= len(options):
            return None
        if options[0] == wanted:
            if options[1] != 1:
                return None
            addresses.append(options[2:8])
        options = options[options[1] * 8 :]
    return None if options else addresses


def is_unicast(mac: bytes) -> bool:
    return not mac[0] & 1 and mac != bytes(6)


def answer(question: NeighborMessage, mac: bytes, *, is_gateway: bool) -> bytes:
    """The payload that says that `question.target` is at `mac`."""
    if question.version == 4:
        return _arp(ARP_REPLY, mac, question.target, question.mac, question.asker)
    flags = ROUTER | (0 if question.probes else SOLICITED) | (OVERRIDE if is_gateway else 0)
    option = bytes((TARGET_LINK_LAYER, 1)) + mac
    body = flags.to_bytes(4) + question.target.to_bytes(16) + option
    asker = question.asker or ALL_NODES
    return icmpv6_packet(question.target, asker, ND_HOP_LIMIT, bytes((ADVERTISEMENT, 0)), body)


def ask(version: int, target: int, mac: bytes, gateway: int) -> bytes:
    """The frame that asks who has `target`."""
    if version == 4:
        return untagged(b"\xff" * 6, mac, ETHERTYPE_ARP, _arp(ARP_REQUEST, mac, gateway, bytes(6), target))
    low = target & 0xFFFFFF
    group = SOLICITED_NODE | low
    body = bytes(4) + target.to_bytes(16) + bytes((SOURCE_LINK_LAYER, 1)) + mac
    message = icmpv6_packet(gateway, group, ND_HOP_LIMIT, bytes((SOLICITATION, 0)), body)
    return untagged(b"\x33\x33\xff" + low.to_bytes(3), mac, ETHERTYPE_IPV6, message)


def _arp(kind: int, sender_mac: bytes, sender: int, target_mac: bytes, target: int) -> bytes:
    ends = struct.pack("!6sI6sI", sender_mac, sender & 0xFFFFFFFF, target_mac, target & 0xFFFFFFFF)
    return ARP_FIXED + kind.to_bytes(2) + ends
