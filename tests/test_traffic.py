"""What nodes tell of flows each second becomes what came in it, whatever their counters and clocks do."""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from controller import traffic as traffic_module
from controller.assurance.conversations import FORWARD, NEITHER, REVERSE, Whose, joined
from controller.assurance.flow_totals import BYTES_END, PACKETS_END, Differences, FlowTotals
from controller.fulfillment.numbering import Direction
from controller.model import flow_columns
from controller.model.flow_columns import BACKWARDS, CLOCK, GAP, WRAPPED, FlowColumns
from controller.northbound import flows as flow_rows
from controller.reconcile.state import State
from controller.traffic import RATE_S, Traffic
from controller.views.forwarding_view import forwarding_class
from dataplane.host_api import CounterSample, TelemetryBatch
from dataplane.reasons import L4Class
from dataplane.telemetry.packed_flows import PACKED, Packed
from tests.simulator import LAB, ORDER_PROCESSING, World
from tests.typed_in import typed
from topologies.topology_file import load

CLIENT, SERVER = "10.1.0.11", "10.2.0.10"


def octets(address: str) -> list[int]:
    parsed = ipaddress.ip_address(address)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    return list(packed)


def record(
    source: str = CLIENT,
    destination: str = SERVER,
    ports: tuple[int, int] = (4000, 443),
    *,
    packets: int = 1,
    size: int = 100,
    first_s: float = 1000.0,
    last_s: float | None = None,
    l4_class: L4Class = L4Class.TCP,
    protocol: int = 6,
    forwarding_class: int = 16,
) -> Packed:
    rows: Packed = np.zeros(1, dtype=PACKED)
    rows["source_address"], rows["destination_address"] = octets(source), octets(destination)
    rows["source_port"], rows["destination_port"] = ports
    rows["protocol"], rows["l4_class"], rows["forwarding_class"] = protocol, l4_class, forwarding_class
    rows["packets"], rows["bytes"] = packets, packets * size
    rows["first_seen_s"], rows["last_seen_s"] = first_s, first_s if last_s is None else last_s
    return rows


def together(*rows: Packed) -> Packed:
    return np.concatenate(rows) if rows else np.zeros(0, dtype=PACKED)


def take(totals: FlowTotals, rows: Packed, time_s: float, interval_s: float = 1.0) -> list[tuple[int, int, bool, int]]:
    """Packets, bytes, new, marks of what came."""
    came = totals.take(0, rows, time_s=time_s, interval_s=interval_s, now_s=time_s)
    columns = came.packets, came.bytes, came.is_new, came.marks
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ---- totals


def test_what_came_is_the_difference_to_what_was_told_before() -> None:
    totals = FlowTotals(7)
    assert take(totals, record(packets=3, first_s=1000.2), 1001.0) == [(3, 300, True, 0)]
    assert take(totals, record(packets=8, first_s=1000.2, last_s=1001.5), 1002.0) == [(5, 500, False, 0)]
    assert take(totals, record(packets=8, first_s=1000.2, last_s=1001.5), 1003.0) == []


def test_a_flow_that_began_before_we_looked_counts_from_then_on() -> None:
    totals = FlowTotals(7)
    assert take(totals, record(packets=1000, first_s=900.0, last_s=1000.5), 1001.0) == []
    assert totals.counts["unmeasured"] == 1
    assert take(totals, record(packets=1001, first_s=900.0, last_s=1001.5), 1002.0) == [(1, 100, False, 0)]


def test_a_record_that_was_evicted_and_made_anew_counts_from_nothing() -> None:
    totals = FlowTotals(7)
    take(totals, record(packets=50, first_s=1000.2, last_s=1000.9), 1001.0)
    assert take(totals, record(packets=70, first_s=1001.2, last_s=1001.9), 1002.0) == [(70, 7000, True, 0)]


def test_counters_that_go_backwards_are_marked_and_counted() -> None:
    totals = FlowTotals(7)
    take(totals, record(packets=50, first_s=1000.2, last_s=1000.9), 1001.0)
    assert take(totals, record(packets=20, first_s=1000.2, last_s=1001.9), 1002.0) == [(0, 0, False, BACKWARDS)]
    assert totals.counts["backwards"] == 1
    assert take(totals, record(packets=25, first_s=1000.2, last_s=1002.9), 1003.0) == [(5, 500, False, 0)]


def test_counters_that_wrap_go_on() -> None:
    totals = FlowTotals(7)
    take(totals, record(packets=PACKETS_END - 10, size=1, first_s=10.0, last_s=1000.9), 1001.0)
    wrapped = record(packets=5, size=1, first_s=10.0, last_s=1001.9)
    wrapped["bytes"] = PACKETS_END + 5
    assert take(totals, wrapped, 1002.0) == [(15, 15, False, WRAPPED)]
    bytes_wrapped = record(packets=6, first_s=10.0, last_s=1002.9)
    wrapped["bytes"], bytes_wrapped["bytes"] = BYTES_END - 60, 40
    totals = FlowTotals(7)
    take(totals, wrapped, 1002.0)
    assert take(totals, bytes_wrapped, 1003.0) == [(1, 100, False, WRAPPED)]


@pytest.mark.parametrize(
    "change",
    [
        {"first_seen_s": np.nan}, {"last_seen_s": np.inf}, {"last_seen_s": np.nan}, {"first_seen_s": -1.0},
        {"last_seen_s": 900.0}, {"last_seen_s": 5000.0}, {"packets": 2**63}, {"bytes": 2**64 - 1},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_what_is_beside_it_counts(change: Mapping[str, float]) -> None:
    totals = FlowTotals(7)
    wrong = record(ports=(1, 2), first_s=1000.5)
    for field, value in change.items():
        wrong[field] = value
    assert take(totals, together(wrong, record(packets=2, first_s=1000.5)), 1001.0) == [(2, 200, True, 0)]
    assert totals.counts["refused"] == 1


def test_more_than_any_link_carries_is_no_traffic() -> None:
    totals = FlowTotals(7)
    take(totals, record(packets=1, first_s=1000.2), 1001.0)
    assert take(totals, record(packets=2**61, size=1, first_s=1000.2, last_s=1001.5), 1002.0) == [
        (0, 0, False, BACKWARDS)
    ]


def test_a_flow_that_is_told_twice_counts_once() -> None:
    totals = FlowTotals(7)
    twice = together(record(packets=2, first_s=1000.5), record(packets=2, first_s=1000.5))
    assert take(totals, twice, 1001.0) == [(2, 200, True, 0)]
    assert totals.counts["refused"] == 1


def test_who_was_told_longest_ago_is_forgotten_first() -> None:
    totals = FlowTotals(7, flows_max=8)
    for second in range(20):
        take(totals, record(ports=(second, 443), first_s=1000.5 + second), 1001.0 + second)
        assert len(totals) <= 8
    assert totals.counts["forgotten"] == 20 - len(totals)
    assert take(totals, record(ports=(19, 443), packets=4, first_s=1019.5, last_s=1021), 1021.0) == [(3, 300, False, 0)]


def test_nodes_have_totals_of_their_own() -> None:
    totals = FlowTotals(7)
    for node in (0, 1):
        came = totals.take(node, record(packets=3, first_s=1000.5), time_s=1001.0, interval_s=1.0, now_s=1001.0)
        assert came.packets.tolist() == [3]


_TOLD = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 1000)), max_size=6, unique_by=lambda told: told[0]), max_size=8
)


@given(_TOLD)
def test_what_came_adds_up_to_what_was_told_last(seconds: list[list[tuple[int, int]]]) -> None:
    totals, now, came = FlowTotals(11), Counter[int](), Counter[int]()
    for second, told in enumerate(seconds):
        for port, packets in told:
            now[port] += packets
        rows = together(
            *(record(ports=(port, 443), packets=now[port], first_s=999.9, last_s=1000.5 + second) for port, _ in told)
        )
        since_s = 1001.0 + second - 999.0  # so that what begins late is new all the same
        differences = totals.take(0, rows, time_s=1001.0 + second, interval_s=since_s, now_s=1001.0 + second)
        for port, packets in zip(differences.rows["source_port"].tolist(), differences.packets.tolist(), strict=True):
            came[port] += packets
    assert came == +now


# ---- both directions


def columns(*rows: Packed, whose: Mapping[int, Whose]) -> FlowColumns:
    all_rows = together(*rows)
    new = np.ones(len(all_rows), dtype=bool)
    packets, size = all_rows["packets"].astype(np.int64), all_rows["bytes"].astype(np.int64)
    came = Differences(all_rows, packets, size, new, np.zeros(len(all_rows), dtype=np.uint8))
    made = joined(came, lambda number: whose[number], node=0, now_s=1001.0, interval_s=1.0)
    return FlowColumns(
        **{name: getattr(made, name) for name in flow_columns.COLUMNS},
        nodes=("se1",),
        owners=("intents/web", "networks/x"),
    )


def shown(made: FlowColumns) -> list[tuple[str, int, str, int, int, int]]:
    rows = flow_rows.of_columns(made, lambda owner: True, 100)
    return sorted(
        (row.source_address, row.source_port, row.destination_address, row.destination_port, *counts(row))
        for row in rows
    )


def counts(row: flow_rows.FlowRow) -> tuple[int, int]:
    return row.packets, row.reverse_packets


INTENT = {16: Whose(0, FORWARD), 17: Whose(0, REVERSE), 3: Whose(1, NEITHER)}


def test_both_directions_of_a_flow_are_one_row() -> None:
    made = columns(
        record(packets=10), record(SERVER, CLIENT, (443, 4000), packets=8, forwarding_class=17), whose=INTENT
    )
    assert shown(made) == [(CLIENT, 4000, SERVER, 443, 10, 8)]


def test_an_answer_alone_is_the_reverse_of_what_the_intent_permits() -> None:
    made = columns(record(SERVER, CLIENT, (443, 4000), packets=8, forwarding_class=17), whose=INTENT)
    assert shown(made) == [(CLIENT, 4000, SERVER, 443, -1, 8)]


def test_inside_a_network_who_opens_a_connection_is_its_source() -> None:
    made = columns(
        record(packets=9, ports=(443, 4000), forwarding_class=3, first_s=1000.0),
        record(SERVER, CLIENT, (4000, 443), packets=1, forwarding_class=3, l4_class=L4Class.TCP_OPEN, first_s=1000.5),
        whose=INTENT,
    )
    assert shown(made) == [(SERVER, 4000, CLIENT, 443, 1, 9)]


def test_inside_a_network_who_has_the_higher_port_is_taken_for_the_source() -> None:
    for ports, expected in (
        ((4000, 53), (CLIENT, 4000, SERVER, 53, 3, -1)),
        ((53, 4000), (SERVER, 4000, CLIENT, 53, -1, 3)),
    ):
        row = record(packets=3, ports=ports, forwarding_class=3, protocol=17, l4_class=L4Class.UDP)
        assert shown(columns(row, whose=INTENT)) == [expected]


def test_echoes_of_two_who_ping_each_other_are_two_flows() -> None:
    def echo(source: str, destination: str, l4_class: L4Class, packets: int) -> Packed:
        return record(source, destination, (77, 0), packets=packets, protocol=1, l4_class=l4_class, forwarding_class=3)

    made = columns(
        echo(CLIENT, SERVER, L4Class.ECHO_REQUEST, 5), echo(SERVER, CLIENT, L4Class.ECHO_REPLY, 4),
        echo(SERVER, CLIENT, L4Class.ECHO_REQUEST, 3), echo(CLIENT, SERVER, L4Class.ECHO_REPLY, 2),
        whose=INTENT,
    )  # fmt: skip
    assert shown(made) == [(CLIENT, 0, SERVER, 0, 5, 4), (SERVER, 0, CLIENT, 0, 3, 2)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([CLIENT, SERVER, "2001:db8::1"]), st.sampled_from([CLIENT, SERVER]), st.integers(0, 3),
            st.integers(0, 3), st.sampled_from(list(L4Class)), st.sampled_from([16, 17, 3]), st.integers(1, 9),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_no_packet_is_lost_or_counted_twice(given_rows: list[tuple[str, str, int, int, L4Class, int, int]]) -> None:
    made = columns(
        *(
            record(source, destination, (port, other), l4_class=l4_class, forwarding_class=number, packets=packets)
            for source, destination, port, other, l4_class, number, packets in given_rows
        ),
        whose=INTENT,
    )
    counted = int(np.maximum(made.packets, 0).sum() + np.maximum(made.reverse_packets, 0).sum())
    assert counted == sum(row[-1] for row in given_rows)
    assert len({(*row[:4], row[4] >= 0) for row in shown(made)}) <= len(given_rows)


# ---- the nodes' streams


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0
        self.monotonic_s = 50.0

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.monotonic_s += seconds


def batch(
    clock: Clock, rows: Packed | None = None, *, ahead_s: float = 0.0, classes: Mapping[int, int] = {}, **fields: float
) -> TelemetryBatch:
    """`classes`: total of packets by forwarding class, of 1000 bytes each."""
    told = TelemetryBatch(
        time_s=clock.now_s + ahead_s,
        interval_s=1.0,
        flows=(),
        packed_flows=b"" if rows is None else rows.tobytes(),
        forwarding_classes=tuple(
            CounterSample(index=index, packets=packets, bytes=1000 * packets) for index, packets in classes.items()
        ),
        drops=(),
        ports=(),
        lost_batches=0,
    )
    return msgspec.structs.replace(told, **fields)


@pytest.fixture(scope="module")
def world() -> World:
    world = World(topology=typed(load(LAB)))
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def traffic(clock: Clock) -> Traffic:
    return Traffic(7, now_s=lambda: clock.now_s, monotonic_s=lambda: clock.monotonic_s)


OWNER = "intents/order-processing"


def numbers(state: State, node: str, owner: str = OWNER) -> dict[tuple[Direction | None, bool], int]:
    """Forwarding classes of `owner` at a node, by direction and whether its traffic enters there."""
    classes = {number: forwarding_class(state, node, number) for number in range(1, 200)}
    return {(each.direction, each.enters): number for number, each in classes.items() if each.owner == owner}


def test_forwarding_classes_say_whose_traffic_they_are_and_which_way_it_goes(world: World) -> None:
    state = world.controllers["shop"].state
    assert numbers(state, "se1").keys() == {(Direction.FORWARD, True), (Direction.REVERSE, False)}
    assert numbers(state, "sg1").keys() == {(Direction.FORWARD, False), (Direction.REVERSE, True)}
    assert {number for number in range(200) if forwarding_class(state, "nobody", number).owner} == set()
    transit = world.controllers["transit"].state
    [agreement] = [name for name in transit.agreements if name.startswith("shop")]
    assert numbers(transit, "t1", f"agreements/{agreement}").keys() >= {(Direction.FORWARD, True)}
    inside = {each for number in range(1, 200) if (each := forwarding_class(state, "se1", number)).direction is None}
    assert {each.owner for each in inside if each.owner} >= {"networks/shop/customer-x"}


def test_rows_say_whose_they_are_and_are_kept_for_a_while(world: World, clock: Clock, traffic: Traffic) -> None:
    state = world.controllers["shop"].state
    forward, reverse = numbers(state, "se1")[Direction.FORWARD, True], numbers(state, "se1")[Direction.REVERSE, False]
    began = clock.now_s - 0.5
    rows = together(
        record(packets=10, first_s=began, forwarding_class=forward),
        record(SERVER, CLIENT, (443, 4000), packets=8, first_s=began, forwarding_class=reverse),
        record("10.1.0.12", "10.1.0.13", packets=2, first_s=began, forwarding_class=60_000),
    )
    traffic.observe("se1", batch(clock, rows))
    traffic.work(traffic.waiting(), state)
    shown_rows = flow_rows.of_columns(traffic.flows(began), lambda owner: True, 10)
    assert {(row.node, row.owner, row.packets, row.reverse_packets) for row in shown_rows} == {
        ("se1", OWNER, 10, 8), ("se1", "", 2, -1),
    }  # fmt: skip
    assert [row.intent for row in flow_rows.of_columns(traffic.flows(0), OWNER.__eq__, 10)] == ["order-processing"]
    assert len(traffic.flows(clock.now_s)) == 0
    clock.pass_s(traffic_module.KEPT_S + 1)
    traffic.observe("se1", batch(clock, record(ports=(9, 9), first_s=clock.now_s, forwarding_class=forward)))
    traffic.work(traffic.waiting(), state)
    assert [row.source_port for row in flow_rows.of_columns(traffic.flows(0), lambda owner: True, 10)] == [9]


def test_rows_are_bounded(world: World, clock: Clock, traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "KEPT_ROWS_MAX", 10)
    for second in range(30):
        clock.pass_s(1)
        traffic.observe("se1", batch(clock, record(ports=(second, 1), first_s=clock.now_s - 0.1)))
        traffic.work(traffic.waiting(), world.controllers["shop"].state)
    assert traffic.flows(0).source_port.tolist() == [*range(20, 30)]
    assert traffic.counts["overwritten"] == 20


def test_what_cannot_be_worked_on_in_time_is_dropped_and_counted(
    world: World, clock: Clock, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "QUEUED_MAX", 3)
    for second in range(5):
        clock.pass_s(1)
        traffic.observe("se1", batch(clock, record(packets=second + 1, first_s=clock.now_s - 0.1 - second)))
    assert traffic.counts["dropped"] == 2
    traffic.work(traffic.waiting(), world.controllers["shop"].state)
    assert int(traffic.flows(0).packets.sum()) == 3
    clock.pass_s(1)
    traffic.observe("se1", batch(clock, record(packets=6, first_s=clock.now_s - 5.1, last_s=clock.now_s)))
    traffic.work(traffic.waiting(), world.controllers["shop"].state)
    assert int(traffic.flows(0).packets.sum()) == 6  # the totals have what was dropped


def test_a_clock_that_jumps_is_marked_and_costs_no_count(world: World, clock: Clock, traffic: Traffic) -> None:
    state = world.controllers["shop"].state
    began = clock.now_s - 0.5
    traffic.observe("se1", batch(clock, record(packets=1, first_s=began, last_s=clock.now_s)))
    for ahead_s, packets in ((-3600.0, 5), (7200.0, 7)):
        clock.pass_s(1)
        last_s = clock.now_s + ahead_s
        rows = record(packets=packets, first_s=began + ahead_s, last_s=last_s)
        traffic.observe("se1", batch(clock, rows, ahead_s=ahead_s))
    traffic.work(traffic.waiting(), state)
    seen = traffic.flows(0)
    assert seen.packets.tolist() == [1, 4, 2]
    assert seen.marks.tolist() == [0, CLOCK, CLOCK]
    assert traffic.counts["clock_jumps"] == 2
    assert seen.time_s[-1] == clock.now_s


def test_missing_intervals_are_marked_and_their_length_is_known(world: World, clock: Clock, traffic: Traffic) -> None:
    state = world.controllers["shop"].state
    began = clock.now_s - 0.5
    traffic.observe("se1", batch(clock, record(packets=1, first_s=began)))
    clock.pass_s(3)
    rows = record(packets=9, first_s=began, last_s=clock.now_s)
    traffic.observe("se1", batch(clock, rows, lost_batches=2, interval_s=3.0))
    clock.pass_s(20)
    rows = record(packets=29, first_s=began, last_s=clock.now_s)
    traffic.observe("se1", batch(clock, rows, interval_s=0.0))  # a new stream, after it was away
    traffic.work(traffic.waiting(), state)
    seen = traffic.flows(0)
    assert list(zip(seen.packets.tolist(), seen.marks.tolist(), seen.interval_s.tolist(), strict=True)) == [
        (1, 0, 1.0), (8, GAP, 3.0), (20, GAP, 20.0),
    ]  # fmt: skip


def test_throughput_is_of_what_enters_and_unknown_where_nobody_tells(
    world: World, clock: Clock, traffic: Traffic
) -> None:
    state = world.controllers["shop"].state
    enters = numbers(state, "se1")[Direction.FORWARD, True]
    leaves = numbers(state, "sg1")[Direction.FORWARD, False]
    back = numbers(state, "sg1")[Direction.REVERSE, True]
    assert traffic.measured(state)(OWNER) is None
    for second in range(13):
        clock.pass_s(1)
        traffic.observe("se1", batch(clock, classes={enters: 1000 + 100 * second}))
        assert traffic.measured(state)(OWNER) is None or second >= RATE_S
        told = {leaves: 1000 + 100 * second, back: 50 + 10 * second}
        traffic.observe("sg1", batch(clock, classes=told))
        traffic.work(traffic.waiting(), state)
    mbps = 100 * 1000 * 8 / 1e6
    assert traffic.measured(state)(OWNER) == pytest.approx(mbps)
    throughput = traffic.throughput(state)
    assert throughput[OWNER, Direction.REVERSE].packets_s == pytest.approx(10)
    clock.pass_s(RATE_S)
    assert traffic.measured(state)(OWNER) == 0  # both nodes say something every ten seconds if nothing passes
    clock.pass_s(traffic_module.HEARD_S)
    assert traffic.measured(state)(OWNER) is None


def test_totals_that_cannot_be_make_no_throughput(world: World, clock: Clock, traffic: Traffic) -> None:
    state = world.controllers["shop"].state
    enters = numbers(state, "se1")[Direction.FORWARD, True]
    for total in (1000, 10, 2**62, 2**62 + 100):
        clock.pass_s(1)
        traffic.observe(
            "se1", batch(clock, forwarding_classes=(CounterSample(index=enters, packets=total, bytes=total),))
        )
    traffic.observe("se1", batch(clock, classes={2**31: 5}))
    traffic.work(traffic.waiting(), state)
    assert traffic.throughput(state)[OWNER, Direction.FORWARD].packets_s == pytest.approx(100 / RATE_S)
    assert (traffic.counts["backwards"], traffic.counts["refused"]) == (2, 1)


async def test_a_torn_batch_is_refused_and_the_next_one_counts(world: World, clock: Clock, traffic: Traffic) -> None:
    traffic.observe("se1", batch(clock, packed_flows=b"x" * 79))
    working = asyncio.create_task(traffic.run(lambda: world.controllers["shop"].state))
    await until(lambda: traffic.counts["refused"] == 1, "it is refused")
    clock.pass_s(1)
    traffic.observe("se1", batch(clock, record(packets=4, first_s=clock.now_s - 0.5)))
    await until(lambda: len(traffic.flows(0)), "the next one is taken")
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_batch_on_which_we_fail_ends_nothing_and_one_of_a_turn_is_told(
    world: World, clock: Clock, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[str] = []
    with monkeypatch.context() as broken:
        broken.setattr(traffic, "_count", lambda *_: [][0])
        for _ in range(100):
            traffic.observe("se1", batch(clock, record(packets=2)))
        working = asyncio.create_task(traffic.run(lambda: world.controllers["shop"].state, failed=faults.append))
        await until(lambda: traffic.counts["failed"] == 100 and faults, "all are counted, and the first is told")
    clock.pass_s(1)
    traffic.observe("se1", batch(clock, record(packets=4, first_s=clock.now_s - 0.5)))
    await until(lambda: len(traffic.flows(0)), "the next one is taken")
    assert faults == ["node se1: IndexError: list index out of range"]
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
