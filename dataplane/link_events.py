"""Tells when interfaces of this namespace come, go or change: look again then, nothing is said about what changed."""

import asyncio
import socket
from collections.abc import Callable

_RTMGRP_LINK = 1  # linux/rtnetlink.h


class LinkEvents:
    def __init__(self, notify: Callable[[], None]) -> None:
        """Calls `notify` from the running event loop, once for any number of messages that came together."""
        self._notify = notify
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))
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
