"""Topology files: what they say, and where they are wrong."""

import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from controller.language import manifest
from controller.language.policy import parse_policy
from dataplane.host_api import PortRole
from tests.simulator import SimulatedKeys
from tests.typed_in import typed
from topologies import domain_files, holder, links, topology_file
from topologies.errors import NotFound
from topologies.problem import TopologyInvalid
from topologies.topology import Topology

THREE_DOMAINS = topology_file.DIRECTORY / "three-domains.yaml"
TEXT = THREE_DOMAINS.read_text()
KEYS = {name: SimulatedKeys(name) for name in ("shop", "transit", "insight")}


@pytest.fixture(scope="module")
def topology() -> Topology:
    return topology_file.load(THREE_DOMAINS)


def position(needle: str, text: str = TEXT, offset: int = 0) -> tuple[int, int]:
    """Line and column, from 1, of the first occurrence."""
    before = text[: text.index(needle) + offset]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(TopologyInvalid) as caught:
        topology_file.load(path)
    return str(caught.value).splitlines()


def test_the_reference_lab_is_as_it_is_drawn(topology: Topology) -> None:
    assert [node.name for node in topology.nodes] == ["se1", "sg1", "t1", "tc1", "tc2", "t2", "ig1", "ie1"]
    assert [host.name for host in topology.hosts] == ["cx1", "cx2", "cz1", "fw1", "ay1", "ar1"]
    assert {link.name: link.delay_ms for link in topology.links if link.delay_ms} == {
        "t1-tc1": 2,
        "t1-tc2": 2,
        "tc1-t2": 2,
        "tc2-t2": 2,
        "sg1-ig1": 40,
    }
    crossing = [link.name for link in topology.links if topology.crosses_domains(link)]
    assert crossing == ["sg1-t1", "t2-ig1", "sg1-ig1"]
    cx1, cz1 = topology.host("cx1"), topology.host("cz1")
    assert (cx1.address(4), cx1.address(6)) == ("10.1.0.11", "2001:db8:1::11") == (cz1.address(4), cz1.address(6))
    assert cx1.labels == {"app": "order-processing"}


def test_the_two_ways_through_transit_share_no_risk(topology: Topology) -> None:
    north, south = (
        {srlg for link in topology.links if name in link.name for srlg in link.srlg} for name in ("tc1", "tc2")
    )
    assert north and south and not north & south


def test_ports_are_numbered_links_first_and_named_after_what_is_behind(topology: Topology) -> None:
    assert {port.interface: port.number for port in topology.ports("se1")} == {
        "sg1": 1,
        "cx1": 2,
        "cx2": 3,
        "cz1": 4,
        "fw1a": 5,
        "fw1b": 6,
    }


def test_both_sides_of_a_border_call_it_the_same(topology: Topology) -> None:
    at_shop = {border.name: (border.interface, border.neighbor, border.address) for border in topology.borders("sg1")}
    at_transit = {border.name: (border.interface, border.neighbor, border.address) for border in topology.borders("t1")}
    assert at_shop["sg1-t1"] == ("t1", "transit", "192.0.2.1/30")
    assert at_transit["sg1-t1"] == ("sg1", "shop", "192.0.2.2/30")
    ports = [border.listen_port for border in topology.borders("sg1")]
    assert len(set(ports)) == 2, "two devices of one node cannot listen on one port"


def test_an_agent_gets_its_ports_with_their_roles_and_the_mtu_inside_tunnels(topology: Topology) -> None:
    config = domain_files.agent_config(topology, topology.node("sg1"), "/run/x/sg1")
    assert [(port.interface, port.role) for port in config.ports] == [
        ("se1", PortRole.FABRIC),
        ("t1", PortRole.UNDERLAY),
        ("ig1", PortRole.UNDERLAY),
    ]
    assert {border.mtu for border in config.borders} == {1440}
    edge = domain_files.agent_config(topology, topology.node("ie1"), "/run/x/ie1")
    assert [port.role for port in edge.ports] == [PortRole.FABRIC, PortRole.ATTACHMENT, PortRole.ATTACHMENT]


@pytest.mark.parametrize("domain", ["shop", "transit", "insight"])
def test_an_inventory_tells_nothing_of_how_others_are_built(topology: Topology, domain: str) -> None:
    documents = inventory(topology, domain)
    foreign = {node.name for node in topology.nodes if node.domain != domain} | {
        host.name for host in topology.hosts if not host.network.startswith(f"{domain}/")
    }
    own_borders = {
        border.name for node in topology.nodes if node.domain == domain for border in topology.borders(node.name)
    }
    links = {document["metadata"]["name"] for document in documents if document["kind"] == "Link"}
    assert own_borders <= links
    said = json.dumps([document for document in documents if document["metadata"]["name"] not in own_borders])
    assert [name for name in sorted(foreign) if f'"{name}"' in said] == []


def test_an_inventory_has_what_the_domain_owns_and_what_it_knows(topology: Topology) -> None:
    named = {
        (document["kind"], document["metadata"]["name"]): document["spec"] for document in inventory(topology, "shop")
    }
    pool = ["100.65.0.0/16", "2001:db8:6500::/40"]
    assert named["Domain", "shop"] == {"self": True, "sid_block": "5f00:1::/32", "translation_pool": pool}
    assert named["Domain", "transit"] == {
        "key": KEYS["transit"].public,
        "certificate": KEYS["transit"].certificate,
        "endpoint": "127.0.0.1:2",
        "sid_block": "5f00:2::/32",
        "trust": "partner",
    }
    foreign = [name for _, name in named if "/" in name and not name.startswith("shop/")]
    assert foreign == [], "they tell it each other"
    cx1 = named["Network", "shop/customer-x"]["attachments"][0]
    assert (cx1["name"], cx1["node"], cx1["port"], cx1["labels"]) == ("cx1", "se1", 2, {"app": "order-processing"})
    assert named["Link", "sg1-ig1"]["a"] == {"node": "sg1", "border": "sg1-ig1"}
    assert named["Link", "sg1-ig1"]["domain"] == "insight"
    assert (named["Link", "se1-sg1"]["a"], named["Link", "se1-sg1"]["mtu"]) == ({"node": "se1", "port": 1}, 2000)


def test_what_neighbours_would_tell_can_be_typed_in(topology: Topology) -> None:
    named = {
        (document["kind"], document["metadata"]["name"]): document["spec"]
        for document in inventory(typed(topology), "shop")
    }
    reach = [{"domain": "insight", "latency_ms": 4, "trust": "partner", "cost": 30}]
    assert named["Domain", "transit"]["reach"] == reach
    assert named["Network", "insight/analytics"] == {"prefixes": ["10.2.0.0/24", "2001:db8:2::/64"]}
    assert named["Service", "insight/analytics/analytics-y"]["ports"] == ["tcp/443", "icmp"]


def inventory_file(topology: Topology, domain: str) -> str:
    peers = {
        peer.name: domain_files.Peer(
            identity=domain_files.Identity(
                domain=peer.name, key=KEYS[peer.name].public, certificate=KEYS[peer.name].certificate
            ),
            endpoint=f"127.0.0.1:{number}",
        )
        for number, peer in enumerate(topology.domains, 1)
    }
    agents = {node.name: f"unix:/run/x/{node.name}/agent.sock" for node in topology.nodes}
    return domain_files.inventory(topology, topology.domain(domain), peers, agents)


def inventory(topology: Topology, domain: str) -> list[dict]:
    return list(YAML(typ="safe").load_all(inventory_file(topology, domain)))


def test_a_topology_is_found_by_its_name_and_by_its_path() -> None:
    assert topology_file.find("three-domains") == THREE_DOMAINS
    assert topology_file.find("topologies/three-domains.yaml") == Path("topologies/three-domains.yaml")


WRONG = {
    # id: (what is replaced, by what, where the problem is in the new text, what it says)
    "unknown role": ("role: edge", "role: egde", "egde", -6, "nodes.se1.role: invalid enum value 'egde'"),
    "text for a number": ("delay_ms: 2", "delay_ms: two", "delay_ms: two", 0, "expected `float`, got `str`"),
    "negative delay": ("delay_ms: 2", "delay_ms: -2", "delay_ms: -2", 0, "-2.0: expected 0 to 10000"),
    "loss over 100": ("loss_percent: 0", "loss_percent: 101", "loss_percent: 101", 0, "expected 0 to 100"),
    "no rate": ("rate_mbit: 1000", "rate_mbit: 0", "rate_mbit: 0", 0, "expected more than 0"),
    "unknown field": ("delay_ms: 2", "dealy_ms: 2", "dealy_ms", 0, "unknown field `dealy_ms`"),
    "unknown section": ("\nservices:", "\nservises:", "servises", 0, "unknown section servises"),
    "no such node": ("{node: sg1}, delay", "{node: sg7}, delay", "node: sg7", 0, "sg7 is no node"),
    "no such network": ("network: shop/customer-z", "network: shop/nobody", "network: shop/nobody", 0, "is no network"),
    "no such domain": ("domain: transit, role", "domain: transport, role", "domain: transport", 0, "is no domain"),
    "node of another domain": (
        "node: ie1, addresses",
        "node: sg1, addresses",
        "node: sg1, addr",
        0,
        "is not in insight",
    ),
    "address outside": ("10.1.0.12", "10.9.0.12", "10.9.0.12", 0, "expected an address in 10.1.0.0/24"),
    "address twice": ("addresses: [10.1.0.12", "addresses: [10.1.0.11", None, 0, "10.1.0.11 is the address of cx1 too"),
    "address of the gateway": (
        "addresses: [10.1.0.12",
        "addresses: [10.1.0.1",
        None,
        0,
        "the address of the gateway too",
    ),
    "bad prefix": ("[10.2.0.0/24", "[10.2.0.0/33", "10.2.0.0/33", 0, "expected a prefix"),
    "SIDs outside 5f00::/16": ('"5f00:1::/32"', '"2001:db8::/32"', "sid_block: ", 0, "inside 5f00::/16"),
    "SID blocks overlap": ('"5f00:2::/32"', '"5f00:1::/32"', None, 0, "overlaps the block of shop"),
    "locator of another domain": (
        "5f00:1:2::/48",
        "5f00:3:9::/48",
        'locator: "5f00:3:9',
        0,
        "outside of the block of shop",
    ),
    "locator twice": ("5f00:1:2::/48", "5f00:1:1::/48", None, 0, "is the locator of se1 too"),
    "no underlay address": (", address: 192.0.2.1/30", "", None, 0, "expected an IPv4 address with prefix length"),
    "underlay addresses apart": (
        "192.0.2.2/30",
        "192.0.2.6/30",
        "address: 192.0.2.6/30",
        0,
        "is not another address in",
    ),
    "duplicate name": ("\n  cz1:", "\n  cx2:", "cx2:\n    network: shop/customer-z", 0, 'duplicate key "cx2"'),
    "number as a name": ("\n  sg1:", "\n  17:", "17: {", 0, "expected a name, got 17"),
    "not YAML": ("hosts:", "hosts: [", None, 0, "not YAML"),
    "bad ports": ("ports: [tcp/9000]", "ports: [tpc/9000]", "tpc/9000", 0, "expected icmp, tcp, tcp/443"),
    "host and node of one name": ("\n  ar1:", "\n  ie1:", "ie1:\n", 0, "ie1 is the name of a node too"),
    "forwards with one port": (
        "  cz1:\n",
        "  cz1:\n    forward: true\n",
        "forward: true",
        0,
        "needs two interfaces, not 1",
    ),
    "knows a network that is not": (
        "shop: {trust: partner}}",
        "shop: {trust: partner, networks: [shop/x]}}",
        "shop/x]",
        0,
        "none of the networks",
    ),
}


@pytest.mark.parametrize(("old", "new", "at", "offset", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_where_it_is_wrong(
    tmp_path: Path, old: str, new: str, at: str | None, offset: int, says: str
) -> None:
    text = TEXT.replace(old, new, 1)
    assert text != TEXT
    file = tmp_path / "wrong.yaml"
    told = problems(file, text)
    matching = [line for line in told if says in line]
    assert matching, told
    assert all(line.startswith(f"{file}:") for line in told)
    if at is not None:
        line, column = position(at, text, offset)
        assert matching[0].startswith(f"{file}:{line}:{column}:"), (matching[0], line, column)


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("role: edge", "role: egde").replace("loss_percent: 0", "loss_percent: none", 1)
    assert len(problems(tmp_path / "wrong.yaml", text)) == 3


GARBAGE = {
    "nothing": b"",
    "a list": b"- a\n",
    "bytes": bytes(range(256)),
    "a tab": b"\tname: x\n",
    "a cycle": b"name: &a [*a]\n",
    "deep": b"name: " + b"[" * 3000 + b"]" * 3000,
    "10 MB": b"x" * 10_000_000,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_with_a_position(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "garbage.yaml"
    file.write_bytes(content)
    with pytest.raises(TopologyInvalid, match=rf"{file}:\d+:\d+: \S"):
        topology_file.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyInvalid, match=r"nowhere\.yaml:1:1: cannot be read: No such file"):
        topology_file.load(tmp_path / "nowhere.yaml")


def test_other_programs_can_read_a_topology_as_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "topologies.topology_file", "three-domains"], capture_output=True, text=True, check=True
    )
    assert [link["a"]["node"] for link in json.loads(done.stdout)["links"]][:2] == ["se1", "t1"]


def test_the_controller_understands_the_inventory_and_the_policy_of_every_domain(topology: Topology) -> None:
    for domain in topology.domains:
        inventory_text, policy_text = inventory_file(topology, domain.name), domain_files.policy(domain)
        kinds = {document.kind for document in manifest.parse(inventory_text, "inventory.yaml")}
        assert {"Domain", "Node", "Link"} <= kinds
        rules = parse_policy(policy_text, "policy.yaml")
        assert bool(rules.accept) == (domain.name == "insight")
        assert {(rule.origin, rule.destination) for rule in rules.transit} == (
            {("shop", "insight"), ("insight", "shop")} if domain.name == "transit" else set()
        )


def test_the_intent_of_the_reference_lab_is_well_formed() -> None:
    text = (topology_file.DIRECTORY / "intents/order-processing.yaml").read_text()
    (document,) = manifest.parse(text, "order-processing.yaml")
    assert (document.kind, document.name) == ("Intent", "order-processing")


def test_links_are_listed_by_the_names_that_find_them() -> None:
    topology = topology_file.load(topology_file.find("three-domains"))
    every = links.wires(topology)
    assert len(set(map(str, every))) == len(every)
    for wire in every:
        assert links.find(topology, *str(wire).split()) == wire
    with pytest.raises(NotFound, match="fw1a se1, fw1b se1"):
        links.find(topology, "cx1", "ie1")


def test_labs_share_no_loopback_address() -> None:
    """Of process ids up to the kernel's limit of 2**22."""
    addresses = {holder._loopback_of(process) for process in range(1, 1 << 22, 61)}
    assert len(addresses) == len(range(1, 1 << 22, 61))
    assert all(address in holder._LAB_ADDRESSES for address in map(ipaddress.IPv4Address, list(addresses)[:1000]))


def test_the_fat_tree_has_two_ways_out_of_each_edge_and_four_cores() -> None:
    topology = topology_file.load(topology_file.find("fabric-k4"))
    assert (len(topology.nodes), len(topology.hosts), len(topology.links)) == (20, 16, 32)
    crossed = [node for node in topology.nodes if topology.is_only_crossed(node)]
    assert len(crossed) == 12
    ways = {node.name: sum(port.link is not None for port in topology.ports(node.name)) for node in topology.nodes}
    assert sorted(ways.values()) == [2] * 8 + [4] * 12


def test_an_open_vswitch_has_no_hosts(tmp_path: Path) -> None:
    text = (topology_file.DIRECTORY / "switches.yaml").read_text()
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace("role: edge,", "role: transit, switch: ovs,", 1))
    with pytest.raises(TopologyInvalid, match="ovs can only be crossed"):
        topology_file.load(file)
