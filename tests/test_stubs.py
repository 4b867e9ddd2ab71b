"""A node on the way that refuses whatever it is told, or confirms nothing, holds up what needs it for a short while:
then that takes another way, where there is one."""

import random

import pytest

from controller import reconcile
from controller.model.event import NodeUnreachable, Tick
from controller.model.stitch import Stage
from controller.reconcile.restoration import MOVED, _passes_stub
from controller.reconcile.stubs import DOUBT_S, HOLD_S
from tests.simulator import ORDER_PROCESSING, Faults, World, entry_key
from tests.test_link_state import CHEAP, NORTH, SOUTH, changed, own_paths, own_paths_of, paths_of, restart, status
from tests.test_simulation import SEEDS, check_agreed

__all__ = ["changed"]
LIES = ("refuses", "says nothing")


def lie(world: World, name: str, how: str = "") -> None:
    """From now on; empty: it is honest again. Its session begins anew, so nothing of it is confirmed."""
    node = world.nodes[name]
    node.refusal, node.confirms = ("it does not like it" if how == "refuses" else ""), how != "says nothing"
    controller = world.controllers[world.topology.node(name).domain]
    controller.event(NodeUnreachable(node=name, reason="its session ended"), controller.life)
    world.connect(controller, name)
    world.run(1.0)


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    world.run(3.0)
    return world


def apply(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)


@pytest.mark.parametrize("how", LIES)
def test_what_is_new_takes_another_way_around_a_node_that_confirms_nothing(world: World, how: str) -> None:
    lie(world, "tc1", how)
    apply(world)
    world.run(DOUBT_S + 3.0)
    assert own_paths(world, "transit") == [SOUTH]
    assert world.phase("shop", "order-processing") == "Active"
    shown = world.get("transit", "nodes", "tc1").status["passed_by"]
    assert "nodes/tc1, which tc1 has not confirmed since" in shown
    assert how == "says nothing" or "it does not like it" in shown
    world.apply("shop", CHEAP)
    world.run(2.0)
    assert world.phase("shop", "reports") == "Active"  # it does not wait at all
    before = {name: node.writes for name, node in world.nodes.items() if name != "tc1"}
    world.run(30.0)
    assert before == {name: node.writes for name, node in world.nodes.items() if name != "tc1"}

    lie(world, "tc1")
    world.run(HOLD_S - 3.0)
    assert own_paths_of(world, "order-processing") == [SOUTH]
    world.run(10.0)
    assert own_paths_of(world, "order-processing") == [NORTH, SOUTH]
    assert "passed_by" not in world.get("transit", "nodes", "tc1").status
    world.run(5.0)
    world.check_settled()
    check_agreed(world)


def test_a_controller_that_was_busy_itself_doubts_no_node_for_it(world: World) -> None:
    lie(world, "tc1", "says nothing")
    controller = world.controllers["transit"]
    doubted, now_s = controller.state, world.now_s
    assert any(key.startswith("tc1 ") for key in doubted.doubts) and not doubted.stubs
    busy, _ = reconcile.step(doubted, Tick(), now_s + 3 * DOUBT_S, controller.keys)
    assert not busy.stubs, "what it says may wait behind the tick"
    for second in range(int(DOUBT_S) + 2):
        busy, _ = reconcile.step(busy, Tick(), now_s + 3 * DOUBT_S + second, controller.keys)
    assert "nodes/tc1" in busy.stubs


@pytest.mark.parametrize("how", LIES)
def test_where_there_is_no_other_way_it_is_waited_for(world: World, how: str) -> None:
    lie(world, "tc1", how)
    world.set_carrier("t1-tc2", False)
    apply(world)
    world.run(60.0)
    assert own_paths(world, "transit") == [NORTH]
    assert world.phase("shop", "order-processing") == "Negotiating"
    assert world.controllers["transit"].state.stubs
    world.set_carrier("t1-tc2", True)
    world.run(6.0)
    assert own_paths(world, "transit") == [SOUTH] and world.phase("shop", "order-processing") == "Active"


@pytest.mark.parametrize("how", LIES)
def test_what_was_confirmed_stays_until_it_needs_something_new(world: World, how: str) -> None:
    world.set_carrier("sg1-ig1", False)
    apply(world)
    world.run(3.0)
    lie(world, "tc1", how)
    writes = {name: node.writes for name, node in world.nodes.items()}
    world.run(60.0)
    assert writes == {name: node.writes for name, node in world.nodes.items()}
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.apply("shop", CHEAP)
    world.run(5.0)
    assert world.phase("shop", "reports") == world.phase("shop", "order-processing") == "Active"
    before, new = world.controllers["transit"].state.stitches.values()
    assert paths_of(world, "transit", before) == [NORTH, SOUTH] and paths_of(world, "transit", new) == [SOUTH]


def test_traffic_of_others_moves_with_what_is_new_and_takes_the_same_paths(world: World) -> None:
    world.set_carrier("sg1-ig1", False)
    apply(world)
    world.run(3.0)
    lie(world, "tc1", "refuses")
    world.run(DOUBT_S + 1.0)
    second = ORDER_PROCESSING.replace("name: order-processing", "name: second").replace(
        "app: order-processing", "app: web"
    )
    assert second.count("second") == 1 and "web" in second
    world.apply("shop", second)
    world.run(3.0)
    assert world.phase("shop", "second") == world.phase("shop", "order-processing") == "Active"
    policies = world.controllers["transit"].state.sr_policies.values()
    assert [path.nodes for policy in policies for path in policy.candidate_paths] == [SOUTH]


def test_after_a_restart_it_is_gone_around_until_it_has_confirmed(world: World) -> None:
    lie(world, "tc1", "refuses")
    apply(world)
    world.run(DOUBT_S + 3.0)
    writes = world.nodes["t1"].writes
    restart(world.controllers["transit"])
    world.run(60.0)
    assert own_paths(world, "transit") == [SOUTH] and world.nodes["t1"].writes == writes
    lie(world, "tc1")
    world.run(HOLD_S + 5.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()


def test_a_node_that_confirms_and_refuses_by_turns_moves_nothing_but_once(world: World) -> None:
    lie(world, "tc1", "refuses")
    apply(world)
    world.run(DOUBT_S + 3.0)
    moves = len([log for log in world.controllers["transit"].logs if log.event == MOVED])
    for _ in range(5):
        lie(world, "tc1")
        world.run(HOLD_S - 15.0)
        lie(world, "tc1", "refuses")
        world.run(DOUBT_S + 5.0)
    assert len([log for log in world.controllers["transit"].logs if log.event == MOVED]) == moves == 1


def test_a_node_that_refuses_what_is_somebodys_is_passed(world: World) -> None:
    apply(world)
    world.run(3.0)
    node = world.nodes["tc1"]
    node.refused = {entry_key(entry) for entry in node.entries.values() if entry.owner.startswith("sr_policies/")}
    ends = {entry_key(entry) for entry in world.nodes["t1"].entries.values() if entry.owner.startswith("agreements/")}
    world.nodes["t1"].refused = ends
    for _ in range(8):  # its state changes all the while
        world.delete("shop", "order-processing")
        world.run(2.0)
        apply(world)
        world.run(5.0)
        assert not world.controllers["transit"].state.stubs
    assert own_paths(world, "transit") == [NORTH, SOUTH]


@pytest.mark.parametrize("end", ["t1", "tc1"])
def test_a_link_that_one_end_refuses_is_gone_around(world: World, end: str) -> None:
    node = world.nodes[end]
    node.refused = {entry_key(entry) for entry in node.entries.values() if entry.owner == "links/t1-tc1"}
    assert node.refused
    lie(world, end)
    apply(world)
    world.run(DOUBT_S + 3.0)
    assert own_paths(world, "transit") == [SOUTH] and world.phase("shop", "order-processing") == "Active"
    assert [*world.controllers["transit"].state.stubs] == ["links/t1-tc1"]
    assert "it does not like it" in world.get("transit", "links", "t1-tc1").status["passed_by"]
    node.refused = set()
    world.run(HOLD_S + 10.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()


TWO_GATEWAYS = (
    (
        "  t1: {domain: transit, role: gateway",
        '  sg2: {domain: shop, role: gateway, locator: "5f00:1:3::/48"}\n  t1: {domain: transit, role: gateway',
    ),
    (
        "  # Between domains:",
        "  - {a: {node: se1}, b: {node: sg2}, delay_ms: 0, rate_mbit: 1000, loss_percent: 0, mtu: 2000, trust: own}\n"
        "  # Between domains:",
    ),
    ("{a: {node: sg1, address: 192.0.2.9/30}", "{a: {node: sg2, address: 192.0.2.9/30}"),
)


@pytest.mark.parametrize("how", LIES)
def test_another_gateway_is_taken_where_one_confirms_nothing(changed, how: str) -> None:  # type: ignore[no-untyped-def]
    world: World = changed(*TWO_GATEWAYS)
    lie(world, "sg2", how)
    world.apply("shop", CHEAP)
    world.run(2.0)
    assert world.phase("shop", "reports") == "Installing" or how != "refuses"
    world.run(DOUBT_S + 3.0)
    shown = world.get("shop", "intents", "reports").status
    assert shown["phase"] == "Active" and shown["path"] == ["se1", "sg1", "transit", "insight"]
    (condition,) = shown["conditions"]
    assert condition["type"] == "PassesBy" and "goes around nodes/sg2, which sg2 has not" in condition["reason"]
    lie(world, "sg2")
    world.run(HOLD_S + 10.0)
    assert world.get("shop", "intents", "reports").status["path"] == ["se1", "sg2", "insight"]
    assert status(world, "reports") == ("Active", "")
    world.check_settled()


@pytest.mark.parametrize("seed", range(-(-SEEDS // 2)))
def test_whatever_nodes_confirm_and_refuse_meanwhile_all_comes_back(seed: int) -> None:
    world = World(seed, Faults(loss=0.1, duplication=0.3, delay_s=(0.001, 0.5)))
    world.start()
    world.run(10.0)
    chance: random.Random = world.random
    names = sorted(world.nodes)
    links = ["t1-tc1", "t1-tc2", "tc1-t2", "sg1-ig1"]
    world.apply("shop", ORDER_PROCESSING)
    world.crash_chance = 0.005
    for _ in range(40):
        lie(world, chance.choice(names), chance.choice(("", "", *LIES)))
        world.set_carrier(chance.choice(links), chance.random() < 0.7)
        if chance.random() < 0.3:
            world.apply("shop", chance.choice((CHEAP, ORDER_PROCESSING)))
        if chance.random() < 0.1:
            world.delete("shop", chance.choice(("reports", "order-processing")))
        world.run(chance.uniform(0.0, 20.0))
        check_no_new_policy_passes_a_stub(world)
    world.crash_chance, world.faults = 0.0, Faults()
    for link in links:
        world.set_carrier(link, True)
    for name in names:
        lie(world, name)
    for _ in range(2):
        world.apply("shop", ORDER_PROCESSING + "---" + CHEAP)
    world.run(150.0)
    assert [each.status["phase"] for each in world.resources("shop", "intents")] == ["Active", "Active"]
    world.check_settled()
    check_agreed(world)
    assert own_paths_of(world, "order-processing") == [NORTH, SOUTH]
    assert not any(controller.state.stubs or controller.state.doubts for controller in world.controllers.values())


def check_no_new_policy_passes_a_stub(world: World) -> None:
    """What waits for one has no other way."""
    for controller in world.controllers.values():
        state = controller.state
        if not controller.alive or state.graph is None or state.graph.stubs != tuple(sorted(state.stubs)):
            continue
        for name, stitch in state.stitches.items():
            waits = state.awaiting.get(name, {}).keys()
            if stitch.stage != Stage.ADDING or name in state.restored:
                continue
            for policy in (state.sr_policies[id.name] for id in stitch.plan.sr_policies if id.crosses):
                passed = {node for path in policy.candidate_paths for node in path.nodes[1:-1]}
                stubs = {node for node in passed & waits if f"nodes/{node}" in state.stubs}
                if stubs and not state.down:
                    assert stubs >= {"tc1", "tc2"} or not _passes_stub(state.graph, policy), (name, policy, stubs)
