"""One network behind several edges, simulated: who reaches whom, and what holds while hosts and links come and go."""

import itertools
import json
from pathlib import Path

import msgspec
import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from controller.fulfillment.fabric import fabric
from controller.model.inventory import Inventory
from controller.model.trace import Probe, Trace
from controller.views import explain, tracing
from dataplane.host_api import NodeDescription, PortRole
from dataplane.reasons import DropReason
from tests.packet_walk import Walk, echo, tcp
from tests.simulator import World
from topologies.topology_file import load

TOPOLOGY = load(Path(__file__).with_name("several-edges.yaml"))
A1, A2, B1, C1 = "10.1.0.11", "10.1.0.12", "10.1.0.21", "10.1.0.31"
A1_6, B1_6, C1_6 = "2001:db8:1::11", "2001:db8:1::21", "2001:db8:1::31"
PAYROLL = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: payroll, tenant: campus}
spec: {isolate: {network: campus/office, select: {app: payroll}}}
"""


@pytest.fixture
def world() -> World:
    world = World(topology=TOPOLOGY)
    for edge, port in itertools.product(("e1", "e2", "e3"), (9, *range(20, 101))):
        world.nodes[edge].add_port(port, PortRole.ATTACHMENT)
    world.start()
    world.check_settled()
    return world


@pytest.mark.parametrize(
    ("host", "packet", "reaches", "path"),
    [
        ("a1", echo(A1, B1), "b1", ("e1", "t1", "e2")),
        ("b1", echo(B1, A1, reply=True), "a1", ("e2", "t1", "e1")),
        ("a1", tcp(A1_6, C1_6, 22), "c1", ("e1", "t1", "e3")),
        ("c1", tcp(C1_6, B1_6, 22), "b1", ("e3", "t1", "e2")),
        ("a1", tcp(A1, A2, 22), "a2", ("e1",)),
        ("x1", echo(A1, B1), "x2", ("e1", "t1", "e2")),
        ("x2", echo(B1_6, A1_6), "x1", ("e2", "t1", "e1")),
    ],
)
def test_hosts_of_a_network_reach_each_other(
    world: World, host: str, packet: Packet, reaches: str, path: tuple[str, ...]
) -> None:
    outcome = Walk(world).send(host, packet)
    assert (outcome.delivered, outcome.path) == (reaches, path), outcome.reason


def test_hosts_of_another_network_stay_out_of_reach(world: World) -> None:
    outcome = Walk(world).send("x1", echo(A1, C1))
    assert (outcome.node, outcome.reason) == ("e1", DropReason.NOT_PERMITTED)


def test_second_candidate_path_is_apart_from_the_first(world: World) -> None:
    groups = [entry for entry in world.nodes["e1"].entries.values() if entry.table == "path_liveness"]
    assert [group.params for group in groups] == [(("live", 3),)] * 2  # to e2, of both networks, and to e3
    for node in world.nodes.values():
        for key, entry in node.entries.items():
            if entry.table == "path_liveness":
                node.entries[key] = entry.replaced(params=(("live", 2),))
    assert Walk(world).send("a1", echo(A1, B1)).path == ("e1", "t2", "e2")
    assert Walk(world).send("c1", echo(C1, A1)).path == ("e3", "t2", "e1")


@pytest.mark.parametrize(("source", "to"), [(A1, B1), (A1_6, B1_6)])
def test_traceroute_shows_both_edges_of_a_network(world: World, source: str, to: str) -> None:
    packet, field = echo(source, to), "hlim" if ":" in to else "ttl"
    gateways = next(network.gateways for network in world.topology.networks if network.name == "campus/office")
    for hop_limit, node in ((1, "e1"), (2, "e2")):
        packet[0].setfieldval(field, hop_limit)
        outcome = Walk(world).send("a1", packet)
        assert (outcome.node, outcome.reason, outcome.told_at) == (node, DropReason.HOP_LIMIT, "a1")
        told = Ether(outcome.told)[1]
        assert told.src in gateways and told.dst == source
    packet[0].setfieldval(field, 3)
    assert Walk(world).send("a1", packet).delivered == "b1"


def test_largest_inner_packet_fits_the_links(world: World) -> None:
    # 2000 - IPv6 40: one container
    assert Walk(world).send("a1", tcp(A1, B1, 22) / bytes(1960 - 40)).delivered == "b1"
    assert Walk(world).send("a1", tcp(A1, B1, 22) / bytes(1961 - 40)).reason == DropReason.TOO_BIG


@pytest.mark.parametrize(
    ("host", "target", "answered"),
    [
        ("a1", B1, True),
        ("a1", C1_6, True),
        ("b1", A2, True),
        ("a1", A1, False),
        ("a1", "10.1.0.99", False),
        ("x1", B1_6, True),
        ("x1", C1, False),
        ("x1", A2, False),
    ],
)
def test_an_edge_answers_for_hosts_behind_other_edges(world: World, host: str, target: str, answered: bool) -> None:
    walk = Walk(world)
    node, port = walk.place(host)
    assert walk.ask(host, target) == (walk.pipelines[node].ports[port].mac.hex(":") if answered else None)


def test_isolation_holds_between_edges_and_spares_those_isolated_together(world: World) -> None:
    world.apply("campus", PAYROLL)
    world.run(2.0)
    world.check_settled()
    walk = Walk(world)
    assert walk.send("a2", echo(A2, C1)).delivered == "c1"
    assert walk.send("c1", echo(C1, A2)).delivered == "a2"
    for host, packet, node in (("b1", echo(B1, C1), "e2"), ("c1", echo(C1, A1), "e3"), ("a1", echo(A1, A2), "e1")):
        outcome = walk.send(host, packet)
        assert (outcome.node, outcome.reason) == (node, DropReason.ISOLATED)
    world.delete("campus", "payroll")
    world.run(2.0)
    assert Walk(world).send("b1", echo(B1, C1)).delivered == "c1"


def test_the_far_edge_judges_too(world: World) -> None:
    """e1 still has what it had before the isolation."""
    world.nodes["e1"].up = False
    world.apply("campus", PAYROLL)
    world.run(2.0)
    outcome = Walk(world).send("a1", echo(A1, C1))
    assert (outcome.path, outcome.reason) == (("e1", "t1", "e3"), DropReason.ISOLATED)


def moved(world: World, host: str, node: str, port: int) -> None:
    """`host` of the office goes to a port of another edge."""
    office = world.get("campus", "networks", "campus/office")
    attachments = [
        attachment | ({"node": node, "port": port} if attachment["name"] == host else {})
        for attachment in office.spec["attachments"]
    ]
    manifest = {"kind": "Network", "metadata": office.metadata, "spec": office.spec | {"attachments": attachments}}
    reply = world.apply("campus", json.dumps({"apiVersion": "netstitch/v1", **manifest}))
    assert reply is not None and not reply.problems and not reply.conflict, reply


def test_what_came_from_an_edge_is_not_sent_to_a_third(world: World) -> None:
    """b1 has gone from e2 to e1, which does not know: each believes that it is behind the other."""
    moved(world, "c1", "e2", 9)
    world.run(2.0)
    world.nodes["e1"].up = False
    moved(world, "b1", "e1", 9)
    world.run(2.0)
    outcome = Walk(world).send("a1", echo(A1, B1))
    assert (outcome.path, outcome.reason) == (("e1", "t1", "e2"), DropReason.NOT_PERMITTED)


def test_others_lose_nothing_while_a_host_moves(world: World) -> None:
    """All nodes are asked at each step of the way. e3 loses its last host, e2 gets one more; then back."""
    for node, port in (("e2", 9), ("e3", 9)):
        moved(world, "c1", node, port)
        for _ in range(100):
            world.run(0.0005)
            walk = Walk(world)
            for host, packet, to in (("a1", echo(A1, B1), "b1"), ("b1", tcp(B1_6, A1_6, 22), "a1")):
                assert walk.send(host, packet).delivered == to
            assert walk.send("x1", echo(A1, B1)).delivered == "x2"
        world.run(2.0)
        world.check_settled()
        there = [entry for entry in world.nodes[node].entries.values() if entry.table == "source_guard"]
        assert any(entry.match[0].value == port for entry in there)


def test_a_link_that_goes_is_gone_round(world: World) -> None:
    assert world.delete("campus", "e1-t1", "Link") is not None
    world.run(2.0)
    world.check_settled()
    walk = Walk(world)
    assert walk.send("a1", echo(A1, B1)).path == ("e1", "t2", "e2")
    assert walk.send("b1", echo(B1, A1)).path == ("e2", "t2", "e1")
    assert walk.send("c1", echo(C1, B1)).path == ("e3", "t1", "e2")
    world.delete("campus", "e1-t2", "Link")
    world.run(2.0)
    outcome = Walk(world).send("a1", echo(A1, B1))
    assert (outcome.node, outcome.reason) == ("e1", DropReason.NO_ROUTE)


def test_the_fabric_is_the_same_whatever_it_is_made_from(world: World) -> None:
    """What is kept from the last one is what would be found anew."""
    empty = Inventory()
    state = world.controllers["campus"].state
    without = msgspec.structs.replace(
        state.inventory, links={name: link for name, link in state.inventory.links.items() if name != "e1-t1"}
    )
    fewer = msgspec.structs.replace(
        state.inventory,
        networks={name: network for name, network in state.inventory.networks.items() if "annex" in name},
    )
    inventories = (empty, state.inventory, fewer, without, state.inventory)
    for before, after in itertools.permutations(inventories, 2):
        anew = fabric(after, state.descriptions, "campus")
        assert fabric(after, state.descriptions, "campus", fabric(before, {}, "campus")) == anew
    again = fabric(state.inventory, {}, "campus", state.fabric)
    assert again.edge_policies is state.fabric.edge_policies and again.entries != state.fabric.entries


def test_what_a_node_says_is_about_its_entries_and_its_neighbours_alone(world: World) -> None:
    state = world.controllers["campus"].state
    neighbours = {name: {name} for name in state.inventory.nodes}
    for link in state.inventory.links.values():
        if link.b is not None:
            neighbours[link.a.node].add(link.b.node)
            neighbours[link.b.node].add(link.a.node)
    told: dict[str, NodeDescription] = {}
    known = fabric(state.inventory, told, "campus")
    for name, description in state.descriptions.items():
        told = {**told, name: description}
        before, known = known, fabric(state.inventory, told, "campus", known)
        assert known == fabric(state.inventory, told, "campus")
        changed = {node for node in known.entries if known.entries[node] is not before.entries[node]}
        assert name in changed and changed <= neighbours[name] != known.entries.keys()
    assert known.entries == state.fabric.entries


def numbers(world: World) -> dict[str, int]:
    return dict(world.controllers["campus"].state.numbers)


def test_numbers_stay_whatever_others_do_and_rest_before_they_mean_something_else(world: World) -> None:
    before = numbers(world)
    at_e3 = {key for key in before if key.startswith("e3 ") or key.endswith((" to e3", " edge e3"))}
    assert at_e3 and len({(key.split()[0], key.split()[1], number) for key, number in before.items()}) == len(before)
    moved(world, "c1", "e2", 9)
    assert numbers(world) == {key: number for key, number in before.items() if key not in at_e3}
    moved(world, "c1", "e3", 9)
    after = numbers(world)
    assert after.keys() == before.keys()
    assert {key for key, number in after.items() if before[key] != number} == at_e3
    entries_before = {name: list(node.entries.values()) for name, node in world.nodes.items()}
    world.run(2.0)
    world.controllers["campus"].crash()
    world.controllers["campus"].start()
    world.run(3.0)
    writes = {name: node.writes for name, node in world.nodes.items()}
    assert numbers(world) == after
    assert entries_before and writes == {name: node.writes for name, node in world.nodes.items()}


def many(count: int) -> str:
    """Networks with three edges each."""
    return "---".join(
        f"""
apiVersion: netstitch/v1
kind: Network
metadata: {{name: campus/n{number}}}
spec:
  prefixes: [10.9.0.0/24]
  attachments:
    - {{name: h1, node: e1, port: {20 + number}, addresses: [10.9.0.1]}}
    - {{name: h2, node: e2, port: {20 + number}, addresses: [10.9.0.2]}}
    - {{name: h3, node: e3, port: {20 + number}, addresses: [10.9.0.3]}}
"""
        for number in range(count)
    )


def test_more_networks_than_a_node_has_numbers_for_are_refused(world: World) -> None:
    world.resize("policy_class_counter", 100)
    before = world.controllers["campus"].state
    reply = world.apply("campus", many(60))
    assert reply is not None
    assert reply.conflict == "there is no room for it: all 99 policy classes of e1 are in use"
    assert world.controllers["campus"].state == before
    reply = world.apply("campus", many(40))
    assert reply is not None and not reply.problems and not reply.conflict
    world.run(2.0)
    world.check_settled()
    moved(world, "c1", "e2", 9)
    world.run(2.0)
    world.check_settled()


def test_a_trace_follows_the_way_between_edges(world: World) -> None:
    asked = Probe(source="campus/office/a1", destination=B1)
    traced = tracing.trace(world.controllers["campus"].state, asked, world.now_s)
    assert isinstance(traced, Trace)
    assert [hop.node for hop in traced.hops] == ["e1", "t1", "e2"]
    function = numbers(world)["e2 function edges campus/office"]
    assert traced.hops[0].segments == ("5f00:1:11::", f"5f00:1:2:{function:x}::")
    assert traced.hops[0].containers == (f"5f00:1:11:2:{function:x}::",)
    assert traced.text.startswith("to campus/office/b1, at e2 port ")


def test_a_network_shows_the_paths_between_its_edges(world: World) -> None:
    paths = world.get("campus", "networks", "campus/annex").status["paths"]
    assert [path["nodes"] for path in paths] == [["e1", "t1", "e2"], ["e1", "t2", "e2"]]
    assert [path["latency_ms"] for path in paths] == [1, 2]


def test_entries_between_edges_are_the_networks(world: World) -> None:
    state = world.controllers["campus"].state
    entries = [
        resource
        for resource in world.resources("campus", "entries")
        if resource.spec["table"] in ("sr_policy", "steer")
    ]
    owners = {entry.status["owner"] for entry in entries}
    assert owners >= {"networks/campus/office", "networks/campus/annex"}
    assert all(owner.startswith(("networks/campus/", "sr_policies/")) for owner in owners)
    for entry in entries:
        told = explain.explain(state, "entries", entry.metadata["name"], world.now_s)
        assert told is not None and told.children[0].name == entry.status["owner"]
        assert told.children[0].children == ()
