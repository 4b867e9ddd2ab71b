import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import LIMIT_S, until

from dataplane.errors import NodeRefused
from dataplane.host_api import PortRole, PortStatus, TelemetryBatch, TelemetryQuery
from dataplane.telemetry.packed_flows import PACKED, unpack
from dataplane.telemetry.stream import Telemetry, nothing
from dataplane.xdp.flow_cache import ENTRY, Entries, FlowCache, FlowColumns, Snapshot
from dataplane.xdp.jiffies import JiffiesClock

PORT = PortStatus(number=1, interface="cx1", role=PortRole.ATTACHMENT, mac="02:00:00:00:00:01", mtu=1500, carrier=True)


class Traffic(FlowCache):
    """A small pipeline in memory: flows that count, are evicted, and fold into their forwarding class."""

    def __init__(self) -> None:
        self._entries: Entries = np.zeros(8, dtype=ENTRY)
        self._clock = JiffiesClock(hz=250, offset=0)
        self.folded: NDArray[np.uint64] = np.zeros((4, 2), dtype=np.uint64)
        self.dropped: NDArray[np.uint64] = np.zeros((8, 2), dtype=np.uint64)
        self.ports: tuple[PortStatus, ...] = (PORT,)
        self.readable = True
        self.looked = 0

    def send(self, slot: int, forwarding_class: int, packets: int) -> None:
        entry = self._entries[slot : slot + 1]
        entry["generation"], entry["forwarding_class"], entry["source_port"] = 1, forwarding_class, 1000 + slot
        entry["packets"] += packets
        entry["bytes_and_port"] += packets * 100

    def evict(self, slot: int) -> None:
        entry = self._entries[slot]
        self.folded[entry["forwarding_class"]] += (entry["packets"], entry["bytes_and_port"])
        self._entries[slot] = np.zeros(1, dtype=ENTRY)[0]

    def snapshot(self) -> Snapshot:
        if not self.readable:
            raise NodeRefused("the maps went away")
        return super().snapshot()

    def columns(self, entries: Entries) -> FlowColumns:
        return super().columns(entries)

    def forwarding_classes(self) -> NDArray[np.uint64]:
        return self.folded

    def forwarding_class_drops(self) -> NDArray[np.uint64]:
        return self.folded

    def policy_classes(self) -> NDArray[np.uint64]:
        return self.dropped[:4].copy()

    def drops(self) -> NDArray[np.uint64]:
        return self.dropped.copy()

    def activity(self) -> bytes:
        self.looked += 1
        return self._entries.tobytes() + self.folded.tobytes()

    def events(self) -> tuple[int, ...]:
        return ()

    def telemetry(self) -> Telemetry:
        return Telemetry(self, self, lambda: self.ports)


def seen(batch: TelemetryBatch) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Packets by source port, by forwarding class, by drop reason."""
    return (
        {flow.source_port: flow.packets for flow in batch.flows},
        {sample.index: sample.packets for sample in batch.forwarding_classes},
        {sample.index: sample.packets for sample in batch.drops},
    )


def test_the_first_batch_is_all_and_later_ones_are_what_changed() -> None:
    traffic = Traffic()
    telemetry = traffic.telemetry()
    traffic.send(0, forwarding_class=1, packets=3)
    traffic.send(5, forwarding_class=2, packets=4)
    traffic.dropped[6] = (9, 900)
    first = telemetry.read()
    batch = telemetry.batch(first, nothing(), lost_batches=0)
    assert seen(batch) == ({1000: 3, 1005: 4}, {1: 3, 2: 4}, {6: 9})
    assert batch.ports == (PORT,)
    assert seen(telemetry.batch(telemetry.read(), first, 0)) == ({}, {}, {})
    traffic.send(5, forwarding_class=2, packets=1)
    traffic.dropped[7] = (1, 60)
    second = telemetry.read()
    batch = telemetry.batch(second, first, 0)
    assert seen(batch) == ({1005: 5}, {2: 5}, {7: 1})
    assert batch.ports == ()


def test_flows_are_told_as_rows_where_that_is_asked_for() -> None:
    traffic = Traffic()
    telemetry = traffic.telemetry()
    traffic.send(0, forwarding_class=1, packets=3)
    traffic.dropped[2] = (5, 500)
    batch = telemetry.batch(telemetry.read(), nothing(), 0, interval_s=1.5, packed=True)
    [row] = unpack(batch.packed_flows)
    assert (batch.flows, batch.interval_s, row["source_port"], row["packets"], row["bytes"]) == ((), 1.5, 1000, 3, 300)
    [record] = telemetry.batch(telemetry.read(), nothing(), 0).flows
    for name in set(PACKED.names or ()) - {"source_address", "destination_address", "reserved"}:
        assert row[name] == pytest.approx(getattr(record, name), abs=0.1), name
    assert [(sample.index, sample.packets) for sample in batch.policy_classes] == [(2, 5)]


async def test_a_batch_says_in_which_time_it_came() -> None:
    traffic = Traffic()
    batches: list[TelemetryBatch] = []
    watching = await watch(traffic, TelemetryQuery(interval_s=0.05, packed=True), batches.append)
    await until(lambda: batches, "the first batch")
    for sent in range(3):
        traffic.send(0, forwarding_class=1, packets=1)
        await until(lambda sent=sent: len(batches) > sent + 1, "it is told")
    watching.cancel()
    assert batches[0].interval_s < 0.01
    assert all(
        0.03 < batch.interval_s < LIMIT_S and len(batch.packed_flows) == PACKED.itemsize for batch in batches[1:]
    )


def test_flows_are_not_looked_at_while_nothing_passes() -> None:
    traffic = Traffic()
    telemetry = traffic.telemetry()
    traffic.send(0, forwarding_class=1, packets=3)
    first, second = telemetry.read(), telemetry.read()  # the second for what was counted during the first
    assert second.snapshot is not first.snapshot
    quiet = telemetry.read()
    assert quiet.snapshot is second.snapshot
    assert seen(telemetry.batch(quiet, nothing(), 0))[0] == {1000: 3}
    traffic.send(0, forwarding_class=1, packets=1)
    assert seen(telemetry.batch(telemetry.read(), quiet, 0)) == ({1000: 4}, {1: 4}, {})


def test_an_evicted_flow_stays_in_its_legs_total() -> None:
    traffic = Traffic()
    telemetry = traffic.telemetry()
    traffic.send(0, forwarding_class=1, packets=3)
    before = telemetry.read()
    traffic.evict(0)
    traffic.send(0, forwarding_class=2, packets=1)
    assert seen(telemetry.batch(telemetry.read(), before, 0)) == ({1000: 1}, {2: 1}, {})
    assert telemetry.forwarding_classes()[1].tolist() == [3, 300]


async def watch(
    traffic: Traffic, query: TelemetryQuery, received: Callable[[TelemetryBatch], None]
) -> asyncio.Task[None]:
    async def send(batch: TelemetryBatch) -> None:
        received(batch)

    return asyncio.create_task(traffic.telemetry().watch(query, send))


async def test_a_watcher_that_stalls_loses_batches_but_no_counts() -> None:
    traffic = Traffic()
    batches: list[TelemetryBatch] = []
    may_send, caught_up = asyncio.Event(), asyncio.Event()

    async def send(batch: TelemetryBatch) -> None:
        await may_send.wait()
        batches.append(batch)
        if batch.lost_batches and seen(batch)[1].get(1) == 30:
            caught_up.set()

    query = TelemetryQuery(interval_s=0.01, queue_length=2)
    watching = asyncio.create_task(traffic.telemetry().watch(query, send))
    for sent in range(30):
        traffic.send(3, forwarding_class=1, packets=1)
        looked = traffic.looked
        await until(lambda now=looked: traffic.looked > now + 1, f"it is looked at after packet {sent}")
    may_send.set()
    async with asyncio.timeout(LIMIT_S):
        await caught_up.wait()
    watching.cancel()
    totals = [total for batch in batches for total in seen(batch)[1].values()]
    assert totals == sorted(totals)
    assert totals[-1] == 30
    assert batches[-1].lost_batches >= 5
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_what_cannot_be_read_ends_the_stream_with_the_reason() -> None:
    traffic = Traffic()
    traffic.readable = False
    watching = await watch(traffic, TelemetryQuery(interval_s=0.01), lambda batch: None)
    with pytest.raises(NodeRefused, match="the maps went away"):
        async with asyncio.timeout(LIMIT_S):
            await watching
