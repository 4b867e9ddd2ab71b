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

from dataplane.host_api import CounterSample, PortStatus, ProbeReading, TelemetryBatch, TelemetryQuery
from dataplane.telemetry.packed_flows import PACKED, pack
from dataplane.xdp.flow_cache import ENTRY, Entries, FlowColumns, Snapshot, forwarding_totals, merged

SILENT_S = 10.0
_QUEUED_ROWS = 65_536
"""Flows that wait for one watcher at most, in all its batches."""


class FlowSource(Protocol):
    def snapshot(self) -> Snapshot: ...

    def columns(self, entries: Entries) -> FlowColumns: ...


class CounterSource(Protocol):
    """Counters by index, shape (n, 2): packets and bytes."""

    def forwarding_classes(self) -> NDArray[np.uint64]:
        """Only what evicted flows left behind."""

    def forwarding_class_drops(self) -> NDArray[np.uint64]: ...

    def policy_classes(self) -> NDArray[np.uint64]: ...

    def drops(self) -> NDArray[np.uint64]: ...

    def activity(self) -> bytes:
        """Changes whenever a flow of the cache, or what a forwarding class counted, does."""

    def events(self) -> tuple[int, ...]:
        """By PipelineEvent."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All that telemetry looks at, at one moment."""

    time_s: float
    snapshot: Snapshot
    forwarding_classes: NDArray[np.uint64]
    forwarding_class_drops: NDArray[np.uint64]
    policy_classes: NDArray[np.uint64]
    drops: NDArray[np.uint64]
    ports: tuple[PortStatus, ...]
    probes: tuple[ProbeReading, ...] = ()


@dataclass(frozen=True, slots=True)
class _Flows:
    activity: bytes
    """As it was before the rest was read."""
    is_settled: bool
    """It had been the same for a while."""
    snapshot: Snapshot
    forwarding_classes: NDArray[np.uint64]
    forwarding_class_drops: NDArray[np.uint64]
    policy_classes: NDArray[np.uint64]

    def is_quiet(self, activity: bytes) -> bool:
        return self.is_settled and self.activity == activity


def nothing() -> Reading:
    """Before the first batch: all counters are 0."""
    none = np.zeros((0, 2), dtype=np.uint64)
    empty = Snapshot(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=ENTRY))
    return Reading(0.0, empty, none, none, none, none, ())


class Telemetry:
    def __init__(
        self,
        flows: FlowSource,
        counters: CounterSource,
        ports: Callable[[], tuple[PortStatus, ...]],
        probes: Callable[[], tuple[ProbeReading, ...]] = tuple,
    ) -> None:
        self._flows = flows
        self._counters = counters
        self._ports = ports
        self._probes = probes
        self._last: _Flows | None = None

    def read(self) -> Reading:
        return self._read(self._counters.activity())

    def _read(self, activity: bytes) -> Reading:
        flows = self._read_flows(activity)
        return Reading(
            time.time(),
            flows.snapshot,
            flows.forwarding_classes,
            flows.forwarding_class_drops,
            flows.policy_classes,
            self._counters.drops(),
            self._ports(),
            self._probes(),
        )

    def _read_flows(self, activity: bytes) -> "_Flows":
        """What was read before, while nothing passes: flow cache and forwarding classes are megabytes to look at.

        `activity`: as it was before.
        """
        last = self._last
        if last is not None and last.is_quiet(activity):
            return last
        folded = self._counters.forwarding_classes()  # before the flows: see forwarding_totals
        snapshot = self._flows.snapshot()
        totals = forwarding_totals(snapshot.entries, folded)
        # XDP says that a packet came, then counts it with its flow: what is read now may lack the last ones.
        settled = last is not None and last.activity == activity
        dropped, denied = self._counters.forwarding_class_drops(), self._counters.policy_classes()
        self._last = flows = _Flows(activity, settled, snapshot, totals, dropped, denied)
        return flows

    def events(self) -> tuple[int, ...]:
        return self._counters.events()

    def forwarding_classes(self) -> NDArray[np.uint64]:
        """Totals of packets and bytes by forwarding class, shape (classes, 2)."""
        folded = self._counters.forwarding_classes()
        return forwarding_totals(self._flows.snapshot().entries, folded)

    def forwarding_class_drops(self) -> NDArray[np.uint64]:
        """Of what was permitted, by forwarding class."""
        return self._counters.forwarding_class_drops()

    def batch(
        self, now: Reading, before: Reading, lost_batches: int, *, interval_s: float = 0.0, packed: bool = False
    ) -> TelemetryBatch:
        """What is different in `now`. Ports are all in, if any changed. `interval_s`: in which it changed."""
        flows = self._changed_flows(now.snapshot, before.snapshot)
        return TelemetryBatch(
            time_s=now.time_s,
            interval_s=interval_s,
            flows=() if packed or flows is None else flows.records(),
            packed_flows=pack(flows) if packed and flows is not None else b"",
            forwarding_classes=_changed_samples(now.forwarding_classes, before.forwarding_classes),
            forwarding_class_drops=_changed_samples(now.forwarding_class_drops, before.forwarding_class_drops),
            policy_classes=_changed_samples(now.policy_classes, before.policy_classes),
            drops=_changed_samples(now.drops, before.drops),
            ports=now.ports if now.ports != before.ports else (),
            probes=now.probes if now.probes is not before.probes else (),
            lost_batches=lost_batches,
        )

    def _changed_flows(self, now: Snapshot, before: Snapshot) -> FlowColumns | None:
        if now is before:
            return None
        changed = now.changed_since(before)
        return merged(self._flows.columns(now.entries), now.entries, changed)

    def _is_quiet(self, activity: bytes) -> bool:
        return self._last is not None and self._last.is_quiet(activity)

    def _sampled(
        self, before: Reading, lost: int, activity: bytes, interval_s: float, packed: bool
    ) -> tuple[Reading, TelemetryBatch]:
        now = self._read(activity)
        return now, self.batch(now, before, lost, interval_s=interval_s, packed=packed)

    async def watch(self, query: TelemetryQuery, send: Callable[[TelemetryBatch], Awaitable[None]]) -> None:
        """Sends a batch each interval, until cancelled; while nothing changes, each SILENT_S. A slow watcher loses
        batches, and is told how many."""
        queue: asyncio.Queue[TelemetryBatch] = asyncio.Queue(query.queue_length)
        queued_rows = 0

        async def sample() -> None:
            nonlocal queued_rows
            before, lost, told, silent_until = nothing(), 0, 0, 0.0
            due = known_until = time.monotonic()
            while True:
                # A tenth of a millisecond while nothing passes; a thread would cost more.
                began, activity = time.monotonic(), self._counters.activity()
                sampling = before, lost, activity, min(began - known_until, 86400.0), query.packed
                now, batch = (
                    self._sampled(*sampling)
                    if self._is_quiet(activity)
                    else await asyncio.to_thread(self._sampled, *sampling)
                )
                if _is_empty(batch) and lost == told and began < silent_until:
                    known_until = began  # it has all there is
                elif queue.full() or (queued_rows and queued_rows + _rows(batch) > _QUEUED_ROWS):
                    lost += 1
                else:
                    queued_rows += _rows(batch)
                    queue.put_nowait(batch)
                    before, told, known_until = now, lost, began
                    silent_until = time.monotonic() + SILENT_S
                due = max(due + query.interval_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(sample())
                while True:
                    batch = await queue.get()
                    await send(batch)
                    queued_rows -= _rows(batch)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


def _rows(batch: TelemetryBatch) -> int:
    return len(batch.flows) + len(batch.packed_flows) // PACKED.itemsize


def _is_empty(batch: TelemetryBatch) -> bool:
    return not (
        batch.flows
        or batch.packed_flows
        or batch.forwarding_classes
        or batch.forwarding_class_drops
        or batch.policy_classes
        or batch.drops
        or batch.ports
        or batch.probes
    )


def _changed_samples(now: NDArray[np.uint64], before: NDArray[np.uint64]) -> tuple[CounterSample, ...]:
    if now is before:
        return ()
    base = np.zeros_like(now)
    base[: len(before)] = before
    rows = np.flatnonzero((now != base).any(axis=1))
    return tuple(
        CounterSample(index=index, packets=packets, bytes=size)
        for index, (packets, size) in zip(rows.tolist(), now[rows].tolist(), strict=True)
    )
