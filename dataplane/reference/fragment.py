"""IP fragments: all but the first have no ports, and follow the first; and IPv4 packets cut into fragments."""

from collections import Counter
from dataclasses import dataclass, field, replace

from dataplane.reasons import FRAGMENT_PARTS, FRAGMENT_SHARES, FRAGMENT_WAYS, DropReason, PipelineEvent
from dataplane.reference.packet import Ip, Transport
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
    context: int
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
        self, context: int, port: int, ip: Ip, transport: Transport | None, now_s: float
    ) -> tuple[Ip, Transport] | Drop:
        """The fragment as one of its first's flow; `transport` is what the first says itself. `port`: ingress."""
        place = _place(ip)
        if place is None:
            return REFUSED
        protocol = ip.protocol if ip.version == 4 else 0
        key = _Key(ip.source, ip.destination, ip.identification, context, protocol)
        share = self._share(key, port)
        ways = self._shares.setdefault(share, [None] * FRAGMENT_WAYS)
        known = next((one for one in ways if one is not None and one.key == key and self._is_kept(one, now_s)), None)
        if known is not None:
            known.seen_s = now_s
            if not known.take(*place, is_last=not ip.more_fragments):
                return REFUSED
            self.events[PipelineEvent.FRAGMENT_FOLLOWED] += 1
            return replace(ip, protocol=known.protocol), known.transport
        if transport is None:
            return NOTHING_TO_FOLLOW
        way = self._counts[share] % FRAGMENT_WAYS
        self._counts[share] += 1
        eldest = ways[way]
        if eldest is not None and self._is_kept(eldest, now_s):
            self.events[PipelineEvent.FRAGMENT_EVICTED] += 1
        ways[way] = _Known(key, ip.protocol, transport, now_s, set(range(*place)))
        return ip, transport

    def _is_kept(self, known: _Known, now_s: float) -> bool:
        return not known.is_over and now_s - known.seen_s <= self.lifetime_s

    def _share(self, key: _Key, port: int) -> int:
        """By port and source, so that each source has its own."""
        mix = (key.source >> 64 ^ self.seed) * 0x9E3779B97F4A7C15 & _WORD
        mix ^= ((key.source & _WORD) + self.seed + key.context & _WORD) * 0xC2B2AE3D27D4EB4F & _WORD
        mix ^= mix >> 32
        mix = mix * 0x9FB21C651E98DF25 & _WORD
        return port * FRAGMENT_SHARES + (mix >> 60) % FRAGMENT_SHARES


def _place(ip: Ip) -> tuple[int, int] | None:
    """First and last octet, in units of 8; None where no packet has such a fragment."""
    size = len(ip.transport)
    if size == 0 or (ip.more_fragments and size % 8) or ip.fragment_offset * 8 + size > LARGEST_PAYLOAD[ip.version]:
        return None
    return ip.fragment_offset, ip.fragment_offset + (size + 7) // 8
