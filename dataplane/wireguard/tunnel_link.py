"""How the packets of a border's WireGuard devices come into the XDP pipeline, and go out of it: a veth pair and rules.

```
 neighbour ═══ wg-t1 ──rule iif wg-t1, table N────▶ k-t1 ══veth══ t-t1 ═ XDP
                  ▲                                  │
                  └───rule iif k-t1, table N+1───────┘
```

WireGuard devices have no native XDP, so each border has a pair of its own: the ingress port tells the neighbour. While
keys are renewed there is a second device, `wh-t1`: what comes out of either goes into the pipeline, and the route of
table N+1 says which of them takes what goes out.
"""

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

from dataplane.errors import NodeRefused
from dataplane.host.interface import complete_checksums, read_interface, set_gro, set_ipv6
from dataplane.host.netlink import removing
from dataplane.host_api import LEAST_TUNNEL_MTU, BorderConfig

_GATEWAY = "fe80::1"
_FIRST_TABLE = 20_000
_FIRST_PRIORITY = 10_000
"""Of rules; after `local` (0), before `main` (32766)."""
_NUD_PERMANENT = 0x80
_ADDRESS_NONE = 1
"""addr_gen_mode: no link-local address, so the kernel says nothing on its own."""


@dataclass(frozen=True, slots=True)
class TunnelLink:
    """The fixed names and numbers of a border on a node."""

    node: str
    border: BorderConfig

    @property
    def _suffix(self) -> str:
        return self.border.interface[:11]

    @property
    def wireguards(self) -> tuple[str, str]:
        """Devices: keys of each epoch are in the one that those of the epoch before are not in."""
        return f"wg-{self._suffix}", f"wh-{self._suffix}"

    @property
    def kernel(self) -> str:
        return f"k-{self._suffix}"

    @property
    def pipeline(self) -> str:
        return f"t-{self._suffix}"

    @property
    def mtu(self) -> int:
        """Of the devices. They have room for IPv6 in any case: where they must, kernels fragment what they send."""
        return max(self.border.mtu, LEAST_TUNNEL_MTU)

    @property
    def kernel_mac(self) -> str:
        return self._mac("kernel")

    @property
    def pipeline_mac(self) -> str:
        return self._mac("pipeline")

    def _mac(self, side: str) -> str:
        """Locally administered, the same after every restart."""
        digest = hashlib.sha256(f"{self.node}/{self.border.name}/{side}".encode()).digest()
        return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))

    @property
    def rules(self) -> tuple[tuple[tuple[str, ...], int, int], ...]:
        """(incoming interfaces, table, priority): from the tunnel, into the tunnel."""
        return tuple(
            (devices, _FIRST_TABLE + 2 * self.border.port + way, _FIRST_PRIORITY + 2 * self.border.port + way)
            for way, devices in enumerate((self.wireguards, (self.kernel,)))
        )


def sync_pair(netlink: IPRoute, link: TunnelLink) -> tuple[str, ...]:
    """The veth pair: there, with its addresses and MTU, up. Returns what was different, in words."""
    changes: list[str] = []
    ends = {link.kernel: link.kernel_mac, link.pipeline: link.pipeline_mac}
    interfaces = {name: read_interface(name) for name in ends}
    for name, interface in interfaces.items():
        if interface and (kind := netlink.get_links(interface.index)[0].get(("linkinfo", "kind"))) != "veth":
            raise NodeRefused(f"{name} is somebody else's ({kind or 'no veth'}): rename it, the tunnel needs that name")
    if not all(interfaces.values()):
        for interface in interfaces.values():
            if interface:
                with removing():
                    netlink.link("del", index=interface.index)
        peer = {"ifname": link.pipeline, "address": link.pipeline_mac}
        netlink.link("add", ifname=link.kernel, kind="veth", address=link.kernel_mac, peer=peer)
        changes.append(f"made {link.kernel} and {link.pipeline}")
    for name, mac in ends.items():
        interface = read_interface(name)
        if interface is None:
            raise NodeRefused(f"{name} went away while it was set up: is something else removing interfaces?")
        if interface.mac != bytes.fromhex(mac.replace(":", "")):
            netlink.link("set", index=interface.index, address=mac)
            changes.append(f"set the MAC of {name}")
        if interface.mtu != link.mtu:
            netlink.link("set", index=interface.index, mtu=link.mtu)
            changes.append(f"set the MTU of {name} to {link.mtu}")
    if set_gro(link.kernel):
        changes.append(f"turned GRO on at {link.kernel}")
    if complete_checksums(link.kernel):
        changes.append(f"turned checksum offload off at {link.kernel}")
    quiet = [(link.pipeline, "disable_ipv6", 1), (link.kernel, "disable_ipv6", 0)]
    quiet += [(link.kernel, "addr_gen_mode", _ADDRESS_NONE), (link.kernel, "accept_ra", 0)]
    changes += [f"set {setting} of {name}" for name, setting, value in quiet if set_ipv6(name, setting, value)]
    changes += [f"set {name} up" for name in ends if _set_up(netlink, name)]
    return tuple(changes)


def sync_wireguard_device(netlink: IPRoute, link: TunnelLink, device: str) -> tuple[str, ...]:
    """MTU of a WireGuard device, no addresses, up."""
    changes = []
    interface = read_interface(device)
    if interface is None:
        raise NodeRefused(f"{device} went away while it was set up: did its process end? See its log")
    if interface.mtu != link.mtu:
        netlink.link("set", index=interface.index, mtu=link.mtu)
        changes.append(f"set the MTU of {device} to {link.mtu}")
    quiet = (("disable_ipv6", 0), ("addr_gen_mode", _ADDRESS_NONE), ("accept_ra", 0))
    for setting, value in quiet:
        if set_ipv6(device, setting, value):
            changes.append(f"set {setting} of {device}")
    if _set_up(netlink, device):
        changes.append(f"set {device} up")
    return tuple(changes)


def sync_ways_in(netlink: IPRoute, link: TunnelLink, devices: Sequence[str]) -> tuple[str, ...]:
    """Rules, the route and the neighbour that lead from these WireGuard devices to the pipeline, and the rule back."""
    (_, inwards, _), _ = link.rules
    changes = list(_sync_rules(netlink, link, devices))
    index = socket.if_nametoindex(link.kernel)
    if _routes(netlink, inwards) != {("default", _GATEWAY, index)}:
        _flush(netlink, inwards)
        netlink.route("add", dst="::/0", family=socket.AF_INET6, table=inwards, oif=index, gateway=_GATEWAY)
        changes.append(f"set the route into {link.kernel}")
    known = {
        (entry.get("NDA_DST"), entry.get("NDA_LLADDR"))
        for entry in netlink.get_neighbours(family=socket.AF_INET6, ifindex=index)
        if entry["state"] == _NUD_PERMANENT
    }
    if (_GATEWAY, link.pipeline_mac) not in known:
        neighbour = {"dst": _GATEWAY, "lladdr": link.pipeline_mac, "ifindex": index}
        netlink.neigh("replace", family=socket.AF_INET6, state=_NUD_PERMANENT, **neighbour)
        changes.append(f"set the neighbour at {link.kernel}")
    return tuple(changes)


def way_out(netlink: IPRoute, link: TunnelLink) -> str:
    """The WireGuard device that takes what goes out; empty: none."""
    _, (_, outwards, _) = link.rules
    routes = _routes(netlink, outwards)
    for device in link.wireguards:
        interface = read_interface(device)
        if interface is not None and routes == {("default", None, interface.index)}:
            return device
    return ""


def set_way_out(netlink: IPRoute, link: TunnelLink, device: str) -> tuple[str, ...]:
    """One route is replaced, at once: no packet is between two devices."""
    if way_out(netlink, link) == device:
        return ()
    _, (_, outwards, _) = link.rules
    if any(gateway or destination != "default" for destination, gateway, _ in _routes(netlink, outwards)):
        _flush(netlink, outwards)
    index = socket.if_nametoindex(device)
    netlink.route("replace", dst="::/0", family=socket.AF_INET6, table=outwards, oif=index)
    if _routes(netlink, outwards) != {("default", None, index)}:  # somebody's beside it
        _flush(netlink, outwards)
        netlink.route("add", dst="::/0", family=socket.AF_INET6, table=outwards, oif=index)
    return (f"set the route into {device}",)


def remove_pair_and_rules(netlink: IPRoute, link: TunnelLink) -> tuple[str, ...]:
    """Routes and neighbours go with their interfaces. Returns what was there, in words."""
    changes = []
    priorities = {priority for _, _, priority in link.rules}
    for rule in netlink.get_rules(family=socket.AF_INET6):
        if rule.get("FRA_PRIORITY") in priorities:
            _delete_rule(netlink, rule)
            changes.append(f"removed the rule of {rule.get('FRA_IIFNAME')}")
    for _, table, _ in link.rules:
        _flush(netlink, table)
    interface = read_interface(link.kernel)
    if interface is not None:
        with removing():
            netlink.link("del", index=interface.index)
        changes.append(f"removed {link.kernel} and {link.pipeline}")
    return tuple(changes)


def _sync_rules(netlink: IPRoute, link: TunnelLink, wireguards: Sequence[str]) -> list[str]:
    changes = []
    actual: dict[int, list[Any]] = {}
    for rule in netlink.get_rules(family=socket.AF_INET6):
        actual.setdefault(rule.get("FRA_PRIORITY") or 0, []).append(rule)
    for devices, table, priority in link.rules:
        wanted = {(device, table) for device in devices if device in wireguards or device == link.kernel}
        there: set[tuple[str, int]] = set()
        for rule in actual.get(priority, []):
            said = (rule.get("FRA_IIFNAME"), rule.get("FRA_TABLE"))
            if said in wanted and said not in there:
                there.add(said)
                continue
            _delete_rule(netlink, rule)
            changes.append(f"removed the rule of {said[0]}")
        for device, _ in sorted(wanted - there):
            netlink.rule("add", family=socket.AF_INET6, iifname=device, table=table, priority=priority)
            changes.append(f"set the rule of {device}")
    return changes


def _delete_rule(netlink: IPRoute, rule: Any) -> None:
    told = {"iifname": rule.get("FRA_IIFNAME"), "table": rule.get("FRA_TABLE"), "priority": rule.get("FRA_PRIORITY")}
    with removing():
        netlink.rule("del", family=socket.AF_INET6, **{key: value for key, value in told.items() if value is not None})


def _routes(netlink: IPRoute, table: int) -> set[tuple[str, str | None, int]]:
    """(destination, gateway, interface index) of every route of a table."""
    return {
        (route.get("RTA_DST") or "default", route.get("RTA_GATEWAY"), route.get("RTA_OIF"))
        for route in netlink.get_routes(family=socket.AF_INET6, table=table)
    }


def _flush(netlink: IPRoute, table: int) -> None:
    while _routes(netlink, table):  # again where a route went away meanwhile: the others were not flushed then
        with removing():
            netlink.flush_routes(family=socket.AF_INET6, table=table)


def _set_up(netlink: IPRoute, name: str) -> bool:
    interface = read_interface(name)
    if interface is None or interface.up:
        return False
    netlink.link("set", index=interface.index, state="up")
    return True
