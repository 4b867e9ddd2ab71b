"""Netlink by hand: a request and its answers as bytes and attributes, in microseconds; and removing what may be gone.

pyroute2 is used for what happens seldom. What is looked at again and again, and families that it does not know, are
read with this. Layout of messages: linux/netlink.h, linux/genetlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from pyroute2.netlink.exceptions import NetlinkError

ROUTE, NETFILTER, GENERIC = 0, 12, 16
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_MULTI, _INTERRUPTED = 0x2, 0x10
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length, type."""
_NESTED = 0x8000
_TYPE = 0x3FFF
_BUFFER = 1 << 18
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL)
"""How the kernel says that a rule, a route, an interface or an address is not there."""

Attributes = dict[int, bytes]
"""By type; of one that is there several times, the last."""


class Netlink:
    """A socket of one protocol, in the network namespace in which it was made. Raises OSError."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._number = 0

    def ask(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """The bodies of the answers. An answer that the kernel calls inconsistent is asked for again."""
        while True:
            answers, consistent = self._ask(kind, body, flags)
            if consistent:
                return answers

    def _ask(self, kind: int, body: bytes, flags: int) -> tuple[list[bytes], bool]:
        self._number += 1
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, flags | REQUEST, self._number, 0) + body)
        answers: list[bytes] = []
        consistent = True
        while True:
            for answer, flag, content in _messages(self._socket.recv(_BUFFER), self._number):
                consistent = consistent and not flag & _INTERRUPTED
                if answer == _ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return answers, consistent
                if answer == _DONE:
                    return answers, consistent
                answers.append(content)
                if not flag & _MULTI and not flags & ACK:
                    return answers, consistent

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def family(generic: Netlink, name: str) -> int:
    """The number of a generic family. Raises OSError (ENOENT) where the kernel has none of that name."""
    request = generic_header(_GET_FAMILY) + attribute(_FAMILY_NAME, name.encode() + b"\0")
    (answer,) = generic.ask(_CONTROLLER, request)
    (number,) = struct.unpack("=H", attributes(answer[4:])[_FAMILY_ID])
    return int(number)


def generic_header(command: int) -> bytes:
    """struct genlmsghdr"""
    return struct.pack("=BBH", command, 1, 0)


def attribute(kind: int, content: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(content)
    return _ATTRIBUTE.pack(length, kind) + content + bytes(-length % 4)


def nested(kind: int, *content: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(content))


def attributes(data: bytes) -> Attributes:
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE, data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def subscribe(listener: socket.socket, group: int) -> None:
    """Messages of a multicast group come to this netlink socket from now on. Raises OSError."""
    listener.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)


@contextmanager
def removing() -> Iterator[None]:
    """What is gone is gone: a removal does not fail because its object is not there (any more)."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        if code not in _GONE:
            raise


def _messages(data: bytes, number: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of those that answer the request of that number."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if sequence == number:
            yield kind, flags, data[at + _HEADER.size : at + length]
        at += length + -length % 4
