"""ICMP that the edge sends itself: echo replies for the gateway, and what tells a sender that a packet is too big."""

import struct
from dataclasses import replace

from dataplane.reasons import L4Class
from dataplane.reference.checksum import checksum, ones_complement_sum, pseudo_header, updated
from dataplane.reference.packet import PROTOCOL_ICMP, PROTOCOL_ICMPV6, Ip

ECHO = {4: (8, 0), 6: (128, 129)}
"""IP version → types of request and reply."""
HOP_LIMIT = 64
QUOTED = {4: 28, 6: 88}
"""IP version → how many bytes of the packet an error quotes."""


def echo_reply(ip: Ip) -> bytes | None:
    """The reply to an echo request (RFC 792, RFC 4443 §4.2), of the same size; None if `ip` is no request."""
    request, reply = ECHO[ip.version]
    header = ip.transport
    if ip.protocol != ip.icmp_protocol or ip.is_fragment or len(header) < 8 or header[:2] != bytes((request, 0)):
        return None
    check = updated(int.from_bytes(header[2:4]), request << 8, reply << 8)
    icmp = bytes((reply, 0)) + check.to_bytes(2) + header[4:]
    data = ip.with_hop_limit(HOP_LIMIT).data
    if ip.version == 4:
        return data[:12] + data[16:20] + data[12:16] + icmp
    return data[:8] + data[24:40] + data[8:24] + icmp


def too_big(ip: Ip, l4_class: L4Class, mtu: int, gateway: int) -> bytes | None:
    """ "Fragmentation needed" (RFC 1191 §4) or "packet too big" (RFC 4443 §3.2) with a quote of constant size.

    None where no error may or can be sent: about an ICMP error (RFC 1122 §3.2.2, RFC 4443 §2.4(e)), without an address
    to send it from, or with less than the quote in the packet.
    """
    quote = ip.data[: QUOTED[ip.version]]
    if l4_class is L4Class.ICMP_ERROR or not gateway or len(quote) < QUOTED[ip.version]:
        return None
    if ip.version == 4:
        body = struct.pack("!HH", 0, mtu) + quote
        icmp = bytes((3, 4)) + checksum(bytes((3, 4, 0, 0)) + body).to_bytes(2) + body
        return ipv4_packet(gateway, ip.source, PROTOCOL_ICMP, icmp)
    return icmpv6_packet(gateway, ip.source, HOP_LIMIT, bytes((2, 0)), mtu.to_bytes(4) + quote)


def ipv4_packet(source: int, destination: int, protocol: int, payload: bytes) -> bytes:
    """With precedence "internetwork control", as RFC 1812 §4.3.2.5 has it for errors."""
    ends = struct.pack("!II", source & 0xFFFFFFFF, destination & 0xFFFFFFFF)
    start = struct.pack("!BBHHHBB", 0x45, 0xC0, 20 + len(payload), 0, 0, HOP_LIMIT, protocol)
    return start + checksum(start + b"\0\0" + ends).to_bytes(2) + ends + payload


def icmpv6_packet(source: int, destination: int, hop_limit: int, type_code: bytes, body: bytes) -> bytes:
    ends = source.to_bytes(16), destination.to_bytes(16)
    length = 4 + len(body)
    check = checksum(pseudo_header(*ends, length, PROTOCOL_ICMPV6) + type_code + b"\0\0" + body)
    header = struct.pack("!IHBB", 6 << 28, length, PROTOCOL_ICMPV6, hop_limit)
    return header + ends[0] + ends[1] + type_code + check.to_bytes(2) + body


def checksum_is_right(ip: Ip) -> bool:
    """Of an ICMPv6 message, with its pseudo header."""
    ends = ip.data[8:24], ip.data[24:40]
    icmp = ip.transport
    return ones_complement_sum(pseudo_header(*ends, len(icmp), PROTOCOL_ICMPV6) + icmp) == 0xFFFF


def clamp_mss(ip: Ip, largest: int) -> Ip:
    """A TCP SYN with its first MSS option (RFC 9293 §3.7.1) at most `largest`; checksum by RFC 1624."""
    header = bytearray(ip.transport)
    if ip.protocol != 6 or not header[13] & 0x02:
        return ip
    end = (header[12] >> 4) * 4
    at = 20
    while at < end and header[at] != 0:
        if header[at] == 1:
            at += 1
            continue
        length = header[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            return ip
        if header[at] == 2 and length == 4:
            return _with_mss(ip, header, at + 2, largest)
        at += length
    return ip


def _with_mss(ip: Ip, header: bytearray, at: int, largest: int) -> Ip:
    old = int.from_bytes(header[at : at + 2])
    if old <= largest:
        return ip
    # In 16-bit words of the header, since an option may start at an odd offset.
    first, last = at & ~1, (at + 3) & ~1
    before = bytes(header[first:last])
    header[at : at + 2] = largest.to_bytes(2)
    check = int.from_bytes(header[16:18])
    for word in range(0, last - first, 2):
        new = header[first + word : first + word + 2]
        check = updated(check, int.from_bytes(before[word : word + 2]), int.from_bytes(new))
    header[16:18] = check.to_bytes(2)
    return replace(ip, data=ip.data[: ip.transport_offset] + bytes(header))
