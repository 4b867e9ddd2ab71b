"""Detectors run beside the core over what passes, and what they find is reported to it."""

import asyncio
import time

import pytest
import structlog
from waiting import until

from controller import assessing
from controller.assessing import Assessing
from controller.fulfillment.numbering import Kind, id_key
from controller.model.discovery import PathMeasurement
from controller.model.event import Found, Measured
from controller.model.finding import Cause
from controller.reconcile.state import State
from controller.traffic import Traffic
from dataplane.host_api import CounterSample
from tests.simulator import LAB, World
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


def test_what_is_denied_and_measured_is_shown_to_detectors_once(world: World) -> None:
    shop = world.controllers["shop"]
    paths = (
        PathMeasurement(liveness_group=1, slot=0, is_alive=True, delay_us=4100, jitter_us=3, loss_percent=0.0, at_s=5),
    )
    shop.event(Measured(node="se1", paths=paths), shop.life)
    clock = Clock()
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
    [path] = watching._paths(shop.state)
    assert (path.path, path.delay_ms) == ("paths/se1/1/0", 4.1)
    assert [*watching._denied(shop.state), *watching._paths(shop.state)] == []


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
