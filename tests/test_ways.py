"""Who was refused for want of a way is told when there may be one, and asks again then."""

import pytest

from controller.model.agreement import CAPABILITIES, WAYS, WayBack
from controller.model.event import MessageReceived
from tests.offers import said, signed
from tests.simulator import ORDER_PROCESSING, World

PAIRS = (("shop", "transit"), ("transit", "insight"))
INSIDE_TRANSIT = ("t1-tc1", "t1-tc2")
LONG_S = 200.0
"""Refused so often that the next try is a minute away."""


def refused(*links: tuple[str, tuple[str, ...]]) -> World:
    """What is cut (at all ends, or as these see it) before the intent is applied, and has been for long."""
    world = World()
    world.start()
    world.meet(*PAIRS)
    for link, ends in links:
        world.set_carrier(link, False, *ends)
    world.run(2.0)
    world.apply("shop", ORDER_PROCESSING)
    world.run(LONG_S)
    assert world.phase("shop", "order-processing") == "Refused"
    world.wiretap.clear()
    return world


def seconds_until_active(world: World) -> float:
    for tenths in range(700):
        if world.phase("shop", "order-processing") == "Active":
            return tenths / 10
        world.run(0.1)
    return 70.0


@pytest.mark.parametrize(
    ("links", "tellers"),
    [
        ([(link, ()) for link in INSIDE_TRANSIT], {("transit", "shop")}),
        ([("sg1-t1", ("t1",))], {("transit", "shop")}),
        ([("ig1-ie1", ())], {("insight", "transit"), ("transit", "shop")}),
    ],
    ids=["inside the next domain", "a border, as the next domain sees it", "inside the last domain"],
)
def test_a_way_that_is_back_is_taken_within_seconds(
    links: list[tuple[str, tuple[str, ...]]], tellers: set[tuple[str, str]]
) -> None:
    """Three seconds of which is the time for which a repair must last, and each of the rest a tick."""
    world = refused(*links)
    for link, ends in links:
        world.set_carrier(link, True, *ends)
    assert seconds_until_active(world) <= 7.0
    told = {pair for pair in (pair[::-1] for pair in PAIRS) if said(world, "way_back", *pair)}
    assert told == tellers
    world.check_settled()


def test_who_was_not_refused_for_want_of_a_way_is_not_told() -> None:
    world = World()
    world.start()
    world.meet(*PAIRS)
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    world.set_carrier("t1-tc1", False)
    world.run(2.0)
    world.set_carrier("t1-tc1", True)
    world.run(10.0)
    assert world.phase("shop", "order-processing") == "Active" and not said(world, "way_back")


def test_a_release_that_does_not_know_of_it_is_not_told_and_asks_at_its_next_try() -> None:
    world = World()
    world.capabilities["shop"] = tuple(name for name in CAPABILITIES if name != WAYS)
    world.start()
    world.meet(*PAIRS)
    for link in INSIDE_TRANSIT:
        world.set_carrier(link, False)
    world.run(2.0)
    world.apply("shop", ORDER_PROCESSING)
    world.run(LONG_S)
    world.set_carrier("t1-tc1", True)
    assert 0 < seconds_until_active(world) < 70.0
    assert not said(world, "way_back")


def test_who_says_so_without_end_has_it_asked_every_five_seconds() -> None:
    world = refused(*((link, ()) for link in INSIDE_TRANSIT))
    shop = world.controllers["shop"]
    for number in range(300):
        word = signed(WayBack(issued_s=number), by="transit")
        shop.event(MessageReceived(peer="transit", message=word), shop.life)
        world.run(0.1)
    assert 4 <= len(said(world, "offer", "shop")) <= 8
