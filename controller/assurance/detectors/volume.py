"""Floods and shifts of volume: packets a second of each destination and each owner against what is usual there.

CUSUM (Page 1954) on the deviation of the logarithm of the rate from the baseline. It is a flood where what comes is one
of: mostly unanswered, from many more sources than bytes can explain, mostly new flows; else the volume has shifted,
which takes more evidence: a download is no shift.

Sees: floods of one destination, from one source or many, within about two seconds; an owner whose traffic is several
times what it was for a quarter of a minute. Misses: floods below RATE_MIN packets a second or below about four times
what is usual; what stops entirely (an owner with no record has no row: probes see paths that do not carry).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from controller.assurance import windows
from controller.assurance.baseline import Baselines
from controller.assurance.grouping import numbered
from controller.assurance.seen import Seen
from controller.assurance.windows import Windows, address_text
from controller.model.finding import Cause, Finding, Reason
from controller.model.flow_columns import FlowColumns

ALLOWED = 2.0
"""Spreads that are no evidence."""
FOUND = 8.0
STEP_MAX = 5.0
"""Evidence of one interval that is carried on. More than FOUND in one is told at once: an incident takes two anyway."""
SHIFTED = 75.0
"""Evidence of a shift: of a quarter of a minute without a second that is as usual."""
SHIFT_WARM = 300
"""Values of its own before somebody's traffic can be said to have shifted; what a flood is, its kind knows too."""
RATE_MIN = 300.0
"""Packets a second that are no flood anywhere."""
COLD_RATE = 20_000.0
"""Where nothing is known yet, this many are told."""
LEARN_BELOW = 4.0
"""Spreads above which a window is not learnt from, alarmed or not."""
SOURCES_FLOOD = 32
MOSTLY = 0.8
"""Of the packets, so that they are said to be of one source."""
ENTITIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Volume:
    baselines: Baselines = field(default_factory=Baselines)
    evidence: Mapping[str, float] = field(default_factory=dict)
    at_s: float = 0.0

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Volume, tuple[Finding, ...]]":
        if not len(seen.flows):
            return replace(self, at_s=now_s), ()
        elapsed_s = min(max(now_s - self.at_s, 0.2), 60.0) if self.at_s else 1.0
        learnt: dict[str, float] = {}
        evidence: dict[str, float] = {}
        findings: list[Finding] = []
        for window in (windows.by_destination(seen.flows), windows.by_owner(seen.flows)):
            for number in np.argsort(-window.packets, kind="stable")[:ENTITIES_MAX].tolist():
                if not window.flows[number]:
                    continue
                entity = window.entities[number]
                rate = (window.packets[number]) / elapsed_s
                value = math.log1p(rate)
                baseline = self.baselines.of(entity)
                deviation = baseline.deviation(value)
                if baseline.is_cold:
                    found = rate >= COLD_RATE
                else:
                    over = deviation - ALLOWED
                    step = min(max(over, -STEP_MAX), STEP_MAX)
                    carried = self.evidence.get(entity, 0.0)
                    total = max(0.0, (carried if step > 0 else min(carried, FOUND)) + step)
                    if total > 0:
                        evidence[entity] = min(total, SHIFTED + FOUND)
                    found = max(total, over) >= FOUND and rate >= RATE_MIN
                is_flood = False
                if found:
                    finding = self._finding(seen, window, number, rate, now_s, elapsed_s)
                    is_flood = finding.cause is Cause.FLOOD
                    if is_flood or baseline.is_cold or evidence.get(entity, 0.0) >= SHIFTED:
                        findings.append(finding)
                is_usual = baseline.is_cold or deviation < LEARN_BELOW or not self.baselines.knows(entity)
                if entity not in frozen and not is_flood and is_usual and not (found and self.baselines.knows(entity)):
                    learnt[entity] = value
        return Volume(self.baselines.learnt(learnt), evidence, now_s), tuple(findings)

    def forget(self, owner: str) -> "Volume":
        return replace(self, baselines=self.baselines.without(owner))

    def _finding(
        self, seen: Seen, window: Windows, number: int, rate: float, now_s: float, elapsed_s: float
    ) -> Finding:
        entity = window.entities[number]
        baseline = self.baselines.of(entity)
        flows = seen.flows.take(window.records(number))
        unanswered = window.unanswered[number] / max(1.0, window.new_flows[number])
        new = window.new_flows[number] / max(1.0, window.flows[number])
        back = window.reverse_packets[number] / max(1.0, window.packets[number])
        busiest = int(np.argmax(flows.packets))
        sources = {each.tobytes() for each in flows.source_address}
        is_flood = (
            back < 0.1
            or (unanswered > 0.5 and window.new_flows[number] > SOURCES_FLOOD)
            or (new > 0.5 and len(sources) > SOURCES_FLOOD)
        )
        usual = math.expm1(baseline.centre) if not baseline.is_cold else 0.0
        cause = Cause.FLOOD if is_flood else Cause.VOLUME_SHIFT
        source = _mostly_by(flows)
        by = source or f"{len(sources)} sources"
        name = entity.partition("/")[2]
        what = f"{by} flood {name}" if is_flood else f"traffic of {name} has shifted"
        deviation = baseline.deviation(math.log1p(rate))
        return Finding(
            at_s=now_s,
            cause=cause,
            entity=entity,
            detectors=("volume",),
            p=max(1e-12, math.exp(-max(0.0, deviation))),
            reasons=(
                Reason(feature="packets_s", observed=round(rate, 1), usual=round(usual, 1)),
                Reason(feature="answered_packets_ratio", observed=round(float(back), 3), usual=1.0),
                Reason(
                    feature="new_flows_s", observed=round(float(window.new_flows[number]) / elapsed_s, 1), usual=0.0
                ),
            ),
            windows=((now_s - elapsed_s, now_s),),
            owners=tuple(sorted({flows.owners[owner] for owner in set(flows.owner.tolist()) if owner >= 0})),
            source=source,
            destination=address_text(flows.destination_address[busiest]),
            text=f"{what}: {rate:,.0f} packets/s, usually {usual:,.0f}",
            cold=baseline.is_cold if is_flood else self.baselines.values(entity) < SHIFT_WARM,
        )


def _mostly_by(flows: FlowColumns) -> str:
    """The source of most of the packets; empty: there is no such one."""
    first, number = numbered(flows.source_address)
    packets = np.bincount(number, np.maximum(flows.packets, 0), minlength=len(first))
    most = int(np.argmax(packets))
    return address_text(flows.source_address[first[most]]) if packets[most] >= MOSTLY * packets.sum() else ""
