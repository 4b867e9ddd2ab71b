"""What stands before a gRPC server that strangers can reach: how many connections, whose, and how large their headers.

```
 a connection ──▶ not known yet: STRANGERS_MAX of all, for KNOWN_WITHIN_S; the eldest of who has most gives way
                      │ TLS, with a certificate that may come in; then one descriptor more, towards gRPC
                      │ one whom the server knows (a pinned domain; an agent's controller) calls over it
                      ▼
                  that peer's: CONNECTIONS_OF_A_PEER_MAX; its eldest gives way
```

gRPC counts connections of peers and of strangers alike, and knows no share of them; what it makes of headers has no
bound that one could set (`header_blocks.py`). So it listens at a socket that only this user can reach, and TLS ends
here.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

from dataplane.header_blocks import HeaderBlocks, TooLarge
from dataplane.tls_end import Contexts, TlsEnd

STRANGERS_MAX = 64
KNOWN_WITHIN_S = 10.0
"""Until the first call: a handshake and a greeting take milliseconds."""
CONNECTIONS_OF_A_PEER_MAX = 8
BACKLOG = 256
AT_ONCE_MAX = 16
"""Accepted before all else has its turn, and those that give way for them are closed."""
GOODBYE_S = 5.0
"""For what was sent last to be taken."""


class Door:
    """Belongs to the event loop that opened it."""

    def __init__(self, inner: Callable[[], str], contexts: Contexts) -> None:
        """`inner`: the path of the socket where gRPC listens now."""
        self._inner = inner
        self.contexts = contexts
        self._unknown: dict[Visit, None] = {}
        self._of_peer: dict[str, dict[Visit, None]] = {}
        self._visits: dict[str, Visit] = {}
        """By the name of the socket from which gRPC sees it come."""
        self._server: asyncio.Server | None = None
        self.turned_away: Counter[str] = Counter()
        """Connections, by whose they were; empty: a stranger's."""
        self.too_large: Counter[str] = Counter()
        """The same, of those that were closed for their headers."""

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

    def certificate(self, inside: str) -> bytes:
        """Of who is at the other end (DER); empty: nobody came in here."""
        visit = self._visits.get(_name(inside))
        return visit.certificate if visit is not None else b""

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

    def end_of(self, domain: str) -> None:
        """Its connections."""
        for visit in tuple(self._of_peer.get(domain, ())):
            visit.end()

    # ---- of its visits

    def enter(self, visit: "Visit") -> None:
        if len(self._unknown) >= STRANGERS_MAX:
            most = Counter(each.host for each in self._unknown).most_common(1)[0][0]
            self._turn_away(next(each for each in self._unknown if each.host == most))
        self._unknown[visit] = None
        loop = asyncio.get_running_loop()
        visit.deadline = loop.call_later(KNOWN_WITHIN_S, self._turn_away, visit)

    async def let_in(self, visit: "Visit") -> None:
        """Who has shown a certificate that may come in."""
        try:
            visit.name = await visit.inside.open(self._inner())
        except OSError:
            visit.end()  # gRPC is not there any more
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
        self._tls = TlsEnd(door.contexts())
        self._headers = HeaderBlocks()
        self.inside = _Inside(self)
        self.domain = self.name = ""
        self.address = self.host = ""
        self.certificate = b""
        self.deadline: asyncio.TimerHandle
        self.transport: asyncio.Transport | None = None
        self._waiting = b""
        """What came with the end of the handshake, until gRPC is there."""
        self._entering: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername") or ("", 0)
        self.host, self.address = peer[0], f"{peer[0]}:{peer[1]}"
        self._door.enter(self)

    def begin(self) -> None:
        if self.transport is None or self.transport.is_closing():
            self.end()
            return
        waiting, self._waiting = self._waiting, b""
        self._hand_on(waiting)
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            said = self._tls.received(data)
        except ssl.SSLError:
            self.send(b"")  # with what is wrong
            self.end()
            return
        self.send(b"")
        if not self._tls.is_open:
            return
        if self._entering is None:
            assert self.transport is not None
            self.transport.pause_reading()
            self.certificate, self._waiting = self._tls.certificate, said
            self._entering = asyncio.get_running_loop().create_task(self._door.let_in(self))
        elif self.inside.transport is None:  # came before reading was paused
            self._waiting += said
        else:
            self._hand_on(said)

    def _hand_on(self, said: bytes) -> None:
        try:
            passed = self._headers.take(said)
        except TooLarge:
            self._door.too_large[self.domain] += 1
            self.end()
            return
        if self.inside.transport is not None:
            self.inside.transport.write(passed)

    def send(self, data: bytes) -> None:
        """To the other end."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(self._tls.sealed(data))

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
        self._visit.send(data)

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
