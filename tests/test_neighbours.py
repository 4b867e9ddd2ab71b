"""Why a neighbour is not there: each kind of reason by its name, over real sockets and real TLS."""

import asyncio
from pathlib import Path

import pytest

from controller import telemetry
from controller.eastwest.identity import Identity, keygen
from controller.eastwest.neighbours import Neighbours
from controller.model.agreement import Envelope, Withdrawal, unsigned
from controller.model.event import MessageSent, PeerMet
from controller.model.inventory import Domain
from tests.test_eastwest import Receiver, peer_of


def domain(identity: Identity, port: int, key: str = "") -> Domain:
    return Domain(
        name=identity.domain,
        key=key or identity.public_key,
        certificate=identity.root_certificate,
        endpoint=f"127.0.0.1:{port}",
        sid_block="5f00:2::/32",
    )


@pytest.mark.parametrize(
    ("how", "why", "advice"),
    [
        ("well", "", ""),
        ("key of another", "`certificate` and `key` do not belong together", "one and the same `stitchd keygen`"),
        ("dead", "refused", "see that the controller of transit runs"),
        ("another certificate", "certificate", "both sides must have pinned each other's key and certificate"),
        ("does not know us", "it refuses us", "ask the operator of transit to add this domain"),
    ],
)
async def test_the_true_reason_is_told(tmp_path: Path, how: str, why: str, advice: str) -> None:
    shop, transit = keygen("shop", tmp_path / "shop"), keygen("transit", tmp_path / "transit")
    impostor = keygen("transit", tmp_path / "impostor")
    receiver = Receiver(transit, shop)
    receiver.server.set_peers({} if how == "does not know us" else {"shop": peer_of(shop, 1)})
    receiver.port = await receiver.server.start("127.0.0.1:0")
    if how == "dead":
        await receiver.server.stop()
    pinned = domain(impostor if how == "another certificate" else transit, receiver.port)
    if how == "key of another":
        pinned = domain(transit, receiver.port, shop.public_key)
    told: asyncio.Queue[MessageSent | PeerMet] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        neighbours = Neighbours(shop, tasks, deliver=receiver._deliver, report=told.put, refused=lambda who, text: None)
        neighbours.set_domains({"transit": pinned})
        fault = (await neighbours.faults())["transit"]
        assert (why in fault.lower()) if why else not fault, fault
        assert advice in telemetry._peer_advice("transit", fault)
        if how == "key of another":
            envelope: Envelope = unsigned(Withdrawal(id="shop:orders:1", reason="no more", issued_s=1))
            neighbours.send("transit", "m", envelope)
            sent = await told.get()
            assert isinstance(sent, MessageSent) and "do not belong together" in sent.reason
        neighbours.set_domains({})
        await neighbours.close()
    if how != "dead":
        await receiver.server.stop(0)
