"""Placement against a plain oracle."""

import itertools
import random
from collections.abc import Iterator

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controller.fulfillment import paths
from controller.fulfillment.graph import graph
from controller.fulfillment.paths import best, order, sr_policy
from controller.fulfillment.place import place
from controller.fulfillment.plan_paths import cost, latency_us
from controller.fulfillment.rule_engine import NO_RULES
from controller.fulfillment.translate import translate
from controller.language.manifest import parse
from controller.model.constraints import Constraints
from controller.model.intent import Encryption, Intent, Level, Prefer, Trust
from controller.model.inventory import Domain, Inventory, Link, LinkEnd, Node, Reach
from controller.model.plan import Plan
from controller.model.requirements import Connection, Host, Requirements, Unsatisfiable
from controller.model.sr_policy import SrPolicyId
from tests.simulator import ORDER_PROCESSING, World

CHEAP = Prefer(cost=Level.LOW)
QUICK = Prefer(latency=Level.LOW)
LINKS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 5000), st.sampled_from(Trust)), max_size=24
)


def inventory(links: list[tuple[int, int, int, Trust]]) -> Inventory:
    nodes = {f"n{i}": Node(name=f"n{i}", role="transit", locator=f"5f00:1:{i}::/48", agent="unix:/x") for i in range(8)}
    made = {}
    for index, (a, b, delay_us, trust) in enumerate(links):
        if a != b:
            made[f"l{index}"] = Link(
                name=f"l{index}",
                a=LinkEnd(node=f"n{a}", port=index + 1),
                b=LinkEnd(node=f"n{b}", port=index + 1),
                delay_us=delay_us,
                rate_bps=1,
                loss_percent=0,
                mtu=2000,
                trust=trust,
            )
    return Inventory(nodes=nodes, links=made, domains={"own": Domain(name="own", sid_block="5f00:1::/32", own=True)})


def oracle(links: list[tuple[int, int, int, Trust]], least: Trust) -> networkx.MultiGraph:
    known = networkx.MultiGraph()
    known.add_nodes_from(f"n{i}" for i in range(8))
    known.add_weighted_edges_from((f"n{a}", f"n{b}", us) for a, b, us, trust in links if a != b and trust >= least)
    return known


@given(LINKS, st.sampled_from(Trust))
@settings(max_examples=200, deadline=None)
def test_quickest_paths_equal_networkx(links: list[tuple[int, int, int, Trust]], least: Trust) -> None:
    there = graph(inventory(links), "own")
    lengths = networkx.single_source_dijkstra_path_length(oracle(links, least), "n0")
    routes = {name: best(there, "n0", name, Constraints(trust_min=least)) for name in there.topology.nodes}
    assert {name: route.latency_us for name, route in routes.items() if route is not None} == lengths


Costly = list[tuple[int, int, int, int]]
"""(a, b, delay in us, cost)."""


def ring(chance: random.Random) -> Costly:
    """Six nodes in a ring, with chords: many ways, of which few are best in anything."""
    ends = [*((node, (node + 1) % 6) for node in range(6)), *(chance.sample(range(6), 2) for _ in range(5))]
    return [(a, b, chance.randrange(10), chance.randrange(10)) for a, b in ends]


COSTLY = st.integers(0, 2**32 - 1).map(lambda seed: ring(random.Random(seed)))


def costly(links: Costly) -> Inventory:
    known = inventory([(a, b, delay_us, Trust.OWN) for a, b, delay_us, _ in links])
    costs = {f"l{index}": cost for index, (_, _, _, cost) in enumerate(links)}
    return replace(known, links={name: replace(link, cost=costs[name]) for name, link in known.links.items()})


def all_paths(links: Costly, source: int, target: int) -> Iterator[tuple[int, int, int]]:
    """(latency, cost, hops) of every way that passes no node twice."""

    def extend(node: int, passed: frozenset[int], latency_us: int, cost: int) -> Iterator[tuple[int, int, int]]:
        if node == target:
            yield latency_us, cost, len(passed) - 1
            return
        for a, b, delay_us, price in links:
            for near, far in ((a, b), (b, a)):
                if near == node and far not in passed:
                    yield from extend(far, passed | {far}, latency_us + delay_us, cost + price)

    yield from extend(source, frozenset([source]), 0, 0)


def asked(endpoint: str, prefer: Prefer = QUICK, limit_us: int | None = None) -> SrPolicyId:
    """From n0."""
    color = Constraints(prefer=prefer, latency_us_max=limit_us)
    return SrPolicyId(headend="n0", endpoint=endpoint, color=color)


@pytest.mark.parametrize("prefer", [CHEAP, QUICK, Prefer()], ids=["cost", "latency", "nothing"])
@given(COSTLY)
@settings(max_examples=150, deadline=None)
def test_best_path_is_the_best_of_all_that_hold_the_bounds(prefer: Prefer, links: Costly) -> None:
    known = costly(links)
    there = graph(known, "own")
    paths = tuple(all_paths(links, 0, 3))
    for limit_us, hops in itertools.product((None, 5, 8, 12, 16, 20), (2, 3, 4, 5)):
        route = best(there, "n0", "n3", Constraints(prefer=prefer, latency_us_max=limit_us), hops_max=hops)
        holding = [
            order(prefer, latency_us, cost)
            for latency_us, cost, length in paths
            if length <= hops and (limit_us is None or latency_us <= limit_us)
        ]
        if not holding:
            assert route is None
            continue
        assert route is not None and len(route.links) <= hops
        assert order(prefer, route.latency_us, route.cost) == min(holding)
        assert route.latency_us == sum(known.links[name].delay_us for name in route.links)
        assert route.cost == sum(known.links[name].cost for name in route.links)


def test_a_path_that_no_segment_list_can_hold_gives_way_to_a_shorter_one() -> None:
    """A chain of 24 free and quick links beside one that is dear and slow."""
    nodes = {f"n{i}": Node(name=f"n{i}", role="transit", locator=f"5f00:1:{i}::/48", agent="x") for i in range(25)}
    ends = [*((i, i + 1, 1, 0) for i in range(24)), (0, 24, 100, 50)]
    known = replace(costly(ends), nodes=nodes)
    for prefer in (CHEAP, Prefer()):
        policy = sr_policy(graph(known, "own"), asked("n24", prefer))
        assert policy is not None and [path.links for path in policy.candidate_paths] == [("l24",)]
    assert sr_policy(graph(known, "own"), asked("n24", limit_us=99)) is None


def test_all_that_ask_for_the_same_share_an_sr_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "KNOWN_MAX", 2)
    quick_and_dear, slow_and_cheap = [(0, 1, 1, 9), (1, 2, 1, 9)], [(0, 3, 5, 0), (3, 2, 5, 0)]
    known = graph(costly([*quick_and_dear, *slow_and_cheap]), "own")
    quickest, cheapest = sr_policy(known, asked("n2")), sr_policy(known, asked("n2", CHEAP))
    assert quickest is not None and sr_policy(known, asked("n2")) is quickest
    assert cheapest is not None and cheapest.candidate_paths[0].nodes == ("n0", "n3", "n2")
    for limit_us in range(20):  # whatever bounds are asked for, few are kept
        policy = sr_policy(known, asked("n2", limit_us=limit_us))
        assert policy is None if limit_us < 2 else policy is not None and policy.latency_us == 2
        assert len(known.sr_policies) <= 2


@given(COSTLY, st.none() | st.integers(0, 30), st.sampled_from([CHEAP, Prefer()]))
@settings(max_examples=200, deadline=None)
def test_candidate_paths_hold_the_bound_and_share_nothing(links: Costly, limit_us: int | None, prefer: Prefer) -> None:
    policy = sr_policy(graph(costly(links), "own"), asked("n3", prefer, limit_us))
    if policy is None:
        return
    paths = policy.candidate_paths
    assert all(limit_us is None or path.latency_us <= limit_us for path in paths)
    for first, second in itertools.combinations(paths, 2):
        assert not set(first.links) & set(second.links)
        assert not set(first.nodes[1:-1]) & set(second.nodes[1:-1])


@given(LINKS, st.integers(0, 8000), st.sampled_from([None, *Trust]))
@settings(max_examples=200, deadline=None)
def test_plan_exists_exactly_if_a_path_holds_all(
    links: list[tuple[int, int, int, Trust]], limit_us: int, least: Trust | None
) -> None:
    connection = Connection(
        source_network="own/a",
        destination_network="own/b",
        destination_domain="own",
        flows=(),
        sources=(Host(name="a", node="n0", port=1, addresses=()),),
        destinations=(Host(name="b", node="n1", port=1, addresses=()),),
        latency_us_max=limit_us,
        trust_min=least,
    )
    placed = place(connection, graph(inventory(links), "own"), name="p", owner="o")
    lengths = networkx.single_source_dijkstra_path_length(oracle(links, least or Trust.PUBLIC), "n0")
    if "n1" in lengths and lengths["n1"] <= limit_us:
        assert isinstance(placed, Plan)
        policy = sr_policy(graph(inventory(links), "own"), placed.sr_policies[0])
        assert policy is not None
        paths = policy.candidate_paths
        assert paths[0].latency_us == lengths["n1"]
        assert all(path.latency_us <= limit_us for path in paths)
        if len(paths) == 2:
            inner = [set(path.nodes[1:-1]) for path in paths]
            assert not inner[0] & inner[1] and not set(paths[0].links) & set(paths[1].links)
    else:
        assert isinstance(placed, Unsatisfiable)
        assert placed.binding == "latency" if "n1" in lengths else placed.binding in ("trust", "reachability")


def lab() -> tuple[Inventory, Connection]:
    tables: dict[str, dict[str, object]] = {}
    for document in parse(World().inventories["shop"]):
        tables.setdefault(f"{document.kind.lower()}s", {})[document.name] = document.value
    known = Inventory(**tables)  # type: ignore[arg-type]
    intent = parse(ORDER_PROCESSING)[0].value
    assert isinstance(intent, Intent)
    requirements = translate(intent, NO_RULES, known)
    assert isinstance(requirements, Requirements)
    return known, requirements.connections[0]


def test_direct_way_of_the_lab_is_too_slow_and_not_trusted() -> None:
    known, connection = lab()
    plan = place(connection, graph(known, "shop"), name="p", owner="o")
    assert isinstance(plan, Plan) and plan.egress is not None
    assert plan.egress.domain == "transit"
    direct = place(connection, graph(known, "shop"), name="p", owner="o", excluded=["sg1-t1"])
    assert isinstance(direct, Unsatisfiable) and direct.binding == "trust"
    anything = replace(connection, trust_min=None)
    slow = place(anything, graph(known, "shop"), name="p", owner="o", excluded=["sg1-t1"])
    assert isinstance(slow, Unsatisfiable) and slow.binding == "latency" and "40 ms" in slow.message
    modest = replace(connection, trust_min=None, latency_us_max=None)
    over = place(modest, graph(known, "shop"), name="p", owner="o", excluded=["sg1-t1"])
    assert isinstance(over, Plan) and over.egress is not None and over.egress.domain == "insight"


def test_domains_that_the_traffic_has_passed_are_not_entered_again() -> None:
    known, connection = lab()
    placed = place(connection, graph(known, "shop"), name="p", owner="o", visited=["transit", "insight"])
    assert isinstance(placed, Unsatisfiable) and placed.binding == "reachability"


@pytest.mark.parametrize("trust", [Trust.PUBLIC, Trust.PARTNER])
def test_encryption_keeps_out_of_links_that_are_not_our_own(trust: Trust) -> None:
    known = inventory([(0, 1, 5, trust)])
    connection = Connection(
        source_network="own/a",
        destination_network="own/b",
        destination_domain="own",
        flows=(),
        sources=(Host(name="a", node="n0", port=1, addresses=()),),
        destinations=(Host(name="b", node="n1", port=1, addresses=()),),
        encryption=Encryption.WIREGUARD,
    )
    assert isinstance(place(connection, graph(known, "own"), name="p", owner="o"), Unsatisfiable)


def test_reach_that_is_not_told_is_not_used() -> None:
    known, connection = lab()
    transit = replace(known.domains["transit"], reach=(Reach(domain="moon", latency_us=1, trust=Trust.OWN),))
    blind = replace(known, domains={**known.domains, "transit": transit})
    placed = place(connection, graph(blind, "shop"), name="p", owner="o")
    assert isinstance(placed, Unsatisfiable)


def test_domains_to_avoid_are_not_passed() -> None:
    known, connection = lab()
    avoiding = replace(connection, trust_min=None, latency_us_max=None, avoid_domains=("transit",))
    plan = place(avoiding, graph(known, "shop"), name="p", owner="o")
    assert isinstance(plan, Plan) and plan.egress is not None and plan.egress.domain == "insight"
    strict = place(replace(connection, avoid_domains=("transit",)), graph(known, "shop"), name="p", owner="o")
    assert isinstance(strict, Unsatisfiable) and strict.binding == "trust"


def preferring(prefer: Prefer, **changes: object) -> tuple[str, int, int]:
    """Which domain the lab's intent goes to first, how long it takes, and what it costs."""
    known, connection = lab()
    anything = replace(connection, trust_min=None, latency_us_max=None, prefer=prefer)
    plan = place(replace(anything, **changes), graph(known, "shop"), name="p", owner="o")
    assert isinstance(plan, Plan) and plan.egress is not None
    there = graph(known, "shop")
    policies = {id.name: policy for id in plan.sr_policies if (policy := sr_policy(there, id)) is not None}
    return plan.egress.domain, latency_us(plan, policies), cost(plan, policies)


@pytest.mark.parametrize("prefer", [Prefer(), QUICK], ids=["nothing", "latency"])
def test_the_carrier_is_quick_and_dear(prefer: Prefer) -> None:
    assert preferring(prefer) == ("transit", 4000, 50)


@pytest.mark.parametrize("prefer", [CHEAP, Prefer(cost=Level.LOW, latency=Level.LOW)], ids=["cost", "both"])
def test_the_internet_is_preferred_where_cost_is_and_nothing_forbids_it(prefer: Prefer) -> None:
    assert preferring(prefer) == ("insight", 40_000, 15)
    assert preferring(prefer, latency_us_max=40_000) == ("insight", 40_000, 15)
    assert preferring(prefer, latency_us_max=39_999) == ("transit", 4000, 50)
    assert preferring(prefer, trust_min=Trust.PARTNER) == ("transit", 4000, 50)
    assert preferring(prefer, avoid_domains=("transit",)) == ("insight", 40_000, 15)
