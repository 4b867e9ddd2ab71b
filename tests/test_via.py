"""Traffic that is to pass a service passes it, in order, both ways; while that is down it stops, or goes without it."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from controller.language.manifest import parse
from controller.model.access import Principal, Role
from controller.model.event import Reply
from controller.model.trace import Probe, Trace, Verdict
from controller.reconcile.authority import overreach
from controller.reconcile.link_state import HOLD_S
from controller.views import tracing
from controller.views.explain import explain
from dataplane.reasons import DropReason
from tests.packet_walk import Outcome, Walk, echo, tcp, travel
from tests.simulator import BOOT_EPOCH_S, ORDER_PROCESSING, World
from topologies.topology_file import load

CX1, CX1_6, AY1, AY1_6 = "10.1.0.11", "2001:db8:1::11", "10.2.0.10", "2001:db8:2::10"
A1, A1_6, D1, D1_6 = "10.1.0.11", "2001:db8:1::11", "10.2.0.31", "2001:db8:2::31"
FIREWALL = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: shop/firewall/fw}
spec: {addresses: [10.1.9.2], ports: [icmp], in: fw1a, out: fw1b, tenants: ["*"]}
"""
VIA = ORDER_PROCESSING + "  via: [fw]\n"
BYPASS = VIA + "  on_service_down: bypass\n"
CAMPUS = Path(__file__).with_name("services-on-way.yaml")
SERVICES = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: campus/walls/fw}
spec: {addresses: [10.9.0.2], ports: [icmp], in: fwa, out: fwb, tenants: ["*"]}
---
apiVersion: netstitch/v1
kind: Service
metadata: {name: campus/watch/ids}
spec: {addresses: [10.9.1.2], ports: [icmp], in: idsb, out: idsa, tenants: ["*"]}
"""
FILES = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: NAME, tenant: NAME}
spec:
  allow: [{from: campus/NAME, to: campus/PLACE/files}]
  via: [VIA]
"""


def of_campus(via: str, name: str = "desk", place: str = "servers", more: str = "") -> str:
    return FILES.replace("NAME", name).replace("PLACE", place).replace("VIA", via) + more


def refusal(reply: Reply | None) -> str:
    assert reply is not None
    return "; ".join([*(problem.message for problem in reply.problems), *([reply.conflict] if reply.conflict else [])])


def started(*manifests: str, domain: str = "shop") -> World:
    world = World(topology=load(CAMPUS)) if domain == "campus" else World()
    world.start()
    for manifest in manifests:
        assert not refusal(world.apply(domain, manifest))
    world.run(5.0)
    return world


class Through:
    """Sends packets; what a service got it gives back as its host does: by its other port, one hop on."""

    def __init__(self, world: World) -> None:
        self._walk, self._boottime_s = Walk(world), world.now_s - BOOT_EPOCH_S
        self._other: dict[tuple[str, int], int] = {}
        for host in world.topology.hosts:
            if host.forward:
                node = host.interfaces[0].node
                a, b = (world.topology.port_number(node, host.port(interface)) for interface in host.interfaces)
                self._other |= {(node, a): b, (node, b): a}

    def send(self, host: str, packet: Packet) -> tuple[Outcome, list[tuple[str, int]]]:
        """And by which ports it went into services."""
        outcome, into = self._walk.send(host, packet, asked=False), []
        while outcome.delivered and (at := (outcome.node, outcome.frames[-1][5])) in self._other:
            got = Ether(outcome.frames[-1]).payload
            assert (got.src, got.dst) == (packet.src, packet.dst), "as its sender has sent it"
            into.append(at)
            outcome = self.give(at[0], self._other[at], got)
        return outcome, into

    def give(self, node: str, port: int, packet: Packet) -> Outcome:
        """Out of a service's host, into a port of the node."""
        pipelines, walk = self._walk.pipelines, self._walk
        mac = pipelines[node].ports[port].mac.hex(":")
        frame = bytes(Ether(src=f"02:00:00:09:00:{port:02x}", dst=mac) / one_hop_on(packet))
        return travel(pipelines, walk._wires, walk._hosts, (node, port), frame, self._boottime_s, walk._through_tunnel)


def one_hop_on(packet: Packet) -> Packet:
    ip = packet.copy()
    if isinstance(ip, IPv6):
        ip.hlim -= 1
    else:
        ip.ttl -= 1
        del ip.chksum
    return type(ip)(bytes(ip))


def ports(world: World, node: str, *names: str) -> list[tuple[str, int]]:
    return [(node, world.topology.port_number(node, name)) for name in names]


def standing(world: World, domain: str, name: str) -> tuple[str, str]:
    status = world.get(domain, "intents", name).status
    return status["phase"], " ".join(condition["reason"] for condition in status["conditions"] if condition["reason"])


# ---- across domains: the service is where the traffic begins


def test_both_directions_pass_it_by_opposite_ports_and_no_other_domain_knows() -> None:
    world = started(FIREWALL, VIA)
    assert world.phase("shop", "order-processing") == "Active"
    through = Through(world)
    inward, outward = ports(world, "se1", "fw1a", "fw1b")
    for source, destination in ((CX1, AY1), (CX1_6, AY1_6)):
        outcome, into = through.send("cx1", tcp(source, destination, 443))
        assert (outcome.delivered, into) == ("ay1", [inward]), outcome
        assert outcome.path[:3] == ("se1", "sg1", "t1")
        outcome, into = through.send("ay1", tcp(destination, source, 40000, "SA", 443))
        assert (outcome.delivered, into) == ("cx1", [outward]), outcome
    status = world.get("shop", "intents", "order-processing").status
    assert status["via"] == [{"service": "shop/firewall/fw", "node": "se1", "passed": True, "up": True}]
    assert status["path"] == ["se1", "shop/firewall/fw", "se1", "sg1", "transit", "insight"]
    said = b"".join(message.payload for message in world.heard("offer"))
    assert said and b"firewall" not in said


def test_a_service_gives_back_what_is_allowed_to_pass_it_and_nothing_else() -> None:
    world = started(FIREWALL, VIA)
    through = Through(world)
    inward, outward = ports(world, "se1", "fw1a", "fw1b")
    for packet in (tcp(CX1, AY1, 80), tcp("10.1.0.12", AY1, 443), echo(CX1, "10.1.0.12"), tcp("192.0.2.1", AY1, 443)):
        outcome = through.give(*outward, packet)
        assert not outcome.delivered, outcome
        assert outcome.reason in (DropReason.NOT_PERMITTED, DropReason.SOURCE_NOT_ADMITTED)
    # who answers what nobody has asked gets nowhere, though the firewall lets it pass
    outcome = through.give(*inward, tcp(AY1, CX1, 40000, "SA", 443))
    assert (outcome.delivered, outcome.reason) == ("", DropReason.UNASKED)


@pytest.mark.parametrize("port", ["fw1a", "fw1b"])
def test_while_it_is_down_the_traffic_stops_and_goes_on_once_it_is_back(port: str) -> None:
    world = started(FIREWALL, VIA)
    world.set_carrier(port, False, "se1")
    world.run(2.0)
    phase, reason = standing(world, "shop", "order-processing")
    assert phase == "Unsatisfiable"
    assert "via: shop/firewall/fw is down, and what is to pass it stops until it is back" in reason
    outcome, into = Through(world).send("cx1", tcp(CX1, AY1, 443))
    assert not outcome.delivered and not into
    assert world.get("shop", "services", "shop/firewall/fw").status["up"] is False
    world.set_carrier(port, True, "se1")
    world.run(HOLD_S + 4.0)
    assert world.phase("shop", "order-processing") == "Active"
    outcome, into = Through(world).send("cx1", tcp(CX1, AY1, 443))
    assert outcome.delivered == "ay1" and into
    world.check_settled()


def test_an_intent_may_pass_by_a_service_that_is_down_and_comes_back_to_it() -> None:
    world = started(FIREWALL, BYPASS)
    assert world.phase("shop", "order-processing") == "Active"
    world.set_carrier("fw1a", False, "se1")
    world.run(5.0)
    phase, reason = standing(world, "shop", "order-processing")
    assert phase == "Degraded"
    assert "via: shop/firewall/fw is down; until it is back traffic goes without it" in reason
    outcome, into = Through(world).send("cx1", tcp(CX1, AY1, 443))
    assert (outcome.delivered, into) == ("ay1", [])
    world.set_carrier("fw1a", True, "se1")
    world.run(HOLD_S + 5.0)
    assert world.phase("shop", "order-processing") == "Active"
    outcome, into = Through(world).send("cx1", tcp(CX1, AY1, 443))
    assert outcome.delivered == "ay1" and len(into) == 1
    world.check_settled()


def test_what_passes_a_service_is_explained_and_traced() -> None:
    world = started(FIREWALL, VIA)
    state = world.controllers["shop"].state
    told = str(explain(state, "intents", "order-processing", world.now_s))
    assert "shop/firewall/fw at se1, in by port" in told
    asked = Probe(source="shop/customer-x/cx1", destination="insight/analytics/analytics-y")
    trace = tracing.trace(state, asked, world.now_s)
    assert isinstance(trace, Trace) and trace.verdict is Verdict.LEFT, trace
    assert [hop.node for hop in trace.hops] == ["se1", "se1", "sg1"]
    assert "into service shop/firewall/fw" in trace.hops[0].result
    assert trace.hops[1].ingress == "service shop/firewall/fw"


def test_it_is_not_taken_away_while_an_intent_needs_it_and_leaves_nothing_behind() -> None:
    world = started(FIREWALL, VIA)
    assert "in use by intent order-processing" in refusal(world.delete("shop", "shop/firewall/fw", "Service"))
    world.delete("shop", "order-processing")
    world.run(10.0)
    assert not refusal(world.delete("shop", "shop/firewall/fw", "Service"))
    world.run(5.0)
    entries = world.nodes["se1"].entries.values()
    assert not any(entry.action in ("to_service", "resolve_via") for entry in entries)
    world.check_settled()


def test_an_intent_that_comes_to_pass_a_service_is_moved_and_one_that_need_not_any_more_too() -> None:
    world = started(FIREWALL, ORDER_PROCESSING)
    for manifest, services in ((VIA, 1), (ORDER_PROCESSING, 0)):
        assert not refusal(world.apply("shop", manifest))
        world.run(6.0)
        assert world.phase("shop", "order-processing") == "Active"
        outcome, into = Through(world).send("cx1", tcp(CX1, AY1, 443))
        assert (outcome.delivered, len(into)) == ("ay1", services)


def test_a_tenant_needs_leave_to_lead_traffic_through_it() -> None:
    world = started(FIREWALL.replace('tenants: ["*"]', "tenants: [somebody]"))
    tenant = Principal(name="x", role=Role.OPERATOR, tenants=("customer-x",))
    intents = {"order-processing": parse(VIA)[0].value}
    shop = world.controllers["shop"].state
    for name, may in (("fw", False), ("shop/firewall/fw", False), ("elsewhere", True)):
        named = {"order-processing": replace(intents["order-processing"], via=(name,))}
        said = overreach(tenant, named, {}, shop.inventory, "shop")
        assert said == "" if may else "may not lead traffic to shop/firewall/fw" in said


# ---- inside a domain: services at edges of their own


def test_services_are_passed_in_order_and_by_replies_the_other_way_round() -> None:
    world = started(SERVICES, of_campus("fw, campus/watch/ids"), domain="campus")
    assert world.phase("campus", "desk") == "Active"
    fw_in, fw_out = ports(world, "e2", "fwa", "fwb")
    ids_in, ids_out = ports(world, "e4", "idsb", "idsa")
    through = Through(world)
    outcome, into = through.send("a1", tcp(A1, D1, 443))
    assert (outcome.delivered, into) == ("d1", [fw_in, ids_in]), outcome
    outcome, into = through.send("d1", tcp(D1, A1, 40000, "SA", 443))
    assert (outcome.delivered, into) == ("a1", [ids_out, fw_out]), outcome
    # the monitor takes no IPv6, so that stops
    outcome, into = through.send("a1", tcp(A1_6, D1_6, 443))
    assert (outcome.delivered, outcome.reason, into) == ("", DropReason.NO_NEXT_HOP, [fw_in])
    status = world.get("campus", "intents", "desk").status
    assert status["path"] == [
        "e1",
        "c1",
        "e2",
        "campus/walls/fw",
        "e2",
        "c1",
        "e4",
        "campus/watch/ids",
        "e4",
        "c1",
        "e3",
    ]
    assert status["predicted"]["latency_ms"] == 6
    world.check_settled()


@pytest.mark.parametrize(("limit_ms", "phase"), [(6, "Active"), (5.9, "Unsatisfiable")])
def test_the_whole_way_counts_for_a_latency(limit_ms: float, phase: str) -> None:
    more = f"  require: {{latency_ms: {{max: {limit_ms}}}}}\n"
    world = started(SERVICES, of_campus("fw, ids", more=more), domain="campus")
    assert world.phase("campus", "desk") == phase, standing(world, "campus", "desk")


def test_networks_that_a_service_could_not_tell_apart_do_not_share_it() -> None:
    world = started(SERVICES, of_campus("fw"), of_campus("fw", "annex", "vault"), domain="campus")
    assert world.phase("campus", "desk") == "Active"
    phase, reason = standing(world, "campus", "annex")
    assert phase == "Unsatisfiable" and "campus/walls/fw could not tell traffic from campus/annex" in reason
    outcome, into = Through(world).send("a2", tcp(A1, D1, 443))
    assert not outcome.delivered and not into
    world.delete("campus", "desk")
    world.run(70.0)
    assert world.phase("campus", "annex") == "Active"
    outcome, into = Through(world).send("a2", tcp(A1, D1, 443))
    assert (outcome.delivered, len(into)) == ("d2", 1)


@pytest.mark.parametrize(
    ("services", "via", "message"),
    [
        ("", "wall", "wall is no service of ours"),
        ("", "campus/servers/files", "campus/servers/files has no `in` and `out`"),
        (SERVICES.replace("out: fwb", "out: fwc"), "fw", "campus/walls has no attachments fwa and fwc"),
        (SERVICES.replace("campus/watch/ids", "campus/walls/ids").replace("idsb", "fwb").replace("idsa", "fwa")
         .replace("10.9.1.2", "10.9.0.2"), "fw, ids", "would not tell which it has passed"),
    ],
)  # fmt: skip
def test_what_cannot_be_passed_is_said(services: str, via: str, message: str) -> None:
    world = started(*filter(None, [services]), of_campus(via), domain="campus")
    phase, reason = standing(world, "campus", "desk")
    assert phase == "Unsatisfiable" and "via: " in reason and message in reason


def test_a_name_that_may_mean_two_services_is_to_be_written_out() -> None:
    other = SERVICES.replace("campus/watch/ids", "campus/watch/fw")
    world = started(other, of_campus("fw"), domain="campus")
    assert "fw may be campus/walls/fw, campus/watch/fw: write the whole name" in standing(world, "campus", "desk")[1]
    assert not refusal(world.apply("campus", of_campus("campus/walls/fw")))
    world.run(5.0)
    assert world.phase("campus", "desk") == "Active"
