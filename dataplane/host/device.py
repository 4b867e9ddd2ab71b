"""What an interface is made of, as far as this node can see: kind, what its driver does for XDP, who is behind it."""

import array
import fcntl
import socket
import struct
from dataclasses import dataclass

from dataplane.host.interface import SIOCETHTOOL, ethtool_value, request
from dataplane.host.netlink import DUMP, GENERIC, ROUTE, Netlink, attribute, attributes, family, generic_header

_GET_LINK = 18  # linux/rtnetlink.h
_LINK_MESSAGE = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_IFNAME, _IFLA_LINK, _LINKINFO, _LINK_NETNSID, _MAX_MTU = 3, 5, 18, 37, 51  # linux/if_link.h
_INFO_KIND, _INFO_DATA, _TUN_VNET_HEADER = 1, 2, 5
_DRIVER_INFO = 0x3  # ETHTOOL_GDRVINFO
_DRIVER_INFO_SIZE = 196
_TX_CHECKSUM = 0x16  # ETHTOOL_GTXCSUM
_NETDEV_GET, _NETDEV_INDEX, _NETDEV_XDP_FEATURES = 1, 1, 3  # linux/netdev.h
_REDIRECT, _TRANSMIT = 2, 4
"""NETDEV_XDP_ACT_REDIRECT, NETDEV_XDP_ACT_NDO_XMIT."""
_REDIRECTING_DRIVERS = frozenset(
    {"bnxt_en", "ena", "enetc", "fec", "fsl_dpaa2_eth", "gve", "i40e", "ice", "idpf", "igb", "igc", "ixgbe", "ixgbevf"}
    | {"mana", "mlx4_en", "mlx5_core", "mvneta", "mvpp2", "nfp", "qede", "sfc", "stmmac", "tsnep", "tun", "veth"}
    | {"virtio_net", "vmxnet3", "xen_netfront"}
)
"""Drivers that redirect, and that take what is redirected to them, some only once they have a program. For kernels
before 6.3, which do not say what a device does, and for devices that say so only then."""
_SAYING = ("veth", "tun")
"""Kinds that say before they have a program whether they take what is redirected to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    index: int
    kind: str
    """`veth`, `tun`, `bridge`, ...; of hardware its driver; empty: unknown."""
    redirects: bool
    """Its driver can run the pipeline, and send on what it redirects from here."""
    takes_redirects: bool
    """What the pipeline redirects to it leaves. Of a veth: its other end has GRO or an XDP program."""
    unfinished: bool
    """What it receives may have checksums that are left to a card, as far as this node can tell."""
    largest_mtu: int
    """0: no limit is known."""


def read_device(name: str) -> Device | None:
    """None: there is no such interface (any more). Raises OSError."""
    with Netlink(ROUTE) as route:
        link = _link(route, attribute(_IFNAME, name.encode() + b"\0"))
        if link is None:
            return None
        index, facts = link
        info = attributes(facts.get(_LINKINFO, b""))
        kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode() or _driver(name)
        features = _xdp_features(index)
        able = kind in _REDIRECTING_DRIVERS
        return Device(
            index=index,
            kind=kind,
            redirects=able if features is None else bool(features & _REDIRECT),
            takes_redirects=able if features is None or kind not in _SAYING else bool(features & _TRANSMIT),
            unfinished=_is_unfinished(route, kind, facts, attributes(info.get(_INFO_DATA, b""))),
            largest_mtu=_number(facts.get(_MAX_MTU, bytes(4))),
        )


def links() -> list[tuple[int, str]]:
    """Index and name of all interfaces. Raises OSError."""
    with Netlink(ROUTE) as route:
        answers = route.ask(_GET_LINK, _LINK_MESSAGE.pack(0, 0, 0, 0, 0), DUMP)
    interfaces = (
        (_LINK_MESSAGE.unpack_from(answer)[2], attributes(answer[_LINK_MESSAGE.size :])) for answer in answers
    )
    return [(index, facts.get(_IFNAME, b"").rstrip(b"\0").decode()) for index, facts in interfaces]


def _is_unfinished(route: Netlink, kind: str, facts: dict[int, bytes], data: dict[int, bytes]) -> bool:
    if kind == "tun":  # of a virtual machine, whose frames come with a header that says what is left to do
        return data.get(_TUN_VNET_HEADER, b"\0") != b"\0"
    if kind != "veth":
        return False
    if _LINK_NETNSID in facts or _IFLA_LINK not in facts:
        return True  # the other end is in another namespace, where this node does not look
    other = _link(route, b"", _number(facts[_IFLA_LINK]))
    return other is None or bool(_transmit_checksum(other[1].get(_IFNAME, b"").rstrip(b"\0").decode()))


def _link(route: Netlink, named: bytes, index: int = 0) -> tuple[int, dict[int, bytes]] | None:
    try:
        (answer,) = route.ask(_GET_LINK, _LINK_MESSAGE.pack(0, 0, index, 0, 0) + named)
    except OSError:
        return None
    _, _, index, _, _ = _LINK_MESSAGE.unpack_from(answer)
    return index, attributes(answer[_LINK_MESSAGE.size :])


def _driver(name: str) -> str:
    information = array.array("B", struct.pack("I", _DRIVER_INFO) + bytes(_DRIVER_INFO_SIZE - 4))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, SIOCETHTOOL, request(name, information.buffer_info()[0]))
        except OSError:
            return ""
    return information.tobytes()[4:36].rstrip(b"\0").decode(errors="replace")


def _transmit_checksum(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return ethtool_value(control, name, _TX_CHECKSUM)


def _xdp_features(index: int) -> int | None:
    """None: the kernel does not say (before 6.3)."""
    try:
        with Netlink(GENERIC) as generic:
            asked = generic_header(_NETDEV_GET) + attribute(_NETDEV_INDEX, struct.pack("=I", index))
            (answer,) = generic.ask(family(generic, "netdev"), asked)
    except OSError:
        return None
    (features,) = struct.unpack("=Q", attributes(answer[4:]).get(_NETDEV_XDP_FEATURES, bytes(8)))
    return int(features)


def _number(content: bytes) -> int:
    return int.from_bytes(content[:4], "little")
