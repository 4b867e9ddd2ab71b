"""Facts about a network interface of this namespace, by ioctl: in microseconds, and without /sys."""

import array
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_NAME = "16s"
_REQUEST_SIZE = 40  # struct ifreq, linux/if.h
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_SIOCGIFINDEX = 0x8933
SIOCETHTOOL = 0x8946
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_IFF_ALLMULTI = 0x200
_ETHTOOL_GLINK = 0x0A  # linux/ethtool.h
_ETHTOOL_GTXCSUM = 0x16
_ETHTOOL_STXCSUM = 0x17
_ETHTOOL_GGRO = 0x2B
_ETHTOOL_SGRO = 0x2C
_ETHTOOL_GFLAGS = 0x25
_ETHTOOL_SFLAGS = 0x26
_TXVLAN = 1 << 7
_GONE = (errno.ENODEV, errno.ENXIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    index: int
    mac: bytes
    mtu: int
    up: bool
    carrier: bool


def read_interface(name: str) -> Interface | None:
    """None: there is no such interface (any more)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            (index,) = struct.unpack_from("i", _ioctl(control, _SIOCGIFINDEX, name), 16)
            (flags,) = struct.unpack_from("H", _ioctl(control, _SIOCGIFFLAGS, name), 16)
            (mtu,) = struct.unpack_from("i", _ioctl(control, _SIOCGIFMTU, name), 16)
            mac = _ioctl(control, _SIOCGIFHWADDR, name)[18:24]
            carrier = bool(flags & _IFF_UP) and _has_carrier(control, name, flags)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
    return Interface(index=index, mac=mac, mtu=mtu, up=bool(flags & _IFF_UP), carrier=carrier)


def takes_all_groups(name: str) -> bool:
    """Whether frames to every group come in. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("H", _ioctl(control, _SIOCGIFFLAGS, name), 16)
    return bool(flags & _IFF_ALLMULTI)


def take_all_groups(name: str, wanted: bool = True) -> bool:
    """Frames to every group come in, or not any more; returns whether it was different. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("H", _ioctl(control, _SIOCGIFFLAGS, name), 16)
        if bool(flags & _IFF_ALLMULTI) == wanted:
            return False
        changed = struct.pack(f"{_NAME}H{_REQUEST_SIZE - 18}x", name.encode(), flags ^ _IFF_ALLMULTI)
        fcntl.ioctl(control, _SIOCSIFFLAGS, changed)
        return True


def set_gro(name: str) -> bool:
    """Generic receive offload on; returns whether it was off. Raises OSError.

    veth has a receive ring only with GRO (or an XDP program): without, what XDP redirects to its peer is lost.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if ethtool_value(control, name, _ETHTOOL_GGRO):
            return False
        ethtool_value(control, name, _ETHTOOL_SGRO, 1)
        return True


def complete_checksums(name: str) -> bool:
    """The kernel itself finishes checksums of what it sends; returns whether it did not. Raises OSError.

    veth leaves them to a card, and XDP at its peer cannot tell: what GRO joined would go on with wrong ones.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if not ethtool_value(control, name, _ETHTOOL_GTXCSUM):
            return False
        ethtool_value(control, name, _ETHTOOL_STXCSUM, 0)
        return True


def put_tags_into_frames(name: str) -> bool:
    """The kernel itself writes VLAN tags into what it sends; returns whether it did not. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = ethtool_value(control, name, _ETHTOOL_GFLAGS)
        if not flags & _TXVLAN:
            return False
        ethtool_value(control, name, _ETHTOOL_SFLAGS, flags & ~_TXVLAN)
        return True


def set_ipv6(name: str, setting: str, value: int) -> bool:
    """Sets /proc/sys/net/ipv6/conf/NAME/SETTING; returns whether it was different. Raises OSError."""
    path = Path("/proc/sys/net/ipv6/conf") / name / setting
    if int(path.read_text()) == value:
        return False
    path.write_text(str(value))
    return True


def _ioctl(control: socket.socket, number: int, name: str) -> bytes:
    return fcntl.ioctl(control, number, struct.pack(f"{_NAME}{_REQUEST_SIZE - 16}x", name.encode()))


def request(name: str, address: int) -> bytes:
    """struct ifreq with a pointer."""
    return struct.pack(f"{_NAME}P{_REQUEST_SIZE - 24}x", name.encode(), address)


def _has_carrier(control: socket.socket, name: str, flags: int) -> bool:
    try:
        return bool(ethtool_value(control, name, _ETHTOOL_GLINK))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return bool(flags & _IFF_RUNNING)  # a driver without ethtool, as WireGuard's; the flag may lag by a second


def ethtool_value(control: socket.socket, name: str, command: int, data: int = 0) -> int:
    """Gets or sets one number of a driver, by ethtool. Raises OSError."""
    value = array.array("I", (command, data))  # struct ethtool_value
    address, _ = value.buffer_info()
    fcntl.ioctl(control, SIOCETHTOOL, request(name, address))
    return value[1]
