"""A number of a node means nothing else while some node still acts on what it meant: where nearly all numbers are in
use, what ends leaves the only free one, and what waits would have it at once."""

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from controller.fulfillment.numbering import FIRST_SERVICE, Kind
from controller.model.event import EndAgreement, Event
from tests.simulator import Controller, World
from tests.test_capacity_check import ALL_FOR_ONE, ANALYTICS_ONLY, EVERYTHING, intent

Number = tuple[str, Kind, int]
TIGHT = {"steer": 12, "policy_class_counter": 12, "path_liveness": 4}
"""Tables that are full with three intents or four."""
OWNERS = ("intents/", "agreements/")


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    world = World(request.param)
    world.change_policy("insight", ANALYTICS_ONLY, EVERYTHING + ALL_FOR_ONE)
    world.change_policy("transit", "offer:", ALL_FOR_ONE + "offer:")
    world.start()
    for table, size in TIGHT.items():
        world.resize(table, size)
    return world


def meanings(controller: Controller) -> dict[Number, set[str]]:
    """Whose each number is that is in use."""
    owners: dict[Number, set[str]] = defaultdict(set)
    for stitch in controller.state.stitches.values():
        for key, number in stitch.ids.items():
            node, kind, _ = key.split(" ", 2)
            owners[node, Kind(kind), number].add(stitch.plan.owner)
    return owners


def acted_on(world: World, controller: Controller) -> Iterator[tuple[Number, str]]:
    """Numbers that packets still meet, by what nodes really have, and whose packets these are."""
    inventory = controller.state.inventory.nodes
    homes = {int(ipaddress.IPv6Network(node.locator).network_address) >> 80: name for name, node in inventory.items()}
    for name in inventory:
        permitted: dict[int, set[str]] = defaultdict(set)
        for entry in world.nodes[name].entries.values():
            number = dict(entry.params).get("forwarding_class")
            if entry.table == "flow_policy" and number is not None and entry.owner.startswith(OWNERS):
                permitted[number].add(entry.owner)
                yield (name, Kind.FORWARDING_CLASS, number), entry.owner
        for entry in world.nodes[name].entries.values():
            service = dict(entry.params).get("service_sid", 0) if entry.table == "steer" else 0
            home, function = service >> 80, service >> 64 & 0xFFFF
            if home in homes and function >= FIRST_SERVICE:
                for owner in permitted[entry.match[0].value]:
                    yield (homes[home], Kind.FUNCTION, function), owner


def strays(world: World, controller: Controller) -> list[tuple[Number, str]]:
    """Whose packets meet what others have the number for."""
    owners = meanings(controller)
    return [
        (number, owner) for number, owner in acted_on(world, controller) if owner not in owners.get(number, {owner})
    ]


@pytest.mark.parametrize("world", range(6), indirect=True)
def test_no_packet_meets_a_number_that_has_come_to_mean_something_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []
    plain = Controller.together

    def together(controller: Controller, events: Sequence[Event], life: int) -> bool:
        taken = plain(controller, events, life)
        found.extend(strays(world, controller))
        return taken

    monkeypatch.setattr(Controller, "together", together)
    chance, fresh = world.random, itertools.count()
    carried, bad = 0, world.nodes["sg1"]
    for _ in range(60):
        match chance.choice(("apply", "apply", "delete", "end", "refuse", "silent", "well", "well")):
            case "apply":
                world.apply("shop", intent(f"i{next(fresh)}", f"tcp/{chance.randrange(1, 60_000)}"))
            case "delete" if names := list(world.controllers["shop"].state.intent_records):
                world.delete("shop", chance.choice(names))
            case "end":
                controller = world.controllers[chance.choice(("shop", "transit", "insight"))]
                if agreements := list(controller.state.agreements):
                    name = chance.choice(agreements)
                    event = EndAgreement(request_id="end", name=name, reason="maintenance", hold_off_s=0)
                    controller.event(event, controller.life)
            case "refuse":
                bad.refusal = "it does not like it"
            case "silent":
                bad.confirms = False
            case "well":
                bad.refusal, bad.confirms = "", True
                bad = world.nodes[chance.choice(("se1", "sg1", "ig1", "ie1"))]
        world.run(chance.choice((0.01, 0.3, 2.0, 8.0)))
        carried += any(number[1] == Kind.FORWARDING_CLASS for number, _ in acted_on(world, world.controllers["shop"]))
        assert not found, found[:3]
    assert carried > 10, "something is carried most of the time"
