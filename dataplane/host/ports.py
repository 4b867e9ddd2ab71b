"""Ports: the numbers that P4Runtime uses, the interfaces behind them, and the program attached to each.

An attachment is a bpf_link pinned as PIN_DIR/links/NUMBER: it stays when the agent ends, and a new program is swapped
into it atomically. Three maps follow the ports: `port_number` (interface index → number), `port` (number → MAC,
gateway addresses, flags) and `tx_port` (number → interface to send on).

How frames come from the interface to the program is the port's way (host_api.PortWay): in the interface's own driver,
or by a detour. Then the maps have the detour's end instead of the interface, and nothing else knows of it.
"""

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from dataplane import addressing
from dataplane.bounds import LARGEST_PORT
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.host.device import Device
from dataplane.host.interface import Interface, read_interface
from dataplane.host_api import Gateway, PartRefused, PortRole, PortStatus, PortWay
from dataplane.log import Logger

_log: Logger = structlog.get_logger("stitch-agent")
_CAPTURE, _PRESENT = 1, 2
_PORT = struct.Struct("6sBxH2x4s8x16s")
"""struct port."""
_U32 = struct.Struct("I")
_NO_IPV4, _NO_IPV6 = bytes(4), bytes(16)
_LARGEST_PACKET = 65535


class Map(Protocol):
    def lookup(self, key: bytes) -> bytes | None: ...
    def update(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> bool: ...
    def items(self) -> tuple[bytes, bytes]: ...


class Links(Protocol):
    """Attachments of the program in use to interfaces, by port number."""

    def numbers(self) -> frozenset[int]:
        """Of what is pinned."""

    def attach(self, number: int, interface: str, index: int) -> bool:
        """The interface runs the program in use; returns whether that was different. Raises NodeRefused."""

    def detach(self, number: int) -> None: ...


class Detours(Protocol):
    """See dataplane.host.detour. Raises NodeRefused."""

    def make(self, number: int) -> tuple[Interface, tuple[str, ...]]: ...

    def lead(self, number: int, interface: Interface, *, only_sids: bool) -> tuple[str, ...]: ...

    def largest_mtu(self, number: int) -> int: ...

    def numbers(self) -> frozenset[int]: ...

    def remove(self, number: int) -> bool: ...


class Groups(Protocol):
    """See dataplane.host.all_groups. Raises OSError."""

    def take(self, interface: str, index: int) -> bool: ...

    def give_back(self, ports: Collection[str]) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    number: int
    interface: str
    role: PortRole
    way: PortWay = PortWay.NATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """How a port was placed last."""

    way: PortWay
    kind: str = ""
    why: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortAddresses:
    """What the edge is at a port. Of no family: only zeros."""

    mac: bytes
    ipv4: bytes
    """4 bytes; the gateway's."""
    ipv6: bytes
    """16 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A value of `port`."""

    mac: bytes = bytes(6)
    flags: int = 0
    mtu: int = 0
    ipv4: bytes = _NO_IPV4
    ipv6: bytes = _NO_IPV6

    def packed(self) -> bytes:
        return _PORT.pack(self.mac, self.flags, self.mtu, self.ipv4, self.ipv6)


class Ports:
    """Not thread-safe: all calls but `status`, `interface` and `addresses` come from one thread."""

    def __init__(
        self,
        maps: Mapping[str, Map],
        links: Links,
        detours: Detours,
        groups: Groups,
        device: Callable[[str], Device | None],
    ) -> None:
        """`device`: what an interface is made of, by name."""
        self._numbers, self._rows, self._transmit = maps["port_number"], maps["port"], maps["tx_port"]
        self._links = links
        self._detours = detours
        self._groups = groups
        self._device = device
        self._standing: dict[int, _Standing] = {}
        self._ports: dict[int, Port] = {}
        self._captured: set[int] = set()
        self._absent: frozenset[int] = frozenset()
        self._followed = False
        self._changes = 0
        self._told: tuple[int, tuple[PortStatus, ...]] | None = None
        """What `status` said last, and the number of changes before it was read."""

    def follow(self) -> Callable[[], None]:
        """From now on `status` reads anew only after a `sync`, or when the returned function was called: an interface
        has changed."""
        self._followed = True
        return self._look_again

    def _look_again(self) -> None:
        self._changes += 1

    def sync(self, wanted: Iterable[Port]) -> tuple[str, ...]:
        """Makes exactly these ports be, as far as their interfaces exist; returns what was different, in words.

        A port whose interface is missing comes up when `sync` is called after the interface appeared.
        """
        ports = {port.number: port for port in wanted}
        interfaces = {
            n: read_interface(port.interface) for n, port in ports.items() if port.role is not PortRole.UNDERLAY
        }
        there = {number: interface for number, interface in interfaces.items() if interface is not None}
        changes = [self._remove(number) for number in sorted(self._known() - there.keys())]
        self._ports = ports
        self._standing = {number: standing for number, standing in self._standing.items() if number in there}
        for number, interface in there.items():
            changes += self._placed(ports[number], interface)
        changes += self._groups.give_back({p.interface for p in ports.values() if p.role is PortRole.ATTACHMENT})
        self._tell_absent(frozenset(interfaces.keys() - there.keys()))
        self._look_again()
        return tuple(changes)

    def set_gateways(self, gateways: Iterable[Gateway]) -> tuple[tuple[str, ...], tuple[PartRefused, ...]]:
        """Makes the edge answer for exactly these addresses; returns what was different, and what cannot be."""
        wanted: dict[int, tuple[bytes, bytes]] = {}
        refused: dict[int, str] = {}
        for gateway in gateways:
            number = gateway.port
            try:
                if number in wanted:
                    raise RequestInvalid(f"gateway on port {number} is named twice")
                self._check_attachment(number)
                wanted[number] = _gateway_addresses(gateway)
            except RequestInvalid as error:
                refused[number] = str(error)
        changes = []
        for number, port in self._ports.items():
            if port.role is PortRole.UNDERLAY or number in refused:
                continue
            row = self._row(number)
            ipv4, ipv6 = wanted.get(number, (_NO_IPV4, _NO_IPV6))
            if (row.ipv4, row.ipv6) != (ipv4, ipv6):
                self._write(number, replace(row, ipv4=ipv4, ipv6=ipv6))
                changes.append(f"port {number}: answers for {_texts(ipv4, ipv6) or 'no address'}")
        return tuple(changes), tuple(PartRefused(part=f"ports/{n}", reason=refused[n]) for n in sorted(refused))

    def _check_attachment(self, number: int) -> None:
        port = self._ports.get(number)
        if port is None or port.role is not PortRole.ATTACHMENT:
            have = sorted(n for n, port in self._ports.items() if port.role is PortRole.ATTACHMENT)
            raise RequestInvalid(f"gateway on port {number}: not an attachment of this node (these are: {have})")

    def gateways(self) -> tuple[Gateway, ...]:
        """Read back."""
        rows = {number: self._row(number) for number in sorted(self._ports)}
        return tuple(
            Gateway(
                port=number,
                ipv4=socket.inet_ntop(socket.AF_INET, row.ipv4) if row.ipv4 != _NO_IPV4 else "",
                ipv6=socket.inet_ntop(socket.AF_INET6, row.ipv6) if row.ipv6 != _NO_IPV6 else "",
            )
            for number, row in rows.items()
            if (row.ipv4, row.ipv6) != (_NO_IPV4, _NO_IPV6)
        )

    def addresses(self, number: int) -> PortAddresses | None:
        """Of a port that is there now, read back."""
        row = self._row(number)
        return PortAddresses(mac=row.mac, ipv4=row.ipv4, ipv6=row.ipv6) if row.flags & _PRESENT else None

    def check_captured(self, number: int) -> None:
        """Raises RequestInvalid where XDP has no such port."""
        if self._port(number).role is PortRole.UNDERLAY:
            raise RequestInvalid(f"port {number} is an underlay: XDP does not see it, capture with tcpdump")

    def set_capture(self, number: int, on: bool) -> None:
        """What comes in on the port is mirrored to `capture`, or not any more."""
        (self._captured.add if on else self._captured.discard)(number)
        row = self._row(number)
        if row.flags & _PRESENT:
            self._write(number, replace(row, flags=row.flags & ~_CAPTURE | (_CAPTURE if on else 0)))

    def interface(self, number: int) -> str:
        """Raises RequestInvalid where there is no such port."""
        return self._port(number).interface

    def number_of(self, index: int) -> int | None:
        """Of an interface index."""
        value = self._numbers.lookup(_U32.pack(index))
        return None if value is None else _U32.unpack(value)[0]

    def fault(self, number: int) -> str:
        """Why a port that has an interface is not in the pipeline; empty: it is."""
        standing = self._standing.get(number)
        return standing.fault if standing else ""

    def status(self) -> tuple[PortStatus, ...]:
        changes = self._changes
        if self._told is None or not self._followed or self._told[0] != changes:
            self._told = changes, self._read_status()
        return self._told[1]

    def _read_status(self) -> tuple[PortStatus, ...]:
        return tuple(
            PortStatus(
                number=port.number,
                interface=port.interface,
                role=port.role,
                mac=interface.mac.hex(":") if interface else "",
                mtu=interface.mtu if interface else 0,
                carrier=bool(interface and interface.carrier),
                kind=standing.kind if standing else "",
                way=standing.way.value if standing and interface else "",
                why=standing.why if standing else "",
                faults=self._faults(port, interface, standing),
            )
            for port in sorted(self._ports.values(), key=lambda port: port.number)
            for interface in (read_interface(port.interface),)
            for standing in (self._standing.get(port.number),)
        )

    def _faults(self, port: Port, interface: Interface | None, standing: _Standing | None) -> tuple[str, ...]:
        name = port.interface
        if interface is None:
            return (f"there is no interface {name}: the port comes up when it appears",)
        faults = [standing.fault] if standing and standing.fault else []
        if not interface.up:
            faults.append(f"{name} is down: ip link set dev {name} up")
        elif not interface.carrier:
            faults.append(f"{name} has no carrier: see what is at its other end")
        if standing and standing.way is PortWay.DETOUR and not standing.fault:
            largest = self._detours.largest_mtu(port.number)
            if 0 < largest < interface.mtu:
                faults.append(
                    f"{name} has an MTU of {interface.mtu}, XDP takes {largest}: longer packets are lost; "
                    f"ip link set dev {name} mtu {largest}, and at the hosts too"
                )
        return tuple(faults)

    def _placed(self, port: Port, interface: Interface) -> list[str]:
        """One that cannot be placed holds up no other; why not is its fault."""
        try:
            return self._choose_way(port, interface)
        except (NodeRefused, OSError) as error:
            before = self._standing.get(port.number)
            self._standing[port.number] = _Standing(way=port.way, kind=before.kind if before else "", fault=str(error))
            if before is None or before.fault != str(error):
                _log.error("port_cannot_be_placed", port=port.number, interface=port.interface, reason=str(error))
            return []

    def _choose_way(self, port: Port, interface: Interface) -> list[str]:
        device = self._device(port.interface)
        if device is None:
            return []  # it went away just now, which is an event
        why = _why_detour(port, device)
        kind = device.kind
        if not why:
            fault = _fault_of_native(port, device)
            try:
                changes = self._place(port, interface, interface)
                if self._detours.remove(port.number):
                    changes.append(f"port {port.number} goes into the pipeline natively")
                self._limit(port.number, interface.mtu)
                self._standing[port.number] = _Standing(way=PortWay.NATIVE, kind=kind, fault=fault)
                return changes
            except NodeRefused as error:
                if port.way is not PortWay.AUTO:
                    raise
                why = str(error)
        end, made = self._detours.make(port.number)
        changes = [*made, *self._place(port, interface, end)]
        changes += self._detours.lead(port.number, interface, only_sids=port.role is PortRole.FABRIC)
        self._limit(port.number, min(interface.mtu, self._detours.largest_mtu(port.number)))
        self._standing[port.number] = _Standing(way=PortWay.DETOUR, kind=kind, why=why)
        return changes

    def _place(self, port: Port, interface: Interface, end: Interface) -> list[str]:
        """`end`: where the program runs, the interface itself or its detour's."""
        changes = []
        number = port.number
        for other, placed in self._indices().items():
            if placed == number and other != end.index:
                self._numbers.delete(_U32.pack(other))
        row = self._row(number)
        flags = _PRESENT | (_CAPTURE if number in self._captured else 0)
        if (row.mac, row.flags) != (interface.mac, flags):
            self._write(number, replace(row, mac=interface.mac, flags=flags))
        key, index = _U32.pack(number), _U32.pack(end.index)
        if self._transmit.lookup(key) != index:
            self._transmit.update(key, index)
        if self._numbers.lookup(index) != key:
            self._numbers.update(index, key)
            changes.append(f"port {number} is {port.interface}")
        if port.role is PortRole.ATTACHMENT and self._groups.take(port.interface, interface.index):
            changes.append(f"{port.interface} takes frames to all groups")
        if self._links.attach(number, port.interface, end.index):
            changes.append(f"attached the pipeline to {port.interface}")
        return changes

    def _limit(self, number: int, mtu: int) -> None:
        """Larger packets are cut or told of, not lost at the interface."""
        row, mtu = self._row(number), min(mtu, _LARGEST_PACKET)
        if row.mtu != mtu:
            self._write(number, replace(row, mtu=mtu))

    def _remove(self, number: int) -> str:
        """The link first: from then on the kernel sees what comes in, and the kernel forwards nothing."""
        self._detours.remove(number)
        self._links.detach(number)
        self._captured.discard(number)
        for index, placed in self._indices().items():
            if placed == number:
                self._numbers.delete(_U32.pack(index))
        self._transmit.delete(_U32.pack(number))
        self._write(number, _Row())
        return f"removed port {number}"

    def _known(self) -> frozenset[int]:
        return self._links.numbers() | self._detours.numbers() | frozenset(self._indices().values())

    def _indices(self) -> dict[int, int]:
        keys, values = self._numbers.items()
        return {
            index: number for (index,), (number,) in zip(_U32.iter_unpack(keys), _U32.iter_unpack(values), strict=True)
        }

    def _port(self, number: int) -> Port:
        port = self._ports.get(number)
        if port is None:
            raise RequestInvalid(f"there is no port {number} on this node, only {sorted(self._ports)}")
        return port

    def _row(self, number: int) -> _Row:
        value = self._rows.lookup(_U32.pack(number))
        if value is None:
            raise NodeRefused(f"map `port` has no element {number}: ports are 1 to {LARGEST_PORT}")
        mac, flags, mtu, ipv4, ipv6 = _PORT.unpack(value)
        return _Row(mac=mac, flags=flags, mtu=mtu, ipv4=ipv4, ipv6=ipv6)

    def _write(self, number: int, row: _Row) -> None:
        self._rows.update(_U32.pack(number), row.packed())

    def _tell_absent(self, absent: frozenset[int]) -> None:
        for number in sorted(absent - self._absent):
            name = self._ports[number].interface
            _log.warning("no_interface", port=number, interface=name, advice="it is attached when it appears")
        self._absent = absent


def _why_detour(port: Port, device: Device) -> str:
    """Empty: natively."""
    if port.way is PortWay.DETOUR:
        return "its configuration says so"
    if port.way is PortWay.NATIVE:
        return ""
    if not device.redirects:
        return f"{device.kind or 'its driver'} has no native XDP that redirects"
    if not device.takes_redirects:
        return "its other end has neither GRO nor an XDP program, so what XDP redirects to it is lost"
    # On a link the other end is a node, whose pipeline sends whole frames.
    if device.unfinished and port.role is PortRole.ATTACHMENT:
        return "who is behind it may leave checksums and segments to a card, which cannot be seen from here"
    return ""


def _fault_of_native(port: Port, device: Device) -> str:
    if device.redirects and not device.takes_redirects:
        return (
            f"the other end of {port.interface} has neither GRO nor an XDP program, so what XDP redirects to it is "
            "lost: ethtool -K INTERFACE gro on there, or leave `way` out of this port's configuration"
        )
    return ""


def _gateway_addresses(gateway: Gateway) -> tuple[bytes, bytes]:
    try:
        ipv4 = addressing.address(gateway.ipv4) if gateway.ipv4 else None
        ipv6 = addressing.address(gateway.ipv6) if gateway.ipv6 else None
    except ValueError as error:
        raise RequestInvalid(f"gateway on port {gateway.port}: {error} (an address without prefix length)") from error
    if (ipv4 and ipv4.version != 4) or (ipv6 and ipv6.version != 6):
        raise RequestInvalid(f"gateway on port {gateway.port}: {gateway.ipv4!r} is not IPv4, or {gateway.ipv6!r} not 6")
    return ipv4.packed if ipv4 else _NO_IPV4, ipv6.packed if ipv6 else _NO_IPV6


def _texts(ipv4: bytes, ipv6: bytes) -> str:
    texts = [socket.inet_ntop(socket.AF_INET, ipv4)] if ipv4 != _NO_IPV4 else []
    texts += [socket.inet_ntop(socket.AF_INET6, ipv6)] if ipv6 != _NO_IPV6 else []
    return " and ".join(texts)
