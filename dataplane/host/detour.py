"""Detours: how interfaces that XDP cannot serve, or hosts that nobody has prepared, come into the pipeline too.

```
 host ── interface ─tc─▶ stitch-k3 ══ veth ══ stitch-p3 ═ XDP       (3: the number of the port)
                  ◀─tc──
```

A host behind a veth or a virtual machine leaves checksums and segmentation to a card, which XDP cannot tell; a device
without a receive ring, or without native XDP, loses what is redirected to it. The kernel does what is missing when it
sends to `stitch-k3`, which offers no offload, and what XDP sends to `stitch-p3` reaches the interface as any packet
of the kernel does. Generic XDP would not do: it sees what GRO has joined and checksums that are not finished, and a
native program cannot redirect to such an interface.
"""

import contextlib
import errno
import struct
from collections.abc import Iterator
from contextlib import closing

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dataplane.errors import NodeRefused
from dataplane.host.device import links, read_device
from dataplane.host.interface import (
    Interface,
    complete_checksums,
    put_tags_into_frames,
    read_interface,
    set_gro,
    set_ipv6,
)
from dataplane.host.netlink import ACK, DUMP, ROUTE, Netlink, attribute, attributes, each_attribute, nested, removing
from dataplane.xdp.bpf import OBJECT_PATH, Object

PREFIX = "stitch-"
"""Of the names of our devices: no port may have one."""
_OBJECT = OBJECT_PATH.with_name("detour.bpf.o")
_CREATE, _EXCLUSIVE, _REPLACE = 0x400, 0x200, 0x100
_NEW_QDISC, _NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 36, 44, 45, 46  # linux/rtnetlink.h
_MESSAGE = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""
_KIND, _OPTIONS = 1, 2
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2  # linux/pkt_sched.h
_FD, _NAME, _FLAGS, _DIRECT_ACTION = 6, 7, 8, 1  # linux/pkt_cls.h, TCA_BPF_
_PRIORITY, _ALL_PROTOCOLS = 0x4E53, 0x0300  # ETH_P_ALL, in network order
_FILTER_HANDLE = 1


class Detours:
    """Blocks for milliseconds. Raises NodeRefused."""

    def make(self, number: int) -> tuple[Interface, tuple[str, ...]]:
        """The pair of a port is there and up; returns its pipeline's end, and what was different, in words."""
        kernel, pipeline = pair_of(number)
        changes = []
        with _translated(number):
            if not (read_interface(kernel) and read_interface(pipeline)):
                with closing(IPRoute()) as netlink:
                    _remove_links(netlink, kernel, pipeline)
                    netlink.link("add", ifname=kernel, kind="veth", peer={"ifname": pipeline})
                changes.append(f"made {kernel} and {pipeline}")
            prepared = (set_gro(kernel), complete_checksums(kernel), put_tags_into_frames(kernel))
            if any(prepared):
                changes.append(f"turned GRO on and transmit offloads off at {kernel}")
            for name in (kernel, pipeline):
                with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                    set_ipv6(name, "disable_ipv6", 1)
                interface = read_interface(name)
                if interface is not None and not interface.up:
                    with closing(IPRoute()) as netlink:
                        netlink.link("set", index=interface.index, state="up")
            end = read_interface(pipeline)
        if end is None:
            raise NodeRefused(f"port {number}: {pipeline} went away while it was set up: does something remove it?")
        return end, tuple(changes)

    def lead(self, number: int, interface: Interface, *, only_sids: bool) -> tuple[str, ...]:
        """What comes in at the interface goes to the pair, and back. After the program is attached to the pair, which
        limits its MTU. Returns what was different, in words."""
        kernel, pipeline = pair_of(number)
        changes = []
        with _translated(number):
            device, end = read_device(kernel), read_interface(pipeline)
            if device is None or end is None:
                raise NodeRefused(f"port {number}: {kernel} went away while it was set up: does something remove it?")
            mtu = min(interface.mtu, device.largest_mtu)
            with Netlink(ROUTE) as route:
                if _lead(route, number, device.index, interface.index, only_sids=False):
                    changes.append(f"led {kernel} to interface {interface.index}")
                if _lead(route, number, interface.index, device.index, only_sids=only_sids):
                    changes.append(f"led interface {interface.index} to {kernel}")
            if end.mtu != mtu:
                with closing(IPRoute()) as netlink:
                    for index in (device.index, end.index):
                        netlink.link("set", index=index, mtu=mtu)
                changes.append(f"set the MTU of {kernel} and {pipeline} to {mtu}")
        return tuple(changes)

    def largest_mtu(self, number: int) -> int:
        """Of what the pair of a port takes; 0: there is none."""
        end = read_interface(pair_of(number)[1])
        return end.mtu if end is not None else 0

    def numbers(self) -> frozenset[int]:
        """Ports that have a pair, or an end of one."""
        return frozenset(
            int(name[len(PREFIX) + 1 :])
            for _, name in links()
            if name.startswith((f"{PREFIX}k", f"{PREFIX}p")) and name[len(PREFIX) + 1 :].isdecimal()
        )

    def remove(self, number: int) -> bool:
        """Nothing of a detour is left: first nobody is led to it. Returns whether there was one."""
        if number not in self.numbers():
            return False
        with _translated(number):
            with Netlink(ROUTE) as route:
                for index, _ in links():
                    if any(name.startswith(_filter_name(number)) for name in _filters(route, index)):
                        with removing():
                            route.ask(_DELETE_FILTER, _filter(index), ACK)
            with closing(IPRoute()) as netlink:
                _remove_links(netlink, *pair_of(number))
        return True


def pair_of(number: int) -> tuple[str, str]:
    """Names of the kernel's end and the pipeline's."""
    return f"{PREFIX}k{number}", f"{PREFIX}p{number}"


def _remove_links(netlink: IPRoute, *names: str) -> None:
    for name in names:
        interface = read_interface(name)
        if interface is not None:
            with removing():
                netlink.link("del", index=interface.index)


def _filter_name(number: int) -> str:
    return f"{PREFIX}{number}:"


def _lead(route: Netlink, number: int, index: int, other_end: int, *, only_sids: bool) -> bool:
    """Whether that was different."""
    name = f"{_filter_name(number)}{other_end}{'-sids-lldp' if only_sids else ''}"
    if name in _filters(route, index):
        return False
    try:
        clsact = _MESSAGE.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
        route.ask(_NEW_QDISC, clsact, ACK | _CREATE | _EXCLUSIVE)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    with Object(_OBJECT) as program:
        program.set_constants({"other_end": other_end, "only_sids": int(only_sids)})
        program.load()
        options = (
            attribute(_FD, struct.pack("=I", program.program("detour").fd)),
            attribute(_NAME, name.encode() + b"\0"),
            attribute(_FLAGS, struct.pack("=I", _DIRECT_ACTION)),
        )
        message = _filter(index) + attribute(_KIND, b"bpf\0") + nested(_OPTIONS, *options)
        route.ask(_NEW_FILTER, message, ACK | _CREATE | _REPLACE)
    return True


def _filter(index: int) -> bytes:
    return _MESSAGE.pack(0, index, _FILTER_HANDLE, _INGRESS, _PRIORITY << 16 | _ALL_PROTOCOLS)


def _filters(route: Netlink, index: int) -> Iterator[str]:
    """Names of the BPF programs of tc at the ingress of an interface."""
    with removing():  # an interface that goes has none
        for answer in route.ask(_GET_FILTER, _MESSAGE.pack(0, index, 0, _INGRESS, 0), DUMP):
            facts = attributes(answer[_MESSAGE.size :])
            if facts.get(_KIND) == b"bpf\0":
                yield from (
                    content.rstrip(b"\0").decode(errors="replace")
                    for kind, content in each_attribute(facts.get(_OPTIONS, b""))
                    if kind == _NAME
                )


@contextlib.contextmanager
def _translated(number: int) -> Iterator[None]:
    try:
        yield
    except (NetlinkError, OSError) as error:
        raise NodeRefused(
            f"port {number}: its detour cannot be set up: {error} (the kernel needs veth, sch_ingress and cls_bpf)"
        ) from error
