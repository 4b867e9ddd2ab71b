"""What a node lost after the pipeline had let it through: packets by port, interface and reason.

Where XDP sends, tracepoints say what a port did not take (host/redirects.py). Where the kernel carries frames between
an interface and the pipeline, in detours and tunnels, it counts by itself what it loses:

```
 interface ── tc ──▶ stitch-k3 ══▶ XDP            tx_dropped of stitch-k3
 interface ◀── tc ── stitch-k3 ◀══ XDP            tx_dropped of the interface, drops of its queueing discipline
 underlay ◀── wg-t1 ◀── route ── k-t1 ◀══ XDP     the same of wg-t1 and the underlay, what IPv6 discards at both
```

That begins anew with an interface, and includes what others send by it.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dataplane.host.detour import pair_of
from dataplane.host.netlink import DUMP, ROUTE, Netlink, attributes
from dataplane.host_api import LostPackets, PortRole, PortStatus, PortWay
from dataplane.reasons import DropReason, PortLoss
from dataplane.wireguard.tunnel_link import TunnelLink

_GET_LINK, _GET_QDISC = 18, 38  # linux/rtnetlink.h
_LINK_MESSAGE, _QDISC_MESSAGE = struct.Struct("=BxHiII"), struct.Struct("=BxxxiIII")
_NAME, _STATISTICS = 3, 23  # linux/if_link.h
_COUNTERS = struct.Struct("=16Q")
"""The beginning of struct rtnl_link_stats64."""
_TX_ERRORS, _RX_DROPPED, _TX_DROPPED, _RX_MISSED = 5, 6, 7, 15
_ROOT, _QDISC_STATISTICS, _QUEUE = 0xFFFFFFFF, 7, 3  # linux/pkt_sched.h, linux/gen_stats.h
_QUEUE_DROPS = struct.Struct("=8xI")
_IPV6_COUNTERS = Path("/proc/thread-self/net/dev_snmp6")
_IPV6_DISCARDS = frozenset(
    {"Ip6InHdrErrors", "Ip6InTooBigErrors", "Ip6InNoRoutes", "Ip6InAddrErrors", "Ip6InTruncatedPkts", "Ip6InDiscards"}
    | {"Ip6OutDiscards", "Ip6OutNoRoutes"}
)
LASTING = 3
"""Looks one after the other that each found something lost: then it is a fault."""


class RedirectCounts(Protocol):
    def lost(self) -> dict[tuple[int, PortLoss], int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """An interface, and which of its counters tell what was lost for a port."""

    port: int
    interface: str
    counters: tuple[int, ...]
    queue: bool = False
    ipv6: bool = False


_OUT = (_TX_ERRORS, _TX_DROPPED)


def of_port(port: PortStatus) -> Iterator[Watched]:
    """Natively, what is sent is XDP's; what a card could not take is lost in any case."""
    if port.way != PortWay.DETOUR:
        yield Watched(port=port.number, interface=port.interface, counters=(_RX_MISSED,))
        return
    kernel, _ = pair_of(port.number)
    # On a link, the kernel drops what is not SRv6 and nobody wants.
    taken = (_RX_MISSED, _RX_DROPPED) if port.role is PortRole.ATTACHMENT else (_RX_MISSED,)
    yield Watched(port=port.number, interface=port.interface, counters=(*_OUT, *taken), queue=True)
    yield Watched(port=port.number, interface=kernel, counters=_OUT, queue=True)


def of_tunnel(link: TunnelLink) -> Iterator[Watched]:
    port = link.border.port
    yield Watched(port=port, interface=link.kernel, counters=_OUT, queue=True, ipv6=True)
    for device in link.wireguards:
        yield Watched(port=port, interface=device, counters=(*_OUT, _RX_DROPPED), queue=True, ipv6=True)
    yield Watched(port=port, interface=link.border.interface, counters=(*_OUT, _RX_MISSED), queue=True)


class Losses:
    def __init__(self, redirects: RedirectCounts | None, watched: Callable[[], Iterable[Watched]]) -> None:
        """`redirects`: None where the kernel does not tell."""
        self._redirects = redirects
        self._watched = watched
        self.unsent: Counter[int] = Counter()
        """By port that they came from: packets that were to be cut, and of which not all pieces were sent."""
        self._before: Counter[int] = Counter()
        self._in_a_row: Counter[int] = Counter()

    def read(self, names: Callable[[int], str]) -> tuple[LostPackets, ...]:
        """`names`: of ports. Raises OSError."""
        lost = Counter({(port, kind.reason): packets for (port, kind), packets in self._redirected().items()})
        lost.update({(port, DropReason.TOO_BIG): packets for port, packets in self.unsent.items()})
        report = [
            LostPackets(port=port, interface=names(port), reason=reason, packets=packets)
            for (port, reason), packets in lost.items()
        ]
        report += _of_interfaces(self._watched())
        return tuple(sorted(report, key=lambda each: (each.port, each.interface, each.reason)))

    def _redirected(self) -> dict[tuple[int, PortLoss], int]:
        return self._redirects.lost() if self._redirects else {}

    def look(self) -> frozenset[int]:
        """To be called now and then; the ports that lose packets all the time. Raises OSError."""
        now: Counter[int] = Counter()
        for each in self.read(str):
            now[each.port] += each.packets
        losing = {port for port, packets in now.items() if packets > self._before[port]}
        self._in_a_row = Counter({port: self._in_a_row[port] + 1 for port in losing})
        self._before = now
        return frozenset(port for port, looks in self._in_a_row.items() if looks >= LASTING)


def _of_interfaces(watched: Iterable[Watched]) -> Iterator[LostPackets]:
    with Netlink(ROUTE) as route:
        counters, queues = _counters(route), _queue_drops(route)
    for each in watched:
        index, values = counters.get(each.interface, (0, ()))
        if not index:
            continue
        packets = sum(values[counter] for counter in each.counters)
        packets += queues.get(index, 0) if each.queue else 0
        packets += _ipv6_discards(each.interface) if each.ipv6 else 0
        if packets:
            yield LostPackets(port=each.port, interface=each.interface, reason=DropReason.KERNEL_LOST, packets=packets)


def _counters(route: Netlink) -> dict[str, tuple[int, tuple[int, ...]]]:
    """By name of an interface: its index and counters."""
    counters = {}
    for answer in route.ask(_GET_LINK, _LINK_MESSAGE.pack(0, 0, 0, 0, 0), DUMP):
        facts = attributes(answer[_LINK_MESSAGE.size :])
        index = _LINK_MESSAGE.unpack_from(answer)[2]
        if _STATISTICS in facts:
            counters[facts.get(_NAME, b"").rstrip(b"\0").decode()] = index, _COUNTERS.unpack_from(facts[_STATISTICS])
    return counters


def _queue_drops(route: Netlink) -> dict[int, int]:
    """By index of an interface."""
    drops = {}
    for answer in route.ask(_GET_QDISC, _QDISC_MESSAGE.pack(0, 0, 0, 0, 0), DUMP):
        _, index, _, parent, _ = _QDISC_MESSAGE.unpack_from(answer)
        statistics = attributes(attributes(answer[_QDISC_MESSAGE.size :]).get(_QDISC_STATISTICS, b""))
        if parent == _ROOT and _QUEUE in statistics:
            (drops[index],) = _QUEUE_DROPS.unpack_from(statistics[_QUEUE])
    return drops


def _ipv6_discards(interface: str) -> int:
    try:
        lines = (_IPV6_COUNTERS / interface).read_text().splitlines()
    except OSError:  # it went away just now, or has no IPv6
        return 0
    return sum(int(count) for name, count in map(str.split, lines) if name in _IPV6_DISCARDS)
