"""The side that takes messages of neighbouring domains.

Mutual TLS lets in only who holds a certificate under a pinned root. Which domain that is follows from the root that
signed the certificate, never from anything the message says.
"""

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import grpc
import msgspec

from controller.bucket import Bucket
from controller.eastwest.identity import Identity, issued_by
from controller.eastwest.peer import (
    DELIVER,
    DELIVER_ALL,
    GREET,
    REASON_MAX,
    SERVICE,
    SIZE_BYTES_MAX,
    Peer,
    RefusedMessage,
    Taken,
    as_of_now,
    decode,
    decode_batch,
    decode_greeting,
    encode,
    greeting_objection,
)
from controller.errors import ConfigInvalid, NoSpace
from controller.model.agreement import Envelope, Greeting, Unreadable
from controller.model.event import PeerMet
from dataplane.door import Door
from dataplane.private_directory import PrivateDirectory
from dataplane.tls_end import server_context

DELIVERY_S_MAX = 10.0
"""Until the controller has stored what a message led to."""
REQUEST_S_MAX = 10.0
"""Until the whole of a message has come."""
STREAMS_MAX = 32
"""Calls of one connection."""
CALLS_OF_A_PEER_MAX = 16
"""From when one begins, whether or not its message has come."""
BUSY_S = 0.5
"""Before a call beyond that is refused: who tries again at once is not heard sooner."""
MESSAGES_S_MAX = 50.0
MESSAGES_AT_ONCE_MAX = 2_000
"""Of one peer: those that come faster wait. Its agreements (256, unless the policy says more) are offered anew or
renewed in one go."""
LINES_S_MAX = 0.1
LINES_AT_ONCE_MAX = 20
"""Of the log, about what one peer, or all strangers, did that was refused."""
LEAVES_MAX = 256
OPTIONS = (
    ("grpc.max_receive_message_length", SIZE_BYTES_MAX),
    ("grpc.max_send_message_length", SIZE_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.so_reuseport", 0),
)

Deliver = Callable[[str, Sequence[Envelope]], Awaitable[Sequence[str]]]
"""(domain, messages): returns when the outcome is durable; of each why nothing came of it, empty where something did.
Raises NoSpace where it cannot be."""
Met = Callable[[PeerMet], Awaitable[None]]
Refused = Callable[[str, str], None]
"""(domain, or address where it is unknown; reason): for the log."""


_Context = grpc.aio.ServicerContext[bytes, bytes]
_Requests = AsyncIterator[bytes]
_Handler = Callable[[_Requests, _Context], Awaitable[bytes]]
_STRANGERS = ""


class _SentAway(Exception):
    """A call that is not taken."""

    def __init__(self, status: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def _answering(handler: _Handler) -> _Handler:
    """Ends calls that are sent away with their status. Not by `context.abort`, whose exception holds its frames, and so
    what the caller has sent, until somebody looks for cycles."""

    async def answer(requests: _Requests, context: _Context) -> bytes:
        try:
            return await handler(requests, context)
        except _SentAway as exc:
            context.set_code(exc.status)
            context.set_details(exc.why)
            return b""

    return answer


class EastWestServer:
    def __init__(self, identity: Identity, deliver: Deliver, met: Met, refused: Refused, greeting: Greeting) -> None:
        self._identity = identity
        self._deliver = deliver
        self._met = met
        self._greeting = greeting
        self._refused = refused
        self._peers: dict[str, Peer] = {}
        self._domain_of_leaf: dict[bytes, str] = {}
        self._in_flight: Counter[str] = Counter()
        self._messages: dict[str, Bucket] = {}
        self._lines: dict[str, Bucket] = {}
        self._server: grpc.aio.Server | None = None
        self._directory: PrivateDirectory | None = None
        """Of this user alone: whoever reaches the socket inside is not counted at the door."""
        self._socket = ""
        self._context = self._with_peers()
        self.door = Door(lambda: self._socket, lambda: self._context)
        self.refusals: Counter[tuple[str, str]] = Counter()
        """By whose (empty: of strangers), and which share."""

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """From now on only these get in. Connections of others end; a call that is under way there is refused."""
        for name, peer in self._peers.items():
            if peers.get(name) != peer:
                self.door.end_of(name)
        self._peers = dict(peers)
        self._context = self._with_peers()
        self._messages = {
            name: self._messages.get(name) or Bucket(rate=MESSAGES_S_MAX, burst=MESSAGES_AT_ONCE_MAX) for name in peers
        }
        self._lines = {name: bucket for name, bucket in self._lines.items() if name in (*peers, _STRANGERS)}
        self._domain_of_leaf.clear()

    async def start(self, address: str) -> int:
        """Listens on `host:port` (0: any) and returns the port. Raises ConfigInvalid."""
        host, _, port = address.rpartition(":")
        await self._serve()
        try:
            return await self.door.open(host.strip("[]"), int(port))
        except OSError as exc:
            await self.stop(0)
            raise ConfigInvalid(f"east-west {address}: cannot listen there ({exc}); choose a free address") from exc

    async def _serve(self) -> None:
        server = grpc.aio.server(options=OPTIONS)
        # streams of one message each: what calls is known before its message is read
        handlers = {
            DELIVER: grpc.stream_unary_rpc_method_handler(_answering(self._take)),
            DELIVER_ALL: grpc.stream_unary_rpc_method_handler(_answering(self._take_all)),
            GREET: grpc.stream_unary_rpc_method_handler(_answering(self._welcome)),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._directory = PrivateDirectory("stitchd-eastwest-")
        self._socket = f"{self._directory.path}/eastwest"
        server.add_insecure_port(f"unix:{self._socket}")
        await server.start()
        self._server = server

    async def stop(self, grace_s: float = 1.0) -> None:
        self.door.close()
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None
        if self._directory is not None:
            self._directory.remove()
            self._directory = None

    def _with_peers(self) -> ssl.SSLContext:
        # OpenSSL wants at least one root; with our own, only we ourselves would get in, and `_share` refuses that.
        roots = "".join(peer.certificate for peer in self._peers.values()) or self._identity.root_certificate
        own = self._identity
        return server_context(key=own.leaf_key, certificates=own.leaf_certificate.encode(), authorities=roots)

    async def _take(self, requests: _Requests, context: _Context) -> bytes:
        async with self._share(context) as domain:
            try:
                message = decode(await self._request(domain, requests))
            except Unreadable as exc:
                raise self._sent_away(domain, "unreadable", grpc.StatusCode.INVALID_ARGUMENT, str(exc)) from exc
            (reason,) = await self._delivered(domain, (message,))
            if reason:
                raise _SentAway(grpc.StatusCode.INVALID_ARGUMENT, reason)
        return b""

    async def _take_all(self, requests: _Requests, context: _Context) -> bytes:
        """What of a batch cannot be read is refused, and the rest is taken."""
        async with self._share(context) as domain:
            try:
                batch = decode_batch(await self._request(domain, requests)).messages
            except Unreadable as exc:
                raise self._sent_away(domain, "unreadable", grpc.StatusCode.INVALID_ARGUMENT, str(exc)) from exc
            await self._pace(domain, len(batch) - 1)
            reasons: dict[int, str] = {}
            messages: dict[int, Envelope] = {}
            for place, data in enumerate(batch):
                try:
                    messages[place] = decode(bytes(data))
                except Unreadable as exc:
                    self.refusals[domain, "unreadable"] += 1
                    self._tell(domain, domain, str(exc))
                    reasons[place] = str(exc)
            delivered = await self._delivered(domain, tuple(messages.values()))
            reasons |= dict(zip(messages, delivered, strict=True))
        refused = (
            RefusedMessage(place=place, reason=reasons[place][:REASON_MAX])
            for place in sorted(reasons)
            if reasons[place]
        )
        return encode(Taken(refused=tuple(refused)))

    async def _delivered(self, domain: str, messages: Sequence[Envelope]) -> Sequence[str]:
        """When it is stored what they led to: of each why nothing came of it; empty: something did."""
        try:
            async with asyncio.timeout(DELIVERY_S_MAX):
                return await self._deliver(domain, messages)
        except TimeoutError as exc:
            why = f"not stored within {DELIVERY_S_MAX:.0f} s; try again"
            raise _SentAway(grpc.StatusCode.UNAVAILABLE, why) from exc
        except NoSpace as exc:
            why = "there is no room to store it now; try later"
            raise _SentAway(grpc.StatusCode.UNAVAILABLE, why) from exc

    async def _welcome(self, requests: _Requests, context: _Context) -> bytes:
        """Whoever greets us hears what we speak, also where we have nothing in common."""
        async with self._share(context) as domain:
            try:
                theirs = decode_greeting(await self._request(domain, requests))
            except Unreadable as exc:
                raise self._sent_away(domain, "unreadable", grpc.StatusCode.INVALID_ARGUMENT, str(exc)) from exc
            theirs = msgspec.structs.replace(theirs, now_s=None)  # how long it took to come here, nobody knows
            await self._met(PeerMet(peer=domain, greeting=theirs, refusal=greeting_objection(theirs)))
        return encode(as_of_now(self._greeting))

    @contextlib.asynccontextmanager
    async def _share(self, context: _Context) -> AsyncIterator[str]:
        """Which peer calls, while the call counts as one of its share; everybody else is sent away, and what is beyond
        the share too, before anything of it is read."""
        inside = context.peer()
        domain = self._domain(context)
        if domain is None:
            who = self.door.came_from(inside)
            self._tell(_STRANGERS, who, "its certificate is of no pinned peer")
            raise _SentAway(grpc.StatusCode.PERMISSION_DENIED, "your domain is not a peer of this one")
        self.door.is_of(inside, domain)
        if self._in_flight[domain] >= CALLS_OF_A_PEER_MAX:
            await asyncio.sleep(BUSY_S)
            why = f"too many calls at once (more than {CALLS_OF_A_PEER_MAX}); try later"
            raise self._sent_away(domain, "calls", grpc.StatusCode.RESOURCE_EXHAUSTED, why)
        self._in_flight[domain] += 1
        try:
            yield domain
        finally:
            self._in_flight[domain] -= 1

    async def _request(self, domain: str, requests: _Requests) -> bytes:
        """The one message of a call. Raises Unreadable where it is not one."""
        await self._pace(domain, 1)
        requests_read: list[bytes] = []
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                async for request in requests:
                    requests_read.append(request)
                    if len(requests_read) > 1:
                        break
        except TimeoutError as exc:
            why = f"the message has not come within {REQUEST_S_MAX:.0f} s; send it again"
            raise self._sent_away(domain, "deadline", grpc.StatusCode.DEADLINE_EXCEEDED, why) from exc
        if len(requests_read) != 1:
            raise Unreadable("a call carries one message")
        return requests_read[0]

    async def _pace(self, domain: str, count: int) -> None:
        """So many messages more of a peer: they wait where they come too fast."""
        bucket = self._messages.get(domain)
        if count > 0 and bucket is not None and (wait_s := bucket.wait_s(time.monotonic(), count)):
            self.refusals[domain, "messages"] += 1
            await asyncio.sleep(wait_s)

    def _sent_away(self, domain: str, share: str, status: grpc.StatusCode, why: str) -> "_SentAway":
        self.refusals[domain, share] += 1
        self._tell(domain, domain, why)
        return _SentAway(status, why)

    def _tell(self, whose: str, who: str, why: str) -> None:
        bucket = self._lines.setdefault(whose, Bucket(rate=LINES_S_MAX, burst=LINES_AT_ONCE_MAX))
        if bucket.take(time.monotonic()):
            self._refused(who, why)
        else:
            self.refusals[whose, "log"] += 1

    def _domain(self, context: _Context) -> str | None:
        """The peer whose pinned root signed the certificate of this connection."""
        leaf = self.door.certificate(context.peer())
        if not leaf:
            return None  # it did not come through the door
        if leaf not in self._domain_of_leaf:
            for peer in self._peers.values():
                if issued_by(leaf, peer.certificate, peer.domain):
                    if len(self._domain_of_leaf) >= LEAVES_MAX:
                        self._domain_of_leaf.clear()  # a peer may make as many as it likes
                    self._domain_of_leaf[leaf] = peer.domain
                    break
        return self._domain_of_leaf.get(leaf)
