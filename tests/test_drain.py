"""What an operator drains is left by all that can leave it, make before break; what cannot is named."""

from typing import Any

import pytest

from controller.reconcile.link_state import HOLD_S
from tests.simulator import World
from tests.test_link_state import CHEAP, NORTH, SOUTH, carrying, own_paths, restart
from tests.test_simulation import check_agreed


@pytest.fixture
def world() -> World:
    return carrying()


def drained(world: World, domain: str, part: str) -> dict[str, Any]:
    kind, name = part.split("/")
    status: dict[str, Any] = world.get(domain, kind, name).status.get("drain", {})
    return status


@pytest.mark.parametrize("part", ["nodes/tc1", "links/t1-tc1", "links/tc1-t2"])
def test_what_passes_it_moves_off_and_comes_back(world: World, part: str) -> None:
    reply = world.drain("transit", part)
    assert reply is not None and reply.results == (f"{part} drained",)
    assert drained(world, "transit", part)["phase"] == "Draining"
    assert drained(world, "transit", part)["waiting_for"] == ["t1", "t2"]
    writes = {name: node.writes for name, node in world.nodes.items()}
    world.run(3.0)
    assert own_paths(world, "transit") == [SOUTH]
    assert drained(world, "transit", part)["phase"] == "Drained"
    moved = {name for name, node in world.nodes.items() if node.writes > writes[name]}
    assert moved == {"t1", "t2"}, "those that choose the path"
    assert world.phase("shop", "order-processing") == "Active"
    again = world.drain("transit", part)
    assert again is not None and again.results == (f"{part} unchanged",)

    world.apply("shop", CHEAP)
    world.run(3.0)
    assert {*own_paths(world, "transit")} == {SOUTH}, "nothing new passes it"

    restart(world.controllers["transit"])
    world.run(60.0)
    assert {*own_paths(world, "transit")} == {SOUTH}
    assert drained(world, "transit", part)["phase"] == "Drained"

    reply = world.drain("transit", part, is_drained=False)
    assert reply is not None and reply.results == (f"{part} undrained",)
    world.run(5.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    assert not drained(world, "transit", part)
    world.check_settled()
    check_agreed(world)


def test_what_has_no_other_way_stays_and_moves_off_when_there_is_one(world: World) -> None:
    world.set_carrier("t1-tc2", False)
    world.run(3.0)
    world.drain("transit", "nodes/tc1")
    world.run(3.0)
    assert own_paths(world, "transit") == [NORTH] and world.phase("shop", "order-processing") == "Active"
    shown = drained(world, "transit", "nodes/tc1")
    assert shown["phase"] == "PartlyDrained"
    assert shown["left"][0].startswith("no other way between t1 and t2 holds what is required: ")
    world.set_carrier("t1-tc2", True)
    world.run(HOLD_S + 5.0)
    assert own_paths(world, "transit") == [SOUTH]
    assert drained(world, "transit", "nodes/tc1")["phase"] == "Drained"


def test_what_begins_and_ends_at_a_node_stays_there(world: World) -> None:
    world.drain("transit", "nodes/t1")
    world.drain("shop", "nodes/se1")
    world.drain("shop", "links/sg1-t1")
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert [line.split(": ")[0] for line in drained(world, "transit", "nodes/t1")["left"]] == [
        "it is the neighbour who chose to come in over border sg1-t1"
    ]
    assert drained(world, "shop", "nodes/se1")["left"] == [
        "hosts of shop/customer-x are attached to it: intents/order-processing"
    ]
    assert drained(world, "shop", "links/sg1-t1")["left"] == [
        "no other border than sg1-t1 leads there as is required: intents/order-processing"
    ]


def test_an_intent_takes_another_border_make_before_break(world: World) -> None:
    world.apply("shop", CHEAP)
    world.run(3.0)
    borders = {stitch.plan.egress.border for stitch in _of(world, "reports") if stitch.plan.egress is not None}
    (border,) = borders
    world.drain("shop", f"links/{border}")
    for _ in range(100):
        assert world.phase("shop", "reports") == "Active"
        world.run(0.1)
    (other,) = {stitch.plan.egress.border for stitch in _of(world, "reports") if stitch.plan.egress is not None}
    assert other != border


def _of(world: World, intent: str) -> list[Any]:
    return [stitch for stitch in world.controllers["shop"].state.stitches.values() if intent in stitch.plan.owner]


def test_what_is_not_there_cannot_be_drained_and_what_leaves_the_inventory_is_not(world: World) -> None:
    for part in ("nodes/nobody", "links/nobody", "nodes/t1-tc1"):
        reply = world.drain("transit", part)
        assert reply is not None and reply.missing == (0,)
    link = "t1-tc1"
    world.drain("transit", f"links/{link}")
    world.run(2.0)
    world.delete("transit", link, "Link")
    assert not world.controllers["transit"].state.drains


def test_two_drains_are_independent(world: World) -> None:
    world.drain("transit", "nodes/tc1")
    world.drain("transit", "links/t1-tc2")
    world.run(3.0)
    assert own_paths(world, "transit"), "where all is drained what is there stays in use"
    world.drain("transit", "nodes/tc1", is_drained=False)
    world.run(3.0)
    assert own_paths(world, "transit") == [NORTH]
    world.drain("transit", "links/t1-tc2", is_drained=False)
    world.run(3.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()
