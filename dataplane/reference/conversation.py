"""Who has asked whom: a reply passes where it answers something that is still alive."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.reference.packet import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN

LIFETIME_S: Mapping[int, float] = {PROTOCOL_ICMP: 60, PROTOCOL_ICMPV6: 60}
"""By protocol: RFC 5508 REQ-1."""
OTHERS_S = 300.0
"""RFC 4787 REQ-5."""
TCP_ESTABLISHED_S, TCP_TRANSITORY_S = 7440.0, 240.0
"""RFC 5382 REQ-5."""
UNNOTICED_S = 41.0
"""The flow cache may have seen packets for so much longer."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks whom, in a network as `flow_policy` names it."""

    network: int
    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Asking:
    """What a packet does to a conversation."""

    flags: int = 0
    """Of TCP."""
    changes: bool = True
    """Else it passes if there is one, and changes nothing: ICMP errors."""

    @property
    def opens(self) -> bool:
        return self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN


@dataclass(slots=True)
class _Conversation:
    seen_s: float
    answered: bool = False
    acknowledged: bool = False
    was_reset: bool = False
    finished: set[bool] = field(default_factory=set)
    """By whom: replies."""

    def lifetime_s(self, protocol: int) -> float:
        if protocol != PROTOCOL_TCP:
            return LIFETIME_S.get(protocol, OTHERS_S) + UNNOTICED_S
        is_established = self.answered and self.acknowledged and not self.was_reset and len(self.finished) < 2
        return (TCP_ESTABLISHED_S if is_established else TCP_TRANSITORY_S) + UNNOTICED_S

    def take(self, asking: Asking, now_s: float, *, replies: bool) -> None:
        self.seen_s = now_s
        if asking.flags & TCP_SYN and not replies:
            self.answered = self.was_reset = False  # the acknowledgement of a port used again may be a hit of a cache
            self.finished.clear()
            return
        self.answered |= replies
        self.acknowledged |= not replies
        if asking.flags & TCP_FIN:
            self.finished.add(replies)
        self.was_reset = bool(asking.flags & TCP_RST)


@dataclass(slots=True)
class Conversations:
    """No end: the oracle forgets nobody who is alive."""

    _known: dict[Asker, _Conversation] = field(default_factory=dict)

    def request(self, asker: Asker, asking: Asking, now_s: float) -> bool:
        """Whether it passes; it opens a conversation, or goes on with one."""
        known = self._alive(asker, now_s)
        if not asking.changes:
            return known is not None
        if known is None and asking.flags & TCP_RST:
            return True
        if known is None:
            known = self._known[asker] = _Conversation(now_s)
        known.take(asking, now_s, replies=False)
        return True

    def reply(self, asker: Asker, asking: Asking, now_s: float) -> bool:
        known = self._alive(asker, now_s)
        if known is None or (asking.opens and known.answered):  # RFC 5382 REQ-2: both ends may open at once
            return False
        if asking.changes:
            known.take(asking, now_s, replies=True)
        return True

    def _alive(self, asker: Asker, now_s: float) -> _Conversation | None:
        known = self._known.get(asker)
        return known if known is not None and now_s - known.seen_s <= known.lifetime_s(asker.protocol) else None
