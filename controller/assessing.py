"""Runs the detectors over what passes, each second and in a thread where it is much, and tells the core of findings."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import numpy as np

from controller.assurance import learned, windows
from controller.assurance.assess import Assurance, assess, due, forget, learnt
from controller.assurance.grouping import numbered
from controller.assurance.learned import Model
from controller.assurance.seen import Denied, PathSample, Seen
from controller.fulfillment.numbering import Kind, id_key
from controller.model import flow_columns
from controller.model.event import Found
from controller.model.finding import Finding
from controller.model.flow_columns import FlowColumns
from controller.model.incident import Standing
from controller.model.sr_policy import CandidatePath
from controller.model.telemetry import Metric, Sample
from controller.reconcile.state import State
from controller.reconcile.tables import over
from controller.traffic import Traffic
from dataplane.host_api import ProbeReading, TelemetryBatch

INTERVAL_S = 1.0
IDLE_S = 10.0
"""While nothing passes."""
FEW = 256
"""Rows, intents and paths: so many are looked at within a millisecond, for which a thread would cost more."""
NODES_MAX = 4096
OWNERS_MAX = 64
WINDOWS_MAX = 512
ROWS_MAX = 262_144
"""Of an interval; what is more is not looked at, and counted."""


_Probe = tuple[int, int, int | None]
"""Port, liveness group and slot."""


class Log(Protocol):
    def error(self, event: str, **fields: str) -> None: ...


class Detecting(Protocol):
    """Detectors of others, who are asked in processes of their own."""

    @property
    def detecting(self) -> bool: ...
    async def find(self, windows: Sequence[Mapping[str, Any]], now_s: float) -> tuple[Finding, ...]: ...


class Assessing:
    def __init__(self, traffic: Traffic, log: Log, plugins: Detecting | None = None) -> None:
        self._traffic = traffic
        self._plugins = plugins
        self._log = log
        self._assurance = Assurance()
        self._learnt: tuple[Model, float] | None = None
        """A model that no detector has yet, and when it was due."""
        self._waiting: list[FlowColumns] = []
        self._rows = 0
        self._looked_s = 0.0
        self._intents: dict[str, int] = {}
        """When each was applied."""
        self._readings: dict[str, tuple[ProbeReading, ...]] = {}
        """By node, since they were looked at."""
        self._counted: dict[str, dict[_Probe, tuple[int, int]]] = {}
        """By node what each probe had sent and lost."""
        self.findings = self.failures = self.beyond = 0

    def take(self, flows: FlowColumns) -> None:
        if self._rows + len(flows) > ROWS_MAX:
            self.beyond += len(flows)
            return
        self._rows += len(flows)
        self._waiting.append(flows)

    async def run(self, state: Callable[[], State], report: Callable[[Found], Awaitable[None]]) -> None:
        """Until cancelled. A detector that fails begins anew, and nothing else ends for it. A model is learnt while
        detectors go on: it takes seconds."""
        async with asyncio.TaskGroup() as group:
            learning = group.create_task(self._learn())
            while True:
                await asyncio.sleep(INTERVAL_S)
                if not (self._waiting or self._readings) and time.time() - self._looked_s < IDLE_S:
                    continue
                self._looked_s = time.time()
                await self._looked(state(), report)
                if learning.done() and self._learnt is None:
                    learning = group.create_task(self._learn())

    async def _looked(self, state: State, report: Callable[[Found], Awaitable[None]]) -> None:
        try:
            waiting, self._waiting, self._rows = self._waiting, [], 0
            readings, self._readings = self._readings, {}
            findings = await asyncio.to_thread(self._look, waiting, readings, state, self._looked_s)
        except Exception as error:  # what detectors make of foreign numbers ends no controller
            self._begin_anew(error)
            return
        if waiting and self._plugins is not None and self._plugins.detecting:
            shown = await asyncio.to_thread(_windows, waiting)
            findings = (*findings, *await self._plugins.find(shown, self._looked_s))
        if findings:
            self.findings += len(findings)
            await report(Found(findings=findings))

    async def _learn(self) -> None:
        now_s = self._looked_s
        sample = due(self._assurance, now_s)
        if sample is None:
            return
        try:
            model = await asyncio.to_thread(learned.trained, [sample])
        except Exception as error:  # the same
            self._begin_anew(error)
            return
        self._learnt = model, now_s

    def _begin_anew(self, error: Exception) -> None:
        self.failures += 1
        self._assurance = Assurance()
        self._log.error("assessing_failed", reason=f"{type(error).__name__}: {error}"[:500])

    def _look(
        self,
        waiting: list[FlowColumns],
        readings: Mapping[str, tuple[ProbeReading, ...]],
        state: State,
        now_s: float,
    ) -> tuple[Finding, ...]:
        if self._learnt is not None:
            self._assurance, self._learnt = learnt(self._assurance, *self._learnt), None
        self._forget_what_changed(state)
        seen = Seen(
            flows=flow_columns.concatenated(waiting),
            denied=tuple(self._denied(state)),
            paths=tuple(self._paths(state, readings, now_s)),
        )
        self._assurance, findings = assess(self._assurance, seen, now_s, _frozen(state))
        return tuple(_with_owners(finding, seen.paths, state) for finding in findings)

    def _forget_what_changed(self, state: State) -> None:
        """What was usual of an intent is not any more when it is another."""
        applied = {name: record.applied_s for name, record in state.intent_records.items()}
        for name, applied_s in self._intents.items():
            if applied.get(name) != applied_s:
                self._assurance = forget(self._assurance, f"intents/{name}")
        self._intents = applied

    def _denied(self, state: State) -> Iterator[Denied]:
        """By networks whose hosts were denied something."""
        counts = self._traffic.take_denied()
        if not counts:
            return
        for node in {node for node, _ in counts}:
            for network in state.inventory.networks:
                number = state.numbers.get(id_key(node, Kind.POLICY_CLASS, f"hosts {network}"))
                if number is not None and (packets := counts.get((node, number), 0)):
                    yield Denied(owner=f"networks/{network}", node=node, reason="not_permitted", packets=packets)

    def observe(self, node: str, batch: TelemetryBatch) -> None:
        """What a node's probes say now; of what is not looked at in time the newest counts: these are totals."""
        if batch.probes and (node in self._readings or len(self._readings) < NODES_MAX):
            self._readings[node] = batch.probes

    def _paths(
        self, state: State, readings: Mapping[str, tuple[ProbeReading, ...]], now_s: float
    ) -> Iterator[PathSample]:
        """What probes have measured since what they told before."""
        self._counted = {node: counts for node, counts in self._counted.items() if node in state.nodes}
        links, ways = _links(state), _ways(state)
        for node in sorted(readings.keys() & state.nodes.keys()):
            before, counts = self._counted.get(node, {}), dict[_Probe, tuple[int, int]]()
            for reading in readings[node]:
                key = (reading.port, reading.liveness_group, reading.slot)
                counts[key] = reading.sent, reading.lost
                sent, lost = (now - then for now, then in zip(counts[key], before.get(key, counts[key]), strict=True))
                if sent <= 0 or lost < 0:
                    continue  # the first one, nothing new, or it began anew
                delay_ms = reading.round_trip_us / 2000 if reading.round_trip_us else None
                seen = PathSample(path="", at_s=now_s, delay_ms=delay_ms, sent=sent, lost=lost)
                if reading.slot is None:
                    if (link := links.get((node, reading.port))) is not None and link not in state.down:
                        yield replace(seen, path=f"{link} at {node}", link=link)
                else:
                    way = ways.get((node, reading.liveness_group, reading.slot))
                    if way is not None and not any(link in state.down for link in way.links):
                        yield replace(seen, path=" > ".join(way.nodes), links=way.links)
            self._counted[node] = counts

    def metrics(self) -> tuple[Metric, ...]:
        counts = {"findings": self.findings, "failures": self.failures, "rows_beyond": self.beyond}
        samples = tuple(Sample(labels=(("what", what),), value=float(count)) for what, count in counts.items())
        about = "Findings; times that a detector failed and began anew; rows that were too many to look at"
        return (Metric(name="netstitch_assurance_total", help=about, kind="counter", samples=samples),)


def _windows(waiting: Sequence[FlowColumns]) -> list[dict[str, Any]]:
    """Of an interval, by source, those that sent most; for detectors of others."""
    flows = flow_columns.concatenated(waiting)
    window = windows.by_source(flows)
    columns = (
        "packets",
        "bytes",
        "reverse_packets",
        "reverse_bytes",
        "flows",
        "new_flows",
        "unanswered",
    )
    peers = windows.different(window, numbered(flows.destination_address)[1])
    ports = windows.different(window, flows.destination_port.astype(np.int64))
    shown = []
    for number in np.argsort(-window.packets, kind="stable")[:WINDOWS_MAX].tolist():
        owners = {flows.owners[owner] for owner in set(flows.owner[window.records(number)].tolist()) if owner >= 0}
        shown.append(
            {"source": window.entities[number].partition("/")[2], "owners": sorted(owners)[:OWNERS_MAX]}
            | {column: float(getattr(window, column)[number]) for column in columns}
            | {"peers": float(peers[number]), "ports": float(ports[number])}
        )
    return shown


def _links(state: State) -> dict[tuple[str, int], str]:
    """Inside the domain, by both of their ends."""
    return {
        (end.node, end.port): name
        for name, link in state.inventory.links.items()
        if link.b is not None and not link.a.border and not link.b.border
        for end in (link.a, link.b)
    }


def _ways(state: State) -> dict[tuple[str, int, int], CandidatePath]:
    """Candidate paths from each of their ends, by node, liveness group and slot there."""
    ways = {}
    for policy in state.sr_policies.values():
        for slot, path in enumerate(policy.candidate_paths):
            ways[policy.headend, policy.number_at(policy.headend), slot] = path
            backwards = msgspec.structs.replace(path, nodes=path.nodes[::-1], links=path.links[::-1])
            ways[policy.endpoint, policy.number_at(policy.endpoint), slot] = backwards
    return ways


def _with_owners(finding: Finding, paths: Sequence[PathSample], state: State) -> Finding:
    """Of a link or path: whose traffic may take it."""
    kind, _, name = finding.entity.partition("/")
    if kind not in ("links", "paths"):
        return finding
    links = next((path.links for path in paths if path.path == name), ()) if kind == "paths" else (name,)
    stitches = over(state.stitches, state.sr_policies, links)
    owners = sorted({state.stitches[stitch].plan.owner for stitch in stitches})
    return msgspec.structs.replace(finding, owners=tuple(owners[:OWNERS_MAX]))


def _frozen(state: State) -> frozenset[str]:
    """What open incidents are about: nothing is learnt of it meanwhile."""
    open_ones = [each for each in state.incidents.values() if each.standing is not Standing.CLOSED]
    return frozenset(
        name for incident in open_ones for name in (incident.about, incident.newest.entity, *incident.owners)
    )
