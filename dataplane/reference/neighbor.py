"""ARP (RFC 826) and neighbour discovery (RFC 4861): what a message says, its answer, and a question of our own."""

import struct
from dataclasses import dataclass

from dataplane.reference.icmp import checksum_is_right, icmpv6_packet
from dataplane.reference.packet import ETHERTYPE_ARP, ETHERTYPE_IPV6, MAPPED, PROTOCOL_ICMPV6, Ip, untagged

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
ROUTER_SOLICITED_OVERRIDE = 0xE0000000
ROUTER_SOLICITED = 0xC0000000
"""A proxy does not override (RFC 4861 §7.2.8)."""


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


def parse_arp(message: bytes) -> NeighborMessage | None:
    """None where it is no Ethernet/IPv4 request or reply."""
    kind, mac, sender, target = struct.unpack_from("!H6sI6xI", message, 6)
    if message[:6] != ARP_FIXED or kind not in (ARP_REQUEST, ARP_REPLY):
        return None
    asker = MAPPED | sender
    return NeighborMessage(4, kind == ARP_REQUEST, asker, MAPPED | target, asker if sender else 0, mac)


def is_discovery(ip: Ip) -> bool:
    return (
        ip.version == 6
        and ip.protocol == PROTOCOL_ICMPV6
        and ip.transport_offset == 40
        and len(ip.transport) > 0
        and ROUTER_SOLICITATION <= ip.transport[0] <= REDIRECT
    )


def parse_discovery(ip: Ip) -> NeighborMessage | None:
    """None where it is no right solicitation or advertisement (RFC 4861 §7.1) whose first option is the MAC."""
    icmp = ip.transport
    if ip.hop_limit != ND_HOP_LIMIT or not 32 <= len(icmp) <= ND_LONGEST or not checksum_is_right(ip):
        return None
    kind, code, target, option, units, mac = struct.unpack_from("!BB6x16sBB6s", icmp)
    expected = {SOLICITATION: SOURCE_LINK_LAYER, ADVERTISEMENT: TARGET_LINK_LAYER}.get(kind)
    if code != 0 or option != expected or units != 1 or target[0] == 0xFF:
        return None
    address = int.from_bytes(target)
    asks = kind == SOLICITATION
    return NeighborMessage(6, asks, ip.source, address, ip.source if asks else address, mac)


def is_unicast(mac: bytes) -> bool:
    return not mac[0] & 1 and mac != bytes(6)


def answer(question: NeighborMessage, mac: bytes, *, is_gateway: bool) -> bytes:
    """The payload that says that `question.target` is at `mac`."""
    if question.version == 4:
        return _arp(ARP_REPLY, mac, question.target, question.mac, question.asker)
    flags = ROUTER_SOLICITED_OVERRIDE if is_gateway else ROUTER_SOLICITED
    option = bytes((TARGET_LINK_LAYER, 1)) + mac
    body = flags.to_bytes(4) + question.target.to_bytes(16) + option
    return icmpv6_packet(question.target, question.asker, ND_HOP_LIMIT, bytes((ADVERTISEMENT, 0)), body)


def ask(version: int, target: int, mac: bytes, gateway: int) -> bytes:
    """The frame that asks who has `target`."""
    if version == 4:
        return untagged(b"\xff" * 6, mac, ETHERTYPE_ARP, _arp(ARP_REQUEST, mac, gateway, bytes(6), target))
    low = target & 0xFFFFFF
    group = int.from_bytes(bytes.fromhex("ff0200000000000000000001ff000000")) | low  # RFC 4291 §2.7.1
    body = bytes(4) + target.to_bytes(16) + bytes((SOURCE_LINK_LAYER, 1)) + mac
    message = icmpv6_packet(gateway, group, ND_HOP_LIMIT, bytes((SOLICITATION, 0)), body)
    return untagged(b"\x33\x33\xff" + low.to_bytes(3), mac, ETHERTYPE_IPV6, message)


def _arp(kind: int, sender_mac: bytes, sender: int, target_mac: bytes, target: int) -> bytes:
    ends = struct.pack("!6sI6sI", sender_mac, sender & 0xFFFFFFFF, target_mac, target & 0xFFFFFFFF)
    return ARP_FIXED + kind.to_bytes(2) + ends
