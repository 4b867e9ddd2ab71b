"""The network graph: what is in it, and that others read what is written: networkx GraphML and node-link JSON, a parser
of the DOT language what Graphviz draws."""

import io
import json
from typing import Any

import lark
import msgspec
import networkx
import pytest

from controller.history import History
from controller.model.discovery import RemoteSystem
from controller.model.event import Discovered, NodeDescribed
from controller.model.network_graph import Edge, EdgeKind, NetworkGraph, Vertex
from controller.northbound.graph_formats import GraphFormat, written
from controller.reading import Reading
from controller.views import graph_view, resource_view
from dataplane.host_api import Capabilities, PortRole
from tests.simulator import ORDER_PROCESSING, SIZES, World

DOT = lark.Lark(
    r"""
    start: "graph" ID "{" (assignment | edge | node)* "}"
    assignment: NAME "=" NUMBER
    node: ID attributes
    edge: ID "--" ID attributes
    attributes: "[" [pair ("," pair)*] "]"
    pair: ID "=" ID
    ID: /"(?:[^"\\]|\\.)*"/s
    NAME: /[a-z_]+/
    NUMBER: /[0-9]+/
    %ignore /\s+/
    """
)
"""https://graphviz.org/doc/info/lang.html, as far as we write it."""
AWKWARD = NetworkGraph(
    domain='a "quoted" one \\',
    revision=7,
    vertices=(
        Vertex(id="nodes/a", kind="Node", name='<&>"\\', attributes={"labels": {"a,b": 'x="1"; ]'}, "own": True}),
        Vertex(id="nodes/b", kind="Node", name="b\x1b[31m\0", attributes={"many": ("x", "y z"), "count": 3}),
    ),
    edges=tuple(
        Edge(id=f"links/{name}", kind=EdgeKind.LINK, source="nodes/a", target="nodes/b", attributes={"delay_ms": 0.25})
        for name in ("one", "two")
    ),
)


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    world.run(5.0)
    return world


def graph(world: World, domain: str) -> NetworkGraph:
    state = world.controllers[domain].state
    resources = {kind: resource_view.resources(state, kind, world.now_s) for kind in graph_view.KINDS}
    return graph_view.network_graph(domain, resources)


def by_json(known: NetworkGraph) -> Any:
    return networkx.node_link_graph(json.loads(written(known, GraphFormat.JSON)), edges="edges")


def plain(value: Any) -> Any:
    """As JSON has it what is JSON in GraphML."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


@pytest.mark.parametrize("domain", ["shop", "transit", "awkward"])
def test_networkx_reads_the_same_of_graphml_as_of_json(world: World, domain: str) -> None:
    known = AWKWARD if domain == "awkward" else graph(world, domain)
    theirs = networkx.read_graphml(io.BytesIO(written(known, GraphFormat.GRAPHML).encode()), force_multigraph=True)
    ours = by_json(known)
    assert set(theirs.nodes) == set(ours.nodes) == {vertex.id for vertex in known.vertices}
    for name, said in ours.nodes(data=True):
        found = {attribute: plain(value) for attribute, value in theirs.nodes[name].items()}
        if domain == "awkward":
            said = said | {"name": said["name"].replace("\x1b", "\\u001b").replace("\0", "\\u0000")}
        assert found == said
    assert {key for *_, key in theirs.edges(keys=True)} == {edge.id for edge in known.edges}
    for source, target, key, said in ours.edges(keys=True, data=True):
        assert {name: plain(value) for name, value in theirs.edges[source, target, key].items()} == said
    assert theirs.graph | {"revision": known.revision} == theirs.graph | {"domain": known.domain}


@pytest.mark.parametrize("domain", ["shop", "transit", "awkward"])
def test_dot_is_of_its_language_and_says_the_same(world: World, domain: str) -> None:
    known = AWKWARD if domain == "awkward" else graph(world, domain)
    tree = DOT.parse(written(known, GraphFormat.DOT))
    assert len([*tree.find_data("node")]) == len(known.vertices)
    ends = sorted(tuple(json.loads(str(name)) for name in edge.children[:2]) for edge in tree.find_data("edge"))
    assert ends == sorted((edge.source, edge.target) for edge in known.edges)


def test_a_domain_knows_its_links_nodes_and_ports_and_of_others_their_networks(world: World) -> None:
    known = by_json(graph(world, "transit"))
    links = {key: said for *_, key, said in known.edges(keys=True, data=True) if said["kind"] == "link"}
    assert set(links) >= {"links/t1-tc1", "links/tc2-t2"}
    inside = links["links/t1-tc1"]
    assert (inside["delay_ms"], inside["loss_percent"], inside["reserved_mbit"]) == (2.0, 0.0, 0.0)
    assert inside["capacity_mbit"] > 0
    assert inside["trust"] == "own"
    assert (inside["encrypted"], inside["owner"], inside["said_by"]) == (False, "transit", "operator")
    border = next(said for said in links.values() if said.get("a_border"))
    assert border["encrypted"]
    assert known.nodes["networks/insight/analytics"]["owner"] == "insight"
    assert known.has_edge("domains/insight", "networks/insight/analytics")
    assert known.nodes["nodes/tc1"]["role"] == "transit"
    assert known.has_edge("nodes/tc1", "ports/tc1/1")
    ways = known.edge_subgraph([edge for edge in known.edges(keys=True) if edge[2] in links])
    assert networkx.shortest_path_length(ways, "nodes/t1", "nodes/t2", weight="delay_ms") == 4.0
    assert networkx.shortest_path_length(ways, "domains/shop", "domains/insight") == 4


def test_shop_knows_its_hosts_ports_its_services_and_whom_a_neighbour_reaches(world: World) -> None:
    known = by_json(graph(world, "shop"))
    (attached,) = known.get_edge_data("networks/shop/customer-z", "ports/se1/4").values()
    assert (attached["kind"], attached["hosts"]) == ("attached", 1)
    assert known.has_edge("networks/insight/analytics", "services/insight/analytics/analytics-y")
    (reach,) = (said for *_, said in known.edges("domains/transit", data=True) if said["kind"] == "reaches")
    assert (reach["delay_ms"], reach["cost"]) == (4.0, 30)
    assert known.nodes["networks/shop/customer-x"]["labels"] == {"pci": "true"}


def test_what_a_node_can_do_is_what_it_says(world: World) -> None:
    controller = world.controllers["transit"]
    said = world.nodes["t1"].describe()
    can = world.get("transit", "nodes", "t1").status["capabilities"]
    assert (can["dataplane"], can["kernel"], can["h_encaps_segments"], can["meters"]) == ("simulated", "6.1", 4, 0)
    sizes = [port.mtu for port in said.ports if port.role == PortRole.FABRIC] + [border.mtu for border in said.borders]
    assert can["mtu"] == min(sizes)
    assert can["tables"]["flow_policy"] == SIZES["flow_policy"]
    shown = by_json(graph(world, "transit")).nodes["nodes/t1"]
    told = {name: value for name, value in can.items() if name != "packed_flows"}  # how it talks is no part of a graph
    assert {name: shown[name] for name in told} == told

    less = msgspec.structs.replace(said, capabilities=Capabilities(dataplane="other", h_encaps_segments=2, meters=9))
    controller.event(NodeDescribed(node="t1", description=less, sizes={"meter": 9}), controller.life)
    can = world.get("transit", "nodes", "t1").status["capabilities"]
    assert (can["h_encaps_segments"], can["meters"], can["tables"]) == (2, 9, {"meter": 9})

    silent = msgspec.structs.replace(said, capabilities=Capabilities())
    controller.event(NodeDescribed(node="t1", description=silent), controller.life)
    assert world.get("transit", "nodes", "t1").status["capabilities"] == {"mtu": min(sizes)}, "nothing is made up"


def test_what_a_network_can_do_is_shown_and_a_change_of_it_moves_nothing(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    assert world.phase("shop", "order-processing") == "Active"
    before = {name: node.writes for name, node in world.nodes.items()}
    shop = world.get("shop", "networks", "shop/customer-x")
    network = {"apiVersion": "netstitch/v1", "kind": "Network", "metadata": shop.metadata}
    spec = shop.spec | {"capabilities": ["region=eu", "dns"]}
    world.apply("shop", json.dumps(network | {"spec": spec}))
    world.run(20.0)
    assert world.get("shop", "networks", "shop/customer-x").spec["capabilities"] == ["dns", "region=eu"]
    assert by_json(graph(world, "shop")).nodes["networks/shop/customer-x"]["capabilities"] == ["dns", "region=eu"]
    assert world.phase("shop", "order-processing") == "Active"
    assert {name: node.writes for name, node in world.nodes.items()} == before


def test_what_is_heard_and_not_declared_is_in_it_and_says_that_it_is_not_used(world: World) -> None:
    world.add_port("t1", 91, PortRole.FABRIC)
    world.run(5.0)
    controller = world.controllers["transit"]
    stranger = RemoteSystem(port=91, chassis_id="mac:02:00:00:00:00:09", port_id="eth0", since_s=9)
    controller.event(Discovered(node="t1", remote_systems=(stranger,)), controller.life)
    known = graph(world, "transit")
    (link,) = (edge for edge in known.edges if edge.attributes.get("phase") == "Discovered")
    assert (link.source, link.attributes["in_use"], "delay_ms" in link.attributes) == ("nodes/t1", False, False)
    (far,) = (vertex for vertex in known.vertices if vertex.id == link.target)
    assert (far.kind, far.name) == ("System", "chassis mac:02:00:00:00:00:09 port eth0")


def test_its_revision_grows_when_something_of_it_changes_and_only_then(world: World) -> None:
    controller = world.controllers["transit"]
    reading = Reading(controller.state, plugins=None, history=History(()), now_s=lambda: world.now_s)
    first = reading.graph()
    world.run(30.0)
    reading._stored = controller.state
    assert reading.graph() == first
    world.set_carrier("t1-tc1", carrier=False)
    world.run(5.0)
    reading._stored = controller.state
    second = reading.graph()
    assert second.revision > first.revision
    (link,) = (edge for edge in second.edges if edge.id == "links/t1-tc1")
    assert (link.attributes["carrier"], link.attributes["in_use"]) == (False, False)
