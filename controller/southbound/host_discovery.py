"""Hosts that no network has, as they are heard at a node's free ports: ARP (RFC 826, 5227) and IPv6 neighbour discovery
(RFC 4861, 4862). Neither clock nor socket is in here; nothing proves what a host says of itself.

```
 receive(now, port, frame) ──▶ hosts of the port, until they have said nothing for HEARD_S
```

Bounded by port: so many hosts are kept, so many addresses of each, and so many frames are looked at.
"""

import ipaddress
import struct
from collections.abc import Collection
from dataclasses import dataclass, field

from controller.bucket import Bucket
from controller.model.discovery import HeardHost

ARP, IPV6 = 0x0806, 0x86DD
HEARD_S = 1200.0
"""A host that has said nothing for so long is forgotten: Linux' and others' neighbour caches ask within 20 minutes."""
HOSTS_MAX, ADDRESSES_MAX = 16, 8
"""Of one port; of one host."""
FRAMES_S_MAX, FRAMES_AT_ONCE_MAX = 8.0, 32
"""That are looked at, of one port."""
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ICMPV6, _HOP_LIMIT = 58, 255
_NEIGHBOR_SOLICITATION, _NEIGHBOR_ADVERTISEMENT = 135, 136
_MINE = {133: 1, _NEIGHBOR_SOLICITATION: 1, _NEIGHBOR_ADVERTISEMENT: 2}
"""ICMP type: which option holds the sender's MAC (RFC 4861 §4.6.1)."""


@dataclass(slots=True)
class _Host:
    since_s: int
    until_s: float
    addresses: dict[str, None] = field(default_factory=dict)
    """In the order in which they were heard last."""


@dataclass(slots=True)
class _Port:
    hosts: dict[str, _Host] = field(default_factory=dict)
    bucket: Bucket = field(default_factory=lambda: Bucket(rate=FRAMES_S_MAX, burst=FRAMES_AT_ONCE_MAX))


class HostDiscovery:
    """Of a node. Times are of a monotonic clock, but for `unix_s`."""

    def __init__(self) -> None:
        self._ports: dict[int, _Port] = {}

    @property
    def hosts(self) -> tuple[HeardHost, ...]:
        return tuple(
            HeardHost(port=number, mac=mac, addresses=tuple(sorted(host.addresses)), since_s=host.since_s)
            for number, port in sorted(self._ports.items())
            for mac, host in sorted(port.hosts.items())
        )

    def set_ports(self, ports: Collection[int]) -> None:
        """Those for hosts. What was heard at others is forgotten."""
        self._ports = {number: self._ports.get(number) or _Port() for number in ports}

    def next_s(self) -> float:
        """When a host is forgotten."""
        times = (host.until_s for port in self._ports.values() for host in port.hosts.values())
        return min(times, default=float("inf"))

    def expire(self, now_s: float) -> None:
        for port in self._ports.values():
            for mac in [mac for mac, host in port.hosts.items() if host.until_s <= now_s]:
                del port.hosts[mac]

    def receive(self, number: int, frame: bytes, now_s: float, unix_s: float) -> bool:
        """Whether that changes what is known. What is malformed says nothing."""
        port = self._ports.get(number)
        if port is None or not port.bucket.take(now_s):
            return False
        said = _said(frame)
        if said is None:
            return False
        mac, address = said
        host = port.hosts.get(mac)
        is_new = host is None
        if host is None:
            if len(port.hosts) >= HOSTS_MAX:
                return False
            host = port.hosts[mac] = _Host(int(unix_s), 0.0)
        host.until_s = now_s + HEARD_S
        if address is None:
            return is_new
        before = set(host.addresses)
        host.addresses.pop(address, None)
        host.addresses[address] = None
        while len(host.addresses) > ADDRESSES_MAX:
            del host.addresses[next(iter(host.addresses))]
        return is_new or set(host.addresses) != before


def _said(frame: bytes) -> tuple[str, str | None] | None:
    """MAC, and address where it is said; None: nothing is."""
    if len(frame) < 14:
        return None
    source, kind = frame[6:12], int.from_bytes(frame[12:14])
    if source[0] & 1 or not any(source):
        return None
    if kind == ARP:
        address = _by_arp(source, frame[14:])
    elif kind == IPV6:
        address = _by_discovery(source, frame[14:])
    else:
        return None
    return None if address is None else (source.hex(":"), address or None)


def _by_arp(source: bytes, packet: bytes) -> str | None:
    """The sender's address; empty: it does not say (a probe, RFC 5227 §2.1.1, asks whether it may use one)."""
    if len(packet) < _ARP.size:
        return None
    hardware, protocol, mac_size, address_size, operation, mac, sender, _, target = _ARP.unpack_from(packet)
    if (hardware, protocol, mac_size, address_size) != (1, 0x0800, 6, 4) or operation not in (1, 2) or mac != source:
        return None
    return _address(sender if any(sender) else target)


def _by_discovery(source: bytes, packet: bytes) -> str | None:
    """The address of who sends; empty: it does not say."""
    if len(packet) < 48 or packet[0] >> 4 != 6 or packet[6] != _ICMPV6 or packet[7] != _HOP_LIMIT:
        return None
    sender, message = packet[8:24], packet[40 : 40 + int.from_bytes(packet[4:6])]
    kind = message[0] if message else 0
    is_of_target = kind in (_NEIGHBOR_SOLICITATION, _NEIGHBOR_ADVERTISEMENT)
    if kind not in _MINE or message[1] or len(message) < (24 if is_of_target else 8):
        return None
    options = message[24 if is_of_target else 8 :]
    while len(options) >= 8 and options[1]:
        if options[0] == _MINE[kind] and options[2:8] != source:
            return None
        options = options[8 * options[1] :]
    if options:
        return None
    if kind == _NEIGHBOR_ADVERTISEMENT or (kind == _NEIGHBOR_SOLICITATION and not any(sender)):
        return _address(message[8:24])  # its own, or the one that it will use if nobody else does (RFC 4862 §5.4.2)
    return _address(sender)


def _address(octets: bytes) -> str:
    """Empty where no host of a network can have it."""
    address = ipaddress.ip_address(octets)
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
        return ""
    return "" if isinstance(address, ipaddress.IPv4Address) and address.is_reserved else str(address)
