"""The interface between domains, over real sockets and real TLS."""

import asyncio
import contextlib
import dataclasses
import os
import ssl
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from waiting import LIMIT_S, until

from controller.eastwest import identity as identity_module
from controller.eastwest import peer as peer_module
from controller.eastwest import server as server_module
from controller.eastwest.client import EastWestClient, PeerChannel
from controller.eastwest.identity import Identity, keygen, load, verify
from controller.eastwest.peer import DELIVER, GREET, SERVICE, Peer, encode, greeting, pinned
from controller.eastwest.server import EastWestServer
from controller.errors import ConfigInvalid, PeerUnreachable, PeerViolation
from controller.model.agreement import Envelope, Withdrawal, unsigned
from controller.model.event import MessageSent, PeerMet
from controller.model.inventory import Domain
from dataplane import door as door_module
from tests.test_header_blocks import HOSTILE, PREFACE, SETTINGS, frame

TCP_LISTEN = "0A"
"""As /proc/net/tcp says it."""
METHOD = f"/{SERVICE}/{DELIVER}"


GREETING = greeting("a test")


def withdrawal(serial: int = 1, reason: str = "no more") -> Envelope:
    return unsigned(Withdrawal(id=f"shop:orders:{serial}", reason=reason, issued_s=1))


def said(**changes: object) -> bytes:
    """A withdrawal with something else in it, as it goes over the wire."""
    return msgspec.json.encode(msgspec.structs.replace(withdrawal(), **changes))


def opened_channel(identity: Identity, peer: Peer) -> PeerChannel:
    return PeerChannel(identity, peer, GREETING)


def peer_of(identity: Identity, port: int) -> Peer:
    return Peer(domain=identity.domain, certificate=identity.root_certificate, endpoint=f"127.0.0.1:{port}")


@dataclass
class Receiver:
    """Domain `transit`, which knows `shop`."""

    identity: Identity
    shop: Identity
    server: EastWestServer = field(init=False)
    port: int = 0
    taken: list[tuple[str, Envelope]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    met: list[PeerMet] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    """How many messages each brought."""
    faults: dict[bytes, str] = field(default_factory=dict)
    """By payload, which messages it fails on, and how."""
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: the store is slow."""
    storing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.server = EastWestServer(
            self.identity, self._deliver, self._met, lambda who, why: self.refused.append((who, why)), GREETING
        )
        self.stored.set()

    async def _deliver(self, peer: str, messages: Sequence[Envelope]) -> Sequence[str]:
        self.storing.set()
        await self.stored.wait()
        self.taken += [(peer, message) for message in messages]
        self.calls.append(len(messages))
        return [self.faults.get(message.payload, "") for message in messages]

    async def _met(self, event: PeerMet) -> None:
        self.met.append(event)

    @property
    def peer(self) -> Peer:
        return peer_of(self.identity, self.port)


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    receiver = Receiver(keygen("transit", tmp_path / "transit"), keygen("shop", tmp_path / "shop"))
    receiver.server.set_peers({"shop": peer_of(receiver.shop, 1)})
    receiver.port = await receiver.server.start("127.0.0.1:0")
    yield receiver
    await receiver.server.stop(0)


async def test_a_pinned_peer_is_known_by_its_certificate(receiver: Receiver) -> None:
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.deliver(withdrawal())
    await channel.close()
    assert receiver.taken == [("shop", withdrawal())]


async def test_delivery_returns_only_after_the_receiver_has_stored(receiver: Receiver) -> None:
    receiver.stored.clear()
    channel = opened_channel(receiver.shop, receiver.peer)
    delivery = asyncio.ensure_future(channel.deliver(withdrawal()))
    await receiver.storing.wait()
    # A greeting that is asked for later is answered.
    assert await channel.greet() is not None and not delivery.done()
    receiver.stored.set()
    await delivery
    await channel.close()


async def check_refused(channel: PeerChannel) -> None:
    """A connection has failed, and a message that waits for another one is not delivered."""
    assert await channel.fault(LIMIT_S)
    with pytest.raises(PeerUnreachable):
        await channel.deliver(withdrawal(), deadline_s=0.2)


async def test_a_domain_that_is_not_pinned_does_not_get_in(receiver: Receiver, tmp_path: Path) -> None:
    stranger = keygen("stranger", tmp_path / "stranger")
    channel = opened_channel(stranger, receiver.peer)
    await check_refused(channel)
    await channel.close()
    assert not receiver.taken


async def test_a_stranger_who_calls_himself_shop_does_not_get_in(receiver: Receiver, tmp_path: Path) -> None:
    channel = opened_channel(keygen("shop", tmp_path / "impostor"), receiver.peer)
    await check_refused(channel)
    await channel.close()
    assert not receiver.taken


async def test_a_peer_cannot_pass_for_another_peer(receiver: Receiver, tmp_path: Path) -> None:
    """Insight is pinned too; its root signs a certificate that says `shop`."""
    insight = keygen("insight", tmp_path / "insight")
    liar = dataclasses.replace(
        insight, leaf_certificate=leaf_certificate("shop", tmp_path / "insight", insight.leaf_key)
    )
    receiver.server.set_peers({"shop": peer_of(receiver.shop, 1), "insight": peer_of(insight, 1)})
    channel = opened_channel(liar, receiver.peer)
    with pytest.raises(PeerViolation, match="not a peer"):
        await channel.deliver(withdrawal())
    await channel.close()
    assert not receiver.taken
    assert receiver.refused and "of no pinned peer" in receiver.refused[0][1]


def leaf_certificate(domain: str, key_dir: Path, leaf_key: bytes) -> str:
    """A certificate for `domain`, signed with somebody's root."""
    root = x509.load_pem_x509_certificate((key_dir / "root.pem").read_bytes())
    key = serialization.load_pem_private_key((key_dir / "domain.key").read_bytes(), None)
    public_key = serialization.load_pem_private_key(leaf_key, None).public_key()
    leaf = identity_module._leaf_certificate(domain, root, key, public_key)
    return leaf.public_bytes(serialization.Encoding.PEM).decode()


async def test_without_a_certificate_nobody_gets_in(receiver: Receiver) -> None:
    credentials = grpc.ssl_channel_credentials(receiver.identity.root_certificate.encode())
    options = [("grpc.ssl_target_name_override", "transit")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{receiver.port}", credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(METHOD)(msgspec.json.encode(withdrawal()), timeout=LIMIT_S)
    assert not receiver.taken


async def test_without_tls_nobody_gets_in(receiver: Receiver) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{receiver.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(METHOD)(msgspec.json.encode(withdrawal()), timeout=LIMIT_S)
    assert not receiver.taken


async def test_a_sender_does_not_talk_to_an_impostor(receiver: Receiver, tmp_path: Path) -> None:
    elsewhere = keygen("transit", tmp_path / "elsewhere")
    channel = opened_channel(receiver.shop, peer_of(elsewhere, receiver.port))
    await check_refused(channel)
    await channel.close()
    assert not receiver.taken


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        pytest.param(b"", "not a netstitch message", id="empty"),
        pytest.param(b"\xff\xfe{}", "not a netstitch message", id="not UTF-8"),
        pytest.param(msgspec.json.encode(withdrawal())[:-1], "truncated", id="cut off"),
        pytest.param(said(kind="gift"), "unknown kind of message 'gift': this release knows offer", id="unknown kind"),
        pytest.param(
            said(version=3), "protocol version 3 between domains is not spoken here, but 2", id="later version"
        ),
        pytest.param(
            b'{"type":"withdrawal","id":"shop:x:1","reason":"x","issued_s":1,"signature":"AA=="}',
            "protocol version 1 between domains is not spoken here, but 2: upgrade the controller that speaks 1",
            id="release before mandates",
        ),
        pytest.param(said(payload=b"{}"), "the withdrawal cannot be read", id="empty payload"),
        pytest.param(said(payload=b'{"id":"x","reason":1,"issued_s":1}'), "Expected `str`", id="wrong type"),
        pytest.param(said(payload=b"[" * 100_000), "the withdrawal cannot be read", id="deep payload"),
        pytest.param(
            said(payload=b'{"id":"x","reason":"","issued_s":1,"new":' + b"[" * 100_000),
            "cannot be read",
            id="deep field",
        ),
        pytest.param(b"[" * 100_000, "not a netstitch message", id="deep"),
        pytest.param(b"x" * 10_000_000, "larger than max", id="10 MB"),
    ],
)
async def test_garbage_is_refused_with_the_reason_and_the_next_message_is_taken(
    receiver: Receiver, request_bytes: bytes, reason: str
) -> None:
    channel = opened_channel(receiver.shop, receiver.peer)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel._call(request_bytes, timeout=LIMIT_S, wait_for_ready=True)
    too_large = len(request_bytes) > peer_module.SIZE_BYTES_MAX
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if too_large else grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.code() is code
    assert reason in str(caught.value.details())
    assert not receiver.taken
    await channel.deliver(withdrawal())
    assert receiver.taken == [("shop", withdrawal())]
    await channel.close()


async def test_what_a_later_release_says_beside_what_we_know_is_taken_as_it_came(receiver: Receiver) -> None:
    later = msgspec.structs.replace(
        withdrawal(), payload=withdrawal().payload[:-1] + b', "colour" : {"name":"blue","depth":[1,2.50]}}'
    )
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.deliver(later)
    await channel.close()
    assert receiver.taken == [("shop", later)]


async def test_a_greeting_says_who_is_there_once_for_each_connection(receiver: Receiver) -> None:
    reports = Reports()
    port = receiver.port
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports, GREETING)
        client.set_peers({"transit": receiver.peer})
        await reports.until(lambda: len(reports.met) == 1)
        client.send("transit", "m", withdrawal())
        await reports.count(1)
        assert len(receiver.met) == 1
        await receiver.server.stop(0)
        await receiver.server.start(f"127.0.0.1:{port}")
        await reports.until(lambda: len(reports.met) == 2)
        client.set_peers({})
    assert reports.met == [PeerMet(peer="transit", greeting=GREETING)] * 2
    assert receiver.met[0] == PeerMet(peer="shop", greeting=GREETING)


async def test_how_far_the_clock_of_a_peer_is_from_ours_is_known_from_its_greeting(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = PeerChannel(receiver.shop, receiver.peer, GREETING)
    await channel.greet(LIMIT_S)
    assert channel.skew_s is not None and abs(channel.skew_s) < LIMIT_S
    later_s = time.time() + 5000
    monkeypatch.setattr(server_module, "as_of_now", lambda said: msgspec.structs.replace(said, now_s=later_s))
    await channel.greet(LIMIT_S)
    assert abs(channel.skew_s - 5000) < LIMIT_S
    monkeypatch.setattr(server_module, "as_of_now", lambda said: said)
    assert (await channel.greet(LIMIT_S)).greeting == GREETING, "the release before says no time"
    await channel.close()


async def test_a_peer_of_another_version_is_not_asked_until_it_is_another(receiver: Receiver) -> None:
    """First a release that does not know greetings, then one of a later protocol, then one like ours."""
    reports = Reports()
    port = receiver.port
    await receiver.server.stop(0)
    later = msgspec.structs.replace(GREETING, versions=(3, 4))
    handlers: dict[str, Any] = {DELIVER: grpc.unary_unary_rpc_method_handler(lambda request, context: b"")}
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports, GREETING)
        client.set_peers({"transit": receiver.peer})
        for answer, spoken in ((None, 1), (later, 4)):
            if answer is not None:
                handlers[GREET] = grpc.unary_unary_rpc_method_handler(lambda request, context: encode(later))
            server = grpc.aio.server()
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
            server.add_secure_port(f"127.0.0.1:{port}", server_credentials(receiver.identity, receiver.shop))
            await server.start()
            seen = len(reports.met)
            await reports.until(lambda seen=seen: len(reports.met) > seen)
            assert f"protocol version {spoken} between domains" in reports.met[-1].refusal
            for n in range(3):
                client.send("transit", f"m{n}", withdrawal(n))
            await reports.count(len(reports.all) + 3)
            assert all("upgrade" in reason for _, _, reason in reports.all[-3:]) and all(reports.final[-3:])
            await server.stop(0)
        await receiver.server.start(f"127.0.0.1:{port}")
        await reports.until(lambda: reports.met[-1].refusal == "")
        client.send("transit", "again", withdrawal(9))
        await reports.until(lambda: reports.all[-1] == ("transit", "again", ""))
        client.set_peers({})
    assert receiver.taken == [("shop", withdrawal(9))]


def server_credentials(own: Identity, client: Identity) -> grpc.ServerCredentials:
    pair = (own.leaf_key, own.leaf_certificate.encode())
    return grpc.ssl_server_credentials((pair,), client.root_certificate.encode(), require_client_auth=True)


async def test_an_oversized_message_is_not_even_sent(receiver: Receiver) -> None:
    channel = opened_channel(receiver.shop, receiver.peer)
    with pytest.raises(PeerViolation, match="over the limit"):
        await channel.deliver(msgspec.structs.replace(withdrawal(), payload=b"x" * 1_000_000))
    await channel.close()


async def test_a_peer_that_does_not_answer_is_given_up_in_time(receiver: Receiver) -> None:
    receiver.stored.clear()
    channel = opened_channel(receiver.shop, receiver.peer)
    with pytest.raises(PeerUnreachable, match=r"transit at 127\.0\.0\.1.*deadline"):
        await channel.deliver(withdrawal(), deadline_s=0.3)
    await channel.close()


async def test_a_slow_store_is_said_to_the_sender(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "DELIVERY_S_MAX", 0.2)
    receiver.stored.clear()
    channel = opened_channel(receiver.shop, receiver.peer)
    with pytest.raises(PeerUnreachable, match="not stored within"):
        await channel.deliver(withdrawal())
    await channel.close()


async def test_one_peer_cannot_take_all_calls(receiver: Receiver) -> None:
    receiver.stored.clear()
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.greet()
    calls = [
        asyncio.ensure_future(channel.deliver(withdrawal(n))) for n in range(server_module.CALLS_OF_A_PEER_MAX + 4)
    ]
    await until(lambda: sum(call.done() for call in calls) >= 4, "four are refused")
    done = [call for call in calls if call.done()]
    assert len(done) == 4
    assert all("too many calls" in str(call.exception()) for call in done)
    receiver.stored.set()
    await asyncio.wait(calls)
    assert len(receiver.taken) == server_module.CALLS_OF_A_PEER_MAX
    await channel.close()


async def half_open(channel: grpc.aio.Channel, count: int) -> list[Any]:
    """Calls of which the message never comes; they are there when this returns."""
    call = channel.stream_unary(METHOD)
    calls = [call(timeout=LIMIT_S) for _ in range(count)]
    await channel.channel_ready()
    return calls


def raw_channel(identity: Identity, peer: Peer) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        peer.certificate.encode(), identity.leaf_key, identity.leaf_certificate.encode()
    )
    options = [("grpc.ssl_target_name_override", peer.domain), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(peer.endpoint, credentials, options=options)


async def test_half_open_calls_of_one_peer_leave_others_served(receiver: Receiver, tmp_path: Path) -> None:
    """They count before their message has come, and end at their deadline."""
    insight = keygen("insight", tmp_path / "insight")
    receiver.server.set_peers({"shop": peer_of(receiver.shop, 1), "insight": peer_of(insight, 1)})
    channels = [raw_channel(insight, receiver.peer) for _ in range(4)]
    calls = [call for channel in channels for call in await half_open(channel, 64)]
    await until(lambda: receiver.server.refusals["insight", "calls"] > 0, "the share of insight is used up")
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.deliver(withdrawal(), deadline_s=LIMIT_S)
    assert receiver.taken == [("shop", withdrawal())]
    assert sum(who == "insight" for who, _ in receiver.refused) <= server_module.LINES_AT_ONCE_MAX + 5
    for call in calls:
        call.cancel()
    for each in (channel, *channels):
        await each.close()


async def test_a_message_that_does_not_come_is_given_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S_MAX", 0.2)
    channel = raw_channel(receiver.shop, receiver.peer)
    (call,) = await half_open(channel, 1)
    with pytest.raises(grpc.aio.AioRpcError, match="has not come within"):
        await call
    await channel.close()


async def test_one_call_carries_one_message(receiver: Receiver) -> None:
    channel = raw_channel(receiver.shop, receiver.peer)
    with pytest.raises(grpc.aio.AioRpcError, match="one message"):
        await channel.stream_unary(METHOD)(iter([encode(withdrawal(1)), encode(withdrawal(2))]))
    await channel.close()
    assert not receiver.taken


async def test_messages_that_come_too_fast_wait_and_are_all_taken(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All come in the same moment, however long this machine takes for it."""
    monkeypatch.setattr(server_module, "MESSAGES_AT_ONCE_MAX", 3)
    monkeypatch.setattr(server_module, "MESSAGES_S_MAX", 20.0)
    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    receiver.server.set_peers({})
    receiver.server.set_peers({"shop": peer_of(receiver.shop, 1)})
    channel = opened_channel(receiver.shop, receiver.peer)
    for n in range(8):
        await channel.deliver(withdrawal(n), deadline_s=LIMIT_S)
    assert len(receiver.taken) == 8
    assert receiver.server.refusals["shop", "messages"] == 6, "of a greeting and eight messages, three did not wait"
    await channel.close()


async def test_strangers_have_connections_of_their_own(receiver: Receiver) -> None:
    """They take none of a peer's, however many there are, and the eldest of who has most gives way."""
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.greet()
    count = door_module.STRANGERS_MAX + 40
    silent = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(count)]
    async with asyncio.timeout(LIMIT_S):
        for reader, _ in silent[:40]:
            assert await reader.read() == b""
    await channel.deliver(withdrawal(1), deadline_s=LIMIT_S)  # over the connection that was there
    newcomer = opened_channel(receiver.shop, receiver.peer)
    await newcomer.deliver(withdrawal(2), deadline_s=LIMIT_S)
    assert [message for _, message in receiver.taken] == [withdrawal(1), withdrawal(2)]
    assert receiver.server.door.turned_away[""] >= 40
    for _, writer in silent:
        writer.close()
    await channel.close()
    await newcomer.close()


def tls(identity: Identity, peer: Peer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=peer.certificate)
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(identity.leaf_key + identity.leaf_certificate.encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
async def test_headers_of_a_peer_that_would_become_large_end_its_connection_alone(
    receiver: Receiver, frames: list[bytes]
) -> None:
    """Of 600 octets of them gRPC made 16 MB that it kept, again with each call."""
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.greet()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", receiver.port, ssl=tls(receiver.shop, receiver.peer), server_hostname="transit"
    )
    writer.write(PREFACE + frame(SETTINGS, 0, b"") + b"".join(frames))
    async with asyncio.timeout(LIMIT_S):
        with contextlib.suppress(ConnectionError):  # what it says is not read to its end
            while await reader.read(1 << 16):
                pass
    assert sum(receiver.server.door.too_large.values()) == 1
    await channel.deliver(withdrawal(), deadline_s=LIMIT_S)
    writer.close()
    await channel.close()


async def test_a_stranger_that_says_nothing_is_sent_away(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "KNOWN_WITHIN_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    async with asyncio.timeout(LIMIT_S):
        assert await reader.read() == b""
    writer.close()


def check_that_others_stay_out(path: str, port: int) -> None:
    """Tries each socket at which this process listens, as the kernel lists them for everybody."""
    assert path in Path("/proc/net/unix").read_text()
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    sockets = {os.readlink(descriptor) for descriptor in Path("/proc/self/fd").iterdir() if descriptor.is_symlink()}
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    ours = [row[1] for row in rows if row[3] == TCP_LISTEN and f"socket:[{row[9]}]" in sockets]
    assert [int(line.rpartition(":")[2], 16) for line in ours] == [port]
    attempt = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    command = ("/usr/bin/python3", "-c", attempt, path)
    nobody = subprocess.run(command, user="nobody", group="nogroup", capture_output=True, text=True, check=False)
    assert "PermissionError" in nobody.stderr, nobody
    subprocess.run(command, check=True)  # its owner gets in


async def test_another_user_of_the_machine_finds_no_way_around_the_door(receiver: Receiver) -> None:
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.deliver(withdrawal(1), deadline_s=LIMIT_S)
    await asyncio.to_thread(check_that_others_stay_out, receiver.server._socket, receiver.port)
    await channel.close()


async def test_connections_that_say_nothing_hold_nobody_up(receiver: Receiver) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(50)]
    silent[0][1].write(b"\x16\x03\x01garbage instead of a TLS handshake")
    channel = opened_channel(receiver.shop, receiver.peer)
    await channel.deliver(withdrawal(), deadline_s=LIMIT_S)
    await channel.close()
    for _, writer in silent:
        writer.close()


async def test_a_removed_peer_is_out_at_once_and_a_new_one_gets_in(receiver: Receiver, tmp_path: Path) -> None:
    insight = keygen("insight", tmp_path / "insight")
    shop_channel, insight_channel = opened_channel(receiver.shop, receiver.peer), opened_channel(insight, receiver.peer)
    await shop_channel.deliver(withdrawal(1))
    receiver.server.set_peers({"insight": peer_of(insight, 1)})
    await check_refused(shop_channel)  # nor over the connection that was let in before
    await insight_channel.deliver(withdrawal(3))
    assert receiver.taken == [("shop", withdrawal(1)), ("insight", withdrawal(3))]
    await shop_channel.close()
    await insight_channel.close()


@dataclass
class Reports:
    all: list[tuple[str, str, str]] = field(default_factory=list)
    final: list[bool] = field(default_factory=list)
    met: list[PeerMet] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, event: MessageSent | PeerMet) -> None:
        if isinstance(event, PeerMet):
            self.met.append(event)
        else:
            self.all.append((event.peer, event.message_id, event.reason))
            self.final.append(event.final)
        self.arrived.set()

    async def count(self, wanted: int) -> None:
        await self.until(lambda: len(self.all) >= wanted)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()


async def test_messages_arrive_in_order_and_each_is_reported_once(receiver: Receiver) -> None:
    reports = Reports()
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports, GREETING)
        client.set_peers({"transit": receiver.peer})
        for n in range(50):
            client.send("transit", f"m{n}", withdrawal(n))
        await reports.count(50)
        client.set_peers({})
    assert receiver.taken == [("shop", withdrawal(n)) for n in range(50)]
    assert reports.all == [("transit", f"m{n}", "") for n in range(50)]


async def test_a_newer_message_under_the_same_id_replaces_the_waiting_one(receiver: Receiver) -> None:
    reports = Reports()
    receiver.stored.clear()
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports, GREETING)
        client.set_peers({"transit": receiver.peer})
        client.send("transit", "first", withdrawal(1))
        client.send("transit", "second", withdrawal(2, "old"))
        client.send("transit", "second", withdrawal(2, "new"))
        receiver.stored.set()
        await reports.count(2)
        client.set_peers({})
    assert receiver.taken == [("shop", withdrawal(1)), ("shop", withdrawal(2, "new"))]


async def test_what_waits_for_a_peer_goes_in_one_call_and_each_message_has_its_own_fate(receiver: Receiver) -> None:
    """One that the receiver fails on, and one that it cannot read, leave the others stored."""
    reports = Reports()
    receiver.stored.clear()
    unreadable = msgspec.structs.replace(withdrawal(3), kind="poem")
    receiver.faults[withdrawal(5).payload] = "it has failed to work on it"
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports, GREETING)
        client.set_peers({"transit": receiver.peer})
        client.send("transit", "first", withdrawal(0))
        await reports.until(lambda: bool(receiver.met))
        for n in range(1, peer_module.BATCH_MAX + 10):
            client.send("transit", f"m{n}", unreadable if n == 3 else withdrawal(n))
        receiver.stored.set()
        await reports.count(peer_module.BATCH_MAX + 10)
        client.set_peers({})
    assert sum(receiver.calls) == peer_module.BATCH_MAX + 9 and len(receiver.calls) <= 4
    assert [message for _, message in receiver.taken] == [
        withdrawal(n) for n in range(peer_module.BATCH_MAX + 10) if n != 3
    ]
    refused = {name: reason for _, name, reason in reports.all if reason}
    assert refused.keys() == {"m3", "m5"}
    assert "unknown kind of message 'poem'" in refused["m3"] and "failed to work on it" in refused["m5"]
    assert [name for (_, name, _), final in zip(reports.all, reports.final, strict=True) if final] == ["m3", "m5"]


async def test_a_batch_is_no_larger_than_one_call(receiver: Receiver) -> None:
    channel = opened_channel(receiver.shop, receiver.peer)
    large = [withdrawal(n, "x" * 900) for n in range(200)]
    wide = [
        msgspec.structs.replace(message, payload=message.payload[:-1] + b',"more":"' + b"y" * 100_000 + b'"}')
        for message in large
    ]
    assert len(await channel.deliver_some(large)) == peer_module.BATCH_MAX
    assert 1 < len(await channel.deliver_some(wide)) < 10
    huge = msgspec.structs.replace(withdrawal(), payload=b"z" * 1_000_000)
    with pytest.raises(PeerViolation, match="over the limit"):
        await channel.deliver_some([huge, withdrawal()])
    await channel.close()


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        pytest.param(b"x", "not a batch of messages", id="bytes"),
        pytest.param(b"{}", "missing required field", id="empty"),
        pytest.param(b'{"messages":[' + b",".join([b"1"] * 129) + b"]}", "length <= 128", id="too many"),
        pytest.param(b'{"messages":[' + b"[" * 100_000, "not a batch", id="deep"),
    ],
)
async def test_a_batch_that_is_none_is_refused_with_the_reason(receiver: Receiver, batch: bytes, reason: str) -> None:
    channel = opened_channel(receiver.shop, receiver.peer)
    with pytest.raises(grpc.aio.AioRpcError, match=reason):
        await channel._call_all(batch, timeout=LIMIT_S, wait_for_ready=True)
    await channel.close()
    assert not receiver.taken


async def test_messages_of_a_batch_count_one_by_one(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MESSAGES_AT_ONCE_MAX", 3)
    monkeypatch.setattr(server_module, "MESSAGES_S_MAX", 10.0)
    receiver.server.set_peers({})
    receiver.server.set_peers({"shop": peer_of(receiver.shop, 1)})
    channel = opened_channel(receiver.shop, receiver.peer)
    assert len(await channel.deliver_some([withdrawal(n) for n in range(8)])) == 8
    assert len(receiver.taken) == 8
    assert receiver.server.refusals["shop", "messages"] == 1
    await channel.close()


async def test_a_peer_that_takes_no_batches_gets_its_messages_one_by_one(receiver: Receiver) -> None:
    receiver.server._greeting = msgspec.structs.replace(GREETING, capabilities=("holdings",))
    channel = opened_channel(receiver.shop, receiver.peer)
    assert await channel.deliver_some([withdrawal(1), withdrawal(2)]) == ("",)
    assert receiver.calls == [1]
    await channel.close()


async def test_a_dead_peer_is_reported_and_taken_up_again_when_it_is_back(receiver: Receiver) -> None:
    reports = Reports()
    port = receiver.port
    await receiver.server.stop(0)
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports, GREETING)
        client.set_peers({"transit": receiver.peer})
        for n in range(20):
            client.send("transit", f"m{n}", withdrawal(n))
        await reports.count(20)
        assert all("transit at" in reason for _, _, reason in reports.all)
        await receiver.server.start(f"127.0.0.1:{port}")
        client.send("transit", "again", withdrawal(1))
        await reports.count(21)
        client.set_peers({})
    assert reports.all[-1] == ("transit", "again", "")


async def test_sending_to_nobody_says_so(receiver: Receiver) -> None:
    reports = Reports()
    async with asyncio.TaskGroup() as tasks:
        EastWestClient(receiver.shop, tasks, reports, GREETING).send("nowhere", "m", withdrawal())
        await reports.count(1)
    assert "no Domain resource" in reports.all[0][2]


def test_keygen_makes_what_is_missing_and_keeps_what_is_there(tmp_path: Path) -> None:
    first = keygen("shop", tmp_path / "keys")
    again = keygen("shop", tmp_path / "keys")
    assert (first.public_key, first.root_certificate) == (again.public_key, again.root_certificate)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    keygen("shop", tmp_path / "keys")
    (tmp_path / "keys" / "domain.key").chmod(0o644)
    with pytest.raises(ConfigInvalid, match="others may read"):
        load("shop", tmp_path / "keys")


def test_keys_of_another_domain_are_refused(tmp_path: Path) -> None:
    keygen("shop", tmp_path / "keys")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    for attempt in (load, keygen):
        with pytest.raises(ConfigInvalid, match="certificate of domain 'shop', not of 'insight': correct the name"):
            attempt("insight", tmp_path / "keys")
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before


def test_what_has_lost_its_key_is_not_given_another_one(tmp_path: Path) -> None:
    """That would be another identity, which no neighbour knows."""
    keygen("shop", tmp_path / "keys")
    (tmp_path / "keys" / "domain.key").unlink()
    with pytest.raises(ConfigInvalid, match="without its key"):
        keygen("shop", tmp_path / "keys")
    keygen("shop", tmp_path / "other")
    (tmp_path / "other" / "domain.key").rename(tmp_path / "keys" / "domain.key")
    with pytest.raises(ConfigInvalid, match="made with another key"):
        load("shop", tmp_path / "keys")


def test_a_signature_is_of_one_key_and_one_text(tmp_path: Path) -> None:
    shop, insight = keygen("shop", tmp_path / "shop"), keygen("insight", tmp_path / "insight")
    signature = shop.sign(b"terms")
    assert shop.verify(shop.public_key, b"terms", signature)
    assert not verify(shop.public_key, b"terms!", signature)
    assert not verify(insight.public_key, b"terms", signature)
    assert not verify("nonsense", b"terms", signature)
    assert not verify(shop.public_key, b"terms", b"")


def test_an_identity_does_not_print_its_secrets(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(keygen("shop", tmp_path / "keys"))


def test_a_key_and_a_certificate_that_do_not_belong_together_are_not_pinned(tmp_path: Path) -> None:
    shop, insight = keygen("shop", tmp_path / "shop"), keygen("insight", tmp_path / "insight")
    domain = Domain(
        name="shop", sid_block="5f00:1::/32", key=shop.public_key, certificate=shop.root_certificate, endpoint="h:1"
    )
    assert pinned(domain) == Peer(domain="shop", certificate=shop.root_certificate, endpoint="h:1")
    for wrong in (
        msgspec.structs.replace(domain, key=insight.public_key),
        msgspec.structs.replace(domain, certificate=insight.root_certificate),
        msgspec.structs.replace(domain, name="insight"),
        msgspec.structs.replace(domain, certificate="no PEM"),
    ):
        with pytest.raises(ConfigInvalid, match="certificate"):
            pinned(wrong)
