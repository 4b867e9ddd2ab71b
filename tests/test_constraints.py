"""Constraints on paths: the engine against its plain twin, what is said where none holds them, and what becomes of
disjoint paths when links are cut.

NETSTITCH_CONSTRAINTS says how many graphs (600), NETSTITCH_FUZZ_SEED which (else new ones; it is printed).
"""

import os
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from controller.fulfillment import topology as engine
from controller.fulfillment.graph import Graph, graph
from controller.fulfillment.paths import HARD_MAX, STEPS_FEW, sr_policy
from controller.fulfillment.place import place
from controller.fulfillment.topology import Apart, Demand, GaveUp, Topology, TopologyLink
from controller.model.constraints import Constraints
from controller.model.intent import Disjoint, Prefer, Trust
from controller.model.inventory import Domain, Inventory, Link, LinkEnd, Node
from controller.model.plan import Plan
from controller.model.requirements import Connection, Host, Unsatisfiable
from controller.model.sr_policy import SrPolicyId, color_name
from controller.reconcile.link_state import HOLD_S
from tests.packet_walk import Walk, tcp
from tests.plain_paths import difference, generated
from tests.simulator import World
from topologies.topology_file import load

GRAPHS = int(os.environ.get("NETSTITCH_CONSTRAINTS", "600"))
TWO_WAYS = Path(__file__).with_name("several-edges.yaml")


def test_every_mix_of_constraints_is_decided_as_by_trying_all_ways() -> None:
    seed = int(os.environ.get("NETSTITCH_FUZZ_SEED", str(random.randrange(2**32))))
    print(f"NETSTITCH_FUZZ_SEED={seed} NETSTITCH_CONSTRAINTS={GRAPHS}")
    for number in range(GRAPHS):
        case = generated(random.Random(f"{seed} {number}"))
        assert not difference(case), (number, case)


def complete(nodes: int, srlg: tuple[str, ...]) -> Topology:
    """Every node is linked to each other one."""
    chance = random.Random(1)
    links = [
        TopologyLink(f"l{a}-{b}", f"n{a:02}", f"n{b:02}", chance.randint(1, 9), 1, 2, 0.0, srlg)
        for a in range(nodes)
        for b in range(a)
    ]
    return Topology((f"n{index:02}" for index in range(nodes)), links)


def test_what_is_not_found_in_so_many_steps_is_not_called_impossible() -> None:
    """All links are in one duct, so that no two paths are apart; to know that, all ways are to be tried."""
    small, large = complete(9, ("duct",)), complete(12, ("duct",))
    assert small.pair(0, 1, Demand(), Apart.RISKS, small.flags()) is None
    assert large.pair(0, 1, Demand(), Apart.RISKS, large.flags()) == GaveUp(engine.STEPS_MAX)
    hurried = Demand(steps_max=3, waypoints=(5, 4))
    assert large.path(0, 1, hurried, large.flags()) == GaveUp(3)
    assert isinstance(large.pair(0, 1, Demand(), Apart.NODES, large.flags()), tuple)


def test_ways_that_are_hard_to_find_hold_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for a thousand of them, each other than the others, gets the time of some; and nothing is searched
    twice on one graph."""
    known, steps = graph(ducted(12), "own"), []
    search = Topology.pair

    def counted(self: Topology, source: int, target: int, demand: Demand, *rest: object) -> object:
        steps.append(demand.steps_max)
        return search(self, source, target, demand, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Topology, "pair", counted)
    for turn in range(2):
        for limit_us in range(10_000, 10_200):
            color = Constraints(latency_us_max=limit_us, disjoint=Disjoint.SRLG)
            policy = sr_policy(known, SrPolicyId(headend="n0", endpoint="n11", color=color))
            assert policy is not None and len(policy.candidate_paths) == 1
            known.sr_policies.clear()
        assert sum(steps) == HARD_MAX * engine.STEPS_MAX + (200 - HARD_MAX) * STEPS_FEW, turn


def ducted(count: int) -> Inventory:
    """Every node is linked to each other one, all in one duct."""
    nodes = {
        f"n{index}": Node(name=f"n{index}", role="edge", locator=f"5f00:1:{index}::/48", agent="unix:/x")
        for index in range(count)
    }
    links = {
        name: Link(
            name=name,
            a=LinkEnd(node=f"n{a}", port=b + 1),
            b=LinkEnd(node=f"n{b}", port=a + 1),
            delay_us=1000 + a + b,
            rate_bps=10**9,
            loss_percent=0.0,
            mtu=2000,
            srlg=("duct",),
        )
        for a in range(count)
        for b in range(a)
        if (name := f"l{a}-{b}")
    }
    return Inventory(nodes=nodes, links=links, domains={"own": Domain(name="own", sid_block="5f00:1::/32", own=True)})


def test_losses_multiply() -> None:
    """Two links of 1 % lose 1.99 %."""
    links = [TopologyLink("a", "n0", "n1", 1, 1, 2, 1.0), TopologyLink("b", "n1", "n2", 1, 1, 2, 1.0)]
    chain = Topology(("n0", "n1", "n2"), links)
    assert chain.path(0, 2, Demand(loss_ppm_max=19_900), chain.flags()) is not None
    assert chain.path(0, 2, Demand(loss_ppm_max=19_899), chain.flags()) is None


def test_an_edge_that_is_the_gateway_has_no_more_time_than_the_border_leaves() -> None:
    known = square()
    border = Link(
        name="x", a=LinkEnd(node="n0", border="b"), domain="far", delay_us=9000, rate_bps=1, mtu=1500, trust=Trust.OWN
    )
    known = replace(known, links={**known.links, "x": border}, domains={**known.domains, "far": Domain(name="far")})
    far = {"destination_domain": "far", "destinations": ()}
    assert isinstance(placed(known, **far, latency_us_max=9000), Plan)  # type: ignore[arg-type]
    late = placed(known, **far, latency_us_max=8999)  # type: ignore[arg-type]
    assert isinstance(late, Unsatisfiable)
    assert late.message == "latency of at most 8.999 ms is required; the way over x takes 9 ms"


# ---- what is said where no path holds them


def square(**changes: dict[str, object]) -> Inventory:
    """From n0 to n3 by n1 (2 ms, 0.1 % lost) or by n2 (10 ms, nothing lost), in ducts of their own; and n3 to n4."""
    nodes = {f"n{i}": Node(name=f"n{i}", role="edge", locator=f"5f00:1:{i}::/48", agent="unix:/x") for i in range(5)}
    links = {
        name: Link(
            name=name,
            a=LinkEnd(node=near, port=1),
            b=LinkEnd(node=far, port=1),
            delay_us=delay_us,
            rate_bps=10**9,
            loss_percent=loss_percent,
            mtu=2000,
            srlg=srlg,
        )
        for name, near, far, delay_us, loss_percent, srlg in (
            ("a", "n0", "n1", 1000, 0.05, ("north",)),
            ("b", "n1", "n3", 1000, 0.05, ("north",)),
            ("c", "n0", "n2", 5000, 0.0, ("south",)),
            ("d", "n2", "n3", 5000, 0.0, ("south",)),
            ("e", "n3", "n4", 1000, 0.0, ()),
        )
    }
    for name, change in changes.items():
        table: dict[str, Node] | dict[str, Link] = nodes if name in nodes else links
        table[name] = replace(table[name], **change)  # type: ignore[assignment, type-var]
    return Inventory(nodes=nodes, links=links, domains={"own": Domain(name="own", sid_block="5f00:1::/32", own=True)})


def placed(known: Inventory, target: str = "n3", **required: object) -> Plan | Unsatisfiable:
    connection = Connection(
        source_network="own/a",
        destination_network="own/b",
        destination_domain="own",
        flows=(),
        sources=(Host(name="a", node="n0", port=1, addresses=()),),
        destinations=(Host(name="b", node=target, port=1, addresses=()),),
    )
    return place(replace(connection, **required), graph(known, "own"), name="p", owner="o")


def ways(known: Inventory, **required: object) -> list[tuple[str, ...]]:
    plan = placed(known, **required)  # type: ignore[arg-type]
    assert isinstance(plan, Plan), plan
    policy = sr_policy(graph(known, "own"), plan.sr_policies[0])
    return [path.links for path in policy.candidate_paths] if policy is not None else []


@pytest.mark.parametrize(
    ("required", "found"),
    [
        ({}, [("a", "b"), ("c", "d")]),
        ({"loss_ppm_max": 1000}, [("a", "b"), ("c", "d")]),
        ({"loss_ppm_max": 500}, [("c", "d")]),
        ({"loss_ppm_max": 0}, [("c", "d")]),
        ({"avoid_labels": (("country", "xx"),)}, [("c", "d")]),
        ({"avoid_nodes": ("n1",)}, [("c", "d")]),
        ({"include_nodes": ("n2",)}, [("c", "d")]),
        ({"include_nodes": ("n1", "n3")}, [("a", "b")]),
        ({"include_nodes": ("n2", "n1"), "prefer": Prefer()}, [("c", "c", "a", "b")]),
        ({"disjoint": Disjoint.LINK}, [("a", "b"), ("c", "d")]),
        ({"disjoint": Disjoint.NODE, "latency_us_max": 10_000}, [("a", "b"), ("c", "d")]),
        ({"disjoint": Disjoint.SRLG}, [("a", "b"), ("c", "d")]),
    ],
    ids=str,
)
def test_paths_hold_what_is_required(required: dict[str, object], found: list[tuple[str, ...]]) -> None:
    assert ways(square(n1={"labels": (("country", "xx"),)}), **required) == found


XX = {"labels": (("country", "xx"),)}
AVOID: dict[str, object] = {"avoid_labels": (("country", "xx"),)}
UNTRUSTED = {"b": {"trust": Trust.PARTNER}, "c": {"trust": Trust.PUBLIC}}
APART = "paths from n0 to n3 that share no"


@pytest.mark.parametrize(
    ("changes", "target", "required", "binding", "said"),
    [
        ({}, "n3", {"latency_us_max": 1_999}, "latency", "1.999 ms is required; the way takes 2 ms"),
        ({}, "n3", {"latency_us_max": 9_999, "loss_ppm_max": 500}, "latency", "9.999 ms is required; the way takes 10"),
        ({"c": {"loss_percent": 0.2}}, "n3", {"loss_ppm_max": 500}, "loss", "0.05 % is required; the way loses 0.1 %"),
        ({"c": XX}, "n3", {"loss_ppm_max": 0, **AVOID}, "loss", "at most 0 % is required; the way loses 0.1 %"),
        ({"n3": XX}, "n3", AVOID, "avoid", "avoided (country=xx): the quickest one passes n3"),
        ({}, "n3", {"avoid_nodes": ("n1", "n2")}, "avoid", "avoided (n1 n2): the quickest one passes n1"),
        ({}, "n0", {"avoid_nodes": ("n0",)}, "avoid", "avoided (n0): the quickest one passes n0"),
        ({}, "n3", {"include_nodes": ("n1",), "avoid_nodes": ("n1",)}, "include", "no way from n0 to n3 passes n1"),
        ({}, "n0", {"include_nodes": ("n1",)}, "include", "no way from n0 to n0 passes n1"),
        ({}, "n3", {"include_nodes": ("n2",), "loss_ppm_max": 0, "latency_us_max": 9999}, "latency", "takes 10 ms"),
        ({}, "n4", {"disjoint": Disjoint.NODE}, "disjoint", "share no node are required; every way passes node n3"),
        ({}, "n4", {"disjoint": Disjoint.LINK}, "disjoint", "share no link are required; every way passes link e"),
        (
            {"d": {"srlg": ("north",)}},
            "n3",
            {"disjoint": Disjoint.SRLG},
            "disjoint",
            f"{APART} risk are required; there are two",
        ),
        (
            {},
            "n3",
            {"disjoint": Disjoint.NODE, "latency_us_max": 9_000},
            "disjoint",
            "one takes 10 ms, and at most 9 ms is left",
        ),
        (
            {"c": {"srlg": ("north",)}},
            "n3",
            {"disjoint": Disjoint.SRLG},
            "disjoint",
            "there are two that share no link",
        ),
        (
            {"d": {"trust": Trust.PUBLIC}},
            "n1",
            {"disjoint": Disjoint.NODE, "trust_min": Trust.OWN},
            "disjoint",
            "passes link a",
        ),
        (UNTRUSTED, "n3", {"trust_min": Trust.OWN}, "trust", "there is one of links with trust partner"),
    ],
)
def test_the_binding_requirement_and_the_nearest_miss_are_named(
    changes: dict[str, dict[str, object]], target: str, required: dict[str, object], binding: str, said: str
) -> None:
    refused = placed(square(**changes), target, **required)
    assert isinstance(refused, Unsatisfiable) and refused.binding == binding and not refused.undecided
    assert said in refused.message


def test_a_search_that_gives_up_says_so() -> None:
    ends = [(f"n{a}", f"n{b}") for a in range(12) for b in range(a)]
    known = square()
    nodes = {f"n{i}": replace(known.nodes["n0"], name=f"n{i}", locator=f"5f00:1:{i}::/48") for i in range(12)}
    link = replace(known.links["a"], srlg=("duct",))
    links = {
        f"{a}{b}": replace(link, name=f"{a}{b}", a=LinkEnd(node=a, port=1), b=LinkEnd(node=b, port=1)) for a, b in ends
    }
    refused = placed(replace(known, nodes=nodes, links=links), disjoint=Disjoint.SRLG)
    assert isinstance(refused, Unsatisfiable) and refused.undecided and "there may be one" in refused.message


def test_constraints_are_what_sr_policies_are_kept_by() -> None:
    known: Graph = graph(square(), "own")
    asked = [
        Constraints(),
        Constraints(disjoint=Disjoint.LINK),
        Constraints(loss_ppm_max=0),
        Constraints(loss_ppm_max=0),
    ]
    policies = [sr_policy(known, SrPolicyId(headend="n0", endpoint="n3", color=color)) for color in asked]
    assert policies[2] is policies[3] and len(known.sr_policies) == 3
    assert color_name(Constraints()) == color_name(Constraints(prefer=Prefer())), "equal ones have one name"


def test_what_is_passed_in_order_is_passed_in_the_other_order_on_the_way_back() -> None:
    known: Graph = graph(square(), "own")
    ends = [("n0", "n3", ("n2", "n1")), ("n3", "n0", ("n1", "n2")), ("n3", "n0", ("n2", "n1"))]
    there, back, other = [
        sr_policy(known, SrPolicyId(headend=near, endpoint=far, color=Constraints(include_nodes=nodes)))
        for near, far, nodes in ends
    ]
    assert there is back and there is not None and other is not None
    assert there.nodes_from("n3") == ("n3", "n1", "n0", "n2", "n0")
    assert [name for name in other.nodes_from("n3") if name in ("n1", "n2")] == ["n2", "n1"]


# ---- links that are cut

FILES = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: campus/office/files}
spec: {addresses: [10.1.0.31], ports: [tcp/443], tenants: ["*"]}
---
apiVersion: netstitch/v1
kind: Intent
metadata: {name: files, tenant: office}
spec:
  allow: [{from: {network: campus/office, prefixes: [10.1.0.11/32]}, to: campus/office/files}]
  require: {disjoint: node}
  on_violation: REACTION
"""


def started(reaction: str, require: str = "{disjoint: node}") -> World:
    world = World(topology=load(TWO_WAYS))
    world.start()
    world.apply("campus", FILES.replace("REACTION", reaction).replace("{disjoint: node}", require))
    world.run(2.0)
    return world


def two_ways(reaction: str) -> World:
    world = started(reaction)
    assert standing(world) == ("Active", "") and used(world) == [("e1", "t1", "e3"), ("e1", "t2", "e3")]
    return world


def standing(world: World) -> tuple[str, str]:
    status = world.get("campus", "intents", "files").status
    return status["phase"], "; ".join(condition["reason"] for condition in status["conditions"])


def used(world: World) -> list[tuple[str, ...]]:
    state = world.controllers["campus"].state
    (stitch,) = state.stitches.values()
    return [path.nodes for id in stitch.plan.sr_policies for path in state.sr_policies[id.name].candidate_paths]


@pytest.mark.parametrize(("cut", "left"), [("e1-t1", "t2"), ("e3-t2", "t1")], ids=["the first", "the second"])
def test_without_its_second_path_it_is_degraded_and_goes_on(cut: str, left: str) -> None:
    world = two_ways("degrade")
    world.set_carrier(cut, False)
    world.run(1.5)
    assert used(world) == [("e1", left, "e3")]
    phase, reason = standing(world)
    assert phase == "Degraded"
    assert (
        f"disjoint: two paths are required that share no node; there is one from e1 to e3 (without a carrier: {cut})"
        in reason
    )
    world.check_settled()
    world.set_carrier(cut, True)
    world.run(HOLD_S + 3.0)
    assert standing(world) == ("Active", "") and used(world) == [("e1", "t1", "e3"), ("e1", "t2", "e3")]
    world.check_settled()


def test_what_is_to_stop_without_a_second_path_stops() -> None:
    world = two_ways("stop")
    world.set_carrier("e1-t1", False)
    world.run(1.5)
    phase, reason = standing(world)
    assert phase == "Unsatisfiable" and "two paths from e1 to e3 that share no node are required" in reason
    assert not world.controllers["campus"].state.stitches
    world.set_carrier("e1-t1", True)
    world.run(HOLD_S + 3.0)
    assert standing(world) == ("Active", "")


@pytest.mark.parametrize(
    ("require", "path"),
    [
        ("{avoid: {nodes: [t1]}}", ("e1", "t2", "e3")),
        ("{include: {nodes: [t2]}}", ("e1", "t2", "e3")),
        ("{include: {nodes: [e2]}}", ("e1", "t1", "e2", "t1", "e3")),
        ("{include: {nodes: [t2, t1]}, disjoint: link}", None),
        ("{include: {nodes: [t3]}}", None),
        ("{avoid: {nodes: [e3]}}", None),
    ],
)
def test_packets_take_the_nodes_that_are_to_be_passed(require: str, path: tuple[str, ...] | None) -> None:
    world = started("degrade", require)
    if path is None:
        assert standing(world)[0] == "Unsatisfiable"
        return
    assert standing(world) == ("Active", "") and used(world)[0] == path
    walk = Walk(world)
    there = walk.send("a1", tcp("10.1.0.11", "10.1.0.31", 443))
    assert (there.delivered, there.path) == ("c1", path)
    back = walk.send("c1", tcp("10.1.0.31", "10.1.0.11", 40000, flags="SA", source_port=443))
    assert (back.delivered, back.path) == ("a1", path[::-1])
    world.check_settled()
