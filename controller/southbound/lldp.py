"""LLDP (IEEE 802.1AB-2016) of one node: frames, and what its ports hear. Neither clock nor socket is in here.

```
 due(now) ──▶ frames to send                 receive(now, port, frame) ──▶ remote systems of the port, until their TTL
```

Both are bounded by port: so many neighbours are kept, and so many frames are looked at.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from controller.bucket import Bucket
from controller.model.discovery import LldpCounts, RemoteSystem

ETHER_TYPE = 0x88CC
NEAREST_BRIDGE = bytes.fromhex("0180c200000e")
"""Group address that no bridge forwards (§7.1): who is heard is at the other end of the cable."""
MSG_TX_INTERVAL_S, MSG_TX_HOLD, MSG_FAST_TX_S, TX_FAST_INIT = 30, 4, 1, 4
"""Defaults of §9.2.5: a frame every 30 s, and four within as many seconds after a port or a neighbour is new."""
TTL_S = MSG_TX_INTERVAL_S * MSG_TX_HOLD + 1
REMOTE_SYSTEMS_MAX = 4
"""Of one port: more than one there is a hub, or a lie."""
FRAMES_S_MAX, FRAMES_AT_ONCE_MAX = 4.0, 16
"""That are looked at, of one port."""
_TEXT_MAX = 255
_END, _CHASSIS_ID, _PORT_ID, _TTL, _PORT_DESCRIPTION, _SYSTEM_NAME = range(6)
_MAC_ADDRESS = {_CHASSIS_ID: 4, _PORT_ID: 3}
_NETWORK_ADDRESS = {_CHASSIS_ID: 5, _PORT_ID: 4}
_LOCALLY_ASSIGNED = 7
_LEAST_FRAME = 60


class Malformed(Exception):
    """§9.2.7.7.1: the frame is discarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lldpdu:
    """§8.5. Ids are `mac:…`, `address:…` or the text, `hex:…` where that cannot be printed."""

    chassis_id: str
    port_id: str
    ttl_s: int
    """0: the neighbour says that it goes."""
    port_description: str = ""
    system_name: str = ""


def own_chassis_id(domain: str, node: str) -> str:
    return f"{domain}/{node}"


def encode(source: bytes, lldpdu: Lldpdu) -> bytes:
    """An Ethernet frame; ids are locally assigned ones."""
    texts = (
        (_CHASSIS_ID, bytes((_LOCALLY_ASSIGNED,)) + lldpdu.chassis_id.encode()),
        (_PORT_ID, bytes((_LOCALLY_ASSIGNED,)) + lldpdu.port_id.encode()),
        (_TTL, struct.pack("!H", lldpdu.ttl_s)),
        (_PORT_DESCRIPTION, lldpdu.port_description.encode()),
        (_SYSTEM_NAME, lldpdu.system_name.encode()),
    )
    tlvs = b"".join(struct.pack("!H", kind << 9 | len(value)) + value for kind, value in texts if value)
    return (NEAREST_BRIDGE + source + struct.pack("!H", ETHER_TYPE) + tlvs + b"\0\0").ljust(_LEAST_FRAME, b"\0")


def decode(frame: bytes) -> Lldpdu:
    """Raises Malformed. What follows the end of the LLDPDU is padding."""
    if frame[12:14] != struct.pack("!H", ETHER_TYPE):
        raise Malformed("no LLDP")
    tlvs = list(_tlvs(frame[14:]))
    kinds = [kind for kind, _ in tlvs]
    if kinds[:3] != [_CHASSIS_ID, _PORT_ID, _TTL]:
        raise Malformed("chassis id, port id and TTL are not its first TLVs, in this order")
    if any(count > 1 for kind, count in Counter(kinds).items() if kind in range(_SYSTEM_NAME + 1)):
        raise Malformed("a TLV that may be there once is there twice")
    values = dict(tlvs[:3]) | {kind: value for kind, value in tlvs if kind in (_PORT_DESCRIPTION, _SYSTEM_NAME)}
    if len(values[_TTL]) < 2:
        raise Malformed("a TTL of less than two octets")
    return Lldpdu(
        chassis_id=_id(_CHASSIS_ID, values[_CHASSIS_ID]),
        port_id=_id(_PORT_ID, values[_PORT_ID]),
        ttl_s=int.from_bytes(values[_TTL][:2]),
        port_description=_text(values.get(_PORT_DESCRIPTION, b"")[:_TEXT_MAX]),
        system_name=_text(values.get(_SYSTEM_NAME, b"")[:_TEXT_MAX]),
    )


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < 2:
            raise Malformed("half a TLV")
        kind, length = data[at] >> 1, (data[at] & 1) << 8 | data[at + 1]
        at += 2
        if kind == _END:
            return
        if length > len(data) - at:
            raise Malformed("a TLV that is longer than the frame")
        yield kind, data[at : at + length]
        at += length


def _id(kind: int, value: bytes) -> str:
    """Subtype and 1 to 255 octets (§8.5.2, §8.5.3)."""
    if not 2 <= len(value) <= 1 + _TEXT_MAX:
        raise Malformed("an id of no octets, or more than 255")
    subtype, octets = value[0], value[1:]
    if subtype == _MAC_ADDRESS[kind] and len(octets) == 6:
        return f"mac:{octets.hex(':')}"
    if subtype == _NETWORK_ADDRESS[kind]:
        return f"address:{octets.hex()}"
    text = _text(octets)
    return text if text.encode() == octets and ":" not in text else f"hex:{octets.hex()}"


def _text(octets: bytes) -> str:
    """It is shown in terminals: nothing of it does anything there."""
    return "".join(character if character.isprintable() else "?" for character in octets.decode("utf-8", "replace"))


@dataclass(slots=True)
class _Port:
    mac: bytes
    interface: str
    next_s: float
    """When it sends next."""
    fast: int = TX_FAST_INIT
    """So many frames it sends at the faster pace."""
    remote: dict[tuple[str, str], tuple[RemoteSystem, float]] = field(default_factory=dict)
    """By chassis and port id: what it says, and when that ends."""
    bucket: Bucket = field(default_factory=lambda: Bucket(rate=FRAMES_S_MAX, burst=FRAMES_AT_ONCE_MAX))


class LldpAgent:
    """Of a node. Times are of a monotonic clock, but for `unix_s`."""

    def __init__(self, domain: str, node: str) -> None:
        self._domain = domain
        self._node = node
        self._ports: dict[int, _Port] = {}
        self._counts: Counter[str] = Counter()

    @property
    def remote_systems(self) -> tuple[RemoteSystem, ...]:
        found = (system for port in self._ports.values() for system, _ in port.remote.values())
        return tuple(sorted(found, key=lambda system: (system.port, system.chassis_id, system.port_id)))

    @property
    def counts(self) -> LldpCounts:
        return LldpCounts(**self._counts)

    def set_ports(self, ports: Mapping[int, tuple[bytes, str]], now_s: float) -> None:
        """The fabric's: number → MAC and interface. What was heard at others is forgotten."""
        for number in self._ports.keys() - ports.keys():
            del self._ports[number]
        for number, (mac, interface) in ports.items():
            port = self._ports.get(number)
            if port is None:
                # nodes that are connected at once do not send at once
                spread_s = int.from_bytes(hashlib.sha256(f"{self._node} {number}".encode()).digest()[:2]) / 65536
                self._ports[number] = _Port(mac, interface, now_s + MSG_FAST_TX_S * spread_s)
            else:
                port.mac, port.interface = mac, interface

    def due(self, now_s: float) -> Iterable[tuple[int, bytes]]:
        """What is to be sent now."""
        for number, port in self._ports.items():
            if port.next_s > now_s:
                continue
            port.fast = max(0, port.fast - 1)
            port.next_s = now_s + (MSG_FAST_TX_S if port.fast else MSG_TX_INTERVAL_S)
            lldpdu = Lldpdu(
                chassis_id=own_chassis_id(self._domain, self._node),
                port_id=str(number),
                ttl_s=TTL_S,
                port_description=port.interface,
                system_name=self._node,
            )
            yield number, encode(port.mac, lldpdu)

    def next_s(self) -> float:
        """When there is something to send, or what was heard ends."""
        times = [port.next_s for port in self._ports.values()]
        times += [until_s for port in self._ports.values() for _, until_s in port.remote.values()]
        return min(times, default=float("inf"))

    def expire(self, now_s: float) -> bool:
        """Whether anything has not been heard for its TTL, and is forgotten."""
        before = self._counts["ageouts"]
        for port in self._ports.values():
            for key in [key for key, (_, until_s) in port.remote.items() if until_s <= now_s]:
                del port.remote[key]
                self._counts["ageouts"] += 1
        return self._counts["ageouts"] != before

    def receive(self, number: int, frame: bytes, now_s: float, unix_s: float) -> bool:
        """Whether that changes what is known."""
        port = self._ports.get(number)
        if port is None:
            return False
        self._counts["frames_in"] += 1
        if not port.bucket.take(now_s):
            self._counts["too_fast"] += 1
            return False
        try:
            lldpdu = decode(frame)
        except Malformed:
            self._counts["frames_discarded"] += 1
            return False
        key = (lldpdu.chassis_id, lldpdu.port_id)
        if not lldpdu.ttl_s:
            return port.remote.pop(key, None) is not None
        known = port.remote.get(key)
        if known is None and len(port.remote) >= REMOTE_SYSTEMS_MAX:
            self._counts["too_many_neighbors"] += 1
            return False
        system = self._system(number, lldpdu, int(unix_s))
        same = known is not None and _said(known[0]) == _said(system)
        port.remote[key] = (known[0] if known is not None and same else system, now_s + lldpdu.ttl_s)
        if known is None:  # §9.2.7.3: who is new learns of us soon
            port.fast, port.next_s = TX_FAST_INIT, min(port.next_s, now_s + MSG_FAST_TX_S)
        return not same

    def _system(self, number: int, lldpdu: Lldpdu, since_s: int) -> RemoteSystem:
        domain, slash, node = lldpdu.chassis_id.partition("/")
        is_ours = slash and domain == self._domain and lldpdu.port_id.isascii() and lldpdu.port_id.isdigit()
        node_port = int(lldpdu.port_id) if is_ours and len(lldpdu.port_id) <= 5 else 0
        return RemoteSystem(
            port=number,
            chassis_id=lldpdu.chassis_id,
            port_id=lldpdu.port_id,
            system_name=lldpdu.system_name,
            port_description=lldpdu.port_description,
            node=node if node_port else "",
            node_port=node_port,
            since_s=since_s,
        )


def _said(system: RemoteSystem) -> tuple[str, ...]:
    return system.chassis_id, system.port_id, system.system_name, system.port_description
