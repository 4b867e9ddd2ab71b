"""The side that takes messages of neighbouring domains.

Mutual TLS lets in only who holds a certificate under a pinned root. Which domain that is follows from the root that
signed the certificate, never from anything the message says.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import grpc

from controller.eastwest.identity import Identity, issued_by
from controller.eastwest.peer import (
    DELIVER,
    GREET,
    SERVICE,
    SIZE_BYTES_MAX,
    Peer,
    decode,
    decode_greeting,
    encode,
    greeting_objection,
)
from controller.errors import ConfigInvalid
from controller.model.agreement import Envelope, Greeting, Unreadable
from controller.model.event import PeerMet

DELIVERY_S_MAX = 10.0
"""Until the controller has stored what a message led to."""
HANDSHAKE_MS_MAX = 5_000
CALLS_MAX = 64
CALLS_OF_A_PEER_MAX = 16
OPTIONS = (
    ("grpc.max_receive_message_length", SIZE_BYTES_MAX),
    ("grpc.max_send_message_length", SIZE_BYTES_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
    ("grpc.so_reuseport", 0),
)

Deliver = Callable[[str, Envelope], Awaitable[None]]
"""(domain of the peer, message): returns when the outcome is durable."""
Met = Callable[[PeerMet], Awaitable[None]]
Refused = Callable[[str, str], None]
"""(domain, or address where it is unknown; reason): for the log."""


_Context = grpc.aio.ServicerContext[bytes, bytes]


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
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()
        self._address = ""

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """From now on only these get in: each call is checked, also over an older connection.

        New ones get through TLS when `follow` has taken up the change.
        """
        self._peers = dict(peers)
        self._domain_of_leaf.clear()
        self._changed.set()

    async def start(self, address: str) -> int:
        """Listens on `host:port` (0: any) and returns the port. Raises ConfigInvalid."""
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        handlers = {
            DELIVER: grpc.unary_unary_rpc_method_handler(self._take),
            GREET: grpc.unary_unary_rpc_method_handler(self._welcome),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._changed.clear()
        try:
            port = int(server.add_secure_port(address, self._credentials()))
        except RuntimeError as exc:
            raise ConfigInvalid(f"east-west {address}: cannot listen there ({exc}); choose a free address") from exc
        await server.start()
        self._server = server
        self._address = f"{address.rpartition(':')[0]}:{port}"
        return port

    async def follow(self) -> None:
        """Listens anew, on the same port, whenever the peers have changed. Runs until it is cancelled.

        grpc.dynamic_ssl_server_credentials would spare this, but changing its configuration while handshakes are under
        way ends the process (grpcio 1.85: reference count of the handshaker factory).
        """
        while True:
            await self._changed.wait()
            await self.stop()
            await self.start(self._address)

    async def stop(self, grace_s: float = 1.0) -> None:
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    def _credentials(self) -> grpc.ServerCredentials:
        # gRPC wants at least one root; with our own, only we ourselves would get in, and `_take` refuses that.
        roots = "".join(peer.certificate for peer in self._peers.values()) or self._identity.root_certificate
        own = [(self._identity.leaf_key, self._identity.leaf_certificate.encode())]
        credentials: grpc.ServerCredentials = grpc.ssl_server_credentials(own, roots.encode(), require_client_auth=True)
        return credentials

    async def _take(self, request: bytes, context: _Context) -> bytes:
        domain = await self._admitted(context)
        try:
            message = decode(request)
        except Unreadable as exc:
            self._refused(domain, str(exc))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        self._in_flight[domain] += 1
        try:
            async with asyncio.timeout(DELIVERY_S_MAX):
                await self._deliver(domain, message)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"not stored within {DELIVERY_S_MAX:.0f} s; try again")
        finally:
            self._in_flight[domain] -= 1
        return b""

    async def _welcome(self, request: bytes, context: _Context) -> bytes:
        """Whoever greets us hears what we speak, also where we have nothing in common."""
        domain = await self._admitted(context)
        try:
            theirs = decode_greeting(request)
        except Unreadable as exc:
            self._refused(domain, str(exc))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        await self._met(PeerMet(peer=domain, greeting=theirs, refusal=greeting_objection(theirs)))
        return encode(self._greeting)

    async def _admitted(self, context: _Context) -> str:
        """Which peer calls; everybody else is sent away."""
        domain = self._domain(context)
        if domain is None:
            self._refused(context.peer(), "its certificate is of no pinned peer")
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "your domain is not a peer of this one")
        if self._in_flight[domain] >= CALLS_OF_A_PEER_MAX:
            self._refused(domain, f"more than {CALLS_OF_A_PEER_MAX} calls at once")
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once; try later")
        return domain

    def _domain(self, context: _Context) -> str | None:
        """The peer whose pinned root signed the certificate of this connection."""
        leaves = tuple(context.auth_context().get("x509_pem_cert", ()))
        if len(leaves) != 1:
            return None
        leaf = bytes(leaves[0])
        if leaf not in self._domain_of_leaf:
            for peer in self._peers.values():
                if issued_by(leaf, peer.certificate, peer.domain):
                    self._domain_of_leaf[leaf] = peer.domain
                    break
        return self._domain_of_leaf.get(leaf)
