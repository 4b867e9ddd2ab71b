"""Delays of links as they are measured count in paths where they last, and move what gets better by it."""

import json
import random

import pytest

from controller.fulfillment.graph import graph
from controller.fulfillment.paths import sr_policy
from controller.model.constraints import Constraints
from controller.model.discovery import PathMeasurement, PortMeasurement
from controller.model.event import Measured, NodeUnreachable, Tick
from controller.model.explanation import Branch
from controller.model.inventory import Inventory, Link, LinkEnd, Node
from controller.model.sr_policy import SrPolicyId
from controller.reconcile.delays import QUIET_S, SLOWER_S, STEADY_S
from controller.reconcile.facts import MEASURED_S
from controller.views.explain import explain
from dataplane.host_api import PortRole
from tests.simulator import World
from tests.test_link_state import CHEAP, NORTH, SOUTH, carrying, own_paths
from tests.test_simulation import check_agreed

SLOW_US = 17_000
LINK = "t1-tc1"
ENDS = ("t1", "tc1")


@pytest.fixture
def world() -> World:
    return carrying()


def measure(
    world: World, delay_us: int, seconds: float = 0.0, *, link: str = LINK, ends: tuple[str, ...] = ENDS
) -> None:
    """By its ends, each five seconds, for so long."""
    controller = world.controllers["transit"]
    ends_of = controller.state.inventory.links[link]
    until_s = world.now_s + seconds
    while True:
        for end in (ends_of.a, ends_of.b):
            if end is not None and end.node in ends:
                others = controller.state.nodes[end.node].measured_ports
                said = PortMeasurement(port=end.port, delay_us=delay_us, loss_percent=0.0, at_s=int(world.now_s))
                ports = (said, *(other for other in others if other.port != end.port))
                controller.event(Measured(node=end.node, ports=ports), controller.life)
        if world.now_s >= until_s:
            return
        world.run(min(5.0, until_s - world.now_s))


def counts(world: World) -> dict[str, int]:
    return world.controllers["transit"].state.delays


def test_traffic_leaves_a_link_that_has_become_slow_and_stays_where_it_is_as_good(world: World) -> None:
    writes = {name: node.writes for name, node in world.nodes.items()}
    measure(world, SLOW_US)
    assert counts(world) == {} and own_paths(world, "transit") == [NORTH, SOUTH], "it has not lasted"
    measure(world, SLOW_US, SLOWER_S + 2)
    world.run(3.0)
    assert counts(world) == {LINK: SLOW_US}
    assert own_paths(world, "transit") == [SOUTH, NORTH]
    assert {name for name, node in world.nodes.items() if node.writes > writes[name]} <= {"t1", "t2"}
    assert world.phase("shop", "order-processing") == "Active"
    check_agreed(world)
    measure(world, 2000, STEADY_S + 7)
    assert counts(world) == {}
    assert own_paths(world, "transit") == [SOUTH, NORTH], "nothing would be gained"
    measure(world, SLOW_US, SLOWER_S + 2, link="t1-tc2", ends=("t1", "tc2"))
    world.run(3.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()


@pytest.mark.parametrize(
    ("delay_us", "ends"), [(3900, ENDS), (SLOW_US, ("t1",)), (0, ENDS)], ids=["little", "one end", "quicker"]
)
def test_what_is_measured_does_not_count(world: World, delay_us: int, ends: tuple[str, ...]) -> None:
    measure(world, delay_us, SLOWER_S + 12, ends=ends)
    assert counts(world) == {} and own_paths(world, "transit") == [NORTH, SOUTH]


def test_what_gains_too_little_stays(world: World) -> None:
    measure(world, 40_000, SLOWER_S + 2, link="tc1-t2", ends=("tc1", "t2"))
    measure(world, 38_500, SLOWER_S + 2, link="tc2-t2", ends=("tc2", "t2"))
    world.run(3.0)
    before = own_paths(world, "transit")
    measure(world, 33_000, STEADY_S + 7, link="tc1-t2" if before[0] == SOUTH else "tc2-t2")
    assert own_paths(world, "transit") == before


def test_a_traffic_that_prefers_low_cost_takes_no_dearer_path_for_it(world: World) -> None:
    world.apply("shop", CHEAP)
    world.run(3.0)
    state = world.controllers["transit"].state
    cheap = [policy for policy in state.sr_policies.values() if policy.color.prefer.cost is not None]
    measure(world, SLOW_US, SLOWER_S + 2)
    for policy in cheap:
        now = world.controllers["transit"].state.sr_policies[policy.id.name]
        assert now.cost <= policy.cost


def test_a_link_that_flaps_has_to_be_well_for_longer_each_time(world: World) -> None:
    waits = []
    for _ in range(3):
        measure(world, SLOW_US, SLOWER_S + 7)
        assert LINK in counts(world)
        began_s = world.now_s
        while counts(world):
            measure(world, 2000, 5.0)
            assert world.now_s - began_s < QUIET_S
        waits.append(world.now_s - began_s)
    assert waits[0] < STEADY_S + 12 < waits[1] - 10 < waits[2] - 60, waits
    measure(world, 2000, 2 * QUIET_S)
    assert LINK not in world.controllers["transit"].state.link_delays, "and is forgotten"


def test_a_spike_does_not_count(world: World) -> None:
    for _ in range(20):
        measure(world, SLOW_US, SLOWER_S - 2)
        measure(world, 2000, 1.0)
    assert counts(world) == {}


def test_what_was_measured_counts_while_agents_begin_anew_and_ends_with_its_age(world: World) -> None:
    measure(world, SLOW_US, SLOWER_S + 2)
    controller = world.controllers["transit"]
    controller.event(NodeUnreachable(node="t1", reason="gone"), controller.life)
    world.run(10.0)
    assert counts(world) == {LINK: SLOW_US}
    world.run(MEASURED_S + 5)
    assert counts(world) == {}


def test_after_a_clock_that_was_set_back_it_is_measured_anew(world: World) -> None:
    measure(world, SLOW_US, SLOWER_S + 2)
    controller = world.controllers["transit"]
    controller.event(NodeUnreachable(node="t1", reason="gone"), controller.life)
    world.now_s -= 1000
    controller.event(Tick(), controller.life)
    assert counts(world) == {}


def test_a_link_shows_what_counts(world: World) -> None:
    assert "delay_in_paths" not in world.get("transit", "links", LINK).status
    measure(world, SLOW_US, SLOWER_S + 2)
    shown = world.get("transit", "links", LINK).status["delay_in_paths"]
    assert (shown["latency_ms"], shown["declared_ms"]) == (17.0, 2.0)
    (path,) = (path for path in world.resources("transit", "paths") if path.spec["headend"] == "t1")
    taken = {tuple(each["nodes"]): each for each in path.status["candidate_paths"]}
    assert (taken[NORTH]["latency_ms"], taken[NORTH]["measured_latency_ms"]) == (4.0, 19.0)
    assert "measured_latency_ms" not in taken[SOUTH]


def test_explain_says_what_a_plan_takes_as_measured(world: World) -> None:
    assert "measured" not in plan_line(world)
    controller = world.controllers["shop"]
    host = controller.state.nodes["se1"].state
    assert host is not None
    group = next(probe.liveness_group for probe in host.host.probes if probe.slot == 0)
    said = PathMeasurement(
        liveness_group=group, slot=0, is_alive=True, delay_us=310, jitter_us=1, loss_percent=0.0, at_s=int(world.now_s)
    )
    controller.event(Measured(node="se1", paths=(said,)), controller.life)
    assert ", measured inside shop 0.31 ms" in plan_line(world)


def plan_line(world: World) -> str:
    state = world.controllers["shop"].state
    explanation = explain(state, "intents", "order-processing", world.now_s)
    assert explanation is not None
    return next(text for text in lines(explanation) if "path se1 sg1" in text)


def lines(branch: Branch) -> list[str]:
    return [branch.text, *(text for child in branch.children for text in lines(child))]


def test_a_bound_that_only_slow_paths_hold_is_held_by_what_is_declared(world: World) -> None:
    """Promises stand on what operators say: what is measured chooses between paths that hold them."""
    for link, ends in ((LINK, ENDS), ("t1-tc2", ("t1", "tc2"))):
        measure(world, 100_000, SLOWER_S + 2, link=link, ends=ends)
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"
    (policy, *_) = world.controllers["transit"].state.sr_policies.values()
    assert [path.latency_us for path in policy.candidate_paths] == [4000, 4000]


def generated(chance: random.Random) -> tuple[Inventory, dict[str, int]]:
    nodes = [f"n{number}" for number in range(chance.randint(3, 7))]
    links = {}
    for number in range(chance.randint(len(nodes), 14)):
        a, b = chance.sample(nodes, 2)
        links[f"l{number}"] = Link(
            name=f"l{number}",
            a=LinkEnd(node=a, port=2 * number + 1),
            b=LinkEnd(node=b, port=2 * number + 2),
            delay_us=chance.randint(0, 10),
            rate_bps=1,
            loss_percent=0.0,
            mtu=1500,
            trust=0,
            cost=chance.randint(0, 3),
        )
    delays = {name: link.delay_us + chance.randint(1, 20) for name, link in links.items() if chance.random() < 0.4}
    made = {
        name: Node(name=name, role="transit", agent="", locator=f"5f00:1:{number + 1}::/48")
        for number, name in enumerate(nodes)
    }
    return Inventory(nodes=made, links=links), delays


@pytest.mark.parametrize("seed", range(400))
def test_of_the_paths_that_hold_what_is_declared_the_quickest_as_measured_is_first(seed: int) -> None:
    chance = random.Random(f"delays {seed}")
    inventory, delays = generated(chance)
    source, target = chance.sample(sorted(inventory.nodes), 2)
    limit_us = chance.choice([None, chance.randint(0, 40)])
    id = SrPolicyId(headend=source, endpoint=target, color=Constraints(latency_us_max=limit_us))
    made = graph(inventory, "d", delays=delays)
    policy, plain = sr_policy(made, id), sr_policy(graph(inventory, "d"), id)
    assert (policy is None) == (plain is None)
    if policy is None:
        return
    first = policy.candidate_paths[0]
    assert first.latency_us == sum(inventory.links[name].delay_us for name in first.links)
    assert limit_us is None or first.latency_us <= limit_us
    quickest_us = min(made.measured_us(way) for way in _ways(inventory, source, target))
    if limit_us is None or quickest_us <= limit_us:
        assert made.measured_us(first.links) == quickest_us


def _ways(inventory: Inventory, source: str, target: str, seen: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if source == target:
        return [()]
    found = []
    for link in inventory.links.values():
        assert link.b is not None
        for near, far in ((link.a.node, link.b.node), (link.b.node, link.a.node)):
            if near == source and far not in (*seen, source):
                found += [(link.name, *rest) for rest in _ways(inventory, far, target, (*seen, source))]
    return found


def end(node: str, port: int) -> dict[str, object]:
    return {"node": node, "port": port}


def test_what_is_in_use_takes_a_link_that_is_declared_once_both_its_ends_know_it(world: World) -> None:
    world.add_port("t1", 91, PortRole.FABRIC)
    world.add_port("t2", 92, PortRole.FABRIC)
    world.run(3.0)
    spec = world.get("transit", "links", LINK).spec | {"a": end("t1", 91), "b": end("t2", 92), "delay_ms": 0.5}
    manifest = {"apiVersion": "netstitch/v1", "kind": "Link", "metadata": {"name": "direct"}, "spec": spec}
    answer = world.apply("transit", json.dumps(manifest))
    assert answer is not None and answer.results == ("links/direct created",)
    assert own_paths(world, "transit") == [NORTH, SOUTH], "its ends have not confirmed what they need for it"
    assert "links/direct" in world.controllers["transit"].state.awaiting
    for _ in range(60):
        world.run(0.05)
        if own_paths(world, "transit")[0] == ("t1", "t2"):
            assert "links/direct" not in world.controllers["transit"].state.awaiting
    assert own_paths(world, "transit")[0] == ("t1", "t2")
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()
    check_agreed(world)
