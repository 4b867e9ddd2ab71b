"""What other domains' intents may do here goes with our own intents and networks, whenever those change."""

import msgspec
import pytest
from msgspec.structs import replace

from controller.language.manifest import applied, parse
from controller.model.event import Applied, Apply, Reply
from controller.model.inventory import Attachment, Network
from controller.model.told import Told
from controller.views import preview
from dataplane.host_api import PortRole
from tests.offers import refused
from tests.packet_walk import Walk, tcp
from tests.simulator import ORDER_PROCESSING, World, unpooled
from topologies.topology import AcceptRule, Host, HostInterface

CX1, AY1 = "10.1.0.11", "10.2.0.10"
ISOLATED = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: quarantine, tenant: analysts}
spec: {isolate: {network: insight/analytics}}
"""
OTHER_SHOP = """
apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/customer-z}
spec: {prefixes: [10.1.0.0/24]}
---
apiVersion: netstitch/v1
kind: Intent
metadata: {name: survey, tenant: analysts}
spec: {allow: [{from: {network: insight/analytics}, to: shop/customer-z, ports: [icmp]}]}
"""
SAME_ADDRESS = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: watch, tenant: operators}
spec: {allow: [{from: {network: transit/operations}, to: insight/analytics/analytics-y}]}
"""


def with_spare_ports() -> World:
    """Port 77 of each edge is for hosts, and nobody's."""
    world = World(topology=unpooled())
    for node in ("se1", "ie1", "ig1"):
        world.nodes[node].add_port(77, PortRole.ATTACHMENT)
    world.start()
    return world


def agreed() -> World:
    world = with_spare_ports()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


def delivered(world: World) -> bool:
    return Walk(world).send("cx1", tcp(CX1, AY1, 443)).delivered == "ay1"


def analytics(world: World) -> Network:
    return world.controllers["insight"].state.inventory.networks["insight/analytics"]


def submit(world: World, domain: str, network: Network) -> Reply | None:
    return world.submit(domain, Applied(kind="Network", content=msgspec.json.encode(network)))


def refusal(world: World) -> str:
    """Once it is refused; it is tried again from time to time."""
    world.run(4.5)
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Refused", status
    return str(status["conditions"][0]["reason"])


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (ISOLATED, "an intent of insight isolates the destination"),
        (OTHER_SHOP, "a source has an address that the destination knows in another network, by an intent of insight"),
    ],
)
def test_own_intent_ends_what_was_agreed_and_does_not_go_with_it(manifest: str, reason: str) -> None:
    world = agreed()
    (stitch,) = world.controllers["insight"].state.stitches.values()
    reply = world.apply("insight", manifest)
    assert reply is not None and f"agreement {stitch.plan.name} ends: {reason}" in reply.results
    world.run(0.05)
    assert not delivered(world)
    assert Told.CONFLICT in refusal(world) and reason in refused(world, "insight")
    world.check_settled()
    world.delete("insight", "quarantine" if manifest == ISOLATED else "survey")
    world.run(70.0)
    assert delivered(world)


@pytest.mark.parametrize("manifest", [ISOLATED, OTHER_SHOP])
def test_what_does_not_go_with_own_intents_is_not_accepted(manifest: str) -> None:
    world = World(topology=unpooled())
    world.start()
    world.apply("insight", manifest)
    world.apply("shop", ORDER_PROCESSING)
    assert "insight" in refusal(world)
    assert not delivered(world)


def test_dry_run_says_what_would_end_and_ends_nothing() -> None:
    world = agreed()
    controller = world.controllers["insight"]
    resources = tuple(map(applied, parse(ISOLATED)))
    event = Apply(request_id="probe", resources=resources, dry_run=True)
    answer = preview.foresee(controller.state, event, world.now_s, controller.keys)
    assert any("isolates the destination" in result for result in answer.results)
    assert answer.preview is not None and [agreement.what for agreement in answer.preview.agreements] == ["ended"]
    world.run(5.0)
    assert delivered(world)


def test_networks_of_two_domains_with_the_same_addresses_do_not_reach_one_destination() -> None:
    """Replies would go to one of them only."""
    lab = unpooled()
    welcome = AcceptRule(origin="*", source="*", to="insight/*")
    domains = [
        replace(domain, policy=replace(domain.policy, accept=(welcome,))) if domain.name == "insight" else domain
        for domain in lab.domains
    ]
    network = replace(lab.network("shop/customer-x"), name="transit/operations")
    interface = HostInterface(name="eth0", node="t1", addresses=(CX1,))
    host = Host(name="to1", network="transit/operations", interfaces=(interface,))
    networks, hosts = (*lab.networks, network), (*lab.hosts, host)
    world = World(topology=replace(lab, domains=tuple(domains), networks=networks, hosts=hosts))
    world.start()
    world.apply("transit", SAME_ADDRESS)
    world.run(2.0)
    assert world.phase("transit", "watch") == "Active"
    world.apply("shop", ORDER_PROCESSING)
    assert Told.CONFLICT in refusal(world)
    assert "another network, which reaches the same destination" in refused(world, "insight")


@pytest.mark.parametrize("taken_by", ["host", "gateway"])
def test_address_of_a_source_that_the_destination_comes_to_use_itself_ends_the_agreement(taken_by: str) -> None:
    """Replies would end there."""
    world = agreed()
    network = analytics(world)
    prefixes = (*network.prefixes, "10.1.0.0/24")
    if taken_by == "gateway":
        changed = replace(network, prefixes=prefixes, gateways=(CX1,))
    else:
        new = Attachment(name="ay2", node="ie1", port=77, addresses=(CX1,))
        changed = replace(network, prefixes=prefixes, attachments=(*network.attachments, new))
    reply = submit(world, "insight", changed)
    assert reply is not None and reply.results, reply
    world.run(0.05)
    assert not delivered(world)
    assert Told.CONFLICT in refusal(world)
    assert "a source has an address that insight/analytics uses itself" in refused(world, "insight")


def test_host_that_is_attached_elsewhere_is_found_there_by_what_was_agreed() -> None:
    world = agreed()
    (before,) = world.controllers["insight"].state.stitches.values()
    network = analytics(world)
    (host,) = network.attachments
    submit(world, "insight", replace(network, attachments=(replace(host, port=77),)))
    (stitch,) = world.controllers["insight"].state.stitches.values()
    assert stitch.plan.name == before.plan.name and stitch.upstream == before.upstream
    assert [destination.port for destination in stitch.plan.connection.destinations] == [77]
    world.run(1.0)
    hops = {
        dict(entry.params)["next_hop"]
        for entry in world.nodes["ie1"].entries.values()
        if entry.table == "route" and entry.owner == f"networks/{network.name}"
    }
    assert 512 + 77 in hops and 512 + host.port not in hops
    world.check_settled()


def test_host_that_moves_to_another_edge_is_reached_there_by_a_new_agreement() -> None:
    world = agreed()
    (before,) = world.controllers["insight"].state.stitches.values()
    network = analytics(world)
    (host,) = network.attachments
    moved = replace(host, node="ig1", port=77)
    submit(world, "insight", replace(network, attachments=(moved,)))
    world.run(10.0)
    (stitch,) = world.controllers["insight"].state.stitches.values()
    assert stitch.plan.name != before.plan.name
    hosts = stitch.plan.connection.destinations
    assert [(there.node, there.port) for there in hosts] == [("ig1", 77)]
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


def test_gateway_of_one_network_is_no_source_for_it() -> None:
    """The edge answers for the gateway itself, so replies would end there."""
    world = with_spare_ports()
    host = Attachment(name="n1", node="se1", port=77, addresses=("10.1.0.1",))
    near = Network(name="shop/near", prefixes=("10.1.0.0/30",), attachments=(host,))
    assert submit(world, "shop", near) is not None
    reply = world.apply(
        "shop",
        """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: inside, tenant: customer-x}
spec: {allow: [{from: {network: shop/near}, to: shop/firewall, ports: [icmp]}]}
""",
    )
    assert reply is not None and reply.results == ("intents/inside created",)
    reply = world.apply(
        "shop",
        """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: into-x, tenant: customer-x}
spec: {allow: [{from: {network: shop/near}, to: shop/customer-x/shop-front, ports: [icmp]}]}
---
apiVersion: netstitch/v1
kind: Service
metadata: {name: shop/customer-x/shop-front}
spec: {addresses: [10.1.0.12], ports: [icmp]}
""",
    )
    assert reply is not None and "10.1.0.1 is in shop/near and in shop/customer-x" in reply.conflict
