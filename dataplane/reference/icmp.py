"""ICMP that the edge sends itself: echo replies for the gateway, and errors that say why a packet was dropped."""

import struct
from dataclasses import dataclass, replace

from dataplane.reasons import IcmpError, L4Class
from dataplane.reference.checksum import checksum, ones_complement_sum, pseudo_header, updated
from dataplane.reference.packet import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    EXTENSIONS,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Ip,
    Transport,
    l4_class,
    parse_ip,
)

ECHO = {4: (8, 0), 6: (128, 129)}
"""IP version → types of request and reply."""
HOP_LIMIT = 64
QUOTED = {4: 28, 6: 88}
"""IP version → how many bytes of the packet an error quotes at most."""
FORMS = {
    IcmpError.TOO_BIG: ((3, 4), (2, 0)),
    IcmpError.HOP_LIMIT: ((11, 0), (3, 0)),
    IcmpError.HOST_UNREACHABLE: ((3, 1), (1, 3)),
    IcmpError.NO_ROUTE: ((3, 0), (1, 0)),
    IcmpError.PROHIBITED: ((3, 13), (1, 1)),
}
"""Type and code of ICMPv4 (RFC 792, RFC 1812 §5.2.7.1) and of ICMPv6 (RFC 4443 §3)."""
IPV4_ERRORS = (3, 4, 5, 11, 12)
"""Source quench and redirect count as errors where it is about answering."""
REDIRECT_IPV6 = 137
QUOTED_OCTETS = 8
"""Of TCP, UDP or ICMP, that an error quotes at least (RFC 792)."""
ANSWERING = {L4Class.ECHO_REQUEST: L4Class.ECHO_REPLY, L4Class.ECHO_REPLY: L4Class.ECHO_REQUEST}


def echo_reply(ip: Ip) -> bytes | None:
    """The reply to an echo request (RFC 792, RFC 4443 §4.2), of the same size; None if `ip` is no request."""
    request, reply = ECHO[ip.version]
    header = ip.transport
    is_plain = ip.transport_offset == {4: 20, 6: 40}[ip.version] and not ip.is_fragment
    if ip.protocol != ip.icmp_protocol or not is_plain or len(header) < 8 or header[:2] != bytes((request, 0)):
        return None
    check = updated(int.from_bytes(header[2:4]), request << 8, reply << 8)
    icmp = bytes((reply, 0)) + check.to_bytes(2) + header[4:]
    data = ip.with_hop_limit(HOP_LIMIT).data
    if ip.version == 4:
        return data[:12] + data[16:20] + data[12:16] + icmp
    return data[:8] + data[24:40] + data[8:24] + icmp


def error(ip: Ip, what: IcmpError, mtu: int, source: int) -> bytes:
    """An ICMP error to the sender of `ip`, from `source`, with a quote of whole words. `mtu`: 0 where it has none."""
    (type_ipv4, code_ipv4), (type_ipv6, code_ipv6) = FORMS[what]
    longest = min(len(ip.data), QUOTED[ip.version])
    quote = ip.data[: longest - longest % 4]
    if ip.version == 4:
        body = struct.pack("!HH", 0, mtu) + quote
        start = bytes((type_ipv4, code_ipv4))
        return ipv4_packet(
            source, ip.source, PROTOCOL_ICMP, start + checksum(start + b"\0\0" + body).to_bytes(2) + body
        )
    return icmpv6_packet(source, ip.source, HOP_LIMIT, bytes((type_ipv6, code_ipv6)), mtu.to_bytes(4) + quote)


@dataclass(frozen=True, slots=True)
class Answer:
    """A packet as the answer to one that is quoted would be."""

    source: int
    destination: int
    protocol: int
    transport: Transport


def answered_by(ip: Ip) -> Answer | None:
    """What the sender of an ICMP error would answer to the packet that the error quotes. None: nothing to be judged."""
    about = quoted(ip.version, ip.transport[8:])
    if about is None or about.fragment_offset or about.is_broken:
        return None
    header = about.transport
    if about.protocol in (PROTOCOL_TCP, PROTOCOL_UDP, about.icmp_protocol) and len(header) < QUOTED_OCTETS:
        return None
    kind = l4_class(about)
    if kind == L4Class.ICMP_ERROR:
        return None
    ports = 0, 0
    if kind in ANSWERING:
        ports = (int.from_bytes(header[4:6]),) * 2
    elif about.protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
        ports = int.from_bytes(header[2:4]), int.from_bytes(header[:2])
    transport = Transport(ANSWERING.get(kind, kind), *ports)
    return Answer(about.destination, about.source, about.protocol, transport)


def quoted(version: int, quote: bytes) -> Ip | None:
    """The packet that an error quotes the beginning of; None: no header that is understood."""
    return _quoted_ipv4(quote) if version == 4 else _quoted_ipv6(quote)


def _quoted_ipv4(quote: bytes) -> Ip | None:
    """Lengths and checksums are not looked at: routers on the way may change what they quote."""
    if len(quote) < 20 or quote[0] != 0x45:
        return None
    data = bytearray(quote)
    data[2:4] = len(quote).to_bytes(2)
    data[10:12] = b"\0\0"
    data[10:12] = checksum(bytes(data[:20])).to_bytes(2)
    return _parsed(ETHERTYPE_IPV4, bytes(data))


def _quoted_ipv6(quote: bytes) -> Ip | None:
    return _parsed(ETHERTYPE_IPV6, quote[:4] + (len(quote) - 40).to_bytes(2) + quote[6:]) if len(quote) >= 40 else None


def _parsed(ether_type: int, data: bytes) -> Ip | None:
    parsed = parse_ip(ether_type, data)
    return parsed if isinstance(parsed, Ip) else None


def may_be_told(ip: Ip) -> bool:
    """Whether an error about `ip` may be sent: RFC 1122 §3.2.2, RFC 4443 §2.4(e)."""
    return ip.fragment_offset == 0 and not _is_error(ip)


def _is_error(ip: Ip) -> bool:
    """Where there are more extension headers than are walked, it might be one."""
    if ip.version == 6 and ip.protocol in EXTENSIONS:
        return True
    if ip.protocol != ip.icmp_protocol:
        return False
    kind = ip.transport[0]
    return kind in IPV4_ERRORS if ip.version == 4 else kind < 128 or kind == REDIRECT_IPV6


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
