"""Runs the detectors over what passes, once a second and in a thread, and reports what they find to the core."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from controller.assurance.assess import Assurance, assess, forget
from controller.assurance.seen import Denied, PathSample, Seen
from controller.fulfillment.numbering import Kind, id_key
from controller.model import flow_columns
from controller.model.event import Found
from controller.model.finding import Finding
from controller.model.flow_columns import FlowColumns
from controller.model.incident import Standing
from controller.model.telemetry import Metric, Sample
from controller.reconcile.state import State
from controller.traffic import Traffic

INTERVAL_S = 1.0
IDLE_S = 10.0
"""While nothing passes."""
ROWS_MAX = 262_144
"""Of an interval; what is more is not looked at, and counted."""


class Log(Protocol):
    def error(self, event: str, **fields: str) -> None: ...


class Assessing:
    def __init__(self, traffic: Traffic, log: Log) -> None:
        self._traffic = traffic
        self._log = log
        self._assurance = Assurance()
        self._waiting: list[FlowColumns] = []
        self._rows = 0
        self._looked_s = 0.0
        self._intents: dict[str, int] = {}
        """When each was applied."""
        self._told_s: dict[tuple[str, int, int], int] = {}
        """When each path was measured last."""
        self.findings = self.failures = self.beyond = 0

    def take(self, flows: FlowColumns) -> None:
        if self._rows + len(flows) > ROWS_MAX:
            self.beyond += len(flows)
            return
        self._rows += len(flows)
        self._waiting.append(flows)

    async def run(self, state: Callable[[], State], report: Callable[[Found], Awaitable[None]]) -> None:
        """Until cancelled. A detector that fails begins anew, and nothing else ends for it."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if not self._waiting and time.time() - self._looked_s < IDLE_S:
                continue
            self._looked_s = time.time()
            try:
                waiting, self._waiting, self._rows = self._waiting, [], 0
                findings = await asyncio.to_thread(self._look, waiting, state(), self._looked_s)
            except Exception as error:  # what detectors make of foreign numbers ends no controller
                self.failures += 1
                self._assurance = Assurance()
                self._log.error("assessing_failed", reason=f"{type(error).__name__}: {error}"[:500])
                continue
            if findings:
                self.findings += len(findings)
                await report(Found(findings=findings))

    def _look(self, waiting: list[FlowColumns], state: State, now_s: float) -> tuple[Finding, ...]:
        self._forget_what_changed(state)
        seen = Seen(
            flows=flow_columns.concatenated(waiting),
            denied=tuple(self._denied(state)),
            paths=tuple(self._paths(state)),
        )
        self._assurance, findings = assess(self._assurance, seen, now_s, _frozen(state))
        return findings

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

    def _paths(self, state: State) -> Iterator[PathSample]:
        """What is newly measured."""
        for node, standing in state.nodes.items():
            for path in standing.measured_paths:
                key = (node, path.liveness_group, path.slot)
                if self._told_s.get(key, 0) >= path.at_s:
                    continue
                self._told_s[key] = path.at_s
                delay_ms = path.delay_us / 1000 if path.is_alive and path.delay_us else None
                name = f"paths/{node}/{path.liveness_group}/{path.slot}"
                yield PathSample(path=name, at_s=path.at_s, delay_ms=delay_ms)

    def metrics(self) -> tuple[Metric, ...]:
        counts = {"findings": self.findings, "failures": self.failures, "rows_beyond": self.beyond}
        samples = tuple(Sample(labels=(("what", what),), value=float(count)) for what, count in counts.items())
        about = "Findings; times that a detector failed and began anew; rows that were too many to look at"
        return (Metric(name="netstitch_assurance_total", help=about, kind="counter", samples=samples),)


def _frozen(state: State) -> frozenset[str]:
    """What open incidents are about: nothing is learnt of it meanwhile."""
    open_ones = [each for each in state.incidents.values() if each.standing is not Standing.CLOSED]
    return frozenset(
        name for incident in open_ones for name in (incident.about, incident.newest.entity, *incident.owners)
    )
