"""`stitch trace` in the simulated lab: what it says is what packets meet that are sent through the nodes' entries."""

import pytest
from packet_walk import Walk, echo, tcp

from controller.model.trace import Crossing, Hop, Probe, Trace, Unknown, Verdict
from controller.views import tracing
from dataplane.reasons import DropReason
from tests.simulator import ORDER_PROCESSING, World

PATH = ["se1", "sg1", "t1", "tc1", "t2", "ig1", "ie1"]


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    return world


def follow(world: World, source: str, destination: str, protocol: str = "", port: int = 0) -> tuple[Trace, list[Hop]]:
    """The last domain's trace, and all hops."""
    asked: Probe | Crossing = Probe(source=source, destination=destination, protocol=protocol, port=port)
    domain, hops = "shop", []
    while True:
        trace = tracing.trace(world.controllers[domain].state, asked, world.now_s)
        assert isinstance(trace, Trace), trace
        hops += trace.hops
        if trace.onward is None:
            return trace, hops
        domain = trace.onward.domain
        asked = Crossing(border=trace.onward.border, frame=trace.onward.frame)


@pytest.mark.parametrize("source", ["cx1", "shop/customer-x/cx1", "shop/customer-x/2001:db8:1::11"])
@pytest.mark.parametrize("destination", ["analytics-y", "insight/analytics/analytics-y"])
def test_what_the_intent_allows_is_delivered_through_three_domains(world: World, source: str, destination: str) -> None:
    trace, hops = follow(world, source, destination, "tcp", 443)
    assert (trace.verdict, trace.owner) == (Verdict.DELIVERED, "")
    assert trace.text.startswith("to insight/analytics/ay1, at ie1 port ")
    assert [(hop.domain, hop.node) for hop in hops] == list(
        zip(["shop"] * 2 + ["transit"] * 3 + ["insight"] * 2, PATH, strict=True)
    )
    assert all(hop.confirmed for hop in hops)
    segments = world.get("shop", "intents", "order-processing").status["segments"]
    assert [list(hop.segments) for hop in hops[:2]] == segments
    permit = next(step for step in hops[0].steps if "/flow_policy/" in step.entry)
    assert permit.owner == "intents/order-processing"
    resource = world.get("shop", "entries", permit.entry)
    assert (resource.spec["action"], resource.status["owner"]) == ("permit_request", permit.owner)
    onward = next(step for step in hops[2].steps if "/flow_policy/" in step.entry)
    assert onward.owner.startswith("agreements/shop:")


def test_what_nobody_allows_is_dropped_where_it_enters(world: World) -> None:
    trace, hops = follow(world, "cx2", "analytics-y", "tcp", 443)
    assert (trace.verdict, trace.owner, [hop.node for hop in hops]) == (Verdict.DROPPED, "", ["se1"])
    assert trace.text == "at se1: not_permitted, no entry permits it"


@pytest.mark.parametrize(("source", "destination"), [("cx1", "cx2"), ("cx2", "cx1")])
def test_isolation_names_the_intent(world: World, source: str, destination: str) -> None:
    trace, hops = follow(world, source, destination)
    assert (trace.verdict, trace.owner) == (Verdict.DROPPED, "intents/order-processing")
    assert trace.text == "at se1: isolated, says intents/order-processing"
    assert hops[-1].result == "dropped: isolated"


@pytest.mark.parametrize(
    ("source", "destination", "address", "port"),
    [
        ("cx1", "10.2.0.10", "10.1.0.11", 443),
        ("cx1", "10.2.0.10", "10.1.0.11", 80),
        ("cx1", "10.2.0.10", "10.1.0.11", 0),
        ("cx1", "10.2.0.11", "10.1.0.11", 443),
        ("cx2", "10.2.0.10", "10.1.0.12", 443),
        ("cx2", "10.1.0.12", "10.1.0.12", 22),
        ("cx2", "10.1.0.77", "10.1.0.12", 0),
        ("cx1", "2001:db8:2::10", "2001:db8:1::11", 443),
        ("cx1", "2001:db8:1::12", "2001:db8:1::11", 443),
    ],
)
def test_a_trace_says_what_a_packet_meets(world: World, source: str, destination: str, address: str, port: int) -> None:
    trace, hops = follow(world, source, destination, "tcp" if port else "icmp", port)
    packet = tcp(address, destination, port) if port else echo(address, destination)
    outcome = Walk(world).send(source, packet)
    assert [hop.node for hop in hops] == list(outcome.path)
    if outcome.delivered:
        assert trace.text.startswith("to ") and f"/{outcome.delivered}, at {outcome.node}" in trace.text
    else:
        assert hops[-1].result == f"dropped: {DropReason(outcome.reason).name.lower()}"


def test_the_gateway_answers_by_itself(world: World) -> None:
    trace, _ = follow(world, "cx2", "10.1.0.1")
    assert (trace.verdict, trace.text) == (Verdict.DELIVERED, "to the gateway, which se1 is")


def test_an_expired_lease_says_whose_it_was(world: World) -> None:
    """Nobody renews once the clock is past it: the entries are asked about a later moment."""
    state = world.controllers["shop"].state
    trace = tracing.trace(state, Probe(source="cx1", destination="analytics-y"), world.now_s + 4000)
    assert isinstance(trace, Trace)
    assert trace.text == "at se1: lease_expired, says intents/order-processing"


def test_what_is_not_confirmed_is_said_to_be_so() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    world.nodes["se1"].up = False
    world.apply("shop", ORDER_PROCESSING.replace("name: order-processing", "name: another"))
    world.apply("shop", ORDER_PROCESSING.replace("tcp/443, icmp", "tcp/443"))
    world.run(5.0)
    trace, hops = follow(world, "cx1", "cx2")
    assert not hops[0].confirmed
    assert trace.text.endswith("(not confirmed by se1)")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Probe(source="cx9", destination="cx1"), "no host of domain shop is cx9; there are: shop/customer-x/cx1, "),
        (Probe(source="10.1.0.11", destination="cx2"), "10.1.0.11 is several: shop/customer-x/cx1, shop/customer-z/"),
        (Probe(source="cx1", destination="analytics-x"), "no host or service is analytics-x; services: insight/"),
        (Probe(source="cx1", destination="cx2", protocol="udp"), "udp to cx2 needs a port: cx2:PORT/udp"),
        (Probe(source="shop/customer-x/10.1.0.11", destination="::9"), "share no IP version"),
        (Crossing(border="sg1-x", frame="00" * 60), "shop has no border sg1-x in use; there are: "),
    ],
)
def test_what_cannot_be_traced_says_why(world: World, asked: Probe | Crossing, message: str) -> None:
    traced = tracing.trace(world.controllers["shop"].state, asked, world.now_s)
    assert isinstance(traced, Unknown)
    assert message in traced.message


def test_a_neighbour_cannot_use_what_it_was_not_given(world: World) -> None:
    """The frame that transit is to get, sent back to us."""
    trace, _ = follow(world, "cx1", "analytics-y")
    assert trace.verdict == Verdict.DELIVERED
    state = world.controllers["shop"].state
    left = tracing.trace(state, Probe(source="cx1", destination="analytics-y"), world.now_s)
    assert isinstance(left, Trace) and left.onward is not None
    back = tracing.trace(state, Crossing(border=left.onward.border, frame=left.onward.frame), world.now_s)
    assert isinstance(back, Trace)
    assert back.text == "at sg1: sid_not_admitted, no entry takes that SID from there"
    noise = tracing.trace(state, Crossing(border=left.onward.border, frame="86dd" * 7), world.now_s)
    assert isinstance(noise, Trace) and noise.verdict == Verdict.DROPPED
