"""Frames between the controller and the ports: what XDP punts goes up, PacketOut goes out of an interface."""

import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dataplane.errors import RequestInvalid

_HEADER = struct.Struct("HBxHHH2xI")
"""struct punted: ingress port, reason, VRF, MTU, answer class, length of the whole frame; then up to 1514 bytes."""
_FRAME = 1514


@dataclass(frozen=True, slots=True, kw_only=True)
class Punted:
    frame: bytes
    """Its first 1514 bytes."""
    metadata: Mapping[str, int]
    """As the P4Info's packet_in."""


def punted(record: bytes) -> Punted:
    """Of a record of the ring buffer `punt`."""
    *metadata, length = _HEADER.unpack_from(record)
    names = ("ingress_port", "reason", "vrf", "mtu", "answer_class")
    frame = record[_HEADER.size : _HEADER.size + min(length, _FRAME)]
    return Punted(frame=frame, metadata=dict(zip(names, metadata, strict=True)))


class PacketOut:
    """Sends frames on ports; XDP does not see them, since they leave."""

    def __init__(self, interface: Callable[[int], str]) -> None:
        """`interface`: port → name; raises RequestInvalid where there is no such port."""
        self._interface = interface
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)  # receives nothing

    def send(self, port: int, frame: bytes) -> None:
        """Raises RequestInvalid where there is no such port, or its interface does not take the frame now."""
        name = self._interface(port)
        try:
            self._socket.sendto(frame, (name, 0))
        except OSError as error:
            raise RequestInvalid(
                f"port {port} ({name}) does not take a frame of {len(frame)} bytes: {error}"
            ) from error

    def close(self) -> None:
        self._socket.close()
