"""What passes, each second: what the nodes' streams tell, as columns that are bounded in rows and in time.

It is worked on in a thread, a turn at a time; nothing of it is in the core, and nothing waits for it. What comes while
as much waits already is dropped and counted: totals make up for it with the next batch of that node.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from controller.assurance import conversations
from controller.assurance.conversations import FORWARD, NEITHER, REVERSE, Whose
from controller.assurance.flow_totals import BYTES_S_MAX, PACKETS_S_MAX, FlowTotals
from controller.model import flow_columns
from controller.model.flow_columns import CLOCK, GAP, FlowColumns
from controller.model.telemetry import Metric, Sample
from controller.reconcile.state import State
from controller.views.forwarding_view import entering_nodes, forwarding_class
from dataplane.host_api import CounterSample, TelemetryBatch
from dataplane.telemetry.packed_flows import unpack

TURN_S, QUIET_TURN_S = 0.5, 5.0
"""Between two turns: what comes meanwhile is worked on together. The second while nothing passes."""
QUEUED_MAX = 1024
"""Batches that wait, of all nodes."""
QUEUED_BYTES_MAX = 64 << 20
KEPT_S = 900.0
KEPT_ROWS_MAX = 262_144
"""So long, and so many, rows are kept; 100 bytes each."""
OWNERS_MAX, NODES_MAX = 262_144, 65_535
"""Names that rows may have; when there are more, all rows are forgotten."""
CLOCK_S_MAX = 2.0
"""By which a node's clock may have gone otherwise than ours between two batches; a batch may wait."""
LEAST_S = 0.05
"""Nobody looks so often: a stream that begins tells what came since the one before ended."""
RATE_S = 10.0
"""Over which throughput is told."""
HEARD_S = 25.0
"""Of whom nothing came for so long nothing is known: agents say something every ten seconds."""
CLASSES_MAX = 65_536
"""Of a node."""
NODES_KEPT = 4096
"""Of so many what they counted is remembered."""


class Waiting(NamedTuple):
    node: str
    batch: TelemetryBatch
    now_s: float
    """When it came, by both clocks."""
    monotonic_s: float


class Came(NamedTuple):
    """Of one forwarding class, in one interval."""

    time_s: float
    packets: int
    octets: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of one direction of an intent or agreement, over the last RATE_S."""

    packets_s: float
    bits_s: float
    dropped_s: float
    """Packets that were permitted, and dropped all the same."""


class _Node:
    """What one node said last."""

    def __init__(self) -> None:
        self.time_s = self.heard_s = self.since_s = 0.0
        self.lost_batches = 0
        self.totals: dict[tuple[str, int], tuple[int, int]] = {}
        """Packets and bytes by what is counted (`forwarding_classes`, ...) and index."""
        self.came: dict[int, deque[Came]] = defaultdict(deque)
        """By forwarding class, the newest RATE_S."""
        self.is_known = False


class Traffic:
    def __init__(
        self,
        seed: int,
        *,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seed`: as FlowTotals has it."""
        self._now_s, self._monotonic_s = now_s, monotonic_s
        self._waiting: list[Waiting] = []
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._totals = FlowTotals(seed)
        self._nodes: dict[str, _Node] = {}
        self._numbers: dict[str, int] = {}
        """Of nodes, in rows."""
        self._owners: dict[str, int] = {}
        self._denied: Counter[tuple[str, int]] = Counter()
        """Packets that policy classes were denied, since somebody asked."""
        self._lock = threading.Lock()
        """Who reads and who works are threads."""
        self._faults: list[str] = []
        self._kept: deque[FlowColumns] = deque()
        self._rows = 0
        self.counts: Counter[str] = Counter()
        """Of batches: `dropped`, `failed`; of intervals: `clock_jumps`, `gaps`; of counters: `backwards`; of rows:
        `kept`, `overwritten`."""

    # ---- what comes

    def observe(self, node: str, batch: TelemetryBatch) -> None:
        if len(self._waiting) >= QUEUED_MAX or self._waiting_bytes + len(batch.packed_flows) > QUEUED_BYTES_MAX:
            self.counts["dropped"] += 1
            return
        self._waiting.append(Waiting(node, batch, round(self._now_s(), 3), self._monotonic_s()))
        self._waiting_bytes += len(batch.packed_flows)
        if batch.packed_flows or batch.forwarding_classes or batch.forwarding_class_drops or batch.policy_classes:
            self._arrived.set()

    async def run(
        self,
        state: Callable[[], State],
        *takers: Callable[[FlowColumns], None],
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Until cancelled. `takers` get what is new; `failed` is told the first of what could not be worked on in a
        turn."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_TURN_S):
                    await self._arrived.wait()
            self._arrived.clear()
            if not self._waiting:
                continue
            came = await asyncio.to_thread(self.work, self.waiting(), state())
            for fault in self._faults:
                failed(fault)
            self._faults.clear()
            if len(came):
                for take in takers:
                    take(came)
            await asyncio.sleep(TURN_S)

    def waiting(self) -> list[Waiting]:
        """What has come, in the loop: what waits and how much is changed there alone."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return waiting

    def work(self, waiting: Iterable[Waiting], state: State) -> FlowColumns:
        """In a thread; what of it is new."""
        parts = []
        for node, batch, now_s, monotonic_s in waiting:
            try:
                with self._lock:
                    parts.append(self._take(node, batch, now_s, monotonic_s, state))
            except Exception as error:  # what a node tells is foreign: whatever comes of it ends no controller
                self.counts["failed"] += 1
                self._nodes.pop(node, None)
                if not self._faults:  # the others are counted: a node that is hostile shall not fill the log
                    self._faults.append(f"node {node}: {type(error).__name__}: {error}"[:500])
        with self._lock:
            came = flow_columns.concatenated([self._named(part) for part in parts if len(part)])
            if len(came):
                self._keep(came)
            return came

    def _take(self, name: str, batch: TelemetryBatch, now_s: float, monotonic_s: float, state: State) -> FlowColumns:
        if name not in self._nodes and len(self._nodes) >= NODES_KEPT:
            self._nodes.clear()
            self._denied.clear()
        node = self._nodes.setdefault(name, _Node())
        number = self._numbers.setdefault(name, len(self._numbers))
        marks, interval_s = 0, max(batch.interval_s, LEAST_S)
        if node.is_known:
            between_s = monotonic_s - node.heard_s
            jump_s = batch.time_s - node.time_s - between_s
            if abs(jump_s) > CLOCK_S_MAX:
                marks |= CLOCK
                self.counts["clock_jumps"] += 1
                self._totals.move_clock(number, jump_s)
            is_first = batch.interval_s < LEAST_S
            if is_first or batch.lost_batches > node.lost_batches:
                marks |= GAP
                self.counts["gaps"] += 1
            interval_s = max(between_s, LEAST_S) if is_first else interval_s
        else:
            node.since_s = monotonic_s
        node.time_s, node.heard_s = batch.time_s, monotonic_s
        self._count(name, node, batch, now_s, interval_s)
        node.lost_batches, node.is_known = batch.lost_batches, True
        try:
            rows = unpack(batch.packed_flows)
        except ValueError:
            self.counts["refused"] += 1
            return flow_columns.empty()
        came = self._totals.take(number, rows, time_s=batch.time_s, interval_s=interval_s, now_s=now_s)

        def whose(number_there: int) -> Whose:
            found = forwarding_class(state, name, number_there)
            if not found.owner:
                return conversations.NOBODYS
            owner = self._owners.setdefault(found.owner, len(self._owners))
            return Whose(owner, NEITHER if found.direction is None else int(found.direction))

        return conversations.joined(came, whose, node=number, now_s=now_s, interval_s=interval_s, marks=marks)

    def _count(self, name: str, node: _Node, batch: TelemetryBatch, now_s: float, interval_s: float) -> None:
        """What forwarding classes counted; the first batch of a node is where counting begins."""
        dropped = {
            sample.index: packets
            for sample, packets, _ in self._differences(node, "forwarding_class_drops", batch, interval_s)
        }
        for sample, packets, _ in self._differences(node, "policy_classes", batch, interval_s):
            self._denied[name, sample.index] += packets
        for sample, packets, octets in self._differences(node, "forwarding_classes", batch, interval_s):
            node.came[sample.index].append(Came(now_s, packets, octets, dropped.get(sample.index, 0)))
        for number, came in [*node.came.items()]:
            while came and came[0].time_s < now_s - RATE_S:
                came.popleft()
            if not came:
                del node.came[number]

    def _differences(
        self, node: _Node, what: str, batch: TelemetryBatch, interval_s: float
    ) -> list[tuple[CounterSample, int, int]]:
        came = []
        for sample in getattr(batch, what):
            if sample.index >= CLASSES_MAX:
                self.counts["refused"] += 1
                continue
            packets_before, bytes_before = node.totals.get((what, sample.index), (0, 0))
            node.totals[what, sample.index] = sample.packets, sample.bytes
            packets, octets = sample.packets - packets_before, sample.bytes - bytes_before
            if not node.is_known:
                continue
            most_s = max(1.0, interval_s)
            if packets < 0 or octets < 0 or packets > PACKETS_S_MAX * most_s or octets > BYTES_S_MAX * most_s:
                self.counts["backwards"] += 1
                continue
            came.append((sample, packets, octets))
        return came

    def _named(self, part: FlowColumns) -> FlowColumns:
        columns = {name: getattr(part, name) for name in flow_columns.COLUMNS}
        return FlowColumns(**columns, nodes=tuple(self._numbers), owners=tuple(self._owners))

    def _keep(self, came: FlowColumns) -> None:
        if len(self._owners) > OWNERS_MAX or len(self._numbers) > NODES_MAX:
            self.counts["overwritten"] += self._rows
            self._kept.clear()
            self._owners, self._numbers, self._rows = {}, {}, 0
            return
        self._kept.append(came)
        self._rows += len(came)
        self.counts["kept"] += len(came)
        oldest_s = self._now_s() - KEPT_S
        while self._kept and (self._rows > KEPT_ROWS_MAX or self._kept[0].time_s[-1] < oldest_s):
            gone = len(self._kept.popleft())
            self._rows -= gone
            self.counts["overwritten"] += gone if self._rows + gone > KEPT_ROWS_MAX else 0

    # ---- what is known

    def flows(self, after_s: float) -> FlowColumns:
        """Rows of intervals that ended later; the oldest first."""
        with self._lock:
            parts = [part for part in self._kept if part.time_s[-1] > after_s]
        rows = flow_columns.concatenated(parts)
        return rows.take(rows.time_s > after_s)

    def take_denied(self) -> Mapping[tuple[str, int], int]:
        """Packets by node and policy class, since it was asked before."""
        with self._lock:
            denied, self._denied = self._denied, Counter()
        return denied

    def throughput(self, state: State) -> Mapping[tuple[str, int], Throughput]:
        """By owner and direction (FORWARD, REVERSE), of those of whom anything came in the last RATE_S."""
        now_s = self._now_s()
        sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        with self._lock:
            came = [
                (name, number, list(came)) for name, node in self._nodes.items() for number, came in node.came.items()
            ]
        for name, number, samples in came:
            found = forwarding_class(state, name, number)
            if found.direction is None:
                continue
            total = sums[found.owner, int(found.direction)]
            for sample in samples:
                if sample.time_s > now_s - RATE_S:
                    total[2] += sample.dropped
                    if found.enters:
                        total[0] += sample.packets
                        total[1] += sample.octets
        return {
            key: Throughput(packets / RATE_S, 8 * octets / RATE_S, dropped / RATE_S)
            for key, (packets, octets, dropped) in sums.items()
        }

    def is_heard(self, state: State, owner: str) -> bool:
        """Whether all nodes that count what comes of it have told what they count, for RATE_S and until now."""
        nodes, now = entering_nodes(state, owner), self._monotonic_s()
        with self._lock:
            heard = [self._nodes.get(name) for name in nodes]
        return bool(heard) and all(
            node is not None and now - node.heard_s < HEARD_S and now - node.since_s >= RATE_S for node in heard
        )

    def measured(self, state: State) -> Callable[[str], float | None]:
        """By owner, Mbit/s in the direction that carries more; None: it is not known."""
        throughput = self.throughput(state)

        def of(owner: str) -> float | None:
            if not self.is_heard(state, owner):
                return None
            carried = (throughput[owner, way].bits_s for way in (FORWARD, REVERSE) if (owner, way) in throughput)
            return round(max(carried, default=0.0) / 1e6, 3)

        return of

    def metrics(self) -> tuple[Metric, ...]:
        with self._lock:
            counts = self.counts + Counter({f"flows_{name}": count for name, count in self._totals.counts.items()})
            rows, flows = self._rows, len(self._totals)
        told = tuple(Sample(labels=(("what", what),), value=float(count)) for what, count in sorted(counts.items()))
        return (
            Metric(
                name="netstitch_traffic_total",
                help="Batches, rows and counters of the nodes' streams, by what became of them",
                kind="counter",
                samples=told,
            ),
            Metric(
                name="netstitch_traffic_rows",
                help="Rows of flows that are kept",
                kind="gauge",
                samples=(Sample(value=float(rows)),),
            ),
            Metric(
                name="netstitch_traffic_flows",
                help="Flows whose totals are remembered",
                kind="gauge",
                samples=(Sample(value=float(flows)),),
            ),
        )
