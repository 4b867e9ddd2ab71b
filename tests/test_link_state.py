"""Links that lose their carrier in the simulated lab: what goes around them, what ends, what comes back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from controller.fulfillment import contributions
from controller.fulfillment.contribution import Contribution, contribution
from controller.model.agreement import Withdrawal
from controller.model.entry import OwnedEntry
from controller.model.event import Applied
from controller.model.inventory import Link
from controller.model.stitch import Stitch
from controller.model.told import Told
from controller.reconcile.link_state import HOLD_S, cut
from tests.offers import said
from tests.simulator import LAB, ORDER_PROCESSING, Controller, EntryKey, Faults, World
from tests.test_simulation import SEEDS, check_agreed, check_border_opens_only_with_agreement
from tests.typed_in import typed
from topologies.topology_file import load

NORTH, SOUTH = ("t1", "tc1", "t2"), ("t1", "tc2", "t2")
CHEAP = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: reports, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y, ports: [icmp]}]
  prefer: {cost: low}
"""


@pytest.fixture
def world() -> World:
    return started(LAB)


def started(topology: Path) -> World:
    world = World(topology=typed(load(topology)))
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., World]:
    """The lab with parts of its file replaced, and the intent in force."""

    def make(*changes: tuple[str, str]) -> World:
        text = LAB.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        file = tmp_path / "lab.yaml"
        file.write_text(text)
        return started(file)

    return make


def carried(world: World, domain: str) -> Stitch:
    (stitch,) = world.controllers[domain].state.stitches.values()
    return stitch


def carrying() -> World:
    """The intent is in force, and transit carries it by its northern way."""
    world = World()
    world.start()
    world.run(3.0)
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    return world


def own_paths(world: World, domain: str) -> list[tuple[str, ...]]:
    return paths_of(world, domain, carried(world, domain))


def paths_of(world: World, domain: str, stitch: Stitch) -> list[tuple[str, ...]]:
    """From where its traffic enters."""
    policies = world.controllers[domain].state.sr_policies
    return [
        path.nodes if id.headend < id.endpoint else path.nodes[::-1]
        for id in stitch.plan.sr_policies
        for path in policies[id.name].candidate_paths
    ]


def others(world: World, domain: str) -> dict[str, tuple[object, int]]:
    """What all domains but one have."""
    return {
        node.name: (dict(world.nodes[node.name].entries), world.nodes[node.name].writes)
        for node in world.topology.nodes
        if node.domain != domain
    }


def status(world: World, name: str = "order-processing") -> tuple[str, str]:
    shown = world.get("shop", "intents", name).status
    return shown["phase"], "; ".join(condition["reason"] for condition in shown["conditions"])


@pytest.mark.parametrize("ends", [(), ("t1",), ("tc1",)], ids=["both ends", "one end", "other end"])
def test_traffic_goes_around_a_cut_link_and_nothing_else_changes(world: World, ends: tuple[str, ...]) -> None:
    before, messages = others(world, "transit"), len(world.wiretap)
    world.set_carrier("t1-tc1", False, *ends)
    world.run(1.5)
    assert own_paths(world, "transit") == [SOUTH]
    world.check_settled()
    assert status(world) == ("Active", "")
    assert (others(world, "transit"), len(world.wiretap)) == (before, messages)
    links = {resource.metadata["name"]: resource.status for resource in world.resources("transit", "links")}
    assert not links["t1-tc1"]["carrier"] and not links["t1-tc1"]["in_use"] and links["t1-tc2"]["in_use"]


def test_a_link_that_swallows_packets_is_one_without_a_carrier(world: World) -> None:
    world.set_silent("t1-tc1", True)
    world.run(1.5)
    assert own_paths(world, "transit") == [SOUTH]
    world.check_settled()
    links = {resource.metadata["name"]: resource.status for resource in world.resources("transit", "links")}
    down = ["t1 port 1 (probes do not come back)", "tc1 port 1 (probes do not come back)"]
    assert (links["t1-tc1"]["in_use"], links["t1-tc1"]["down"]) == (False, down)
    world.set_silent("t1-tc1", False)
    world.run(1.5 + HOLD_S + 1)
    assert own_paths(world, "transit") == [NORTH, SOUTH]


def test_nodes_probe_their_links_and_every_candidate_path_of_their_traffic(world: World) -> None:
    def probed(node: str) -> list[tuple[int, int, int | None, tuple[str, ...]]]:
        state = world.controllers["transit"].state.nodes[node].state
        assert state is not None and state.host.probes == world.nodes[node].host.probes
        return [(probe.port, probe.interval_ms, probe.slot, probe.containers) for probe in state.host.probes]

    t1 = [(1, 250, None, ("5f00:2:2:1::",)), (2, 250, None, ("5f00:2:3:1::",))]
    both = [(1, 10, 0, ("5f00:2:2:4:2:1::",)), (2, 10, 1, ("5f00:2:3:4:3:1::",))]
    assert probed("t1") == t1 + both
    assert probed("tc1") == [(1, 250, None, ("5f00:2:1:2::",)), (2, 250, None, ("5f00:2:4:2::",))]
    t2 = [(1, 10, 0, ("5f00:2:2:1:2:4::",)), (2, 10, 1, ("5f00:2:3:1:3:4::",))]
    assert probed("t2")[2:] == t2
    world.set_carrier("t1-tc1", False)
    world.run(1.5)
    world.check_settled()
    assert probed("t1") == [*t1, (2, 100, 0, ("5f00:2:3:4:3:1::",))]
    world.delete("shop", "order-processing")
    world.run(10)
    assert probed("t1") == t1


def test_a_cut_link_moves_sr_policies_and_not_the_stitches_over_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(stitch: Stitch, *others: Any) -> Contribution:
        made.append(stitch.plan.name)
        return contribution(stitch, *others)

    monkeypatch.setattr(contributions, "contribution", counted)
    world.checked = False  # which makes all of it anew
    stitch, entries = carried(world, "transit"), dict(world.nodes["t1"].entries)
    world.set_carrier("t1-tc1", False)
    world.run(1.5)
    assert own_paths(world, "transit") == [SOUTH]
    assert not made and carried(world, "transit") is stitch
    after = world.nodes["t1"].entries
    assert {entry.table for entry in entries.values() if entry not in after.values()} == {"sr_policy", "path_liveness"}
    world.apply("shop", CHEAP)
    world.run(1.5)
    assert made, "what is new is made"


def test_a_link_is_used_again_when_it_has_been_back_for_a_while(world: World) -> None:
    entries = {name: dict(node.entries) for name, node in world.nodes.items()}
    world.set_carrier("t1-tc1", False)
    world.run(1.5)
    world.set_carrier("t1-tc1", True)
    world.run(1.0)
    assert own_paths(world, "transit") == [SOUTH]
    world.run(HOLD_S + 1.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()
    assert {name: dict(node.entries) for name, node in world.nodes.items()} == entries


def test_a_link_that_comes_and_goes_moves_nothing_but_once(world: World) -> None:
    for _ in range(20):
        world.set_carrier("t1-tc1", False)
        world.run(1.0)
        world.set_carrier("t1-tc1", True)
        world.run(1.0)
    moves = [log for log in world.controllers["transit"].logs if log.event == "sr_policy_moved"]
    assert len(moves) == 1
    world.run(HOLD_S + 1.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]


def as_release_0_1_stored(controller: Controller) -> None:
    """Paths inside plans, in the direction of the traffic, with what follows from them; no table of SR Policies."""
    disk, policies = controller.disk, controller.state.sr_policies
    for key, record in tuple(disk.items()):
        if record.kind == "SrPolicy":
            del disk[key]
        if record.kind != "Course" or record.content is None:
            continue
        stitch = json.loads(record.content)
        ids = controller.state.stitches[record.name].plan.sr_policies
        for id, stored in zip(ids, stitch["plan"]["sr_policies"], strict=True):
            stored.pop("color", None)
            paths, step = policies[id.name].candidate_paths, 1 if id.headend < id.endpoint else -1
            stored["candidate_paths"] = [
                replace(path, nodes=path.nodes[::step], links=path.links[::step]) for path in paths
            ]
            stitch["plan"]["around"] = policies[id.name].around
        stitch["plan"] |= {"latency_us": 4000, "cost": 50}
        stitch.pop("ids")
        disk[key] = replace(record, content=msgspec.json.encode(stitch))


def restart(controller: Controller) -> None:
    controller.crash()
    controller.start()


def test_paths_that_an_earlier_release_stored_inside_plans_go_on(world: World) -> None:
    world.set_carrier("t1-tc1", False)
    world.run(1.5)
    agreements = {resource.metadata["name"] for resource in world.resources("shop", "agreements")}
    for controller in world.controllers.values():
        as_release_0_1_stored(controller)
        restart(controller)
    world.run(30.0)
    assert status(world) == ("Active", "")
    assert {resource.metadata["name"] for resource in world.resources("shop", "agreements")} == agreements
    assert own_paths(world, "transit") == [SOUTH]
    world.check_settled()
    for controller in world.controllers.values():
        assert {name for kind, name in controller.disk if kind == "SrPolicy"} == {*controller.state.sr_policies}
        restart(controller)
    world.run(30.0)
    assert status(world) == ("Active", "") and own_paths(world, "transit") == [SOUTH]
    world.set_carrier("t1-tc1", True)
    world.run(HOLD_S + 1.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]


def test_a_second_path_that_is_cut_is_taken_out(world: World) -> None:
    world.set_carrier("tc2-t2", False)
    world.run(1.5)
    assert own_paths(world, "transit") == [NORTH]
    world.check_settled()


def test_a_carrier_with_no_way_left_withdraws_and_takes_it_up_when_a_link_is_back(world: World) -> None:
    world.set_carrier("t1-tc1", False)
    world.set_carrier("t1-tc2", False)
    world.run(2.0)
    ended = [message.reason for message in said(world, "withdrawal") if isinstance(message, Withdrawal)]
    assert ended == [Told.WAY] * 2
    world.run(3.0)
    phase, reason = status(world)
    assert phase == "Refused" and Told.WAY in reason
    assert "tc1" not in reason
    assert world.stitches() == []
    assert not any(node.host.tunnels for node in world.nodes.values())
    world.set_carrier("t1-tc2", True)
    world.run(HOLD_S + 12.0)
    assert status(world) == ("Active", "")
    assert own_paths(world, "transit") == [SOUTH]
    world.check_settled()
    check_agreed(world)


def test_a_cut_border_ends_what_no_other_border_can_carry(world: World) -> None:
    world.set_carrier("sg1-t1", False, "sg1")
    world.run(2.0)
    phase, reason = status(world)
    assert phase == "Unsatisfiable" and "trust of at least partner" in reason and "without a carrier: sg1-t1" in reason
    assert world.stitches() == []
    world.set_carrier("sg1-t1", True, "sg1")
    world.run(HOLD_S + 2.0)
    assert status(world) == ("Active", "")
    world.check_settled()


def test_who_carries_for_others_says_so_when_only_it_sees_that_the_border_is_cut(world: World) -> None:
    world.set_carrier("sg1-t1", False, "t1")
    world.run(6.0)
    phase, reason = status(world)
    assert phase == "Refused" and Told.WAY in reason
    world.set_carrier("sg1-t1", True, "t1")
    world.run(HOLD_S + 15.0)
    assert status(world) == ("Active", "")


def test_another_border_takes_over_before_the_old_plan_goes(world: World) -> None:
    world.delete("shop", "order-processing")
    world.apply("shop", CHEAP)
    world.run(4.0)
    assert world.get("shop", "intents", "reports").status["path"] == ["se1", "sg1", "insight"]
    world.set_carrier("sg1-ig1", False, "sg1")
    world.run(1.0)
    assert not [log for log in world.controllers["shop"].logs if log.event == "intent_unsatisfiable"]
    world.run(4.0)
    assert status(world, "reports") == ("Active", "")
    assert world.get("shop", "intents", "reports").status["path"] == ["se1", "sg1", "transit", "insight"]
    world.check_settled()
    world.set_carrier("sg1-ig1", True, "sg1")
    for _ in range(60):
        world.run(0.1)
        assert "Active" in [stitch.stage for stitch in world.controllers["shop"].state.stitches.values()]
    world.run(6.0)
    assert status(world, "reports") == ("Active", "")
    assert world.get("shop", "intents", "reports").status["path"] == ["se1", "sg1", "insight"]
    world.check_settled()


SLOW_SOUTH = ("{a: {node: t1}, b: {node: tc2}, delay_ms: 2", "{a: {node: t1}, b: {node: tc2}, delay_ms: 30")


def test_a_transit_promise_that_the_other_way_cannot_hold_is_not_kept(changed: Callable[..., World]) -> None:
    world = changed(SLOW_SOUTH)
    assert own_paths(world, "transit") == [NORTH]
    world.set_carrier("t1-tc1", False)
    world.run(6.0)
    phase, reason = status(world)
    assert phase == "Refused" and Told.WAY in reason


def promises(world: World) -> dict[str, int]:
    """Each agreement with what is promised."""
    return {
        f"{domain} {resource.metadata['name']}": resource.status["latency_us"]
        for domain in world.controllers
        for resource in world.resources(domain, "agreements")
    }


def entries_of(world: World, *domains: str) -> dict[str, dict[EntryKey, OwnedEntry]]:
    return {node.name: dict(world.nodes[node.name].entries) for node in world.topology.nodes if node.domain in domains}


def test_a_longer_path_within_the_promise_changes_nothing_for_others(changed: Callable[..., World]) -> None:
    world = changed((SLOW_SOUTH[0], SLOW_SOUTH[1].replace("30", "3")))
    promised, others = promises(world), entries_of(world, "shop", "insight")
    assert own_paths(world, "transit")[0] == NORTH and set(promised.values()) == {1000, 7500}
    said = len(world.wiretap)
    world.set_carrier("t1-tc1", False)
    world.run(6.0)
    assert own_paths(world, "transit") == [SOUTH] and status(world) == ("Active", "")
    assert (promises(world), entries_of(world, "shop", "insight")) == (promised, others)
    assert len(world.wiretap) == said
    world.check_settled()


def test_a_longer_path_within_the_bound_is_promised_anew_in_the_same_agreement(changed: Callable[..., World]) -> None:
    world = changed((SLOW_SOUTH[0], SLOW_SOUTH[1].replace("30", "8")))
    promised, others = promises(world), entries_of(world, "shop", "insight")
    world.set_carrier("t1-tc1", False)
    for _ in range(60):
        world.run(0.1)
        assert status(world) == ("Active", "")
    assert own_paths(world, "transit") == [SOUTH]
    after = promises(world)
    assert after.keys() == promised.keys() and entries_of(world, "shop", "insight") == others
    assert {after[name] for name in after if "shop:" in name} == {13_250}  # 10 ms, 1 more of insight, a quarter of 9
    assert world.get("shop", "intents", "order-processing").status["predicted"]["latency_ms"] == 10
    world.check_settled()
    world.run(4 * 3600.0)  # it is renewed all the same
    assert status(world) == ("Active", "") and promises(world).keys() == promised.keys()


FAR_EDGE = (
    ("  - {a: {node: ig1}, b: {node: ie1}, delay_ms: 0,", "  - {a: {node: ix}, b: {node: ig1}, delay_ms: 3, "
     "rate_mbit: 1000, loss_percent: 0, mtu: 2000, trust: own}\n"
     "  - {a: {node: ie1}, b: {node: ix}, delay_ms: 3, rate_mbit: 1000, loss_percent: 0, mtu: 2000, trust: own}\n"
     "  - {a: {node: ig1}, b: {node: ie1}, delay_ms: 0,"),
    ("  ig1: {domain: insight,", '  ix: {domain: insight, role: transit, locator: "5f00:3:3::/48"}\n'
     "  ig1: {domain: insight,"),
)  # fmt: skip


def test_a_longer_path_at_the_end_is_passed_on_through_the_chain(changed: Callable[..., World]) -> None:
    world = changed(*FAR_EDGE)
    promised = promises(world)
    world.set_carrier("ig1-ie1", False)
    for _ in range(60):
        world.run(0.1)
        assert status(world) == ("Active", "")
    assert own_paths(world, "insight") == [("ig1", "ix", "ie1")]
    after = promises(world)
    assert after.keys() == promised.keys() and all(after[name] > promised[name] for name in after)
    assert world.get("shop", "intents", "order-processing").status["predicted"]["latency_ms"] == 10
    world.check_settled()


def test_where_the_bound_is_tight_those_behind_give_back_their_margin(changed: Callable[..., World]) -> None:
    """11.5 of 12 ms: what insight promised beside its 0 ms is 1 ms too much; asked for less, it promises less."""
    world = changed((SLOW_SOUTH[0], SLOW_SOUTH[1].replace("30", "9.5")))
    world.apply("shop", ORDER_PROCESSING.replace("max: 20", "max: 12"))
    world.run(4.0)
    promised = promises(world)
    world.set_carrier("t1-tc1", False)
    for _ in range(60):
        world.run(0.1)
        assert status(world) == ("Active", "")
    assert own_paths(world, "transit") == [SOUTH]
    after = promises(world)
    assert after.keys() == promised.keys() and max(after.values()) <= 12_000
    assert {after[name] for name in after if "transit:" in name} == {125}
    world.check_settled()


def test_a_path_that_takes_smaller_packets_than_was_agreed_is_not_moved_to(changed: Callable[..., World]) -> None:
    text = "{a: {node: t1}, b: {node: tc2}, delay_ms: 2, rate_mbit: 1000, loss_percent: 0, mtu: "
    world = changed((text + "2000", text + "1400"))
    world.set_carrier("t1-tc2", False)
    world.run(1.5)
    world.delete("shop", "order-processing")
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert status(world) == ("Active", "")
    (before,) = world.resources("shop", "agreements")
    world.set_carrier("t1-tc2", True)
    world.run(HOLD_S + 2.0)
    assert own_paths(world, "transit") == [NORTH]
    world.set_carrier("t1-tc1", False)
    world.run(6.0)
    assert own_paths(world, "transit") == [SOUTH] and status(world) == ("Active", "")
    (after,) = world.resources("shop", "agreements")
    assert after.metadata["name"] == before.metadata["name"]
    assert after.status["acceptor_end"]["inner_mtu"] < before.status["acceptor_end"]["inner_mtu"]


TWO_WAYS = (
    ("  - {a: {node: se1}, b: {node: sg1}, delay_ms: 0,", "  - {a: {node: sx}, b: {node: sg1}, delay_ms: 15, "
     "rate_mbit: 1000, loss_percent: 0, mtu: 2000, trust: own}\n"
     "  - {a: {node: se1}, b: {node: sx}, delay_ms: 15, rate_mbit: 1000, loss_percent: 0, mtu: 2000, trust: own}\n"
     "  - {a: {node: se1}, b: {node: sg1}, delay_ms: 0,"),
    ("  sg1: {domain: shop,", '  sx: {domain: shop, role: transit, locator: "5f00:1:3::/48"}\n  sg1: {domain: shop,'),
)  # fmt: skip


def test_hosts_of_one_network_behind_two_edges_keep_reaching_each_other(changed: Callable[..., World]) -> None:
    at_gateway = ("{name: eth0, node: se1, addresses: [10.1.0.12,", "{name: eth0, node: sg1, addresses: [10.1.0.12,")
    world = changed(*TWO_WAYS, at_gateway)

    def between_edges() -> list[tuple[str, ...]]:
        policy = world.controllers["shop"].state.fabric.edge_policies["se1", "sg1"]
        return [path.nodes for path in policy.candidate_paths] if policy is not None else []

    world.delete("shop", "order-processing")
    world.run(3.0)
    assert between_edges() == [("se1", "sg1"), ("se1", "sx", "sg1")]
    entries = {name: dict(node.entries) for name, node in world.nodes.items()}
    world.set_carrier("se1-sg1", False)
    world.run(2.0)
    assert between_edges() == [("se1", "sx", "sg1")]
    world.check_settled()
    assert all(world.nodes[name].entries != entries[name] for name in ("se1", "sg1"))
    world.set_carrier("se1-sx", False)
    world.run(2.0)
    assert between_edges() == []
    world.check_settled()
    for link in ("se1-sx", "se1-sg1"):
        world.set_carrier(link, True)
    world.run(HOLD_S + 2.0)
    assert between_edges() == [("se1", "sg1"), ("se1", "sx", "sg1")]
    world.check_settled()
    assert {name: node.entries for name, node in world.nodes.items()} == entries


def test_an_intent_that_may_degrade_goes_on_too_slowly_and_says_so(changed: Callable[..., World]) -> None:
    world = changed(*TWO_WAYS)
    (agreed,) = world.resources("shop", "agreements")
    world.set_carrier("se1-sg1", False)
    world.run(2.0)
    assert own_paths(world, "shop") == [("se1", "sx", "sg1")]
    assert status(world) == (
        "Degraded",
        "insight/analytics: latency: at most 20 ms is required; the way that is left takes 34 ms "
        "(without a carrier: se1-sg1)",
    )
    world.run(2 * 3600.0)  # it is renewed all the same
    assert status(world)[0] == "Degraded"
    (renewed,) = world.resources("shop", "agreements")
    assert renewed.metadata == agreed.metadata and renewed.spec["revision"] > agreed.spec["revision"]
    world.set_carrier("se1-sg1", True)
    world.run(HOLD_S + 2.0)
    assert status(world) == ("Active", "")
    assert own_paths(world, "shop") == [("se1", "sg1")]
    world.check_settled()


def test_an_intent_that_is_degraded_takes_a_quick_way_as_soon_as_there_is_one(changed: Callable[..., World]) -> None:
    internet = "delay_ms: 40, rate_mbit: 100, loss_percent: 0, mtu: 1500, trust: public"
    rest = "rate_mbit: 100, loss_percent: 0, mtu: 1500, trust: partner"
    ends = "{a: {node: sx, address: 192.0.2.17/30}, b: {node: ig1, address: 192.0.2.18/30}"
    world = changed(*TWO_WAYS, (internet, f"delay_ms: 5, {rest}}}\n  - {ends}, delay_ms: 3, {rest}"))
    world.set_carrier("sx-ig1", False, "sx")
    world.run(1.5)
    world.set_carrier("se1-sg1", False)
    world.run(3.0)
    assert status(world)[0] == "Degraded"
    world.set_carrier("sx-ig1", True, "sx")
    world.run(HOLD_S + 8.0)
    assert status(world) == ("Active", "")
    assert own_paths(world, "shop") == [("se1", "sx")]
    world.check_settled()


def test_an_intent_that_is_to_stop_stops(changed: Callable[..., World]) -> None:
    world = changed(*TWO_WAYS)
    world.apply("shop", ORDER_PROCESSING + "  on_violation: stop\n")
    world.run(2.0)
    world.set_carrier("se1-sg1", False)
    world.run(4.0)
    phase, reason = status(world)
    assert phase == "Unsatisfiable" and "latency of at most 20 ms is required" in reason
    assert world.stitches() == []
    world.set_carrier("se1-sg1", True)
    world.run(HOLD_S + 2.0)
    assert status(world) == ("Active", "")


def test_a_controller_that_was_away_learns_of_cuts_and_repairs(world: World) -> None:
    transit = world.controllers["transit"]
    transit.crash()
    world.set_carrier("t1-tc1", False)
    transit.start()
    world.run(2.0)
    assert own_paths(world, "transit") == [SOUTH]
    transit.crash()
    world.set_carrier("t1-tc1", True)
    transit.start()
    world.run(2.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()
    assert status(world) == ("Active", "")


def test_a_link_that_leaves_the_inventory_is_no_longer_down(world: World) -> None:
    world.set_carrier("t1-tc1", False)
    world.run(1.5)
    answer = world.delete("transit", "t1-tc1", "Link")
    assert answer is not None and answer.results, answer
    assert world.controllers["transit"].state.down == {}
    assert own_paths(world, "transit") == [SOUTH]


def test_a_better_link_is_used_as_soon_as_it_is_known(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING.replace("max: 20", "max: 3"))
    world.run(3.0)
    assert status(world)[0] == "Unsatisfiable"
    quicker = (
        world.inventories["shop"]
        .replace("latency_ms: 4.0", "latency_ms: 2.0")
        .replace("latency_ms: 4", "latency_ms: 2")
    )
    world.apply("shop", quicker)
    world.run(0.5)
    assert status(world)[0] != "Unsatisfiable"


@pytest.mark.parametrize("seed", range(-(-SEEDS // 2)))
def test_whatever_is_cut_meanwhile_all_comes_back_and_nothing_cut_is_said_to_be_active(seed: int) -> None:
    world = World(seed, Faults(loss=0.1, duplication=0.3, delay_s=(0.001, 0.5)))
    world.start()
    world.run(20.0)
    world.apply("shop", ORDER_PROCESSING + "---" + CHEAP)
    world.run(20.0)
    world.crash_chance = 0.01
    links = sorted(link.name for link in world.topology.links)
    without: list[str] = []
    for _ in range(40):
        if without and world.random.random() < 0.7:
            world.set_carrier(without.pop(), True)
        else:
            without.append(world.random.choice([*links, "t1-tc1", "t1-tc2"]))
            world.set_carrier(without[-1], False)
        for _ in range(10):
            world.run(world.random.uniform(0.0, 1.5))
            check_border_opens_only_with_agreement(world)
            for intent in world.resources("shop", "intents"):
                plans = [
                    stitch.plan
                    for stitch in world.controllers["shop"].state.stitches.values()
                    if stitch.plan.owner == f"intents/{intent.metadata['name']}"
                ]
                if intent.status["phase"] == "Active":
                    state = world.controllers["shop"].state
                    assert any(not cut(plan, state.down, state.sr_policies) for plan in plans)
    assert world.crashes
    world.crash_chance = 0.0
    world.faults = Faults()
    for link in links:
        world.set_carrier(link, True)
    world.run(150.0)
    assert [resource.status["phase"] for resource in world.resources("shop", "intents")] == ["Active", "Active"]
    world.check_settled()
    check_agreed(world)
    assert own_paths_of(world, "order-processing") == [NORTH, SOUTH]
    writes = {name: node.writes for name, node in world.nodes.items()}
    world.run(10.0)
    assert {name: node.writes for name, node in world.nodes.items()} == writes


def own_paths_of(world: World, name: str) -> list[tuple[str, ...]]:
    """In transit."""
    state = world.controllers["transit"].state
    (stitch,) = (stitch for stitch in state.stitches.values() if name in stitch.plan.owner)
    return paths_of(world, "transit", stitch)


def phases(world: World, seconds: float) -> list[str]:
    """Of the intent, as they follow each other."""
    seen = [status(world)[0]]
    for _ in range(round(seconds * 20)):
        world.run(0.05)
        if (phase := status(world)[0]) != seen[-1]:
            seen.append(phase)
    return seen


@pytest.mark.parametrize("apart_s", [0.3, 0.9, 2.5])
@pytest.mark.parametrize(
    ("border", "ends"),
    [("sg1-t1", ("sg1", "t1")), ("sg1-t1", ("t1", "sg1")), ("t2-ig1", ("t2", "ig1")), ("t2-ig1", ("ig1", "t2"))],
    ids="-".join,
)
def test_of_two_waits_at_a_mended_border_the_one_that_ends_first_is_enough(
    world: World, border: str, ends: tuple[str, str], apart_s: float
) -> None:
    """Nobody refuses what the other has just begun to offer again."""
    world.set_carrier(border, False)
    world.run(2.0)
    assert status(world)[0] != "Active"
    world.run(70.0)
    world.set_carrier(border, True, ends[0])
    world.run(apart_s)
    world.set_carrier(border, True, ends[1])
    world.wiretap.clear()
    seen = phases(world, 8.0 if border == "sg1-t1" else 70.0)
    assert seen[-1] == "Active"
    assert not [refusal for refusal in said(world, "refusal", receiver="shop") if border == "sg1-t1"]
    world.run(3.0)
    world.check_settled()


@pytest.mark.parametrize("change", [{"delay_us": 17_000}, {"delay_us": 17_000, "cost": 1}])
def test_what_is_in_use_follows_a_delay_that_is_declared_anew_and_comes_back(
    world: World, change: dict[str, int]
) -> None:
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    link = world.controllers["transit"].state.inventory.links["t1-tc1"]
    declare(world, msgspec.structs.replace(link, **change))
    writes = {name: node.writes for name, node in world.nodes.items()}
    world.run(3.0)
    assert own_paths(world, "transit") == [SOUTH, NORTH]
    assert world.phase("shop", "order-processing") == "Active"
    assert {name for name, node in world.nodes.items() if node.writes > writes[name]} <= {"t1", "t2"}
    declare(world, link)
    world.run(3.0)
    assert own_paths(world, "transit") == [NORTH, SOUTH]
    world.check_settled()
    check_agreed(world)


def declare(world: World, link: Link) -> None:
    reply = world.submit("transit", Applied(kind="Link", content=msgspec.json.encode(link)))
    assert reply is not None and reply.results == (f"links/{link.name} changed",)
