"""How the packets of one WireGuard device come into the XDP pipeline, and go out of it: a veth pair and two rules.

```
 neighbour ═══ wg-t1 ──rule iif wg-t1, table N────▶ k-t1 ══veth══ t-t1 ═ XDP
                  ▲                                  │
                  └───rule iif k-t1, table N+1───────┘
```

WireGuard devices have no native XDP, so each has a pair of its own: the ingress port tells the neighbour.
"""

import hashlib
import socket
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
    def wireguard(self) -> str:
        return f"wg-{self._suffix}"

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
    def devices(self) -> tuple[str, str, str]:
        return self.wireguard, self.kernel, self.pipeline

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
    def rules(self) -> tuple[tuple[str, int, int], ...]:
        """(incoming interface, table, priority): from the tunnel, into the tunnel."""
        return tuple(
            (device, _FIRST_TABLE + 2 * self.border.port + way, _FIRST_PRIORITY + 2 * self.border.port + way)
            for way, device in enumerate((self.wireguard, self.kernel))
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


def sync_wireguard_device(netlink: IPRoute, link: TunnelLink) -> tuple[str, ...]:
    """MTU of the WireGuard device, no addresses, up."""
    changes = []
    interface = read_interface(link.wireguard)
    if interface is None:
        raise NodeRefused(f"{link.wireguard} went away while it was set up: did its process end? See its log")
    if interface.mtu != link.mtu:
        netlink.link("set", index=interface.index, mtu=link.mtu)
        changes.append(f"set the MTU of {link.wireguard} to {link.mtu}")
    quiet = (("disable_ipv6", 0), ("addr_gen_mode", _ADDRESS_NONE), ("accept_ra", 0))
    for setting, value in quiet:
        if set_ipv6(link.wireguard, setting, value):
            changes.append(f"set {setting} of {link.wireguard}")
    if _set_up(netlink, link.wireguard):
        changes.append(f"set {link.wireguard} up")
    return tuple(changes)


def sync_routes(netlink: IPRoute, link: TunnelLink) -> tuple[str, ...]:
    """Rules, routes and the neighbour that lead from the tunnel to the pipeline and back."""
    index = {name: socket.if_nametoindex(name) for name in (link.wireguard, link.kernel)}
    (_, inwards, _), (_, outwards, _) = link.rules
    changes = list(_sync_rules(netlink, link))
    routes: tuple[tuple[int, str | None, str], ...] = (
        (inwards, _GATEWAY, link.kernel),
        (outwards, None, link.wireguard),
    )
    for table, gateway, device in routes:
        if _routes(netlink, table) != {("default", gateway, index[device])}:
            _flush(netlink, table)
            via = {"gateway": gateway} if gateway else {}
            netlink.route("add", dst="::/0", family=socket.AF_INET6, table=table, oif=index[device], **via)
            changes.append(f"set the route into {device}")
    known = {
        (entry.get("NDA_DST"), entry.get("NDA_LLADDR"))
        for entry in netlink.get_neighbours(family=socket.AF_INET6, ifindex=index[link.kernel])
        if entry["state"] == _NUD_PERMANENT
    }
    if (_GATEWAY, link.pipeline_mac) not in known:
        neighbour = {"dst": _GATEWAY, "lladdr": link.pipeline_mac, "ifindex": index[link.kernel]}
        netlink.neigh("replace", family=socket.AF_INET6, state=_NUD_PERMANENT, **neighbour)
        changes.append(f"set the neighbour at {link.kernel}")
    return tuple(changes)


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


def _sync_rules(netlink: IPRoute, link: TunnelLink) -> list[str]:
    changes = []
    actual: dict[int, list[Any]] = {}
    for rule in netlink.get_rules(family=socket.AF_INET6):
        actual.setdefault(rule.get("FRA_PRIORITY") or 0, []).append(rule)
    for device, table, priority in link.rules:
        there = actual.get(priority, [])
        if [(rule.get("FRA_IIFNAME"), rule.get("FRA_TABLE")) for rule in there] == [(device, table)]:
            continue
        for rule in there:
            _delete_rule(netlink, rule)
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
