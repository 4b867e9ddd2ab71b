"""One wrong resource never holds up another, and nothing is undeletable."""

import msgspec
import pytest

from controller.model.event import Problem
from controller.model.persistent import PersistentMap
from dataplane.host_api import PortRole
from tests.simulator import ORDER_PROCESSING, World, entry_key

INSIDE = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: inside, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: shop/firewall, ports: [icmp]}]
"""
LAB = """
apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/lab}
spec:
  prefixes: [10.7.0.0/24]
  gateways: [10.7.0.1]
  attachments: [{name: l1, node: se1, port: 77, addresses: [10.7.0.10]}]
"""
FROM_LAB = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: from-lab, tenant: lab}
spec: {allow: [{from: shop/lab, to: shop/firewall, ports: [icmp]}]}
"""
LINK = """
apiVersion: netstitch/v1
kind: Link
metadata: {name: beside}
spec: {a: {node: se1, port: 76}, b: {node: sg1, port: 78}, delay_ms: 0, rate_mbit: 1000, loss_percent: 0, mtu: 1500}
"""
BORDER = """
apiVersion: netstitch/v1
kind: Link
metadata: {name: way-out}
spec: {a: {node: sg1, border: nowhere}, domain: transit, delay_ms: 0, rate_mbit: 1000, loss_percent: 0, mtu: 1500,
       trust: partner}
"""
SE9 = """
apiVersion: netstitch/v1
kind: Node
metadata: {name: se9}
spec: {role: edge, locator: "5f00:1:9::/48", agent: "unix:/run/nobody.sock"}
---
apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/far}
spec: {prefixes: [10.8.0.0/24], attachments: [{name: f1, node: se9, port: 1, addresses: [10.8.0.10]}]}
---
apiVersion: netstitch/v1
kind: Link
metadata: {name: to-se9}
spec: {a: {node: se1, port: 79}, b: {node: se9, port: 2}, delay_ms: 0, rate_mbit: 1000, loss_percent: 0, mtu: 1500}
"""


@pytest.fixture
def world() -> World:
    """With a port for a link and one for hosts that nobody uses."""
    world = World()
    world.start()
    world.add_port("se1", 75, PortRole.FABRIC)
    world.add_port("se1", 76, PortRole.ATTACHMENT)
    return world


def unheard(world: World) -> None:
    """As if the nodes of shop had not said anything yet."""
    world.controllers["shop"].start()


def status(world: World, kind: str, name: str) -> tuple[str, str]:
    """Phase and the reasons for it."""
    shown = world.get("shop", kind, name).status
    return shown["phase"], "; ".join(condition["reason"] for condition in shown["conditions"])


@pytest.mark.parametrize(
    ("manifest", "path", "message"),
    [
        pytest.param(
            LAB, (0, "spec", "attachments", 0, "port"), "se1 has no port 77; its agent has ", id="no such port"
        ),
        pytest.param(
            LAB.replace("77", "75"),
            (0, "spec", "attachments", 0, "port"),
            "port 75 of se1 is for links, not for hosts",
            id="a link's port",
        ),
        pytest.param(LINK, (0, "spec", "a", "port"), "port 76 of se1 is for hosts, not for links", id="a host's port"),
        pytest.param(BORDER, (0, "spec", "a", "border"), "sg1 has no border nowhere; its agent has ", id="no border"),
        pytest.param(
            BORDER.replace("nowhere", "sg1-t1"),
            (0, "spec", "a", "border"),
            "border sg1-t1 of sg1 is link sg1-t1's",
            id="another link's border",
        ),
    ],
)
def test_what_a_node_says_it_does_not_have_is_refused_at_its_place(
    world: World, manifest: str, path: tuple[str | int, ...], message: str
) -> None:
    reply = world.apply("shop", manifest)
    assert reply is not None and reply.problems, reply
    problem_told: Problem = next(problem for problem in reply.problems if problem.path == path)
    assert problem_told.message.startswith(message)
    assert not reply.results


@pytest.mark.parametrize(
    ("manifest", "kind", "name", "reason"),
    [
        pytest.param(LAB, "networks", "shop/lab", "host l1: se1 has no port 77", id="port"),
        pytest.param(LINK, "links", "beside", "port 76 of se1 is for hosts, not for links", id="link"),
        pytest.param(BORDER, "links", "way-out", "sg1 has no border nowhere", id="border"),
        pytest.param(SE9, "networks", "shop/far", "node se9", id="node that nobody reaches"),
    ],
)
def test_what_turns_out_wrong_later_holds_up_nothing_else_and_can_be_deleted(
    world: World, manifest: str, kind: str, name: str, reason: str
) -> None:
    unheard(world)
    world.nodes["se9"] = world.nodes["se1"].__class__(world.topology, "se1")
    world.nodes["se9"].up = False
    reply = world.apply("shop", manifest)
    assert reply is not None and reply.results, reply
    assert status(world, kind, name)[0] == "Installing"
    world.run(5.0)
    phase, why = status(world, kind, name)
    assert phase == "Installing" and reason in why
    for intent, what in ((INSIDE, "inside"), (ORDER_PROCESSING, "order-processing")):
        world.apply("shop", intent)
        world.run(3.0)
        assert world.phase("shop", what) == "Active", status(world, "intents", what)
    assert status(world, "networks", "shop/customer-x") == ("Active", "")
    kinds = {"networks": "Network", "links": "Link", "nodes": "Node"}
    rest = [("links", "to-se9"), ("nodes", "se9")] if "far" in name else []
    for kind_of_rest, called in ((kind, name), *rest):
        reply = world.delete("shop", called, kinds[kind_of_rest])
        assert reply is not None and reply.results, reply
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_a_network_heals_by_itself_when_its_port_appears(world: World) -> None:
    unheard(world)
    world.apply("shop", LAB + "---" + FROM_LAB)
    world.run(3.0)
    phase, why = status(world, "intents", "from-lab")
    assert phase == "Installing" and "host l1: se1 has no port 77" in why
    assert not [gateway for gateway in world.nodes["se1"].host.gateways if gateway.port == 77]
    world.add_port("se1", 77, PortRole.ATTACHMENT)
    world.run(3.0)
    assert status(world, "networks", "shop/lab") == ("Active", "")
    assert world.phase("shop", "from-lab") == "Active"
    assert [gateway.ipv4 for gateway in world.nodes["se1"].host.gateways if gateway.port == 77] == ["10.7.0.1"]


def test_a_port_that_goes_takes_down_its_network_alone(world: World) -> None:
    world.add_port("se1", 77, PortRole.ATTACHMENT)
    world.apply("shop", LAB + "---" + FROM_LAB + "---" + INSIDE)
    world.run(3.0)
    assert (world.phase("shop", "from-lab"), world.phase("shop", "inside")) == ("Active", "Active")
    world.nodes["se1"].remove_port(77)
    world.add_port("se1", 80, PortRole.ATTACHMENT)
    world.run(3.0)
    assert (world.phase("shop", "from-lab"), world.phase("shop", "inside")) == ("Installing", "Active")
    reply = world.apply("shop", LAB + "---" + LAB.replace("lab", "new").replace("77", "80").replace("10.7", "10.6"))
    assert reply is not None and reply.results == ("networks/shop/lab unchanged", "networks/shop/new created")


def test_an_entry_that_a_node_refuses_holds_up_only_its_owner(world: World) -> None:
    world.apply("shop", INSIDE)
    world.run(3.0)
    refused = [entry for entry in world.nodes["se1"].entries.values() if entry.owner == "intents/inside"]
    world.delete("shop", "inside")
    world.run(3.0)
    world.nodes["se1"].refused = {entry_key(entry) for entry in refused if entry.table == "steer"}
    # the next intent has other numbers
    world.nodes["se1"].refused |= {
        (
            table,
            tuple(
                field_match.__class__(field=field_match.field, value=field_match.value + offset)
                for field_match in match
            ),
            priority,
        )
        for offset in range(1, 3)
        for table, match, priority in world.nodes["se1"].refused
    }
    world.apply("shop", INSIDE)
    world.run(3.0)
    phase, why = status(world, "intents", "inside")
    assert phase == "Installing" and "node se1 refused its state: it does not like it" in why
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert world.delete("shop", "inside") is not None
    world.run(3.0)
    reply = world.delete("shop", "shop/firewall", "Network")
    assert reply is not None and reply.results, reply


def test_of_what_is_refused_each_owner_sees_its_own(world: World) -> None:
    """Nor is a network's refusal anybody else's, and renewals go on."""
    world.apply("shop", INSIDE)
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    node = world.nodes["se1"]
    node.refused = {entry_key(entry) for entry in node.entries.values() if entry.owner == "intents/inside"}
    world.controllers["shop"].start()
    world.run(60.0)
    phase, why = status(world, "intents", "inside")
    assert phase == "Installing" and why.count("it does not like it") == 1
    assert status(world, "intents", "order-processing")[0] == "Active"
    assert "like it" not in status(world, "intents", "order-processing")[1]
    node.refused = set()
    world.run(3.0)
    assert world.phase("shop", "inside") == "Active"


def test_what_is_withdrawn_while_its_node_is_dead_holds_nothing_up(world: World) -> None:
    """Nor while the node refuses something, for as long as that takes."""
    world.apply("shop", INSIDE)
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    for name in ("se1", "sg1"):
        world.nodes[name].up = False
    for intent in ("inside", "order-processing"):
        world.delete("shop", intent)
    for kind, name in (("Network", "shop/firewall"), ("Link", "se1-sg1"), ("Link", "sg1-t1"), ("Link", "sg1-ig1")):
        reply = world.delete("shop", name, kind)
        assert reply is not None and reply.results, reply
    world.run(5.0)
    reply = world.delete("shop", "sg1", "Node")
    assert reply is not None and reply.results, reply
    for name in ("se1", "sg1"):
        world.nodes[name].up = True
    world.run(5.0)
    assert not [entry for entry in world.nodes["se1"].entries.values() if entry.owner.startswith("intents/")]


def test_numbers_of_what_a_dead_node_still_has_rest_until_it_is_back(world: World) -> None:
    """Else another plan's packets would meet there what is left of the one before."""
    world.apply("shop", INSIDE)
    world.run(3.0)
    shop = world.controllers["shop"]

    def numbers() -> set[str]:
        ids = {key: number for stitch in shop.state.stitches.values() for key, number in stitch.ids.items()}
        return {f"{' '.join(key.split()[:2])} {number}" for key, number in ids.items()}

    def go_round(to: set[str]) -> None:
        """As if all others of each kind had been given out since."""
        last: dict[str, int] = {}
        for name in to:
            kind, _, number = name.rpartition(" ")
            last[kind] = min(int(number) - 1, last.get(kind, 1 << 16))
        shop.state = msgspec.structs.replace(
            shop.state, last_numbers=PersistentMap({**shop.state.last_numbers, **last})
        )

    numbers_held = numbers()
    world.nodes["se1"].up = False
    world.run(3.0)
    world.delete("shop", "inside")
    world.run(3.0)
    assert numbers_held and not numbers()
    shop.start()  # it is stored
    world.run(3.0)
    go_round(numbers_held)
    world.apply("shop", INSIDE)
    world.run(3.0)
    networks = {name for name in numbers_held if " vrf " in name}
    assert networks < numbers() and numbers().isdisjoint(numbers_held - networks)
    world.delete("shop", "inside")
    world.nodes["se1"].up = True
    world.run(5.0)
    go_round(numbers_held)
    world.apply("shop", INSIDE)
    world.run(3.0)
    assert numbers() == numbers_held
