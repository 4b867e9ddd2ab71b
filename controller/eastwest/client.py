"""The side that sends messages to neighbouring domains: one channel and one queue for each peer, in order.

Each message is tried once, with a deadline; what became of it is reported, and the core decides whether to try again.
The back-off here is between connections (gRPC's, exponential with jitter), so that a dead peer costs nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import grpc

from controller.eastwest.identity import Identity
from controller.eastwest.peer import DELIVER, SERVICE, SIZE_BYTES_MAX, Peer, encode
from controller.errors import PeerUnreachable, PeerViolation
from controller.model.agreement import Message

DEADLINE_S = 3.0
"""Of one delivery, with the connection it may need."""
QUEUE_MAX = 1024
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

Sent = Callable[[str, str, str], Awaitable[None]]
"""(peer, message id, reason): the peer has taken the message durably, or why not."""


class PeerChannel:
    """A channel to one pinned peer; it must prove to be that peer."""

    def __init__(self, identity: Identity, peer: Peer) -> None:
        self.peer = peer
        credentials = grpc.ssl_channel_credentials(
            root_certificates=peer.certificate.encode(),
            private_key=identity.leaf_key,
            certificate_chain=identity.leaf_certificate.encode(),
        )
        options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer.domain))
        self._channel = grpc.aio.secure_channel(peer.endpoint, credentials, options=options)
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{DELIVER}")

    async def deliver(self, message: Message, deadline_s: float = DEADLINE_S) -> None:
        """Returns when the peer has stored what the message led to. Raises PeerUnreachable or PeerViolation."""
        where = f"domain {self.peer.domain} at {self.peer.endpoint}"
        data = encode(message)
        if len(data) > SIZE_BYTES_MAX:
            raise PeerViolation(f"{where}: a message of {len(data)} octets is over the limit of {SIZE_BYTES_MAX}")
        try:
            await self._call(data, timeout=deadline_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as exc:
            text = f"{where}: {exc.code().name.lower()}: {exc.details()}"
            raise (PeerViolation if exc.code() in REFUSALS else PeerUnreachable)(text) from exc

    async def close(self) -> None:
        await self._channel.close()


@dataclass(slots=True)
class _Outbox:
    channel: PeerChannel
    waiting: dict[str, Message] = field(default_factory=dict)
    """By message id, in the order of arrival."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    worker: asyncio.Task[None] | None = None


class EastWestClient:
    """Runs in the TaskGroup it is given. Neither decides nor logs."""

    def __init__(self, identity: Identity, tasks: asyncio.TaskGroup, sent: Sent) -> None:
        self._identity = identity
        self._tasks = tasks
        self._sent = sent
        self._outboxes: dict[str, _Outbox] = {}

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """Channels to peers that are new or changed begin anew; what waited for a removed peer is reported."""
        for domain, outbox in list(self._outboxes.items()):
            peer = peers.get(domain)
            if peer == outbox.channel.peer:
                continue
            if outbox.worker is not None:
                outbox.worker.cancel()
            del self._outboxes[domain]
            for message_id in outbox.waiting:
                self._refuse(domain, message_id, f"domain {domain} is no peer any more, or was changed; send again")
        for domain, peer in peers.items():
            if domain not in self._outboxes:
                outbox = _Outbox(PeerChannel(self._identity, peer))
                outbox.worker = self._tasks.create_task(self._work(domain, outbox), name=f"peer {domain}")
                self._outboxes[domain] = outbox

    def send(self, peer: str, message_id: str, message: Message) -> None:
        """Queues; `sent` is called once. A message that still waits under the same id is replaced in its place."""
        outbox = self._outboxes.get(peer)
        if outbox is None:
            self._refuse(peer, message_id, f"domain {peer} is no peer: no Domain resource gives its key and endpoint")
        elif message_id not in outbox.waiting and len(outbox.waiting) >= QUEUE_MAX:
            self._refuse(peer, message_id, f"{QUEUE_MAX} messages wait for domain {peer} already")
        else:
            outbox.waiting[message_id] = message
            outbox.arrived.set()

    def _refuse(self, peer: str, message_id: str, reason: str) -> None:
        self._tasks.create_task(self._report(peer, message_id, reason), name=f"refusal of {message_id}")

    async def _report(self, peer: str, message_id: str, reason: str) -> None:
        await self._sent(peer, message_id, reason)

    async def _work(self, domain: str, outbox: _Outbox) -> None:
        try:
            while True:
                await outbox.arrived.wait()
                outbox.arrived.clear()
                while outbox.waiting:
                    await self._send_first(domain, outbox)
        finally:
            await outbox.channel.close()

    async def _send_first(self, domain: str, outbox: _Outbox) -> None:
        message_id = next(iter(outbox.waiting))
        message = outbox.waiting[message_id]
        reason = ""
        failed = [message_id]
        try:
            await outbox.channel.deliver(message)
        except PeerViolation as exc:
            reason = str(exc)
        except PeerUnreachable as exc:
            reason = str(exc)
            failed = list(outbox.waiting)  # the others would only wait as long, one after the other
        for each in failed:
            if reason or outbox.waiting[each] is message:  # else it was replaced meanwhile
                del outbox.waiting[each]
                await self._sent(domain, each, reason)
