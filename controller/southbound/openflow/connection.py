"""The connection to one OpenFlow switch: it listens, we dial. Requests and their answers, errors, what comes by itself.

TLS, unless the switch is at a Unix socket or on this machine's loopback.
"""

import asyncio
import ipaddress
import itertools
import ssl
from collections.abc import Callable, Iterable, Mapping

from controller.errors import TargetRejected, TargetUnreachable
from controller.southbound.openflow import messages
from controller.southbound.openflow.messages import Failure, Malformed, SwitchPort

CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 10.0
ENTRIES_S_MIN = 200.0
"""A switch that has hardly any time takes so many: deadlines grow with what is asked."""
ECHO_S = 5.0
SILENCE_S_MAX = 15.0
FLOWS_OCTETS_MAX, PARTS_OCTETS_MAX = 64 << 20, 4 << 20
"""Of one answer in parts: 400,000 entries; of any other kind, 65,536 ports."""
TURN = 32
"""Messages that are taken before all else has its turn."""
UNTAKEN_OCTETS_MAX = 1 << 20
"""Of ours that it does not take, while it wants more of them: what we write by ourselves waits before."""


def needs_tls(address: str) -> bool:
    if address.startswith("unix:"):
        return False
    try:
        return not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:  # a name may lead anywhere
        return True


class Connection:
    """Raises TargetUnreachable or TargetRejected, with the node's name in the text."""

    def __init__(self, node: str, address: str, tls: ssl.SSLContext | None) -> None:
        self.node = node
        self._address = address
        self._tls = tls
        self._xids = itertools.count(1)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        """By xid: for the answer's body, without the header."""
        self._parts: dict[int, tuple[int, bytearray]] = {}
        """By xid: of an answer in parts, its kind and what there is of it."""
        self._failures: dict[int, Failure] = {}
        """By xid, of what has no answer but a refusal."""
        self._unanswered: set[int] = set()
        """xids of such messages that a barrier has not confirmed."""
        self._heard_s = 0.0
        self.on_packet: Callable[[int, bytes], None] = lambda port, frame: None
        self.on_port: Callable[[bool, SwitchPort], None] = lambda is_gone, port: None

    async def open(self) -> None:
        """Connects and says hello."""
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                self._reader, self._writer = await self._dial()
                self._writer.write(messages.hello(next(self._xids)))
                version, kind, _, body = await self._message()
        except TimeoutError as exc:
            raise TargetUnreachable(f"{self._who}: no hello in {CONNECT_S_MAX:.0f} s") from exc
        except asyncio.IncompleteReadError as exc:
            # TLS 1.3: whom it does not know it lets in, and then ends the connection
            why = ": it may not know who signed our certificate (`agent_tls`)" if needs_tls(self._address) else ""
            raise TargetUnreachable(f"{self._who}: it closed the connection before it said hello{why}") from exc
        except OSError as exc:
            raise TargetUnreachable(f"{self._who}: {_words(exc)}") from exc
        except Malformed as exc:
            raise self._malformed(exc) from exc
        try:
            speaks = kind == messages.HELLO and messages.supports(body, version)
        except Malformed as exc:
            raise self._malformed(exc) from exc
        if not speaks:
            raise TargetRejected(f"{self._who}: it does not speak OpenFlow 1.3 (it said hello as version {version})")

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._address.startswith("unix:"):
            return await asyncio.open_unix_connection(self._address.removeprefix("unix:"))
        host, _, port = self._address.rpartition(":")
        host = host.strip("[]")
        if not needs_tls(self._address):
            return await asyncio.open_connection(host, int(port))
        if self._tls is None:
            raise TargetUnreachable(f"{self._who} needs TLS, and this controller has no `agent_tls` in its config")
        return await asyncio.open_connection(host, int(port), ssl=self._tls, server_hostname=host)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # not `close`: that waits until the switch has taken all
        for waiting in self._waiting.values():
            waiting.cancel()

    async def hold(self) -> None:
        """Takes what comes, and asks whether it still lives. Never returns: raises when the connection ends."""
        self._heard_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take(), name=f"{self.node} openflow")
            tasks.create_task(self._ask(), name=f"{self.node} echo")

    async def request(self, make: Callable[[int], bytes], deadline_s: float = ANSWER_S_MAX) -> bytes:
        """`make`: the message, of an xid. Returns the answer's body; raises TargetRejected if it is an error."""
        xid = next(self._xids)
        answer = self._expect(xid)
        self._write(make(xid))
        return await self._answer(xid, answer, deadline_s)

    async def write(self, made: Iterable[bytes], first: int, count: int) -> Mapping[int, Failure]:
        """Messages without an answer, `count` of them with xids from `first` on, then a barrier: what of them was
        refused, by place. They may lie together, and in another order."""
        places = range(first, first + count)
        self._unanswered.update(places)
        try:
            for octets in made:
                self._write(octets)
                await self._drained()
            await self.request(
                lambda xid: messages.message(messages.BARRIER_REQUEST, xid), ANSWER_S_MAX + count / ENTRIES_S_MIN
            )
            return {xid - first: self._failures.pop(xid) for xid in places if xid in self._failures}
        finally:
            self._unanswered.difference_update(places)

    def xids(self, count: int) -> int:
        """The first of so many that follow each other."""
        first = next(self._xids)
        self._xids = itertools.count(first + count)
        return first

    def send(self, make: Callable[[int], bytes]) -> None:
        """Nobody waits to hear what becomes of it."""
        self._write(make(next(self._xids)))

    # ---- what comes

    async def _take(self) -> None:
        for taken in itertools.count(1):
            if taken % TURN == 0:
                await asyncio.sleep(0)  # to read what is there already lets nobody else in
            try:
                _, kind, xid, body = await self._message()
                self._heard_s = asyncio.get_running_loop().time()
                self._dispatch(kind, xid, body)
            except (OSError, asyncio.IncompleteReadError) as exc:
                raise TargetUnreachable(f"{self._who}: {_words(exc)}") from exc
            except Malformed as exc:
                raise self._malformed(exc) from exc

    async def _message(self) -> tuple[int, int, int, bytes]:
        """Version, type, xid, body."""
        version, kind, length, xid = messages.HEADER.unpack(await self._reader.readexactly(messages.HEADER.size))
        if length < messages.HEADER.size:
            raise Malformed(f"a message of {length} octets")
        if version != messages.VERSION and kind not in (messages.HELLO, messages.ERROR):
            raise Malformed(f"a message of version {version}")
        return version, kind, xid, await self._reader.readexactly(length - messages.HEADER.size)

    def _dispatch(self, kind: int, xid: int, body: bytes) -> None:
        match kind:
            case messages.ECHO_REQUEST:
                self._write(messages.message(messages.ECHO_REPLY, xid, body))
                if self._untaken > UNTAKEN_OCTETS_MAX:
                    raise TargetRejected(f"{self._who}: it wants echoes, and does not take them")
            case messages.PACKET_IN:
                self.on_packet(*messages.packet_in(body))
            case messages.PORT_STATUS:
                self.on_port(*messages.port_status(body))
            case messages.MULTIPART_REPLY:
                self._part(xid, body)
            case messages.ERROR if xid in self._waiting:
                self._settle(xid, TargetRejected(f"{self._who}: {messages.failure(body)}"))
            case messages.ERROR if xid in self._unanswered:
                self._failures[xid] = messages.failure(body)
            case messages.FEATURES_REPLY | messages.BARRIER_REPLY | messages.ROLE_REPLY | messages.ECHO_REPLY:
                self._settle(xid, body)
            case _:
                pass  # nothing of ours depends on it

    def _part(self, xid: int, body: bytes) -> None:
        kind, goes_on, data = messages.multipart(body)
        if xid not in self._waiting:
            return
        first, parts = self._parts.setdefault(xid, (kind, bytearray()))
        if kind != first:
            raise Malformed("an answer in parts of different kinds")
        parts += data
        if len(parts) > (FLOWS_OCTETS_MAX if kind == messages.FLOWS else PARTS_OCTETS_MAX):
            raise Malformed("an answer without end")
        if not goes_on:
            self._settle(xid, bytes(parts))

    def _settle(self, xid: int, answer: bytes | Exception) -> None:
        waiting = self._waiting.get(xid)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, bytes):
            waiting.set_result(answer)
        else:
            waiting.set_exception(answer)

    async def _ask(self) -> None:
        """Whether it lives, where it says nothing by itself."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ECHO_S)
            if loop.time() - self._heard_s > SILENCE_S_MAX:
                raise TargetUnreachable(f"{self._who}: silent for {SILENCE_S_MAX:.0f} s")
            self.send(lambda xid: messages.message(messages.ECHO_REQUEST, xid))

    # ---- what goes

    def _expect(self, xid: int) -> "asyncio.Future[bytes]":
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[xid] = waiting
        return waiting

    async def _answer(self, xid: int, answer: "asyncio.Future[bytes]", deadline_s: float) -> bytes:
        try:
            async with asyncio.timeout(deadline_s):
                await self._drained()
                return await answer
        except TimeoutError as exc:
            raise TargetUnreachable(f"{self._who}: no answer in {deadline_s:.0f} s") from exc
        finally:
            self._waiting.pop(xid, None)
            self._parts.pop(xid, None)

    def _write(self, data: bytes) -> None:
        if self._writer is None:
            raise TargetUnreachable(f"{self._who}: not connected")
        self._writer.write(data)

    async def _drained(self) -> None:
        assert self._writer is not None
        try:
            await self._writer.drain()
        except OSError as exc:
            raise TargetUnreachable(f"{self._who}: {_words(exc)}") from exc

    @property
    def _untaken(self) -> int:
        return self._writer.transport.get_write_buffer_size() if self._writer is not None else 0

    @property
    def _who(self) -> str:
        return f"node {self.node}: the switch at {self._address}"

    def _malformed(self, exc: Malformed) -> TargetRejected:
        return TargetRejected(f"{self._who}: what it sends is no OpenFlow 1.3: {exc}")


def _words(exc: Exception) -> str:
    if isinstance(exc, asyncio.IncompleteReadError):
        return "it closed the connection"
    return (exc.strerror if isinstance(exc, OSError) else "") or str(exc) or type(exc).__name__
