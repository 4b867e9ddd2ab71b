"""IP fragments: all but the first have no ports, and follow the first; and IPv4 packets cut into fragments."""

import struct
from collections import Counter
from dataclasses import dataclass, field, replace

from dataplane.reasons import FRAGMENT_PARTS, FRAGMENT_SHARES, FRAGMENT_WAYS, DropReason, PipelineEvent
from dataplane.reference.checksum import checksum
from dataplane.reference.packet import ETHERTYPE_IPV4, Ip, Transport, parse_ip
from dataplane.reference.verdict import Drop

IPV4_HEADER = 20
MORE_FRAGMENTS = 0x2000
LARGEST_PAYLOAD = {4: 0xFFFF - IPV4_HEADER, 6: 0xFFFF}
"""Of a whole packet."""
_WORD = (1 << 64) - 1

REFUSED = Drop(DropReason.FRAGMENT_REFUSED)
NOTHING_TO_FOLLOW = Drop(DropReason.FRAGMENT)


@dataclass(frozen=True, slots=True)
class _Key:
    """Of IPv6 the protocol is the first's, and 0 here (RFC 8200 §4.5)."""

    source: int
    destination: int
    identification: int
    policy_class: int
    protocol: int


@dataclass(slots=True)
class _Known:
    """What has come of one packet; `octets` in units of 8."""

    key: _Key
    protocol: int
    transport: Transport
    seen_s: float
    octets: set[int] = field(default_factory=set)
    end: int = 0
    """0: not known yet."""
    is_over: bool = False
    """All of it has come."""
    is_refused: bool = False
    is_cut: bool = False
    """The first was larger than its path takes."""

    @property
    def gaps(self) -> int:
        return sum(unit + 1 not in self.octets for unit in self.octets) - 1

    def take(self, begin: int, end: int, *, is_last: bool) -> bool:
        """Whether these octets are new, and within the packet; then they have come."""
        octets = set(range(begin, end))
        if self.is_refused or octets <= self.octets:
            return False
        beyond = max(self.octets) >= end if is_last else 0 < self.end < end
        if octets & self.octets or beyond or (is_last and self.end):
            self.is_refused = True  # RFC 5722 §4
            return False
        before = set(self.octets)
        self.octets |= octets
        if self.gaps >= FRAGMENT_PARTS:
            self.octets = before
            return False
        if is_last:
            self.end = end
        self.is_over = len(self.octets) == self.end
        return True


def _key(policy_class: int, ip: Ip) -> _Key:
    protocol = ip.protocol if ip.version == 4 else 0
    return _Key(ip.source, ip.destination, ip.identification, policy_class, protocol)


@dataclass(frozen=True, slots=True)
class Followed:
    ip: Ip
    """With the first's protocol."""
    transport: Transport
    behind_cut: bool = False


@dataclass(slots=True)
class Fragments:
    """What is known of fragmented packets, by share: the eldest of a source gives way."""

    lifetime_s: float = 5.0
    seed: int = 0
    events: Counter[PipelineEvent] = field(default_factory=Counter)
    _shares: dict[int, list[_Known | None]] = field(default_factory=dict)
    _counts: Counter[int] = field(default_factory=Counter)

    def forget(self) -> None:
        self._shares.clear()
        self._counts.clear()

    def follow(
        self, policy_class: int, port: int, ip: Ip, transport: Transport | None, now_s: float
    ) -> Followed | Drop:
        """The fragment as one of its first's flow; `transport` is what the first says itself. `port`: ingress."""
        place = _place(ip)
        if place is None:
            return REFUSED
        key = _key(policy_class, ip)
        share = self._share(key, port)
        ways = self._shares.setdefault(share, [None] * FRAGMENT_WAYS)
        known = self._find(policy_class, port, ip, now_s)
        if known is not None:
            known.seen_s = now_s
            if not known.take(*place, is_last=not ip.more_fragments):
                return REFUSED
            self.events[PipelineEvent.FRAGMENT_FOLLOWED] += 1
            transport = replace(known.transport, tcp_flags=0)  # which only the first has
            return Followed(replace(ip, protocol=known.protocol), transport, known.is_cut)
        if transport is None:
            return NOTHING_TO_FOLLOW
        way = self._counts[share] % FRAGMENT_WAYS
        self._counts[share] += 1
        eldest = ways[way]
        if eldest is not None and self._is_kept(eldest, now_s):
            self.events[PipelineEvent.FRAGMENT_EVICTED] += 1
        ways[way] = _Known(key, ip.protocol, transport, now_s, set(range(*place)))
        return Followed(ip, transport)

    def mark_as_cut(self, policy_class: int, port: int, ip: Ip, now_s: float) -> None:
        """Of a first fragment: those that follow must not overtake it."""
        known = self._find(policy_class, port, ip, now_s)
        if known is not None:
            known.is_cut = True

    def _find(self, policy_class: int, port: int, ip: Ip, now_s: float) -> _Known | None:
        key = _key(policy_class, ip)
        kept = (
            known for known in self._shares[self._share(key, port)] if known is not None and self._is_kept(known, now_s)
        )
        return next((known for known in kept if known.key == key), None)

    def _is_kept(self, known: _Known, now_s: float) -> bool:
        return not known.is_over and now_s - known.seen_s <= self.lifetime_s

    def _share(self, key: _Key, port: int) -> int:
        """By port and source, so that each source has its own."""
        mix = (key.source >> 64 ^ self.seed) * 0x9E3779B97F4A7C15 & _WORD
        mix ^= ((key.source & _WORD) + self.seed + key.policy_class & _WORD) * 0xC2B2AE3D27D4EB4F & _WORD
        mix ^= mix >> 32
        mix = mix * 0x9FB21C651E98DF25 & _WORD
        return port * FRAGMENT_SHARES + (mix >> 60) % FRAGMENT_SHARES


def cut(ip: Ip, mtu: int) -> tuple[Ip, ...]:
    """The fragments of an IPv4 packet that are no larger than `mtu`, RFC 791 §3.2."""
    most = (mtu - IPV4_HEADER) // 8
    size = -(-len(ip.transport) // 8)
    starts = range(0, size, most)
    return tuple(_piece(ip, start, min(start + most, size), is_last=start == starts[-1]) for start in starts)


def _piece(ip: Ip, begin: int, end: int, *, is_last: bool) -> Ip:
    payload = ip.transport[8 * begin : 8 * end]
    more_fragments = MORE_FRAGMENTS if ip.more_fragments or not is_last else 0
    reserved = ip.data[6] >> 5 & 0b110
    head = bytearray(ip.data[:IPV4_HEADER])
    struct.pack_into("!H", head, 2, IPV4_HEADER + len(payload))
    struct.pack_into("!H", head, 6, reserved << 13 | more_fragments | ip.fragment_offset + begin)
    struct.pack_into("!H", head, 10, 0)
    struct.pack_into("!H", head, 10, checksum(bytes(head)))
    parsed = parse_ip(ETHERTYPE_IPV4, bytes(head) + payload)
    assert isinstance(parsed, Ip), "a part of a right packet is one"
    return parsed


def _place(ip: Ip) -> tuple[int, int] | None:
    """First and last octet, in units of 8; None where no packet has such a fragment."""
    size = len(ip.data) - ip.fragmented_offset
    if size == 0 or (ip.more_fragments and size % 8) or ip.fragment_offset * 8 + size > LARGEST_PAYLOAD[ip.version]:
        return None
    return ip.fragment_offset, ip.fragment_offset + (size + 7) // 8
