"""What probes say is told where it is worth it, and shown where it belongs."""

import msgspec
import pytest

from controller.model.discovery import PathMeasurement, PortMeasurement
from controller.model.event import Measured, NodeUnreachable
from controller.southbound.measurements import REPEAT_S, WINDOW, Measurements
from dataplane.host_api import Probe, ProbeReading
from tests.simulator import LAB, ORDER_PROCESSING, World
from tests.typed_in import typed
from topologies.topology_file import load

LINK = ProbeReading(
    port=1, liveness_group=0, slot=None, is_alive=True, sent=20, lost=0, round_trip_us=4000, round_trip_us_min=3900,
    jitter_us=20,
)  # fmt: skip
PATH = msgspec.structs.replace(LINK, liveness_group=7, slot=1, round_trip_us=8000)


def test_the_first_readings_are_told_half_of_the_way_there_and_back() -> None:
    measured = Measurements("t1").take((LINK, PATH), 1000.5)
    assert measured == Measured(
        node="t1",
        ports=(PortMeasurement(port=1, delay_us=2000, loss_percent=0.0, at_s=1000),),
        paths=(
            PathMeasurement(
                liveness_group=7, slot=1, is_alive=True, delay_us=4000, jitter_us=20, loss_percent=0.0, at_s=1000
            ),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, False),
        ({"round_trip_us": 4390}, False),
        ({"round_trip_us": 4410}, True),
        ({"round_trip_us": 3500}, True),
        ({"is_alive": False}, True),
        ({"sent": 1040, "lost": 1}, False),
        ({"sent": 1040, "lost": 2}, True),
        ({"jitter_us": 2000}, False),
    ],
    ids=["nothing", "less than a tenth", "more", "quicker", "dead", "0.1 % lost", "more lost", "jitter"],
)
def test_only_what_matters_is_told_again(changes: dict[str, int], told: bool) -> None:
    measurements = Measurements("t1")
    measurements.take((LINK,), 1000)
    later = msgspec.structs.replace(LINK, **{"sent": 40} | changes)
    assert (measurements.take((later,), 1005) is not None) == told


def test_small_delays_move_by_a_tenth_of_a_millisecond_before_it_is_told() -> None:
    measurements = Measurements("t1")
    measurements.take((msgspec.structs.replace(LINK, round_trip_us=100),), 1000)
    assert measurements.take((msgspec.structs.replace(LINK, round_trip_us=290),), 1005) is None
    assert measurements.take((msgspec.structs.replace(LINK, round_trip_us=310),), 1010) is not None


def test_what_goes_is_told_and_what_stays_is_told_now_and_then() -> None:
    measurements = Measurements("t1")
    measurements.take((LINK, PATH), 1000)
    assert measurements.take((LINK, PATH), 1000 + REPEAT_S - 1) is None
    assert measurements.take((LINK, PATH), 1000 + REPEAT_S) is not None
    gone = measurements.take((LINK,), 1000 + REPEAT_S + 5)
    assert gone is not None and len(gone.ports) == 1 and not gone.paths


def test_a_loss_is_of_the_last_minute_and_begins_anew_with_the_probe() -> None:
    measurements = Measurements("t1")
    measurements.take((msgspec.structs.replace(LINK, sent=100, lost=50),), 0)
    for number in range(1, WINDOW + 2):
        measured = measurements.take(
            (msgspec.structs.replace(LINK, sent=100 + 20 * number, lost=50),), REPEAT_S * number
        )
    assert measured is not None and measured.ports[0].loss_percent == 0
    measured = measurements.take((msgspec.structs.replace(LINK, sent=20, lost=2),), REPEAT_S * 100)
    assert measured is not None and measured.ports[0].loss_percent == 10


@pytest.mark.parametrize(
    "counts", [((20, 10), (40, 5)), ((0, 0), (0, 50)), ((20, 0), (40, 2**60))], ids=["fewer lost", "none sent", "more"]
)
def test_no_node_makes_a_loss_below_nothing_or_above_everything(counts: tuple[tuple[int, int], ...]) -> None:
    measurements = Measurements("t1")
    for place, (sent, lost) in enumerate(counts):
        measured = measurements.take((msgspec.structs.replace(LINK, sent=sent, lost=lost),), REPEAT_S * place)
        assert measured is not None and 0 <= measured.ports[0].loss_percent <= 100


def test_a_link_over_which_nothing_comes_back_has_no_delay() -> None:
    measured = Measurements("t1").take((msgspec.structs.replace(LINK, round_trip_us=0, is_alive=False),), 0)
    assert measured == Measured(node="t1")


def test_what_is_measured_is_shown_until_its_node_is_away() -> None:
    world = World(topology=typed(load(LAB)))
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    transit = world.controllers["transit"]
    host = transit.state.nodes["t1"].state
    assert host is not None
    group = next(probe.liveness_group for probe in host.host.probes if probe.slot == 0)
    paths = tuple(
        PathMeasurement(
            liveness_group=group, slot=slot, is_alive=slot == 1, delay_us=4100 * slot, jitter_us=30, loss_percent=1.5,
            at_s=5,
        )
        for slot in (0, 1)
    )  # fmt: skip
    now_s = int(world.now_s)
    port = PortMeasurement(port=1, delay_us=2050, loss_percent=0.5, at_s=now_s)
    transit.event(Measured(node="t1", ports=(port,), paths=paths), transit.life)

    def link() -> object:
        (found,) = (link for link in world.resources("transit", "links") if link.metadata["name"] == "t1-tc1")
        return found.status.get("measured")

    assert link() == [{"by": "t1 port 1, by STAMP", "latency_ms": 2.05, "loss_percent": 0.5, "at_s": now_s}]
    (agreement,) = (
        agreement for agreement in world.resources("transit", "agreements") if agreement.status["peer"] == "shop"
    )
    assert agreement.status["paths"][0]["measured"] == [
        {"alive": False, "loss_percent": 1.5},
        {"alive": True, "loss_percent": 1.5, "latency_ms": 4.1, "jitter_ms": 0.03},
    ]
    transit.event(NodeUnreachable(node="t1", reason="test"), transit.life)
    assert link() is None


def test_both_ends_of_a_path_know_how_the_other_calls_it() -> None:
    world = World(topology=typed(load(LAB)))
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)

    def of(node: str) -> dict[tuple[int, int], Probe]:
        state = world.controllers["transit"].state.nodes[node].state
        assert state is not None
        return {(probe.liveness_group, probe.slot): probe for probe in state.host.probes if probe.slot is not None}

    here, there = of("t1"), of("t2")
    assert len(here) == 2
    for (group, slot), probe in here.items():
        assert probe.far_end is not None
        other = there[probe.far_end.liveness_group, probe.far_end.slot]
        assert other.far_end is not None
        assert (other.far_end.liveness_group, other.far_end.slot) == (group, slot)
        assert (other.source, probe.source) == (probe.far_end.sid, other.far_end.sid)
        assert probe.containers[0].startswith(probe.far_end.containers[0].removesuffix("::")), "the same way there"
