"""The interface between domains, over real sockets and real TLS."""

import asyncio
import dataclasses
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.eastwest import identity as identity_module
from controller.eastwest import server as server_module
from controller.eastwest.client import EastWestClient, PeerChannel
from controller.eastwest.identity import Identity, keygen, load, verify
from controller.eastwest.peer import DELIVER, SERVICE, Peer, pinned
from controller.eastwest.server import EastWestServer
from controller.errors import ConfigInvalid, PeerUnreachable, PeerViolation
from controller.model.agreement import Message, Withdrawal
from controller.model.inventory import Domain

METHOD = f"/{SERVICE}/{DELIVER}"


def withdrawal(serial: int = 1, reason: str = "no more") -> Withdrawal:
    return Withdrawal(id=f"shop:orders:{serial}", reason=reason, issued_s=1, signature="AA==")


def peer_of(identity: Identity, port: int) -> Peer:
    return Peer(domain=identity.domain, certificate=identity.root_certificate, endpoint=f"127.0.0.1:{port}")


@dataclass
class Receiver:
    """Domain `transit`, which knows `shop`."""

    identity: Identity
    shop: Identity
    server: EastWestServer = field(init=False)
    port: int = 0
    taken: list[tuple[str, Message]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: the store is slow."""

    def __post_init__(self) -> None:
        self.server = EastWestServer(self.identity, self._deliver, lambda who, why: self.refused.append((who, why)))
        self.stored.set()

    async def _deliver(self, peer: str, message: Message) -> None:
        await self.stored.wait()
        self.taken.append((peer, message))

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
    channel = PeerChannel(receiver.shop, receiver.peer)
    await channel.deliver(withdrawal())
    await channel.close()
    assert receiver.taken == [("shop", withdrawal())]


async def test_delivery_returns_only_after_the_receiver_has_stored(receiver: Receiver) -> None:
    receiver.stored.clear()
    channel = PeerChannel(receiver.shop, receiver.peer)
    delivery = asyncio.ensure_future(channel.deliver(withdrawal()))
    await asyncio.sleep(0.2)
    assert not delivery.done()
    receiver.stored.set()
    await delivery
    await channel.close()


async def test_a_domain_that_is_not_pinned_does_not_get_in(receiver: Receiver, tmp_path: Path) -> None:
    stranger = keygen("stranger", tmp_path / "stranger")
    channel = PeerChannel(stranger, receiver.peer)
    with pytest.raises(PeerUnreachable):
        await channel.deliver(withdrawal(), deadline_s=0.5)
    await channel.close()
    assert not receiver.taken


async def test_a_stranger_who_calls_himself_shop_does_not_get_in(receiver: Receiver, tmp_path: Path) -> None:
    channel = PeerChannel(keygen("shop", tmp_path / "impostor"), receiver.peer)
    with pytest.raises(PeerUnreachable):
        await channel.deliver(withdrawal(), deadline_s=0.5)
    await channel.close()
    assert not receiver.taken


async def test_a_peer_cannot_pass_for_another_peer(receiver: Receiver, tmp_path: Path) -> None:
    """Insight is pinned too; its root signs a certificate that says `shop`."""
    insight = keygen("insight", tmp_path / "insight")
    liar = dataclasses.replace(
        insight, leaf_certificate=leaf_certificate("shop", tmp_path / "insight", insight.leaf_key)
    )
    receiver.server.set_peers({"shop": peer_of(receiver.shop, 1), "insight": peer_of(insight, 1)})
    following = asyncio.ensure_future(receiver.server.follow())
    channel = PeerChannel(liar, receiver.peer)
    with pytest.raises(PeerViolation, match="not a peer"):
        await channel.deliver(withdrawal())
    following.cancel()
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
            await channel.unary_unary(METHOD)(msgspec.json.encode(withdrawal()), timeout=0.5)
    assert not receiver.taken


async def test_without_tls_nobody_gets_in(receiver: Receiver) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{receiver.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(METHOD)(msgspec.json.encode(withdrawal()), timeout=0.5)
    assert not receiver.taken


async def test_a_sender_does_not_talk_to_an_impostor(receiver: Receiver, tmp_path: Path) -> None:
    elsewhere = keygen("transit", tmp_path / "elsewhere")
    channel = PeerChannel(receiver.shop, peer_of(elsewhere, receiver.port))
    with pytest.raises(PeerUnreachable):
        await channel.deliver(withdrawal(), deadline_s=0.5)
    await channel.close()
    assert not receiver.taken


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        pytest.param(b"", grpc.StatusCode.INVALID_ARGUMENT, id="empty"),
        pytest.param(b"\xff\xfe{}", grpc.StatusCode.INVALID_ARGUMENT, id="not UTF-8"),
        pytest.param(b'{"type":"offer"', grpc.StatusCode.INVALID_ARGUMENT, id="cut off"),
        pytest.param(b'{"type":"gift","id":"x"}', grpc.StatusCode.INVALID_ARGUMENT, id="unknown kind"),
        pytest.param(b"[" * 100_000, grpc.StatusCode.INVALID_ARGUMENT, id="deep"),
        pytest.param(
            msgspec.json.encode(withdrawal())[:-1] + b',"extra":1}',
            grpc.StatusCode.INVALID_ARGUMENT,
            id="unknown field",
        ),
        pytest.param(b"x" * 10_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED, id="10 MB"),
    ],
)
async def test_garbage_is_refused_and_the_next_message_is_taken(
    receiver: Receiver, request_bytes: bytes, code: grpc.StatusCode
) -> None:
    channel = PeerChannel(receiver.shop, receiver.peer)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel._call(request_bytes, timeout=5, wait_for_ready=True)
    assert caught.value.code() is code
    assert not receiver.taken
    await channel.deliver(withdrawal())
    assert receiver.taken == [("shop", withdrawal())]
    await channel.close()


async def test_an_oversized_message_is_not_even_sent(receiver: Receiver) -> None:
    channel = PeerChannel(receiver.shop, receiver.peer)
    with pytest.raises(PeerViolation, match="over the limit"):
        await channel.deliver(withdrawal(reason="x" * 300_000))
    await channel.close()


async def test_a_peer_that_does_not_answer_is_given_up_in_time(receiver: Receiver) -> None:
    receiver.stored.clear()
    channel = PeerChannel(receiver.shop, receiver.peer)
    with pytest.raises(PeerUnreachable, match=r"transit at 127\.0\.0\.1.*deadline"):
        await channel.deliver(withdrawal(), deadline_s=0.3)
    await channel.close()


async def test_a_slow_store_is_said_to_the_sender(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "DELIVERY_S_MAX", 0.2)
    receiver.stored.clear()
    channel = PeerChannel(receiver.shop, receiver.peer)
    with pytest.raises(PeerUnreachable, match="not stored within"):
        await channel.deliver(withdrawal())
    await channel.close()


async def test_one_peer_cannot_take_all_calls(receiver: Receiver) -> None:
    receiver.stored.clear()
    channel = PeerChannel(receiver.shop, receiver.peer)
    calls = [
        asyncio.ensure_future(channel.deliver(withdrawal(n))) for n in range(server_module.CALLS_OF_A_PEER_MAX + 4)
    ]
    done, _ = await asyncio.wait(calls, timeout=1)
    assert len(done) == 4
    assert all("too many calls" in str(call.exception()) for call in done)
    receiver.stored.set()
    await asyncio.wait(calls)
    assert len(receiver.taken) == server_module.CALLS_OF_A_PEER_MAX
    await channel.close()


async def test_connections_that_say_nothing_hold_nobody_up(receiver: Receiver) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(50)]
    silent[0][1].write(b"\x16\x03\x01garbage instead of a TLS handshake")
    channel = PeerChannel(receiver.shop, receiver.peer)
    async with asyncio.timeout(2):
        await channel.deliver(withdrawal())
    await channel.close()
    for _, writer in silent:
        writer.close()


async def test_a_removed_peer_is_out_at_once_and_a_new_one_gets_in(receiver: Receiver, tmp_path: Path) -> None:
    insight = keygen("insight", tmp_path / "insight")
    shop_channel, insight_channel = PeerChannel(receiver.shop, receiver.peer), PeerChannel(insight, receiver.peer)
    await shop_channel.deliver(withdrawal(1))
    receiver.server.set_peers({"insight": peer_of(insight, 1)})
    with pytest.raises(PeerViolation, match="not a peer"):  # over the connection that was let in before
        await shop_channel.deliver(withdrawal(2))
    following = asyncio.ensure_future(receiver.server.follow())
    await insight_channel.deliver(withdrawal(3))
    with pytest.raises(PeerUnreachable):
        await shop_channel.deliver(withdrawal(4), deadline_s=0.5)
    assert receiver.taken == [("shop", withdrawal(1)), ("insight", withdrawal(3))]
    following.cancel()
    await shop_channel.close()
    await insight_channel.close()


@dataclass
class Reports:
    all: list[tuple[str, str, str]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, peer: str, message_id: str, reason: str) -> None:
        self.all.append((peer, message_id, reason))
        self.arrived.set()

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(10):
            while len(self.all) < wanted:
                self.arrived.clear()
                await self.arrived.wait()


async def test_messages_arrive_in_order_and_each_is_reported_once(receiver: Receiver) -> None:
    reports = Reports()
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports)
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
        client = EastWestClient(receiver.shop, tasks, reports)
        client.set_peers({"transit": receiver.peer})
        client.send("transit", "first", withdrawal(1))
        client.send("transit", "second", withdrawal(2, "old"))
        client.send("transit", "second", withdrawal(2, "new"))
        receiver.stored.set()
        await reports.count(2)
        client.set_peers({})
    assert receiver.taken == [("shop", withdrawal(1)), ("shop", withdrawal(2, "new"))]


async def test_a_dead_peer_is_reported_and_taken_up_again_when_it_is_back(receiver: Receiver) -> None:
    reports = Reports()
    port = receiver.port
    await receiver.server.stop(0)
    async with asyncio.TaskGroup() as tasks:
        client = EastWestClient(receiver.shop, tasks, reports)
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
        EastWestClient(receiver.shop, tasks, reports).send("nowhere", "m", withdrawal())
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
    with pytest.raises(ConfigInvalid, match="not the certificate of domain 'insight'"):
        load("insight", tmp_path / "keys")


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
