"""Tells when something of a kind changes in the kernel: look again then, nothing is said about what changed."""

import asyncio
import socket
from collections.abc import Callable, Iterable

from dataplane.host.netlink import ROUTE, subscribe

LINKS = (1,)
"""Of ROUTE, linux/rtnetlink.h: interfaces of this namespace come, go or change."""
HOST = (1, 5, 9, 11, 19, 25)
"""Interfaces, addresses, routes and rules of IPv6, settings of forwarding."""


class KernelEvents:
    def __init__(self, notify: Callable[[], None], groups: Iterable[int], protocol: int = ROUTE) -> None:
        """Calls `notify` from the running event loop, once for any number of messages that came together."""
        self._notify = notify
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self._socket.bind((0, 0))
        for group in groups:
            subscribe(self._socket, group)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._drain)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                break  # ENOBUFS: messages were lost, which is an event like any other
        self._notify()
