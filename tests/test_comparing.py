"""Neighbours compare what they hold of each other on each new connection; what only one holds ends on both."""

from collections.abc import Callable

import pytest
from simulator import ORDER_PROCESSING, Faults, World

from controller.fulfillment.negotiate import sealed
from controller.model.agreement import CAPABILITIES, HOLDINGS, Greeting, Holdings, opened
from controller.model.event import PeerMet, Record

PAIRS = (("shop", "transit"), ("transit", "insight"))
SOON_S = 5.0
Disk = dict[tuple[str, str], Record]


def agreed() -> World:
    world = World(faults=Faults(delay_s=(0.002, 0.002)))  # messages of one peer come in order
    world.start()
    world.meet(*PAIRS)
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


def again(world: World, *domains: str, disk: Callable[[str], Disk] = lambda _: {}) -> None:
    """Their controllers stop, and begin with another disk; then neighbours meet."""
    for domain in domains:
        controller = world.controllers[domain]
        controller.crash()
        controller.disk = dict(disk(domain))
        controller.start()
        if not controller.disk or ("Counter", "start") not in disk(domain):
            world.apply(domain, world.inventories[domain])
    world.run(0.5)
    world.meet(*(pair for pair in PAIRS if not set(pair).isdisjoint(domains)))


def agreements(world: World, domain: str) -> set[str]:
    return set(world.controllers[domain].state.agreements)


def check_both_hold(world: World) -> None:
    """Each agreement is known to both of its sides, and to nobody else."""
    everywhere = [name for domain in ("shop", "transit", "insight") for name in agreements(world, domain)]
    assert all(everywhere.count(name) == 2 for name in everywhere), everywhere
    world.check_settled()


@pytest.mark.parametrize(
    "who", [["transit"], ["insight"], ["transit", "insight"], ["shop", "transit", "insight"]], ids=" ".join
)
def test_a_neighbour_whose_store_is_empty_is_asked_again_within_seconds(who: list[str]) -> None:
    world = agreed()
    before = agreements(world, "shop")
    again(world, *who)
    if "shop" in who:
        world.run(SOON_S)
        assert not agreements(world, "shop") and not agreements(world, "transit")
        world.apply("shop", ORDER_PROCESSING)
    world.run(SOON_S)
    assert world.phase("shop", "order-processing") == "Active"
    assert len(agreements(world, "shop")) == 1
    assert "shop" in who or agreements(world, "shop").isdisjoint(before) or who == ["insight"]
    check_both_hold(world)


@pytest.mark.parametrize("who", ["shop", "transit", "insight"])
@pytest.mark.parametrize("moment", ["before it was asked", "before a renewal", "before it was made anew"])
def test_a_store_put_back_from_an_older_copy_is_as_the_neighbours_or_ends(who: str, moment: str) -> None:
    world = World(faults=Faults(delay_s=(0.002, 0.002)))
    world.start()
    world.meet(*PAIRS)
    copies = {"before it was asked": dict(world.controllers[who].disk)}
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    copies["before a renewal"] = dict(world.controllers[who].disk)
    copies["before it was made anew"] = dict(world.controllers[who].disk)
    if moment == "before a renewal":
        world.run(world.controllers["shop"].policy.lease_s * 0.6)
        assert len(world.heard("offer", "shop")) > 1
    else:
        world.delete("shop", "order-processing")
        world.run(3.0)
        world.apply("shop", ORDER_PROCESSING)
        world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    again(world, who, disk=lambda _: copies[moment])
    world.run(SOON_S)
    if (who, moment) == ("shop", "before it was asked"):
        assert not agreements(world, "transit") and not agreements(world, "insight")
        world.apply("shop", ORDER_PROCESSING)
        world.run(SOON_S)
    assert world.phase("shop", "order-processing") == "Active"
    check_both_hold(world)


@pytest.mark.parametrize("node", ["sg1", "t1", "t2", "ig1"])
def test_a_gateway_with_a_new_key_is_told_to_the_neighbour_at_once(node: str) -> None:
    world = agreed()
    world.new_key(node)
    world.run(SOON_S)
    assert world.phase("shop", "order-processing") == "Active"
    keys = {
        tunnel.peer_public_key
        for name, each in world.nodes.items()
        if name != node
        for tunnel in each.host.tunnels
        if tunnel.peer_public_key in {border.public_key for border in world.nodes[node]._borders}
    }
    assert keys, "the neighbour's tunnel has the new key"
    check_both_hold(world)


def test_a_new_connection_with_nothing_new_changes_nothing() -> None:
    world = agreed()
    before = {name: agreements(world, name) for name in world.controllers}
    writes = sum(node.writes for node in world.nodes.values())
    for _ in range(3):
        world.meet(*PAIRS)
        world.run(1.0)
    assert {name: agreements(world, name) for name in world.controllers} == before
    assert sum(node.writes for node in world.nodes.values()) == writes
    assert not [holdings for holdings in world.heard("holdings") if opened(holdings).is_answer]  # type: ignore[union-attr]


def test_who_does_not_know_of_comparing_is_not_told() -> None:
    world = World()
    world.start()
    shop = world.controllers["shop"]
    shop.event(PeerMet(peer="transit", greeting=Greeting(versions=(2,), instance="older")), shop.life)
    world.run(1.0)
    assert not world.heard("holdings")
    world.meet(PAIRS[0])
    world.run(1.0)
    [told, answered] = map(opened, world.heard("holdings"))
    assert isinstance(told, Holdings) and isinstance(answered, Holdings) and HOLDINGS in CAPABILITIES


def test_a_peer_cannot_end_what_others_agreed_nor_move_numbers_far() -> None:
    world = agreed()
    serial = world.controllers["shop"].state.counters["serial"]
    controller = world.controllers["insight"]
    for newest in (2**40, 2**40, 2**40 - 1, 2**40):
        world.deliver(sealed(Holdings(agreements=(), newest=newest), controller.keys), "insight", "shop")
    world.run(SOON_S)
    assert world.phase("shop", "order-processing") == "Active"
    assert world.controllers["shop"].state.counters["serial"] <= serial + 100_000
    check_both_hold(world)
