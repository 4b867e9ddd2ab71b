"""Ethernet, IPv4, IPv6 and what follows them, as far as the pipeline looks."""

import struct
from dataclasses import dataclass, replace

from dataplane.reasons import EXTENSION_HEADERS, EXTENSIONS_END, DropReason, L4Class
from dataplane.reference.checksum import ones_complement_sum
from dataplane.reference.verdict import Drop

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
PROTOCOL_ICMP = 1
PROTOCOL_IPV4 = 4
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_IPV6 = 41
PROTOCOL_ROUTING = 43
PROTOCOL_FRAGMENT = 44
PROTOCOL_ESP = 50
PROTOCOL_AH = 51
PROTOCOL_ICMPV6 = 58
EXTENSIONS = (0, PROTOCOL_ROUTING, PROTOCOL_FRAGMENT, PROTOCOL_AH, 60, 135, 139, 140)
"""Extension headers of IPv6 whose end can be seen: RFC 7045 §4, without ESP and what is for experiments."""
UPPER_LAYERS = (PROTOCOL_IPV4, 33, PROTOCOL_IPV6, 47, 89, 103, 115, 132, 136)
"""Of IPv6, beside TCP, UDP and ICMP: DCCP, GRE, OSPF, PIM, L2TP, SCTP, UDP-Lite. Others could be extension headers."""
TCP_FIN = 0x01
TCP_SYN = 0x02
TCP_RST = 0x04
TCP_ACK = 0x10
MAPPED = 0xFFFF << 32
"""::ffff:0:0/96: IPv4 addresses as keys."""

MALFORMED = Drop(DropReason.MALFORMED)


@dataclass(frozen=True, slots=True)
class Ethernet:
    destination: bytes
    source: bytes
    tag: bytes
    """The 802.1Q tag (4 bytes), or none."""
    ether_type: int
    payload: bytes

    @property
    def is_to_group(self) -> bool:
        """Broadcast or multicast."""
        return bool(self.destination[0] & 1)

    @property
    def vlan_id(self) -> int:
        return int.from_bytes(self.tag[2:4]) & 0xFFF

    def frame(self) -> bytes:
        return self.destination + self.source + self.tag + self.ether_type.to_bytes(2) + self.payload

    def answer(self, mac: bytes, payload: bytes) -> bytes:
        """A frame back to whom this one came from, with the tag it came with."""
        return replace(self, destination=self.source, source=mac, payload=payload).frame()


def parse_ethernet(frame: bytes) -> Ethernet | Drop:
    """At most one 802.1Q tag is understood."""
    if len(frame) < 14:
        return MALFORMED
    tag, rest = b"", frame[12:]
    if rest[:2] == ETHERTYPE_VLAN.to_bytes(2):
        tag, rest = rest[:4], rest[4:]
        if len(rest) < 2:
            return MALFORMED
    return Ethernet(frame[:6], frame[6:12], tag, int.from_bytes(rest[:2]), rest[2:])


def untagged(destination: bytes, source: bytes, ether_type: int, payload: bytes) -> bytes:
    return Ethernet(destination, source, b"", ether_type, payload).frame()


@dataclass(frozen=True, slots=True)
class Ip:
    """An IP packet whose header is right. `data` is cut to the length that the header says."""

    version: int
    data: bytes
    source: int
    destination: int
    """IPv4 as ::ffff:0:0/96."""
    protocol: int
    """Behind the extension headers of IPv6, as far as they are walked."""
    transport_offset: int
    fragmented_offset: int
    """Where begins what fragments are of: behind the IP header, or the fragment header."""
    is_broken: bool
    """Its extension headers go on beyond its end, or have two fragment headers."""
    fragment_offset: int
    """In units of 8 octets."""
    more_fragments: bool
    identification: int
    """0 where the header has none."""
    is_fragment: bool
    """It has a fragment header; of IPv6 it may be a whole packet all the same (RFC 6946)."""
    hop_limit: int
    traffic_class: int

    @property
    def may_be_cut(self) -> bool:
        """Routers fragment IPv4 without DF only."""
        return self.version == 4 and not self.data[6] & 0x40

    @property
    def transport(self) -> bytes:
        return self.data[self.transport_offset :]

    @property
    def ether_type(self) -> int:
        return ETHERTYPE_IPV4 if self.version == 4 else ETHERTYPE_IPV6

    @property
    def icmp_protocol(self) -> int:
        return PROTOCOL_ICMP if self.version == 4 else PROTOCOL_ICMPV6

    def with_hop_limit(self, hop_limit: int) -> "Ip":
        return self._with_byte(8 if self.version == 4 else 7, hop_limit)

    def with_ecn(self, ecn: int) -> "Ip":
        if self.version == 4:
            return self._with_byte(1, self.data[1] & 0xFC | ecn)
        return self._with_byte(1, self.data[1] & 0xCF | ecn << 4)

    def _with_byte(self, offset: int, value: int) -> "Ip":
        data = bytearray(self.data)
        data[offset] = value
        if self.version == 4:
            data[10:12] = b"\0\0"
            data[10:12] = (ones_complement_sum(bytes(data[:20])) ^ 0xFFFF).to_bytes(2)
        parsed = parse_ip(self.ether_type, bytes(data))
        assert isinstance(parsed, Ip), "changing the hop limit or ECN of a right header leaves it right"
        return parsed


def parse_ip(ether_type: int, data: bytes) -> Ip | Drop:
    """Checks the header (RFC 791 §3.1, RFC 8200 §3) and cuts what lies behind the packet."""
    return _parse_ipv4(data) if ether_type == ETHERTYPE_IPV4 else _parse_ipv6(data)


def _parse_ipv4(data: bytes) -> Ip | Drop:
    # Deviates: RFC 791, no options
    if len(data) < 20 or data[0] != 0x45:
        has_options = len(data) >= 20 and 0x45 < data[0] < 0x50
        return Drop(DropReason.IPV4_OPTIONS) if has_options else MALFORMED
    _, traffic_class, length, identification, fragment, ttl, protocol, _, source, destination = struct.unpack_from(
        "!BBHHHBBHII", data
    )
    if not 20 <= length <= len(data) or ones_complement_sum(data[:20]) != 0xFFFF:
        return MALFORMED
    return Ip(
        version=4,
        data=data[:length],
        source=MAPPED | source,
        destination=MAPPED | destination,
        protocol=protocol,
        transport_offset=20,
        fragmented_offset=20,
        is_broken=False,
        fragment_offset=fragment & 0x1FFF,
        more_fragments=fragment & 0x2000 != 0,
        identification=identification,
        is_fragment=fragment & 0x3FFF != 0,
        hop_limit=ttl,
        traffic_class=traffic_class,
    )


def _parse_ipv6(data: bytes) -> Ip | Drop:
    if len(data) < 40 or data[0] >> 4 != 6:
        return MALFORMED
    first_word, payload_length, protocol, hop_limit = struct.unpack_from("!IHBB", data)
    if 40 + payload_length > len(data):
        return MALFORMED
    data = data[: 40 + payload_length]
    at, fragmented_at, fragment, identification, is_broken = 40, 0, 0, 0, False
    for _ in range(EXTENSION_HEADERS):
        if protocol not in EXTENSIONS:
            break
        if len(data) < at + 8:
            is_broken = True
            break
        size = {PROTOCOL_FRAGMENT: 8, PROTOCOL_AH: 8 + 4 * data[at + 1]}.get(protocol, 8 + 8 * data[at + 1])
        if at + size > EXTENSIONS_END:
            break
        is_broken = at + size > len(data) or (protocol == PROTOCOL_FRAGMENT and fragmented_at > 0)
        if is_broken:
            break
        if protocol == PROTOCOL_FRAGMENT:
            _, _, fragment, identification = struct.unpack_from("!BBHI", data, at)
            fragmented_at = at + size
        protocol, at = data[at], at + size
        if fragment >> 3:
            break
    return Ip(
        version=6,
        data=data,
        source=int.from_bytes(data[8:24]),
        destination=int.from_bytes(data[24:40]),
        protocol=protocol,
        transport_offset=at,
        fragmented_offset=fragmented_at,
        is_broken=is_broken,
        fragment_offset=fragment >> 3,
        more_fragments=fragment & 1 != 0,
        identification=identification,
        is_fragment=fragmented_at > 0,
        hop_limit=hop_limit,
        traffic_class=first_word >> 20 & 0xFF,
    )


def is_forwardable(ip: Ip) -> bool:
    """Unicast beyond the link, on both ends. IPv6 in ::ffff:0:0/96 would pass for IPv4 in the tables."""
    return all(_is_global_unicast(ip.version, address) for address in (ip.source, ip.destination))


def _is_global_unicast(version: int, address: int) -> bool:
    if version == 4:
        ipv4 = address & 0xFFFFFFFF
        return not (
            ipv4 in (0, 0xFFFFFFFF)
            or ipv4 >> 24 == 127
            or ipv4 >> 16 == 0xA9FE  # 169.254.0.0/16, RFC 3927
            or ipv4 >> 28 == 0xE
        )
    return not (
        address in (0, 1)
        or address >> 120 == 0xFF
        or address >> 118 == 0xFE80 >> 6  # fe80::/10, RFC 4291 §2.5.6
        or address >> 32 == 0xFFFF
    )


@dataclass(frozen=True, slots=True)
class Transport:
    l4_class: L4Class
    source_port: int
    """Of echo both ports are the identifier."""
    destination_port: int
    tcp_flags: int = 0


def parse_transport(ip: Ip) -> Transport | Drop:
    """What the packet is to `flow_policy`; not to be asked of a fragment that is not the first."""
    header = ip.transport
    incomplete = Drop(DropReason.FRAGMENT_REFUSED) if ip.is_fragment else MALFORMED  # RFC 1858 §3, RFC 7112
    if ip.is_broken:
        return incomplete
    if ip.protocol == PROTOCOL_TCP:
        if len(header) < 20 or not 20 <= (header[12] >> 4) * 4 <= len(header):
            return incomplete
        return _with_ports(_tcp_class(header[13]), header, header[13])
    if ip.protocol in (PROTOCOL_UDP, ip.icmp_protocol) and len(header) < 8:
        return incomplete
    kind = l4_class(ip)
    if kind in (L4Class.ECHO_REQUEST, L4Class.ECHO_REPLY):
        identifier = int.from_bytes(header[4:6])
        return Transport(kind, identifier, identifier)
    return _with_ports(kind, header) if ip.protocol == PROTOCOL_UDP else Transport(kind, 0, 0)


def _tcp_class(flags: int) -> L4Class:
    """Flags that mean nothing are none of TCP's (RFC 9293 §3.10.7)."""
    if flags & (TCP_SYN | TCP_ACK) == TCP_SYN:
        return L4Class.UNCLASSIFIED if flags & (TCP_FIN | TCP_RST) else L4Class.TCP_OPEN
    means_something = flags & (TCP_ACK | TCP_RST) and flags & (TCP_SYN | TCP_FIN) != TCP_SYN | TCP_FIN
    return L4Class.TCP if means_something else L4Class.UNCLASSIFIED


def l4_class(ip: Ip) -> L4Class:
    """Where TCP opens nothing. Of ICMP the header is there."""
    if ip.protocol == PROTOCOL_TCP:
        return L4Class.TCP
    if ip.protocol == PROTOCOL_UDP:
        return L4Class.UDP
    if ip.protocol == ip.icmp_protocol:
        return _icmp_class(ip.version, ip.transport[0])
    if ip.version == 4:
        return L4Class.UNCLASSIFIED if ip.protocol in (PROTOCOL_ESP, PROTOCOL_AH) else L4Class.OTHER
    return L4Class.OTHER if ip.protocol in UPPER_LAYERS else L4Class.UNCLASSIFIED


def _with_ports(l4_class: L4Class, header: bytes, tcp_flags: int = 0) -> Transport:
    return Transport(l4_class, int.from_bytes(header[:2]), int.from_bytes(header[2:4]), tcp_flags)


def _icmp_class(version: int, icmp_type: int) -> L4Class:
    if version == 4:
        if icmp_type in (3, 11, 12):  # RFC 792: unreachable, time exceeded, parameter problem
            return L4Class.ICMP_ERROR
        return {8: L4Class.ECHO_REQUEST, 0: L4Class.ECHO_REPLY}.get(icmp_type, L4Class.OTHER)
    if icmp_type < 128:  # RFC 4443 §2.1
        return L4Class.ICMP_ERROR
    return {128: L4Class.ECHO_REQUEST, 129: L4Class.ECHO_REPLY}.get(icmp_type, L4Class.OTHER)
