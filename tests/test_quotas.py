"""What one neighbour can make another domain keep, say and write: a bound for each, and all of it ends."""

import pytest
from msgspec.structs import replace

from controller.model.agreement import MAX_LEASE_S, REASON_LENGTH, Acceptance, Refusal, Terms, Withdrawal
from controller.reconcile import transaction
from controller.reconcile.negotiation import messages
from tests.offers import asked_for, first_offer, refused, signed
from tests.simulator import ORDER_PROCESSING, START_S, World

COUNT = 600


@pytest.fixture(scope="module")
def offer() -> Terms:
    """Of transit to insight."""
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    return first_offer(world)


@pytest.fixture
def world() -> World:
    """Where transit takes nothing of what insight has for it."""
    world = World()
    world.start()
    world.controllers["transit"].crash()
    return world


def stored_bytes(world: World) -> int:
    return sum(len(record.content or b"") for record in world.controllers["insight"].disk.values())


def grown(world: World, *statements: Terms | Acceptance | Refusal | Withdrawal) -> int:
    """How much more insight stores once transit has said this."""
    before = stored_bytes(world)
    for statement in statements:
        world.deliver(signed(statement, "transit"), "transit", "insight")
    return stored_bytes(world) - before


def test_refused_offers_leave_no_more_than_a_share_of_answers(world: World, offer: Terms) -> None:
    long = "x" * 250
    network = offer.flows[0].destination.rpartition("/")[0]
    offers = (
        asked_for(
            replace(offer, id=f"transit:{long}:{n}"),
            expires_s=int(START_S) + 60,
            flows=(replace(offer.flows[0], destination=f"{network}/{long[:100]}"),),
        )
        for n in range(COUNT)
    )
    assert grown(world, *offers) < transaction.UNASKED_MAX * 2_000
    state = world.controllers["insight"].state
    assert len(state.outbox) == transaction.UNASKED_MAX
    assert not state.closed and not state.stitches
    assert any(f":{COUNT - 1}:" in name for name in state.outbox), "the newest are kept"
    assert refused(world, "insight") or all(len(outgoing.message.payload) < 1_000 for outgoing in state.outbox.values())
    lines = [line for line in world.controllers["insight"].logs if line.event == "offer_refused"]
    assert max(len(text) for line in lines for text in line.fields.values()) <= transaction.FIELD_LENGTH
    world.run(65.0)
    assert not world.controllers["insight"].state.outbox, "nobody needs these answers any more"


def test_withdrawals_and_answers_of_nothing_leave_nothing_or_a_share(
    world: World, offer: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawals = (
        Withdrawal(id=f"transit:x:{n}", reason="y" * REASON_LENGTH, issued_s=int(START_S)) for n in range(COUNT)
    )
    assert grown(world, *withdrawals) == 0
    refusals = (Refusal(id=f"insight:x:{n}", revision=1, reason="y" * REASON_LENGTH) for n in range(COUNT))
    assert grown(world, *refusals) == 0
    monkeypatch.setattr(messages, "STRAY_S", 60)
    acceptances = (
        Acceptance(id=f"insight:x:{n}", revision=1, offer="z", acceptor_end=offer.offeror_end, latency_us=1)
        for n in range(COUNT)
    )
    assert grown(world, *acceptances) < transaction.UNASKED_MAX * 2_000
    assert len(world.controllers["insight"].state.outbox) == transaction.UNASKED_MAX
    world.run(messages.STRAY_S + 5.0)
    assert not world.controllers["insight"].state.outbox


def test_who_ends_agreements_again_and_again_waits_until_some_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "SPENT_MAX", 6)
    world = World()
    world.start()
    phases = []
    for _ in range(5):
        world.apply("shop", ORDER_PROCESSING)
        world.run(3.0)
        phases.append(world.phase("shop", "order-processing"))
        world.delete("shop", "order-processing")
        world.run(3.0)
    assert phases == ["Active"] * 3 + ["Refused"] * 2
    closed = world.controllers["transit"].state.closed
    assert len(closed) == 6 and all(
        closed_agreement.until_s < world.now_s + MAX_LEASE_S for closed_agreement in closed.values()
    )
