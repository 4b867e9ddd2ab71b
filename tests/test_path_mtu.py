"""What fits through a way, and what is said where IPv6 does not (RFC 8200 §5); simulated."""

import json
from pathlib import Path

import pytest

from dataplane.reasons import DropReason
from tests.packet_walk import Walk, tcp
from tests.simulator import ORDER_PROCESSING, World
from topologies.topology_file import load

CX1, AY1 = "10.1.0.11", "10.2.0.10"
CX1_6, AY1_6 = "2001:db8:1::11", "2001:db8:2::10"
ONLY_IPV6 = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: insight/analytics/analytics-y}
spec: {addresses: ["2001:db8:2::10"], ports: [tcp/443, icmp]}
"""


def set_mtu(world: World, domain: str, link: str, mtu: int) -> None:
    spec = world.get(domain, "links", link).spec | {"mtu": mtu}
    manifest = {"apiVersion": "netstitch/v1", "kind": "Link", "metadata": {"name": link}, "spec": spec}
    reply = world.apply(domain, json.dumps(manifest))
    assert reply is not None and not reply.problems and not reply.conflict, reply


def sizes(world: World) -> set[int]:
    entries = (entry for node in world.nodes.values() for entry in node.entries.values())
    return {dict(entry.params)["inner_mtu"] for entry in entries if entry.action == "encapsulate"}


def agreements(world: World) -> set[str]:
    stitches = world.controllers["shop"].state.stitches.values()
    return {stitch.downstream.terms.id for stitch in stitches if stitch.downstream is not None}


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.get("shop", "intents", "order-processing").status["phase"] == "Active"
    return world


def families(world: World) -> list[str]:
    return [endpoint["family"] for endpoint in world.get("shop", "intents", "order-processing").status["endpoints"]]


def test_a_far_domain_whose_links_become_too_small_for_ipv6_is_said_so_at_once(world: World) -> None:
    """A change under an agreement: all learn the new size, and it goes on under the same one."""
    before = agreements(world)
    set_mtu(world, "insight", "ig1-ie1", 1300)
    world.run(2.0)
    assert agreements(world) == before
    assert sizes(world) == {1260}  # 1300 - IPv6 40
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Degraded"
    (condition,) = status["conditions"]
    assert "IPv6 is not carried: the links take packets of 1260 octets" in condition["reason"]
    assert families(world) == ["ipv4"]
    assert Walk(world).send("cx1", tcp(CX1, AY1, 443) / bytes(1260 - 40)).delivered == "ay1"
    outcome = Walk(world).send("cx1", tcp(CX1_6, AY1_6, 443))
    assert (outcome.node, outcome.reason) == ("se1", DropReason.NO_IPV6)


def test_an_intent_for_ipv6_alone_is_unsatisfiable_then(world: World) -> None:
    set_mtu(world, "insight", "ig1-ie1", 1300)
    for domain in ("insight", "shop"):
        world.apply(domain, ONLY_IPV6)
    world.run(5.0)
    status = world.get("shop", "intents", "order-processing").status
    assert (status["phase"], status["endpoints"]) == ("Unsatisfiable", [])


def test_an_origin_whose_own_links_become_small_says_so_to_the_far_end(world: World) -> None:
    """Replies come in the right size without waiting for the lease's half-time."""
    set_mtu(world, "shop", "se1-sg1", 1400)
    world.run(5.0)
    assert sizes(world) == {1360}
    assert world.get("shop", "intents", "order-processing").status["phase"] == "Active"
    assert families(world) == ["ipv4", "ipv6"]


def test_a_transit_whose_links_become_small_says_so_in_both_directions(world: World) -> None:
    for name, link in world.controllers["transit"].state.inventory.links.items():
        if link.b is not None:
            set_mtu(world, "transit", name, 1420)
    world.run(3.0)
    assert len(sizes(world)) == 1 and sizes(world) < set(range(1280, 1400))
    assert world.get("shop", "intents", "order-processing").status["phase"] == "Active"


@pytest.mark.parametrize("mtu", [1341, 1372, 1403])
def test_a_small_border_has_room_for_ipv6(mtu: int) -> None:
    """The tunnel's own packets are fragmented on the underlay, so the border is as large as IPv6 needs."""
    world = World()
    world.start()
    set_mtu(world, "transit", "t2-ig1", mtu)
    set_mtu(world, "insight", "t2-ig1", mtu)
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert sizes(world) == {1304}
    assert world.get("shop", "intents", "order-processing").status["phase"] == "Active"
    assert Walk(world).send("cx1", tcp(CX1_6, AY1_6, 443) / bytes(1304 - 60)).delivered == "ay1"


def test_a_network_whose_edges_are_too_far_apart_for_ipv6_says_so() -> None:
    world = World(topology=load(Path(__file__).with_name("several-edges.yaml")))
    world.start()
    for transit in ("t1", "t2"):
        set_mtu(world, "campus", f"e3-{transit}", 1310)
    world.run(2.0)
    status = world.get("campus", "networks", "campus/office").status
    reasons = {condition["type"]: condition["reason"] for condition in status["conditions"]}
    assert (status["phase"], set(reasons)) == ("Active", {"NoIPv6"})
    assert Walk(world).send("a1", tcp("10.1.0.11", "10.1.0.31", 22)).delivered == "c1"
    outcome = Walk(world).send("a1", tcp("2001:db8:1::11", "2001:db8:1::31", 22))
    assert (outcome.node, outcome.reason) == ("e1", DropReason.NO_IPV6)
    assert Walk(world).send("a1", tcp("2001:db8:1::11", "2001:db8:1::21", 22)).delivered == "b1"
