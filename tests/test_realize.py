"""Two meanings agree: what the entries deliver (by the reference pipeline) equals what the intents permit."""

import itertools
import json

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrSegmentRouting
from scapy.layers.l2 import Ether

from controller.fulfillment import numbering
from controller.fulfillment.plan_ids import at_tail, stretches
from controller.language.manifest import to_manifest
from controller.model.entry import OwnedEntry
from dataplane.host_api import PortRole
from dataplane.reasons import DropReason
from dataplane.reference import Forward
from tests.packet_walk import Walk, echo, tcp, udp
from tests.simulator import ORDER_PROCESSING, World, unpooled

CX1, CX2, CZ1, AY1, AR1 = "10.1.0.11", "10.1.0.12", "10.1.0.11", "10.2.0.10", "10.1.0.10"
CX1_6, CX2_6, AY1_6 = "2001:db8:1::11", "2001:db8:1::12", "2001:db8:2::10"
FORWARD = ("se1", "sg1", "t1", "tc1", "t2", "ig1", "ie1")


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    world.check_settled()
    return world


@pytest.mark.parametrize(
    ("host", "packet", "reaches", "path"),
    [
        ("cx1", tcp(CX1, AY1, 443), "ay1", FORWARD),
        ("cx1", tcp(CX1, AY1, 443, "A"), "ay1", FORWARD),
        ("cx1", tcp(CX1_6, AY1_6, 443), "ay1", FORWARD),
        ("cx1", echo(CX1, AY1), "ay1", FORWARD),
        ("cx1", echo(CX1_6, AY1_6), "ay1", FORWARD),
        ("ay1", tcp(AY1, CX1, 40000, "SA", 443), "cx1", FORWARD[::-1]),
        ("ay1", tcp(AY1_6, CX1_6, 40000, "A", 443), "cx1", FORWARD[::-1]),
        ("ay1", echo(AY1, CX1, reply=True), "cx1", FORWARD[::-1]),
        ("ay1", echo(AY1_6, CX1_6, reply=True), "cx1", FORWARD[::-1]),
    ],
)
def test_what_the_intent_allows_arrives(
    world: World, host: str, packet: IPv6, reaches: str, path: tuple[str, ...]
) -> None:
    outcome = Walk(world).send(host, packet)
    assert (outcome.delivered, outcome.path) == (reaches, path), outcome.reason


@pytest.mark.parametrize(
    ("host", "packet", "node", "reason"),
    [
        ("cx1", tcp(CX1, CX2, 80), "se1", DropReason.ISOLATED),
        ("cx2", echo(CX2, CX1), "se1", DropReason.ISOLATED),
        ("cx2", echo(CX2_6, CX1_6), "se1", DropReason.ISOLATED),
        ("cx2", tcp(CX2, AY1, 443), "se1", DropReason.NOT_PERMITTED),
        ("cx2", tcp(CX1, AY1, 443), "se1", DropReason.SOURCE_NOT_ADMITTED),
        ("cz1", tcp(CZ1, AY1, 443), "se1", DropReason.NOT_PERMITTED),
        ("cx1", tcp(CX1, AR1, 9000), "se1", DropReason.ISOLATED),
        ("cx1", tcp(CX1, AY1, 80), "se1", DropReason.ISOLATED),
        ("cx1", udp(CX1, AY1, 443), "se1", DropReason.ISOLATED),
        ("cx1", echo(CX1, AY1, reply=True), "se1", DropReason.ISOLATED),
        ("ay1", tcp(AY1, CX1, 22), "ie1", DropReason.NOT_PERMITTED),
        ("ay1", tcp(AY1, CX1, 40000, "S", 443), "ie1", DropReason.NOT_PERMITTED),
        ("ay1", echo(AY1, CX1), "ie1", DropReason.NOT_PERMITTED),
        ("ay1", tcp(AY1, CX2, 40000, "SA", 443), "ie1", DropReason.NOT_PERMITTED),
        ("ar1", tcp(AR1, CX1, 40000, "SA", 443), "ie1", DropReason.NOT_PERMITTED),
    ],
)
def test_all_else_is_dropped_where_it_enters(
    world: World, host: str, packet: IPv6, node: str, reason: DropReason
) -> None:
    outcome = Walk(world).send(host, packet)
    assert (outcome.delivered, outcome.node, outcome.reason) == ("", node, reason)


def test_every_pair_of_hosts_agrees_with_the_intent(world: World) -> None:
    """Brute force: all hosts, all ports of interest, all flags."""
    walk = Walk(world)
    hosts = {"cx1": CX1, "cx2": CX2, "cz1": CZ1, "ay1": AY1, "ar1": AR1}
    for (a, source), (b, destination) in itertools.permutations(hosts.items(), 2):
        if source == destination:
            continue
        for port, source_port in itertools.product((22, 443, 40000), (443, 40000)):
            for flags in ("S", "SA", "A", "FA", "R"):
                outcome = walk.send(a, tcp(source, destination, port, flags, source_port))
                request = (a, b) == ("cx1", "ay1") and port == 443
                # cz1 has the address of cx1, on purpose: what ay1 sends to it is for cx1
                reply = a == "ay1" and destination == CX1 and source_port == 443 and flags != "S"
                expected = "ay1" if request else "cx1" if reply else ""
                assert outcome.delivered == expected, (a, b, port, flags, source_port, outcome)


def test_srv6_header_has_the_planned_segments(world: World) -> None:
    outcome = Walk(world).send("cx1", tcp(CX1, AY1, 443))
    frame = Ether(outcome.frames[FORWARD.index("t1")])
    assert IPv6ExtHdrSegmentRouting not in frame, "one container needs none"
    (stitch,) = world.controllers["transit"].state.stitches.values()
    stretch = next(stretch for stretch in stretches(stitch.plan) if stretch.head == "t1")
    *_, function = at_tail(stretch)
    assert frame[IPv6].dst == f"5f00:2:2:4:{stitch.ids[function]:x}::"  # tc1, t2
    assert frame[IPv6].fl >> 6 == world.controllers["transit"].state.sr_policies[stretch.id.name].number_at("t1")


def test_segments_shown_are_those_that_packets_get() -> None:
    """Also where the second candidate path is a parallel link; and what nodes are without is written anew."""
    world = World()
    link = """
apiVersion: netstitch/v1
kind: Link
metadata: {name: beside}
spec: {a: {node: se1, port: 99}, b: {node: sg1, port: 99}, delay_ms: 0, rate_mbit: 1000, loss_percent: 0, mtu: 1500}
"""
    world.start()
    for node in ("se1", "sg1"):
        world.add_port(node, 99, PortRole.FABRIC)
    reply = world.apply("shop", link)
    assert reply is not None and not reply.problems, reply
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    paths = [entry for entry in world.nodes["se1"].entries.values() if entry.table == "sr_policy"]
    assert sorted(dict(path.params)["first_hop"] for path in paths)[1] == 99
    services = {
        dict(entry.params)["service_sid"]
        for entry in world.nodes["se1"].entries.values()
        if entry.action == "encapsulate"
    }
    (service,) = map(numbering.sid_text, services)
    shown = world.get("shop", "intents", "order-processing").status
    assert shown["segments"][:2] == shown["containers"][:2] == [[service]] * 2
    for node in ("se1", "sg1"):
        entries = dict(world.nodes[node].entries)
        without = {
            key: entry for key, entry in entries.items() if entry.table not in ("sr_policy", "local_sid", "route")
        }
        world.controllers["shop"].crash()
        world.nodes[node].entries = without
        world.controllers["shop"].start()
        world.run(3.0)
        assert world.nodes[node].entries == entries != without


def test_largest_inner_packet_fits_every_link_of_the_chain(world: World) -> None:
    sizes = {
        dict(entry.params)["inner_mtu"]
        for node in world.nodes.values()
        for entry in node.entries.values()
        if entry.action == "encapsulate"
    }
    # 1500 - WireGuard over IPv4 60 - IPv6 40
    assert sizes == {1400}
    assert Walk(world).send("cx1", tcp(CX1, AY1, 443) / bytes(1400 - 40)).delivered == "ay1"
    assert Walk(world).send("cx1", tcp(CX1, AY1, 443) / bytes(1401 - 40)).reason == DropReason.TOO_BIG


def test_before_and_after_the_intent_hosts_of_a_network_reach_each_other_only() -> None:
    world = World()
    world.start()
    for step in ("before", "after"):
        walk = Walk(world)
        assert walk.send("cx1", echo(CX1, CX2)).delivered == "cx2", step
        assert walk.send("cx2", tcp(CX2_6, CX1_6, 22)).delivered == "cx1", step
        assert walk.send("cx1", echo(CX1, AY1)).reason == DropReason.NOT_PERMITTED, step
        world.apply("shop", ORDER_PROCESSING)
        world.run(2.0)
        assert Walk(world).send("cx1", echo(CX1, CX2)).reason == DropReason.ISOLATED
        world.delete("shop", "order-processing")
        world.run(2.0)


def test_border_closes_by_itself_when_the_lease_ends(world: World) -> None:
    (stitch,) = world.controllers["shop"].state.stitches.values()
    assert stitch.downstream is not None
    expires_s = stitch.downstream.terms.expires_s
    earlier_s = world.now_s
    try:
        world.now_s = expires_s - 1
        assert Walk(world).send("cx1", tcp(CX1, AY1, 443)).delivered == "ay1"
        world.now_s = expires_s
        outcome = Walk(world).send("cx1", tcp(CX1, AY1, 443))
        assert (outcome.node, outcome.reason) == ("se1", DropReason.LEASE_EXPIRED)
    finally:
        world.now_s = earlier_s


def test_traffic_flows_at_every_moment_of_a_change() -> None:
    """Make before break: all nodes of all domains are asked at each step of the way."""
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    changed = ORDER_PROCESSING.replace("[tcp/443, icmp]", "[tcp/443]")
    world.apply("shop", changed)
    for _ in range(150):
        world.run(0.0007)
        walk = Walk(world)
        assert walk.send("cx1", tcp(CX1, AY1, 443)).delivered == "ay1"
        assert walk.send("ay1", tcp(AY1, CX1, 40000, "SA", 443)).delivered == "cx1"
    world.run(2.0)
    world.check_settled()
    assert Walk(world).send("cx1", echo(CX1, AY1)).reason == DropReason.ISOLATED


LOCAL = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: shop/customer-z/billing}
spec: {addresses: [10.1.0.77], ports: [tcp/8080]}
---
apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/customer-z}
spec:
  prefixes: [10.1.0.0/24, "2001:db8:1::/64"]
  gateways: [10.1.0.1, "2001:db8:1::1"]
  attachments: [{name: cz1, node: se1, port: PORT, addresses: [10.1.0.77]}]
---
apiVersion: netstitch/v1
kind: Intent
metadata: {name: billing, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: shop/customer-z/billing}]
"""


@pytest.mark.parametrize(("source", "to", "version"), [(CX1, AY1, 4), (CX1_6, AY1_6, 6)])
def test_a_sender_learns_that_a_path_became_narrow_far_away(source: str, to: str, version: int) -> None:
    """RFC 2473 §8. The agreement's terms are still the wider ones: only the node behind the last border knows."""
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    world.check_settled()
    (link,) = (link for link in world.controllers["insight"].state.inventory.links.values() if link.b is not None)
    narrow = to_manifest(link)
    narrow["spec"]["mtu"] = 1370
    world.partitioned.add(frozenset({"insight", "transit"}))  # else what is signed would follow at once
    reply = world.apply("insight", json.dumps(narrow))
    assert reply is not None and not reply.problems
    world.run(2.0)
    packet = tcp(source, to, 443, "A") / bytes(1300)
    outcome = Walk(world).send("cx1", packet)
    assert (outcome.node, outcome.reason, outcome.told_at) == ("ig1", DropReason.TOO_BIG, "cx1")
    told = Ether(outcome.told)
    assert (told[1].src, told[1].dst) == (to, source), "in the name of the destination, whose replies are agreed"
    mtu = told[ICMP].nexthopmtu if version == 4 else told[ICMPv6PacketTooBig].mtu
    header = len(packet) - 1300
    fitting = tcp(source, to, 443, "A") / bytes(mtu - header)
    assert Walk(world).send("cx1", fitting).delivered == "ay1"
    assert Walk(world).send("cx1", fitting / b"1").reason == DropReason.TOO_BIG
    last = tcp(source, to, 443, "A")
    hops = []
    for hop_limit in range(1, 6):
        last[0].setfieldval("ttl" if version == 4 else "hlim", hop_limit)
        hops.append(Walk(world).send("cx1", last))
    assert [(hop.node, bool(hop.told)) for hop in hops] == [
        ("se1", True), ("sg1", False), ("t1", False), ("t2", False), ("ig1", False),
    ], "hops behind the own edge are not shown"  # fmt: skip


def test_who_is_denied_is_told_where_the_network_says_so() -> None:
    world = World()
    world.start()
    port = str(world.topology.port_number("se1", "cz1"))
    for says, told in (("", b""), ("  deny: reject\n", b"\3\x0d")):
        text = LOCAL.replace("PORT", port).replace("  attachments: [{name: cz1", f"{says}  attachments: [{{name: cz1")
        assert not world.apply("shop", text).problems
        world.run(2.0)
        world.check_settled()
        outcome = Walk(world).send("cz1", tcp("10.1.0.77", CX1, 22))
        assert (outcome.node, outcome.reason) == ("se1", DropReason.NOT_PERMITTED)
        assert outcome.told[34:36] == told  # administratively prohibited


def test_two_networks_on_one_edge_are_joined_without_leaving_it() -> None:
    world = World(topology=unpooled())
    world.start()
    port = str(world.topology.port_number("se1", "cz1"))
    reply = world.apply("shop", LOCAL.replace("PORT", port))
    assert reply is not None and not reply.problems and not reply.conflict, reply
    world.run(2.0)
    assert world.phase("shop", "billing") == "Active"
    world.check_settled()
    walk = Walk(world)
    walk.pipelines["se1"].neighbors[int(port), 0xFFFF0A01004D] = b"\2\0\0\0\0\1"
    assert walk.send("cx2", tcp(CX2, "10.1.0.77", 8080)).path == ("se1",)
    assert walk.send("cx2", tcp(CX2, "10.1.0.77", 8080)).delivered == "cz1"
    assert walk.send("cz1", tcp("10.1.0.77", CX2, 40000, "SA", 8080)).delivered == "cx2"
    assert walk.send("cx2", tcp(CX2, "10.1.0.77", 22)).reason == DropReason.NOT_PERMITTED
    assert walk.send("cz1", tcp("10.1.0.77", CX2, 8080)).reason == DropReason.NOT_PERMITTED
    assert walk.send("cx1", tcp(CX1, "10.1.0.77", 8080)).reason == DropReason.NOT_PERMITTED


def test_equal_histories_give_equal_bytes() -> None:
    def entries() -> list[list[OwnedEntry]]:
        world = World()
        world.start()
        world.apply("shop", ORDER_PROCESSING)
        world.run(2.0)
        return [list(node.entries.values()) for node in world.nodes.values()]

    assert entries() == entries()


WIDE = ("10.0.0.0/8", "2001:db8::/32")
ASKED = [
    ("cx1", AY1, True),
    ("cx1", AY1_6, True),
    ("cx1", CX1, False),
    ("cx1", "10.2.0.11", False),
    ("cx1", "2001:db8:2::11", False),
    ("cz1", AY1, False),
    ("ay1", CX1, True),
    ("ay1", CX1_6, True),
    ("ay1", AY1, False),
    ("ay1", CX2, False),
    ("ar1", CX1, False),
]
"""Host, whom it asks for, whether the edge answers while the intent is active."""


def test_what_an_intent_leads_to_is_answered_for_where_hosts_take_it_for_a_neighbor() -> None:
    """At each step of the way, just while packets go there too."""
    world = World(topology=unpooled())
    world.start()
    for domain, name in (("shop", "shop/customer-x"), ("insight", "insight/analytics")):
        network = world.get(domain, "networks", name)
        manifest = {
            "kind": "Network",
            "metadata": network.metadata,
            "spec": network.spec | {"prefixes": WIDE, "replies": "stateless"},
        }
        reply = world.apply(domain, json.dumps({"apiVersion": "netstitch/v1", **manifest}))
        assert reply is not None and not reply.problems and not reply.conflict, reply
    world.run(2.0)
    sent = {"cx1": tcp(CX1, AY1, 443), "ay1": tcp(AY1, CX1, 40000, "SA", 443)}

    def led() -> frozenset[str]:
        """Hosts whose packets leave the edge."""
        walk = Walk(world)
        there = set()
        for host, packet in sent.items():
            node, port = walk.place(host)
            to_edge = Ether(dst=walk.pipelines[node].ports[port].mac.hex(":")) / packet
            if isinstance(walk.pipelines[node].run(port, bytes(to_edge), 0), Forward):
                there.add(host)
        for host, target, answered in ASKED:
            assert (walk.ask(host, target) is not None) == (answered and host in there), (host, target, there)
        return frozenset(there)

    assert led() == set()
    changes = (lambda: world.apply("shop", ORDER_PROCESSING), lambda: world.delete("shop", "order-processing"))
    for change, hosts in zip(changes, ({"cx1", "ay1"}, set()), strict=True):
        change()
        seen = set()
        for _ in range(150):
            world.run(0.0007)
            seen.add(led())
        world.run(2.0)
        world.check_settled()
        assert led() == hosts and len(seen) > 1
