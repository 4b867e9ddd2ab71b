"""A neighbour that changes an agreement as quickly as it can is heard; the others on the way hear a few of it."""

from msgspec.structs import replace

from controller import reconcile
from controller.model.agreement import Acceptance, opened_mandate
from controller.model.event import Tick
from controller.model.stitch import Session, Standing
from controller.reconcile.negotiation.pace import AT_ONCE_MAX, EVERY_S
from tests.offers import first_offer, mandated, said, signed
from tests.simulator import ORDER_PROCESSING, World

CHANGES = 5 * AT_ONCE_MAX
PAUSE_S = 0.02


def agreed() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


def carried(world: World, domain: str) -> Session:
    """What it carries for the domain before it."""
    (stitch,) = world.controllers[domain].state.stitches.values()
    assert stitch.upstream is not None
    return stitch.upstream


def few(messages: int) -> bool:
    """Its share of the time that passed, and the first few."""
    return 0 < messages <= AT_ONCE_MAX + CHANGES * PAUSE_S / EVERY_S + 2


def test_of_renewals_that_come_too_quickly_the_newest_is_carried_on_once_there_is_a_share_again() -> None:
    world = agreed()
    first = first_offer(world, "shop")
    mandate = opened_mandate(first.mandate)
    world.controllers["shop"].crash()
    world.wiretap.clear()
    for number in range(1, CHANGES + 1):
        renewed = replace(first, revision=1 + number, expires_s=first.expires_s - number)
        renewed = mandated(renewed, revision=1 + number, expires_s=mandate.expires_s - number)
        world.deliver(signed(renewed, "shop"), "shop", "transit")
        world.run(PAUSE_S)
    assert few(len(said(world, "offer", "transit"))), len(said(world, "offer", "transit"))
    world.run(5.0)
    assert few(len(said(world, "offer", "transit")) - 5)
    assert not said(world, "refusal", "transit")
    for domain in ("transit", "insight"):
        session = carried(world, domain)
        assert (session.standing, session.put_off_s) == (Standing.AGREED, 0.0)
        assert session.agreement is not None and session.agreement.terms.expires_s == first.expires_s - CHANGES


def test_of_promises_that_change_too_quickly_the_newest_is_passed_on_once_there_is_a_share_again() -> None:
    world = agreed()
    (promise,) = said(world, "acceptance", "insight")
    assert isinstance(promise, Acceptance)
    world.controllers["insight"].crash()
    world.wiretap.clear()
    for number in range(1, CHANGES + 1):
        smaller = replace(promise.acceptor_end, inner_mtu=promise.acceptor_end.inner_mtu - number)
        world.deliver(signed(replace(promise, acceptor_end=smaller), "insight"), "insight", "transit")
        world.run(PAUSE_S)
    assert few(len(said(world, "acceptance", "transit"))), len(said(world, "acceptance", "transit"))
    world.run(5.0)
    agreement = carried(world, "transit").agreement
    assert agreement is not None
    assert agreement.acceptor_end.inner_mtu == promise.acceptor_end.inner_mtu - CHANGES


def test_what_was_put_off_goes_on_after_a_restart_and_soon_where_the_clock_was_set_back() -> None:
    world = agreed()
    first = first_offer(world, "shop")
    mandate = opened_mandate(first.mandate)
    world.controllers["shop"].crash()
    for number in range(1, 2 * AT_ONCE_MAX):
        renewed = replace(first, revision=1 + number, expires_s=first.expires_s - number)
        renewed = mandated(renewed, revision=1 + number, expires_s=mandate.expires_s - number)
        world.deliver(signed(renewed, "shop"), "shop", "transit")
    transit = world.controllers["transit"]
    assert carried(world, "transit").put_off_s
    state = transit.state
    for later_s in range(3):
        state, _ = reconcile.step(state, Tick(), world.now_s - 600 + later_s, transit.keys)
    (stitch,) = state.stitches.values()
    assert stitch.downstream is not None and stitch.downstream.terms.expires_s == first.expires_s - number
    transit.crash()
    transit.start()
    world.run(5.0)
    assert carried(world, "transit").put_off_s == 0.0
    assert carried(world, "insight").terms.expires_s == first.expires_s - number
