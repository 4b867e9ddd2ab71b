"""Detectors run beside the core over what passes, and what they find is reported to it."""

import asyncio
import time

import pytest
import structlog
from waiting import until

from controller import assessing
from controller.assessing import Assessing
from controller.assurance.seen import PathSample
from controller.fulfillment.numbering import Kind, id_key
from controller.model.event import Found
from controller.model.finding import Cause, Finding
from controller.reconcile.state import State
from controller.traffic import Traffic
from dataplane.host_api import CounterSample, ProbeReading
from tests.simulator import LAB, ORDER_PROCESSING, Controller, World
from tests.test_traffic import Clock, batch, numbers, record, together
from tests.typed_in import typed
from topologies.topology_file import load

LOG = structlog.get_logger("test")


@pytest.fixture(scope="module")
def world() -> World:
    world = World(topology=typed(load(LAB)))
    world.start()
    world.run(2.0)
    return world


def scanned(traffic: Traffic, clock: Clock, state: State) -> None:
    """One packet from cx2 to each of many ports of cx1; nothing comes back."""
    inside = numbers(state, "se1", "networks/shop/customer-x")[None, False]
    rows = [
        record("10.1.0.12", "10.1.0.11", (40_000 + port, port), first_s=clock.now_s, forwarding_class=inside)
        for port in range(1, 100)
    ]
    traffic.observe("se1", batch(clock, together(*rows)))


async def test_a_scan_is_found_and_reported_with_whose_traffic_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assessing, "INTERVAL_S", 0.01)
    state, clock = world.controllers["shop"].state, Clock()
    clock.now_s = time.time()
    traffic = Traffic(7, now_s=lambda: clock.now_s, monotonic_s=lambda: clock.monotonic_s)
    watching, reported = Assessing(traffic, LOG), list[Found]()

    async def report(found: Found) -> None:
        reported.append(found)

    scanned(traffic, clock, state)
    watching.take(traffic.work(traffic.waiting(), state))
    running = asyncio.create_task(watching.run(lambda: state, report))
    await until(lambda: reported, "the scan is reported")
    running.cancel()
    [finding] = [each for each in reported[0].findings if each.cause is Cause.SCAN]
    assert (finding.source, finding.owners) == ("10.1.0.12", ("networks/shop/customer-x",))
    assert watching.findings == len(reported[0].findings)


async def test_a_detector_that_fails_begins_anew_and_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assessing, "INTERVAL_S", 0.01)
    state = world.controllers["shop"].state
    watching = Assessing(Traffic(7), LOG)
    monkeypatch.setattr(assessing, "assess", lambda *_: 1 // 0)
    monkeypatch.setattr(assessing, "IDLE_S", 0.0)

    async def report(found: Found) -> None:
        raise AssertionError(found)

    running = asyncio.create_task(watching.run(lambda: state, report))
    await until(lambda: watching.failures > 2, "it failed, again and again")
    assert not running.done()
    running.cancel()


def test_what_is_denied_is_shown_to_detectors_once(world: World) -> None:
    shop, clock = world.controllers["shop"], Clock()
    traffic = Traffic(7, now_s=lambda: clock.now_s, monotonic_s=lambda: clock.monotonic_s)
    number = shop.state.numbers.get(id_key("se1", Kind.POLICY_CLASS, "hosts shop/customer-x"))
    assert number is not None
    for total in (100, 140):
        clock.pass_s(1)
        traffic.observe("se1", batch(clock, policy_classes=(CounterSample(index=number, packets=total, bytes=total),)))
    traffic.work(traffic.waiting(), shop.state)
    watching = Assessing(traffic, LOG)
    [denied] = watching._denied(shop.state)
    assert (denied.owner, denied.node, denied.packets) == ("networks/shop/customer-x", "se1", 40)
    assert [*watching._denied(shop.state)] == []


def reading(port: int, group: int = 0, slot: int | None = None, **counts: int) -> ProbeReading:
    fields = {"sent": 0, "lost": 0, "round_trip_us": 0} | counts
    return ProbeReading(
        port=port, liveness_group=group, slot=slot, is_alive=True, round_trip_us_min=0, jitter_us=0, **fields
    )


def test_probes_of_links_and_paths_are_shown_with_what_they_pass_and_only_what_came_since(world: World) -> None:
    transit = typed_intent(world)
    state, watching = transit.state, Assessing(Traffic(7), LOG)
    policy = next(policy for policy in state.sr_policies.values() if policy.headend != policy.endpoint)
    path, head = policy.candidate_paths[0], policy.endpoint
    link = state.inventory.links[path.links[-1]]
    end = link.a if link.a.node == head else link.b
    assert end is not None and end.node == head

    def told(sent: int, lost: int) -> list[PathSample]:
        at_link = reading(end.port, sent=sent, lost=lost, round_trip_us=4000)
        on_path = reading(end.port, policy.number_at(head), 0, sent=10 * sent, lost=lost, round_trip_us=9000)
        return [*watching._paths(state, {head: (at_link, on_path), "nobody": (at_link,)}, 5.0 + sent)]

    assert told(100, 3) == [], "from here on it counts"
    of_link, of_path = told(120, 5)
    assert (of_link.link, of_link.sent, of_link.lost, of_link.delay_ms) == (link.name, 20, 2, 2.0)
    assert (of_path.sent, of_path.delay_ms, of_path.links) == (200, 4.5, path.links[::-1])
    assert of_path.path == " > ".join(path.nodes[::-1])
    assert told(120, 5) == [] == told(10, 0), "nothing new; it began anew"
    assert [*watching._counted] == [head], "who is no node is forgotten"


def test_what_a_link_touches_are_those_whose_traffic_may_take_it(world: World) -> None:
    transit = typed_intent(world)
    state = transit.state
    policy = next(policy for policy in state.sr_policies.values() if policy.headend != policy.endpoint)
    finding = Finding(
        at_s=1.0, cause=Cause.LOSS, entity=f"links/{policy.candidate_paths[0].links[0]}", detectors=("delay",), p=0.1,
        reasons=(), windows=(), text="",
    )  # fmt: skip
    owners = {stitch.plan.owner for stitch in state.stitches.values()}
    assert owners and {*assessing._with_owners(finding, (), state).owners} == owners


def typed_intent(world: World) -> Controller:
    if "order-processing" not in world.controllers["shop"].state.intent_records:
        world.apply("shop", ORDER_PROCESSING)
        world.run(5.0)
    return world.controllers["transit"]


def test_rows_that_are_too_many_for_an_interval_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state, clock = world.controllers["shop"].state, Clock()
    traffic = Traffic(7, now_s=lambda: clock.now_s, monotonic_s=lambda: clock.monotonic_s)
    scanned(traffic, clock, state)
    came = traffic.work(traffic.waiting(), state)
    monkeypatch.setattr(assessing, "ROWS_MAX", len(came))
    watching = Assessing(traffic, LOG)
    watching.take(came)
    watching.take(came)
    told = {sample.labels[0][1]: sample.value for metric in watching.metrics() for sample in metric.samples}
    assert told["rows_beyond"] == len(came) == 99
