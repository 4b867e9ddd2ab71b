"""What stands before a gRPC server that strangers can reach: how many connections, and whose.

```
 a connection ──▶ not known yet: STRANGERS_MAX of all, for KNOWN_WITHIN_S; the eldest of who has most gives way
                      │ one whom the server knows (a pinned domain; an agent's controller) calls over it
                      ▼
                  that peer's: CONNECTIONS_OF_A_PEER_MAX; its eldest gives way
```

gRPC counts connections of peers and of strangers alike, and knows no share of them. So it listens at a socket that only
this user can reach, and what comes is handed on to it as it is: TLS is between the peer and gRPC, nothing is read or
kept here.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

STRANGERS_MAX = 64
KNOWN_WITHIN_S = 10.0
"""Until the first call: a handshake and a greeting take milliseconds."""
CONNECTIONS_OF_A_PEER_MAX = 8
BACKLOG = 256
AT_ONCE_MAX = 16
"""Accepted before all else has its turn, and those that give way for them are closed: each takes three descriptors."""
GOODBYE_S = 5.0
"""For what was sent last to be taken."""


class Door:
    """Belongs to the event loop that opened it."""

    def __init__(self, inner: Callable[[], str]) -> None:
        """`inner`: the path of the socket where gRPC listens now."""
        self._inner = inner
        self._unknown: dict[Visit, None] = {}
        self._of_peer: dict[str, dict[Visit, None]] = {}
        self._visits: dict[str, Visit] = {}
        """By the name of the socket from which gRPC sees it come."""
        self._server: asyncio.Server | None = None
        self.turned_away: Counter[str] = Counter()
        """Connections, by whose they were; empty: a stranger's."""

    async def open(self, host: str, port: int) -> int:
        """Returns the port. Raises OSError."""
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        everywhere = family == socket.AF_INET6 and host == "::"
        listening = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=everywhere)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Visit(self), sock=listening, backlog=AT_ONCE_MAX
        )
        listening.listen(BACKLOG)  # which asyncio has made as short as what it accepts at once
        return int(listening.getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for visit in (*self._unknown, *(visit for visits in self._of_peer.values() for visit in visits)):
            visit.end()

    def came_from(self, inside: str) -> str:
        """Where a connection really comes from. `inside`: as gRPC says it."""
        visit = self._visits.get(_name(inside))
        return visit.address if visit is not None else inside

    def is_of(self, inside: str, domain: str) -> None:
        """A pinned peer calls over this connection."""
        visit = self._visits.get(_name(inside))
        if visit is None or visit.domain == domain:
            return
        self._unknown.pop(visit, None)
        visit.domain = domain
        visit.deadline.cancel()
        theirs = self._of_peer.setdefault(domain, {})
        if len(theirs) >= CONNECTIONS_OF_A_PEER_MAX:
            self._turn_away(next(iter(theirs)))
        theirs[visit] = None

    # ---- of its visits

    async def enter(self, visit: "Visit") -> None:
        if len(self._unknown) >= STRANGERS_MAX:
            most = Counter(each.host for each in self._unknown).most_common(1)[0][0]
            self._turn_away(next(each for each in self._unknown if each.host == most))
        self._unknown[visit] = None
        loop = asyncio.get_running_loop()
        visit.deadline = loop.call_later(KNOWN_WITHIN_S, self._turn_away, visit)
        try:
            visit.name = await visit.inside.open(self._inner())
        except OSError:
            visit.end()  # gRPC begins anew with other peers
            return
        self._visits[visit.name] = visit
        visit.begin()

    def leave(self, visit: "Visit") -> None:
        self._unknown.pop(visit, None)
        self._visits.pop(visit.name, None)
        theirs = self._of_peer.get(visit.domain, {})
        theirs.pop(visit, None)
        if not theirs:
            self._of_peer.pop(visit.domain, None)

    def _turn_away(self, visit: "Visit") -> None:
        self.turned_away[visit.domain] += 1
        visit.end()


class Visit(asyncio.Protocol):
    """The outer half of one connection; what comes goes to the inner one, and back."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.inside = _Inside(self)
        self.domain = self.name = ""
        self.address = self.host = ""
        self.deadline: asyncio.TimerHandle
        self.transport: asyncio.Transport | None = None
        self._entering: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername") or ("", 0)
        self.host, self.address = peer[0], f"{peer[0]}:{peer[1]}"
        transport.pause_reading()
        self._entering = asyncio.get_running_loop().create_task(self._door.enter(self))

    def begin(self) -> None:
        if self.transport is None or self.transport.is_closing():
            self.end()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.inside.transport is not None:
            self.inside.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self.end()

    def pause_writing(self) -> None:
        if self.inside.transport is not None:
            self.inside.transport.pause_reading()

    def resume_writing(self) -> None:
        with contextlib.suppress(RuntimeError):
            if self.inside.transport is not None:
                self.inside.transport.resume_reading()

    def end(self) -> None:
        self._door.leave(self)
        if hasattr(self, "deadline"):
            self.deadline.cancel()
        for transport in (self.transport, self.inside.transport):
            if transport is not None and not transport.is_closing():
                transport.close()
                asyncio.get_running_loop().call_later(GOODBYE_S, transport.abort)


class _Inside(asyncio.Protocol):
    """The half towards gRPC."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self.transport: asyncio.Transport | None = None

    async def open(self, path: str) -> str:
        """Returns the name of this end, which the kernel gives and no other socket has. Raises OSError."""
        with contextlib.ExitStack() as cleanup:
            end = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            end.bind("")
            end.connect(path)
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)
            cleanup.pop_all()
        return bytes(end.getsockname()).removeprefix(b"\0").decode()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._visit.transport is not None:
            self._visit.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._visit.end()

    def pause_writing(self) -> None:
        if self._visit.transport is not None:
            self._visit.transport.pause_reading()

    def resume_writing(self) -> None:
        with contextlib.suppress(RuntimeError):
            if self._visit.transport is not None:
                self._visit.transport.resume_reading()


def _name(peer: str) -> str:
    """Of `unix-abstract:NAME`, as gRPC writes it."""
    return peer.rpartition(":")[2]
