"""Asks hosts for their MAC addresses: before there are packets for them, and again while they are known.

A host is what `source_guard` admits by its whole address. An ARP request or a neighbour solicitation for it goes out of
its port as the gateway's own; XDP learns from the answer. Silent hosts are asked again, ever more seldom.

    nobody knows ──answer──▶ confirmed ──after about 20 s, or in doubt──▶ asked at its MAC ──▶ asked by broadcast
         ▲                   │  ▲      ──5 s of packets, none comes back─▶ 3 times, 1 s apart   3 times, 1 s apart
         │                   │  └────────────────── answer ───────────────────────┘                   │
         └───────────────────┴───────────── nobody answers: forgotten ───────────────────────────────┘

RFC 1122 §2.3.2.1, RFC 4861 §7.3. While a host is asked, XDP sends to the MAC that it knows, so nothing is lost. A host
that has another MAC and says nothing has its packets again 8 to 9 s after it was heard last.
"""

import asyncio
import contextlib
import ipaddress
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Protocol

import structlog

from dataplane.errors import AgentError
from dataplane.host.ports import PortAddresses
from dataplane.log import Logger
from dataplane.p4runtime.codec import EXACT_FIELD_BITS
from dataplane.p4runtime.columns import numbers, pieces
from dataplane.reasons import NEIGHBORS_OF_PORT
from dataplane.tables.node_tables import Tables
from dataplane.tables.stores import MapWriter

_log: Logger = structlog.get_logger("stitch-agent")
_KEY = struct.Struct("HHI16s")
"""struct neighbor_key: port, zeros, address."""
_VALUE = struct.Struct("6sHQQ")
"""struct learnt_value: MAC, slot, when it was confirmed, the first packet since."""
_MAPPED_IPV4 = bytes(10) + b"\xff\xff"
_ADDRESS_BITS = 128
_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_REACHABLE_S = 20.0
"""How long an answer counts, times 0.5 to 1.5, so that hosts are not all asked at the same time (RFC 4861 §6.3.2)."""
_DELAY_S = 5.0
"""So long packets go to a host from which nothing comes before it is asked (RFC 4861 §10, DELAY_FIRST_PROBE_TIME)."""
_RETRANSMIT_S = 1.0
_UNICAST, _BROADCAST = 3, 3
"""Questions in vain (RFC 4861 §10): first to the MAC that is known, then to everybody."""
_TOGETHER_S = 3.0
"""Known hosts that are due so soon are asked with those that are: the agent wakes up once for several."""
_LOOK_S = 5.0
"""How often is looked for what XDP learnt."""
_AT_ONCE = 256
"""Questions until others have their turn, for `_PAUSE_S`."""
_PAUSE_S = 0.01
_ARP = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
_ICMPV6 = 58
_SOLICITATION, _SOURCE_MAC = 135, 1


class Ports(Protocol):
    def addresses(self, number: int) -> PortAddresses | None: ...


@dataclass(frozen=True, slots=True)
class Host:
    port: int
    address: bytes
    """16 bytes, IPv4 as ::ffff:a.b.c.d."""


@dataclass(frozen=True, slots=True)
class _Asked:
    at_s: float
    wait_s: float
    """Until it is asked again."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What XDP knows of a host."""

    mac: bytes
    confirmed_s: float
    """By the boot clock; 0: never, or there is doubt."""
    waiting_s: float
    """When the first packet since went there; 0: none did."""


@dataclass(frozen=True, slots=True)
class _Check:
    """Whether a known host is still there."""

    due_s: float
    since_s: float = 0.0
    """When it was asked first."""
    questions: int = 0
    """That nobody answered so far."""


class Neighbors:
    """Lives in the event loop; `look` and `begin_anew` may be called before `run`."""

    def __init__(
        self,
        tables: Tables,
        known: MapWriter,
        ports: Ports,
        send: Callable[[int, bytes], None],
        silence_s: Callable[[Sequence[tuple[int, bytes]]], Sequence[float]],
    ) -> None:
        """`known`: the map `neighbor_cache`. `send`: a frame out of a port; raises AgentError where that does not work.

        `silence_s`: of hosts by port and address, since when nothing came from them.
        """
        self._tables = tables
        self._known = known
        self._ports = ports
        self._send = send
        self._silence_s = silence_s
        self._changed = asyncio.Event()
        self._silent: dict[Host, _Asked] = {}
        self._checks: dict[Host, _Check] = {}
        self._heard_s: dict[Host, float] = {}
        """When something came last from a known host, or the first packet went to it."""
        self._attached = False
        """Some port is an attachment, whose hosts XDP may learn."""
        tables.follow(("attachment", "source_guard"), self._changed.set)

    def look(self) -> None:
        """Ports or their addresses may have changed."""
        self._changed.set()

    def begin_anew(self) -> None:
        """Asks silent hosts soon: interfaces changed, perhaps they are there now."""
        self._silent = {host: _Asked(asked.at_s, min(asked.wait_s, _WAIT_S)) for host, asked in self._silent.items()}
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Asks when something changed, or when it is time to ask again."""
        self._changed.set()
        wait_s: float | None = None
        while True:
            # Not `wait_for`: Python 3.11's forgets that it was cancelled where a change comes at the same moment.
            with contextlib.suppress(TimeoutError):  # time to ask again
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            try:
                if self._changed.is_set():
                    self._changed.clear()
                    self.read(_now_s())
                wait_s = self.ask(_now_s())
            except (AgentError, OSError) as error:
                _log.error("hosts_cannot_be_asked", reason=str(error))
                await asyncio.sleep(_LONGEST_WAIT_S)
                self._changed.set()

    def read(self, now_s: float) -> None:
        """Learns from the tables whom to ask, and has XDP forget who is admitted no more. Raises OSError."""
        guards = self._tables.keys("source_guard")
        prefix, port, source = self._tables.layout.by_name["source_guard"].key.places
        lengths = numbers(guards, prefix) - EXACT_FIELD_BITS
        hosts, prefixes = set[Host](), set[tuple[int, int, int]]()
        addresses = pieces(guards[:, source.offset : source.offset + source.size])
        for number, length, address in zip(numbers(guards, port).tolist(), lengths.tolist(), addresses, strict=True):
            if length == _ADDRESS_BITS:
                hosts.add(Host(number, address))
            else:
                prefixes.add((number, length, _bits(address, length)))
        known = set(self._known_hosts())
        kinds = {(number, length) for number, length, _ in prefixes}
        gone = [
            host
            for host in known - hosts
            if not any(
                number == host.port and (number, length, _bits(host.address, length)) in prefixes
                for number, length in kinds
            )
        ]
        self._known.delete_batch(b"".join(_KEY.pack(host.port, 0, 0, host.address) for host in gone))
        self._attached = bool(len(self._tables.keys("attachment")))
        never = _Asked(now_s, 0.0)
        room = {
            number: NEIGHBORS_OF_PORT - count
            for number, count in Counter(h.port for h in known.difference(gone)).items()
        }
        sought = sorted(self._within_reach(hosts - known), key=lambda host: (host.port, host.address))
        self._silent = {
            host: self._silent.get(host, never)
            for number, of_port in groupby(sought, key=lambda host: host.port)
            for host in islice(of_port, room.get(number, NEIGHBORS_OF_PORT))
        }

    def ask(self, now_s: float) -> float | None:
        """Asks who is due. Returns in how many seconds the next will be; None: there is nobody. Raises OSError.

        `now_s`: by the boot clock, as XDP's are.
        """
        known = self._known_hosts()
        for host in known:
            self._silent.pop(host, None)
        self._checks = {host: self._check(host, seen, now_s) for host, seen in known.items() if self._own(host)}
        waiting = self._waiting(known, now_s)
        due = [host for host, check in self._checks.items() if _due_s(check, waiting.get(host)) <= now_s]
        if due:
            soon = now_s + _TOGETHER_S
            due += [host for host, check in self._checks.items() if now_s < check.due_s <= soon and not check.questions]
            due = list(dict.fromkeys(due))
        gone = [host for host in due if self._checks[host].questions >= _UNICAST + _BROADCAST]
        self._forget(gone, now_s)
        asked = [host for host, asked in self._silent.items() if asked.at_s + asked.wait_s <= now_s]
        for host in asked[:_AT_ONCE]:
            self._ask_one(host, None)
            wait_s = min(max(2 * self._silent[host].wait_s, _WAIT_S), _LONGEST_WAIT_S)
            self._silent[host] = _Asked(now_s, wait_s)
        for host in [host for host in due if host in self._checks][:_AT_ONCE]:
            check = self._checks[host]
            self._ask_one(host, known[host].mac if check.questions < _UNICAST else None)
            self._checks[host] = _Check(now_s + _RETRANSMIT_S, check.since_s or now_s, check.questions + 1)
        following = [asked.at_s + asked.wait_s for asked in self._silent.values()]
        following += [_due_s(check, waiting.get(host)) for host, check in self._checks.items()]
        following += [now_s + _LOOK_S] if self._attached else []
        return max(min(following) - now_s, _PAUSE_S) if following else None

    def _check(self, host: Host, known: _Known, now_s: float) -> _Check:
        """When a host is asked next, unless packets wait for an answer."""
        check = self._checks.get(host)
        if check is not None and check.questions and known.confirmed_s < check.since_s:
            return check  # no answer yet
        if not known.confirmed_s:
            return _Check(now_s)
        if check is not None and not check.questions and check.due_s > known.confirmed_s + _REACHABLE_S / 2:
            return check
        return _Check(known.confirmed_s + _REACHABLE_S * random.uniform(0.5, 1.5))

    def _waiting(self, known: Mapping[Host, _Known], now_s: float) -> Mapping[Host, float]:
        """Since when packets have gone to a host and nothing came from it, where any went. Raises OSError."""
        waiting = {
            host: max(seen.waiting_s, self._heard_s.get(host, 0.0)) for host, seen in known.items() if seen.waiting_s
        }
        left_alone = {host for host, check in self._checks.items() if not check.questions}
        late = [host for host, since_s in waiting.items() if host in left_alone and since_s + _DELAY_S <= now_s]
        if late:
            for host, silent_s in zip(late, self._silence_s([(h.port, h.address) for h in late]), strict=True):
                waiting[host] = max(waiting[host], now_s - silent_s)
        self._heard_s = waiting
        return waiting

    def _forget(self, gone: list[Host], now_s: float) -> None:
        """Who does not answer is a silent host, if `source_guard` names it."""
        if not gone:
            return
        self._known.delete_batch(b"".join(_KEY.pack(host.port, 0, 0, host.address) for host in gone))
        for host in gone:
            del self._checks[host]
        self.read(now_s)

    def _own(self, host: Host) -> tuple[bytes, bytes] | None:
        """MAC and address from which to ask `host`; None where there are none."""
        us = self._ports.addresses(host.port)
        own = us and _own_address(us, host.address)
        return (us.mac, own) if us and own else None

    def _ask_one(self, host: Host, mac: bytes | None) -> None:
        """At `mac`, or everybody."""
        own = self._own(host)
        if own is None:
            return  # no more
        try:
            self._send(host.port, question(own[0], own[1], host.address[-len(own[1]) :], mac))
        except AgentError as error:
            _log.debug("host_not_asked", reason=str(error))

    def _within_reach(self, hosts: set[Host]) -> set[Host]:
        """Behind ports that have a gateway address of the family and whose untagged frames are some network's."""
        table = self._tables.layout.by_name["attachment"].key.by_name
        keys = self._tables.keys("attachment")
        attached = set(numbers(keys, table["ingress_port"])[numbers(keys, table["vlan_id"]) == 0].tolist())
        us = {number: self._ports.addresses(number) for number in attached & {host.port for host in hosts}}
        return {host for host in hosts if (here := us.get(host.port)) and _own_address(here, host.address)}

    def known(self) -> int:
        """Hosts whose MAC address is known. Raises OSError."""
        return len(self._known_hosts())

    def _known_hosts(self) -> dict[Host, _Known]:
        keys, values = self._known.items()
        return {
            Host(port, address): _Known(mac, confirmed_ns / 1e9, waiting_ns / 1e9)
            for (port, _, _, address), (mac, _, confirmed_ns, waiting_ns) in zip(
                _KEY.iter_unpack(keys), _VALUE.iter_unpack(values), strict=True
            )
        }


def _due_s(check: _Check, waiting_s: float | None) -> float:
    """When a host is asked, if nothing comes from it until then."""
    return check.due_s if waiting_s is None or check.questions else min(check.due_s, waiting_s + _DELAY_S)


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def question(mac: bytes, own: bytes, target: bytes, to: bytes | None = None) -> bytes:
    """The frame by which we, at `mac` and `own`, ask for the MAC of `target`; addresses of 4 or 16 bytes.

    `to`: at that MAC only.
    """
    ask = _arp_request if len(own) == 4 else _neighbor_solicitation
    return ask(mac, own, target, to)


def _own_address(us: PortAddresses, address: bytes) -> bytes | None:
    """From which to ask for `address` (16 bytes); None where there is none, or it is `address` itself."""
    own = us.ipv4 if address.startswith(_MAPPED_IPV4) else us.ipv6
    return own if any(own) and not address.endswith(own) else None


def _arp_request(mac: bytes, sender: bytes, target: bytes, to: bytes | None) -> bytes:
    """RFC 826."""
    return _ARP.pack(to or b"\xff" * 6, mac, 0x0806, 1, 0x0800, 6, 4, 1, mac, sender, bytes(6), target)


def _neighbor_solicitation(mac: bytes, source: bytes, target: bytes, to: bytes | None) -> bytes:
    """RFC 4861 §4.3, to the solicited-node multicast address (RFC 4291 §2.7.1) where it is for everybody."""
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + target[13:]
    destination = target if to else group
    option = bytes((_SOURCE_MAC, 1)) + mac
    length = struct.pack("!I", 8 + len(target) + len(option))
    checked = source + destination + length + struct.pack("!I", _ICMPV6)
    checksum = _checksum(checked + bytes((_SOLICITATION, 0, 0, 0, 0, 0, 0, 0)) + target + option)
    message = struct.pack("!BBHI", _SOLICITATION, 0, checksum, 0) + target + option
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source + destination
    return (to or b"\x33\x33" + group[12:]) + mac + b"\x86\xdd" + header + message


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _bits(address: bytes, length: int) -> int:
    """The first `length` bits."""
    return int.from_bytes(address) >> (_ADDRESS_BITS - length)
