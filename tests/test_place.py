"""Placement against a plain oracle."""

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controller.fulfillment.graph import graph, shortest
from controller.fulfillment.place import place
from controller.fulfillment.rulebook import NO_RULES
from controller.fulfillment.translate import translate
from controller.language.manifest import parse
from controller.model.intent import Encryption, Intent, Trust
from controller.model.inventory import Domain, Inventory, Link, LinkEnd, Node, Reach
from controller.model.plan import Plan
from controller.model.requirements import Connection, Host, Requirements, Unsatisfiable
from tests.simulator import ORDER_PROCESSING, World

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
def test_shortest_paths_equal_networkx(links: list[tuple[int, int, int, Trust]], least: Trust) -> None:
    routes = shortest(graph(inventory(links), "own"), "n0", trust_min=least)
    lengths = networkx.single_source_dijkstra_path_length(oracle(links, least), "n0")
    assert {name: route.latency_us for name, route in routes.items()} == lengths


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
    found = place(connection, graph(inventory(links), "own"), name="p", owner="o")
    lengths = networkx.single_source_dijkstra_path_length(oracle(links, least or Trust.PUBLIC), "n0")
    if "n1" in lengths and lengths["n1"] <= limit_us:
        assert isinstance(found, Plan)
        paths = found.sr_policies[0].candidate_paths
        assert found.latency_us == paths[0].latency_us == lengths["n1"]
        assert all(path.latency_us <= limit_us for path in paths)
        if len(paths) == 2:
            inner = [set(path.nodes[1:-1]) for path in paths]
            assert not inner[0] & inner[1] and not set(paths[0].links) & set(paths[1].links)
    else:
        assert isinstance(found, Unsatisfiable)
        assert found.binding == "latency" if "n1" in lengths else found.binding in ("trust", "reachability")


def lab() -> tuple[Inventory, Connection]:
    held: dict[str, dict[str, object]] = {}
    for document in parse(World().inventories["shop"]):
        held.setdefault(f"{document.kind.lower()}s", {})[document.name] = document.value
    known = Inventory(**held)  # type: ignore[arg-type]
    intent = parse(ORDER_PROCESSING)[0].value
    assert isinstance(intent, Intent)
    requirements = translate(intent, NO_RULES, known)
    assert isinstance(requirements, Requirements)
    return known, requirements.connections[0]


def test_direct_way_of_the_lab_is_too_slow_and_not_trusted() -> None:
    known, connection = lab()
    plan = place(connection, graph(known, "shop"), name="p", owner="o")
    assert isinstance(plan, Plan) and plan.egress is not None
    assert (plan.egress.domain, plan.latency_us) == ("transit", 4000)
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
    found = place(connection, graph(known, "shop"), name="p", owner="o", visited=["transit", "insight"])
    assert isinstance(found, Unsatisfiable) and found.binding == "reachability"


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
    found = place(connection, graph(blind, "shop"), name="p", owner="o")
    assert isinstance(found, Unsatisfiable)


def test_domains_to_avoid_are_not_passed() -> None:
    known, connection = lab()
    avoiding = replace(connection, trust_min=None, latency_us_max=None, avoid_domains=("transit",))
    plan = place(avoiding, graph(known, "shop"), name="p", owner="o")
    assert isinstance(plan, Plan) and plan.egress is not None and plan.egress.domain == "insight"
    strict = place(replace(connection, avoid_domains=("transit",)), graph(known, "shop"), name="p", owner="o")
    assert isinstance(strict, Unsatisfiable) and strict.binding == "trust"
