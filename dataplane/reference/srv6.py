"""SRv6: outer header and SRH (RFC 8754, RFC 8986), compressed SIDs (RFC 9800), ECN of outer and inner (RFC 6040)."""

import struct
from dataclasses import dataclass, replace

from dataplane.reasons import MAX_SEGMENTS, SID_BLOCK, STAMP_PORT, TRIMMED_LENGTH, DropReason
from dataplane.reference.checksum import updated
from dataplane.reference.packet import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    MALFORMED,
    PROTOCOL_IPV4,
    PROTOCOL_IPV6,
    PROTOCOL_ROUTING,
    PROTOCOL_UDP,
    Ip,
    Transport,
    parse_ip,
)
from dataplane.reference.verdict import Drop

SRH_TYPE = 4
CONTAINER_BITS = 96
"""Of a container, behind the block: nodes and functions of 16 bits each."""
HOP_LIMIT = 64
UDP_LENGTH, STAMP_LENGTH = 8, 112
NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
INNER_ETHERTYPE = {PROTOCOL_IPV4: ETHERTYPE_IPV4, PROTOCOL_IPV6: ETHERTYPE_IPV6}


@dataclass(frozen=True, slots=True)
class Outer:
    """An IPv6 packet to a SID. `data` keeps the whole frame's payload, with padding."""

    data: bytes
    length: int
    """By the IPv6 header."""

    @property
    def destination(self) -> int:
        return int.from_bytes(self.data[24:40])

    @property
    def hop_limit(self) -> int:
        return self.data[7]

    @property
    def next_header(self) -> int:
        return self.data[6]

    @property
    def ecn(self) -> int:
        return self.data[1] >> 4 & 3

    def with_hop_limit(self, hop_limit: int) -> "Outer":
        return replace(self, data=self.data[:7] + bytes((hop_limit,)) + self.data[8:])


def is_sid(address: int) -> bool:
    return address >> 112 == SID_BLOCK


def parse_outer(data: bytes) -> Outer | Drop:
    length = 40 + int.from_bytes(data[4:6])
    return Outer(data, length) if data[0] >> 4 == 6 and length <= len(data) else MALFORMED


@dataclass(frozen=True, slots=True)
class SegmentRouting:
    next_header: int
    size: int
    segments_left: int
    last_entry: int


def parse_srh(outer: Outer) -> SegmentRouting | Drop:
    """Deviates: RFC 8754 §2.1, no TLVs; at most 8 segments. Others cross a node, but cannot end there."""
    srh = outer.data[40 : outer.length]
    if outer.next_header != PROTOCOL_ROUTING or len(srh) < 8:
        return MALFORMED
    next_header, units, routing_type, segments_left, last_entry = struct.unpack_from("!BBBBB", srh)
    size = 8 + 8 * units
    if routing_type != SRH_TYPE or units != 2 * (last_entry + 1) or last_entry >= MAX_SEGMENTS or size > len(srh):
        return MALFORMED
    return SegmentRouting(next_header, size, segments_left, last_entry)


def end(outer: Outer, sids: int) -> Outer | Drop:
    """To the next SID of the container, or to the next container (RFC 9800 §4.1.1, §4.1.2; RFC 8986 §4.1).

    `sids`: how many of 16 bits are used up here: 1 of End (the node), 2 of End.X (node and function).
    """
    rest = outer.destination & (1 << CONTAINER_BITS - 16 * sids) - 1
    if rest:
        if outer.hop_limit <= 1:
            return Drop(DropReason.HOP_LIMIT)
        block = outer.destination >> CONTAINER_BITS << CONTAINER_BITS
        return _to(outer.data, block | rest << 16 * sids, outer.length)
    if outer.next_header != PROTOCOL_ROUTING:
        return Drop(DropReason.SEGMENTS_LEFT)  # Deviates: RFC 8986 §4.1.1, no upper-layer header is for us
    srh = parse_srh(outer)
    if isinstance(srh, Drop):
        return srh
    if not 0 < srh.segments_left <= srh.last_entry + 1:  # a reduced SRH lacks the first container (RFC 8754 §4.1.1)
        return Drop(DropReason.SEGMENTS_LEFT)
    if outer.hop_limit <= 1:
        return Drop(DropReason.HOP_LIMIT)
    data = bytearray(outer.data)
    data[43] -= 1
    segment = 48 + 16 * data[43]
    return _to(bytes(data), int.from_bytes(data[segment : segment + 16]), outer.length)


def _to(data: bytes, destination: int, length: int) -> Outer | Drop:
    if not is_sid(destination) or not destination >> CONTAINER_BITS - 16 & 0xFFFF:
        return Drop(DropReason.SID_NOT_ADMITTED)
    return Outer(data[:24] + destination.to_bytes(16) + data[40:], length)


def decapsulate(outer: Outer) -> Ip | Drop:
    """The inner packet (RFC 8986 §4.8), with the ECN that RFC 6040 §4.2 gives it."""
    upper = _upper(outer)
    if isinstance(upper, Drop):
        return upper
    next_header, start = upper
    if next_header not in INNER_ETHERTYPE:
        return MALFORMED
    inner = parse_ip(INNER_ETHERTYPE[next_header], outer.data[start : outer.length])
    if isinstance(inner, Drop):
        return inner
    ecn = decapsulated_ecn(inner.traffic_class & 3, outer.ecn)
    return MALFORMED if ecn is None else inner.with_ecn(ecn)


def _upper(outer: Outer) -> tuple[int, int] | Drop:
    """What the outer header, and an SRH without further segments, carry: protocol, and where it begins."""
    if outer.next_header != PROTOCOL_ROUTING:
        return outer.next_header, 40
    srh = parse_srh(outer)
    if isinstance(srh, Drop):
        return srh
    return (srh.next_header, 40 + srh.size) if srh.segments_left == 0 else Drop(DropReason.SEGMENTS_LEFT)


def is_probe(outer: Outer) -> bool:
    """Whether a packet that End drops is a probe (STAMP, RFC 8762 §4.2.2): the model has sent none."""
    upper = _upper(outer)
    if isinstance(upper, Drop) or upper[0] != PROTOCOL_UDP:
        return False
    datagram = outer.data[upper[1] :]
    return len(datagram) >= UDP_LENGTH + STAMP_LENGTH and int.from_bytes(datagram[2:4]) == STAMP_PORT


def trimmed_to(outer: Outer) -> int:
    """What a node before us wrote of how much fits; 0: nothing."""
    return int.from_bytes(outer.data[46:48]) if outer.next_header == PROTOCOL_ROUTING else 0


def trim(outer: Outer, mtu: int) -> Outer | Drop:
    """What is left of a packet that is larger than `mtu`, to go on: who decapsulates it tells its sender.

    An SRH whose segments are all left behind carries the MTU where there is none; nodes on the way do not look at it.
    """
    too_big = Drop(DropReason.TOO_BIG)
    if outer.next_header == PROTOCOL_ROUTING:
        srh = parse_srh(outer)
        if isinstance(srh, Drop) or trimmed_to(outer):
            return too_big
        inner_protocol, start = srh.next_header, 40 + srh.size
        header = bytearray(outer.data[:start])
    else:
        inner_protocol, start = outer.next_header, 40
        header = bytearray(outer.data[:40])
        header[6] = PROTOCOL_ROUTING
        header += struct.pack("!BBBBBBH", inner_protocol, 2, SRH_TYPE, 0, 0, 0, 0) + header[24:40]
    if inner_protocol not in INNER_ETHERTYPE or mtu < len(header) + TRIMMED_LENGTH:
        return too_big
    inner = bytearray(outer.data[start : start + TRIMMED_LENGTH])
    if inner_protocol == PROTOCOL_IPV6:
        inner[4:6] = (TRIMMED_LENGTH - 40).to_bytes(2)
    else:
        before, check = int.from_bytes(inner[2:4]), int.from_bytes(inner[10:12])
        inner[2:4] = TRIMMED_LENGTH.to_bytes(2)
        inner[10:12] = updated(check, before, TRIMMED_LENGTH).to_bytes(2)
    header[4:6] = (len(header) - 40 + TRIMMED_LENGTH).to_bytes(2)
    header[46:48] = (mtu - start).to_bytes(2)
    return Outer(bytes(header + inner), len(header) + len(inner))


def decapsulated_ecn(inner: int, outer: int) -> int | None:
    """RFC 6040, figure 4. None: drop."""
    if inner == NOT_ECT:
        return None if outer == CE else NOT_ECT
    if outer == CE:
        return CE
    if inner == ECT_0 and outer == ECT_1:
        return ECT_1
    return inner


def entropy(ip: Ip, transport: Transport) -> int:
    """6 bits that are equal for all packets of a flow: XOR of the 16-bit words of its key."""
    words = struct.unpack("!16H", ip.source.to_bytes(16) + ip.destination.to_bytes(16))
    value = transport.source_port ^ transport.destination_port ^ ip.protocol
    for word in words:
        value ^= word
    return value & 0x3F


@dataclass(frozen=True, slots=True)
class Path:
    """A candidate path: what `h_encaps` says of it."""

    source: int
    color: int
    containers: tuple[int, ...]
    """In the order of travel, without those after the last one."""
    merge_bits: int

    def segments(self, service_sid: int) -> tuple[int, ...]:
        """In the order of travel: the service SID moved into the last container, or as a segment of its own."""
        last = self.containers[-1] | (service_sid & (1 << CONTAINER_BITS) - 1) >> self.merge_bits
        return (*self.containers[:-1], last if self.merge_bits else service_sid)


def encapsulate(ip: Ip, path: Path, service_sid: int, dscp: int, entropy: int) -> Outer:
    """H.Encaps.Red (RFC 8986 §5.2): the first container is the destination only, so one needs no SRH."""
    first, *others = path.segments(service_sid)
    inner = PROTOCOL_IPV4 if ip.version == 4 else PROTOCOL_IPV6
    srh = b""
    if others:
        count = len(others)
        srh = struct.pack("!BBBBBBH", inner, 2 * count, SRH_TYPE, count, count - 1, 0, 0)
        srh += b"".join(segment.to_bytes(16) for segment in reversed(others))
    first_word = 6 << 28 | (dscp << 2 | ip.traffic_class & 3) << 20 | path.color << 6 | entropy
    header = struct.pack("!IHBB", first_word, len(srh) + len(ip.data), PROTOCOL_ROUTING if srh else inner, HOP_LIMIT)
    data = header + path.source.to_bytes(16) + first.to_bytes(16) + srh + ip.data
    return Outer(data, len(data))
