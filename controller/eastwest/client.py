"""The side that sends messages to neighbouring domains: one channel and one queue for each peer, in order.

What waits for a peer is delivered together, as far as it fits one call. Each message is tried once, with a deadline;
what became of it is reported, and the core decides whether to try again.
The back-off here is between connections (gRPC's, exponential with jitter), so that a dead peer costs nothing.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import grpc
import msgspec

from controller.eastwest.identity import Identity
from controller.eastwest.peer import (
    BATCH_MAX,
    DELIVER,
    DELIVER_ALL,
    FRAME_BYTES,
    GREET,
    SERVICE,
    SIZE_BYTES_MAX,
    Batch,
    Peer,
    as_of_now,
    decode_greeting,
    decode_taken,
    encode,
    greeting_objection,
)
from controller.errors import PeerUnreachable, PeerViolation
from controller.model.agreement import BATCHES, Envelope, Greeting, Unreadable, version_objection
from controller.model.event import MessageSent, PeerMet

DEADLINE_S = 3.0
"""Of one delivery, with the connection it may need."""
EACH_S = 0.05
"""More for each message of a batch."""
QUEUE_MAX = 16_384
"""Messages that wait for one peer."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", SIZE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
)

Report = Callable[[MessageSent | PeerMet], Awaitable[None]]
"""What became of each message, and who is at the other end of each new connection."""


class PeerChannel:
    """A channel to one pinned peer; it must prove to be that peer."""

    def __init__(self, identity: Identity, peer: Peer, greeting: Greeting) -> None:
        self.peer = peer
        self._where = f"domain {peer.domain} at {peer.endpoint}"
        self._greeting = greeting
        self._greeted = False
        self._takes_batches = False
        self._refusal = ""
        self.skew_s: float | None = None
        """How far its clock was ahead of ours when it last greeted us."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=peer.certificate.encode(),
            private_key=identity.leaf_key,
            certificate_chain=identity.leaf_certificate.encode(),
        )
        options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer.domain))
        self._channel = grpc.aio.secure_channel(peer.endpoint, credentials, options=options)
        self._call: _Call = self._channel.unary_unary(f"/{SERVICE}/{DELIVER}")
        self._call_all: _Call = self._channel.unary_unary(f"/{SERVICE}/{DELIVER_ALL}")
        self._greet: _Call = self._channel.unary_unary(f"/{SERVICE}/{GREET}")

    async def deliver(self, message: Envelope, deadline_s: float = DEADLINE_S) -> None:
        """Returns when the peer has stored what the message led to. Raises PeerUnreachable or PeerViolation."""
        await self._ready(deadline_s)
        data = encode(message)
        if len(data) > SIZE_BYTES_MAX:
            raise PeerViolation(f"{self._where}: a message of {len(data)} octets is over the limit of {SIZE_BYTES_MAX}")
        await self._call_with(self._call, data, deadline_s)

    async def deliver_some(self, waiting: Iterable[Envelope]) -> tuple[str, ...]:
        """The first of what waits that fit one call: of each that was delivered why the peer refuses it for good;
        empty: it has stored what it led to. Raises PeerUnreachable, or PeerViolation, which is about the first."""
        await self._ready(DEADLINE_S)
        first, *others = itertools.islice(waiting, BATCH_MAX if self._takes_batches else 1)
        batch, size = [encode(first)], len(encode(first)) + FRAME_BYTES
        for data in map(encode, others):
            size += len(data) + 1
            if size > SIZE_BYTES_MAX:
                break
            batch.append(data)
        if len(batch) == 1:
            await self.deliver(first)
            return ("",)
        data = encode(Batch(messages=tuple(map(msgspec.Raw, batch))))
        answer = await self._call_with(self._call_all, data, DEADLINE_S + EACH_S * len(batch))
        try:
            refused = {refusal.place: f"{self._where}: {refusal.reason}" for refusal in decode_taken(answer).refused}
        except Unreadable as exc:
            raise PeerUnreachable(f"{self._where}: {exc}") from exc
        return tuple(refused.get(place, "") for place in range(len(batch)))

    async def _ready(self, deadline_s: float) -> None:
        if not self._greeted:
            await self.greet(deadline_s)
        if self._refusal:
            raise PeerViolation(self._refusal)

    async def _call_with(self, call: "_Call", data: bytes, deadline_s: float) -> bytes:
        try:
            return await call(data, timeout=deadline_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as exc:
            raise self._error(exc) from exc

    async def greet(self, deadline_s: float = DEADLINE_S) -> PeerMet:
        """Who is there. Raises PeerUnreachable."""
        theirs: Greeting | None = None
        refusal = ""
        try:
            theirs = await self._greeted_by(deadline_s, wait_for_ready=True)
            refusal = greeting_objection(theirs)
        except Unreadable as exc:
            refusal = str(exc)
        except grpc.aio.AioRpcError as exc:
            if exc.code() not in REFUSALS:
                raise self._error(exc) from exc
            version_1 = exc.code() is grpc.StatusCode.UNIMPLEMENTED  # it does not know what a greeting is
            refusal = version_objection(1) if version_1 else f"{exc.code().name.lower()}: {exc.details()}"
        self._greeted = True
        self._takes_batches = theirs is not None and BATCHES in theirs.capabilities
        self._refusal = f"{self._where}: {refusal}" if refusal else ""
        return PeerMet(peer=self.peer.domain, greeting=theirs, refusal=self._refusal)

    async def fault(self, deadline_s: float = DEADLINE_S) -> str:
        """Why the peer is not there for us now; empty: it is. At once where a connection has just failed: then the
        text says how."""
        try:
            refusal = greeting_objection(await self._greeted_by(deadline_s, wait_for_ready=False))
        except Unreadable as exc:
            refusal = str(exc)
        except grpc.aio.AioRpcError as exc:
            text = str(self._error(exc))
            # of who does not know our certificate, a handshake tells no more, and with TLS 1.3 has ended by then
            refused = any(fault in text for fault in ("Socket closed", "Connection reset", "Unwrap failed"))
            return f"it refuses us, by ending the connection: {text}" if refused else text
        return f"{self._where}: {refusal}" if refusal else ""

    async def _greeted_by(self, deadline_s: float, *, wait_for_ready: bool) -> Greeting:
        """What the peer says, but its time, which is told by `skew_s`. Raises Unreadable or AioRpcError."""
        began_s = time.time()
        data = encode(as_of_now(self._greeting))
        theirs = decode_greeting(await self._greet(data, timeout=deadline_s, wait_for_ready=wait_for_ready))
        if theirs.now_s is not None:
            self.skew_s = theirs.now_s - (began_s + time.time()) / 2  # as if it had answered half-way
        return msgspec.structs.replace(theirs, now_s=None)

    def _error(self, exc: grpc.aio.AioRpcError) -> PeerUnreachable | PeerViolation:
        kind = PeerViolation if exc.code() in REFUSALS else PeerUnreachable
        return kind(f"{self._where}: {exc.code().name.lower()}: {exc.details()}")

    async def connected(self) -> None:
        """Waits for a connection, and tries again and again to get one."""
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    async def disconnected(self) -> None:
        """Waits for its end; who comes then may be another release."""
        await self._channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        self._greeted = False

    async def close(self) -> None:
        await self._channel.close()


_Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@dataclass(slots=True)
class _Outbox:
    channel: PeerChannel
    waiting: dict[str, Envelope] = field(default_factory=dict)
    """By message id, in the order of arrival."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: tuple[asyncio.Task[None], ...] = ()


class EastWestClient:
    """Runs in the TaskGroup it is given. Neither decides nor logs."""

    def __init__(self, identity: Identity, tasks: asyncio.TaskGroup, report: Report, greeting: Greeting) -> None:
        self._identity = identity
        self._tasks = tasks
        self._report = report
        self._greeting = greeting
        self._outboxes: dict[str, _Outbox] = {}

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """Channels to peers that are new or changed begin anew; what waited for a removed peer is reported."""
        for domain, outbox in list(self._outboxes.items()):
            peer = peers.get(domain)
            if peer == outbox.channel.peer:
                continue
            for task in outbox.tasks:
                task.cancel()
            del self._outboxes[domain]
            for message_id in outbox.waiting:
                self._refuse(domain, message_id, f"domain {domain} is no peer any more, or was changed; send again")
        for domain, peer in peers.items():
            if domain not in self._outboxes:
                outbox = _Outbox(PeerChannel(self._identity, peer, self._greeting))
                outbox.tasks = (
                    self._tasks.create_task(self._work(domain, outbox), name=f"peer {domain}"),
                    self._tasks.create_task(self._watch(outbox.channel), name=f"connection to {domain}"),
                )
                self._outboxes[domain] = outbox

    def send(self, peer: str, message_id: str, message: Envelope) -> None:
        """Queues; one MessageSent is reported. What still waits under the same id is replaced in its place."""
        outbox = self._outboxes.get(peer)
        if outbox is None:
            self._refuse(peer, message_id, f"domain {peer} is no peer: no Domain resource gives its key and endpoint")
        elif message_id not in outbox.waiting and len(outbox.waiting) >= QUEUE_MAX:
            self._refuse(peer, message_id, f"{QUEUE_MAX} messages wait for domain {peer} already")
        else:
            outbox.waiting[message_id] = message
            outbox.arrived.set()

    async def faults(self) -> dict[str, str]:
        """By peer, why it is not there now; empty: it is."""
        channels = {name: outbox.channel for name, outbox in self._outboxes.items()}
        faults = await asyncio.gather(*(channel.fault() for channel in channels.values()))
        return dict(zip(channels, faults, strict=True))

    def skews(self) -> dict[str, float]:
        channels = {name: outbox.channel for name, outbox in self._outboxes.items()}
        return {name: channel.skew_s for name, channel in channels.items() if channel.skew_s is not None}

    def _refuse(self, peer: str, message_id: str, reason: str) -> None:
        sent = MessageSent(peer=peer, message_id=message_id, reason=reason)
        self._tasks.create_task(self._say(sent), name=f"refusal of {message_id}")

    async def _say(self, sent: MessageSent) -> None:
        await self._report(sent)

    async def _watch(self, channel: PeerChannel) -> None:
        """Greets whoever is at the other end of each new connection."""
        while True:
            await channel.connected()
            try:
                await self._report(await channel.greet())
            except PeerUnreachable:
                continue
            await channel.disconnected()

    async def _work(self, domain: str, outbox: _Outbox) -> None:
        try:
            while True:
                await outbox.arrived.wait()
                outbox.arrived.clear()
                while outbox.waiting:
                    await self._send_some(domain, outbox)
        finally:
            await outbox.channel.close()

    async def _send_some(self, domain: str, outbox: _Outbox) -> None:
        sent = dict(outbox.waiting)
        final = True
        try:
            reasons = await outbox.channel.deliver_some(sent.values())
        except PeerViolation as exc:
            reasons = (str(exc),)
        except PeerUnreachable as exc:
            sent = dict(outbox.waiting)  # the others would only wait as long, one after the other
            reasons, final = (str(exc),) * len(sent), False
        for (message_id, message), reason in zip(sent.items(), reasons, strict=False):  # what did not fit waits on
            if outbox.waiting.get(message_id) is message:  # else it was replaced meanwhile
                del outbox.waiting[message_id]
                report = MessageSent(peer=domain, message_id=message_id, reason=reason, final=final and bool(reason))
                await self._report(report)
