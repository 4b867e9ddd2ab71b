"""Two releases can talk, or say why not: the recorded ones, and the one before itself where the history has it.

NETSTITCH_RECORD=1 records the present protocol anew (at a release).
"""

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from federation import Controller, Federation, intent, small_intent
from msgspec.structs import replace
from waiting import until

from controller.eastwest.peer import decode
from controller.model.agreement import PROTOCOL, Acceptance, Refusal, Unreadable, opened
from controller.model.told import Told
from tests import releases
from tests.offers import signed
from tests.packet_walk import Walk, tcp
from tests.simulator import START_S, SimulatedKeys, World
from topologies import domain_files

ROOT = Path(__file__).resolve().parent.parent
if os.environ.get("NETSTITCH_RECORD"):
    releases.save(releases.record())
SPOKEN = [release for release in range(2, PROTOCOL + 1) if (releases.DIRECTORY / f"protocol-{release}.json").exists()]
"""Protocols that we must be able to talk with."""


def started() -> World:
    world = World()
    world.start()
    return world


@pytest.mark.parametrize("protocol", SPOKEN)
def test_messages_of_a_recorded_release_are_read_and_their_signatures_hold(protocol: int) -> None:
    release = releases.load(protocol)
    kinds = set()
    for message in release.messages:
        envelope = decode(message.bytes)
        keys = SimulatedKeys(message.sender)
        assert keys.verify(keys.public, envelope.signed_bytes, envelope.signature), message
        kinds.add(envelope.kind)
    assert kinds == {"offer", "acceptance", "refusal", "withdrawal"}


@pytest.mark.parametrize("protocol", SPOKEN)
def test_offers_of_a_recorded_release_lead_to_agreements_and_its_withdrawals_end_them(protocol: int) -> None:
    release = releases.load(protocol)
    for sender, receiver in (("transit", "insight"), ("shop", "transit")):
        world = started()
        offer = release.sent("offer", sender)
        assert world.deliver(decode(offer.bytes), sender, receiver) == ""
        world.run(0.03)
        answer = opened(world.heard("acceptance", receiver)[0])
        assert isinstance(answer, Acceptance)
        assert world.deliver(decode(release.sent("withdrawal", sender).bytes), sender, receiver) == ""
        world.run(20.0)
        assert not world.controllers[receiver].state.stitches
        refused = release.sent("offer", sender, 0)
        assert world.deliver(decode(refused.bytes), sender, receiver) == ""
        world.run(0.1)
        said = opened(world.heard("refusal", receiver)[-1])
        assert isinstance(said, Refusal) and said.reason == Told.POLICY


@pytest.mark.parametrize("protocol", SPOKEN)
def test_answers_of_a_recorded_release_are_taken(protocol: int) -> None:
    release = releases.load(protocol)
    for kind, phase in (("acceptance", "Active"), ("refusal", "Refused")):
        world = World()
        shop = world.controllers["shop"]
        releases.give(shop, release.waiting)
        world.now_s = START_S + 20
        world.partitioned.add(frozenset(("shop", "transit")))
        shop.start()
        world.run(3.0)
        assert world.phase("shop", "order-processing") == "Negotiating"
        if kind == "refusal":  # of the offer that waits, in the words of the one that was refused
            said = opened(decode(release.sent("refusal", "transit").bytes))
            (stitch,) = shop.state.stitches.values()
            assert isinstance(said, Refusal) and stitch.downstream is not None
            envelope = signed(replace(said, id=stitch.downstream.terms.id), "transit")
        else:
            envelope = decode(release.sent(kind, "transit").bytes)
        assert world.deliver(envelope, "transit", "shop") == ""
        world.run(1.0)
        assert world.phase("shop", "order-processing") == phase


@pytest.mark.parametrize("protocol", SPOKEN)
def test_stores_of_a_recorded_release_are_taken_over_as_they_are(protocol: int) -> None:
    release = releases.load(protocol)
    world = World()
    world.now_s = release.now_s
    for name, controller in world.controllers.items():
        releases.give(controller, release.stores[name])
        controller.start()
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert not world.heard("offer"), "nothing is offered anew"
    world.check_settled()
    assert Walk(world).send("cx1", tcp("10.1.0.11", "10.2.0.10", 443)).delivered == "ay1", (
        "to the SIDs that were signed"
    )
    ids = {name: controller.state.ids for name, controller in world.controllers.items()}
    assert all(stitch.ids for controller in world.controllers.values() for stitch in controller.state.stitches.values())
    for controller in world.controllers.values():
        controller.crash()
        controller.start()
    world.run(5.0)
    assert {name: controller.state.ids for name, controller in world.controllers.items()} == ids


def test_messages_of_the_releases_before_mandates_are_refused_with_what_to_do() -> None:
    release = releases.load(1)
    for message in release.messages:
        with pytest.raises(Unreadable, match="protocol version 1 between domains is not spoken here"):
            decode(message.bytes)


def test_what_a_release_before_mandates_has_stored_is_offered_anew() -> None:
    release = releases.load(1)
    world = World()
    world.now_s = release.now_s
    for name, controller in world.controllers.items():
        releases.give(controller, release.stores[name])
        controller.start()
    assert world.stitches() == []
    reasons = [log.fields["reason"] for log in world.controllers["shop"].logs if log.event == "course_ended"]
    assert reasons == ["signed by a release before mandates; it is offered anew"]
    assert not [kind for kind, _ in world.controllers["shop"].disk if kind in ("Course", "Outbox")]
    world.run(10.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


# ---- the release before, itself


def previous() -> str:
    """Its commit, where the history has it."""
    commit = (releases.DIRECTORY / "previous").read_text().strip()
    answer = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True)
    return commit if answer.returncode == 0 else ""


PREVIOUS = [commit for commit in [previous()] if commit]


@pytest.fixture
async def federation() -> AsyncIterator[Federation]:
    with tempfile.TemporaryDirectory(prefix="releases-") as directory:
        federation = Federation(Path(directory))
        try:
            for node in federation.nodes.values():
                await node.start()
            yield federation
        finally:
            await federation.stop()


async def said(controller: Controller, name: str, phase: str, words: str) -> bool:
    present, reasons = await controller.phase(name)
    return present == phase and words in reasons


@pytest.fixture(params=PREVIOUS, ids=lambda commit: commit[:7])
def release_before(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Its files."""
    archive = tmp_path / "release.tar"
    subprocess.run(["git", "-C", str(ROOT), "archive", "-o", str(archive), request.param], check=True)
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "release", filter="data")
    return tmp_path / "release"


async def test_the_release_before_is_told_why_not_and_taken_up_once_it_is_upgraded(
    federation: Federation, release_before: Path
) -> None:
    """Insight is not upgraded yet."""
    shop, transit, insight = (federation.controllers[name] for name in ("shop", "transit", "insight"))
    insight.directory = release_before
    policy = federation.topology.domain("insight").policy
    before = replace(federation.topology.domain("insight"), policy=replace(policy, advertise=(), learn=()))
    (insight.config.parent / "policy.yaml").write_text(domain_files.policy(before))  # it knows no advertisements
    inventory = insight.config.parent / "inventory.yaml"  # and no pool
    inventory.write_text(re.sub(r"  translation_pool:\n(  - .*\n)+", "", inventory.read_text()))
    for controller in (insight, transit, shop):
        await controller.start()
    assert (await shop.apply(intent())).status_code == 200
    theirs = f"insight: {Told.RELEASE}"
    await until(lambda: said(shop, "order-processing", "Refused", theirs), "shop says why")
    assert "protocol version 1" in (await transit.get("domains"))["insight"]["status"]["reason"]
    assert (await shop.apply(intent("web", **small_intent("web")["spec"]))).status_code == 200
    await until(lambda: said(shop, "web", "Refused", theirs), "shop says why of what it wants later")
    await insight.kill()
    insight.directory = None
    await insight.start()

    async def active() -> bool:
        return (await shop.phase("order-processing"))[0] == "Active"

    await until(active, "Active once it is upgraded")
