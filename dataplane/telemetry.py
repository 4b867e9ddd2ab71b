"""Streams what changed on a node, interval by interval, to whoever watches.

Values are totals: a batch holds only what changed since the last batch that found room in the watcher's queue, so
that a lost batch delays numbers and loses none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dataplane.flow_cache import ENTRY, Entries, FlowColumns, Snapshot, leg_totals, merged
from dataplane.host_api import CounterSample, PortStatus, TelemetryBatch, TelemetryQuery

_QUEUED_ROWS = 65_536
"""Flows that wait for one watcher at most, in all its batches."""


class FlowSource(Protocol):
    def snapshot(self) -> Snapshot: ...

    def columns(self, entries: Entries) -> FlowColumns: ...


class CounterSource(Protocol):
    """Counters by index, shape (n, 2): packets and bytes."""

    def legs(self) -> NDArray[np.uint64]:
        """Only what evicted flows left behind."""

    def drops(self) -> NDArray[np.uint64]: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """All that telemetry looks at, at one moment."""

    time_s: float
    snapshot: Snapshot
    legs: NDArray[np.uint64]
    drops: NDArray[np.uint64]
    ports: tuple[PortStatus, ...]


def nothing() -> Reading:
    """Before the first batch: all counters are 0."""
    none = np.zeros((0, 2), dtype=np.uint64)
    return Reading(0.0, Snapshot(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=ENTRY)), none, none, ())


class Telemetry:
    def __init__(self, flows: FlowSource, counters: CounterSource, ports: Callable[[], tuple[PortStatus, ...]]) -> None:
        self._flows = flows
        self._counters = counters
        self._ports = ports

    def read(self) -> Reading:
        folded = self._counters.legs()  # before the flows: see leg_totals
        snapshot = self._flows.snapshot()
        legs = leg_totals(snapshot.entries, folded)
        return Reading(time.time(), snapshot, legs, self._counters.drops(), self._ports())

    def legs(self) -> NDArray[np.uint64]:
        """Totals of packets and bytes by leg, shape (legs, 2)."""
        folded = self._counters.legs()
        return leg_totals(self._flows.snapshot().entries, folded)

    def batch(self, now: Reading, before: Reading, lost_batches: int) -> TelemetryBatch:
        """What is different in `now`. Ports are all in, if any changed."""
        changed = now.snapshot.changed_since(before.snapshot)
        entries = now.snapshot.entries
        return TelemetryBatch(
            time_s=now.time_s,
            flows=merged(self._flows.columns(entries), entries, changed).records(),
            legs=_changed_samples(now.legs, before.legs),
            drops=_changed_samples(now.drops, before.drops),
            ports=now.ports if now.ports != before.ports else (),
            lost_batches=lost_batches,
        )

    async def watch(self, query: TelemetryQuery, send: Callable[[TelemetryBatch], Awaitable[None]]) -> None:
        """Sends a batch each interval, until cancelled. A slow watcher loses batches, and is told how many."""
        queue: asyncio.Queue[TelemetryBatch] = asyncio.Queue(query.queue_length)
        queued_rows = 0

        async def sample() -> None:
            nonlocal queued_rows
            before, lost = nothing(), 0
            due = time.monotonic()
            while True:
                now = await asyncio.to_thread(self.read)
                batch = await asyncio.to_thread(self.batch, now, before, lost)
                if queue.full() or (queued_rows and queued_rows + len(batch.flows) > _QUEUED_ROWS):
                    lost += 1
                else:
                    queued_rows += len(batch.flows)
                    queue.put_nowait(batch)
                    before = now
                due = max(due + query.interval_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(sample())
                while True:
                    batch = await queue.get()
                    await send(batch)
                    queued_rows -= len(batch.flows)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


def _changed_samples(now: NDArray[np.uint64], before: NDArray[np.uint64]) -> tuple[CounterSample, ...]:
    base = np.zeros_like(now)
    base[: len(before)] = before
    rows = np.flatnonzero((now != base).any(axis=1))
    return tuple(
        CounterSample(index=index, packets=packets, bytes=size)
        for index, (packets, size) in zip(rows.tolist(), now[rows].tolist(), strict=True)
    )
