"""Policy probing: packets that policy denies, of one owner or source, against what is usual.

Sees: hosts that try what no intent permits, such as a scan that policy stops. Misses: few tries (TRIES_MIN), and whose
they are where the counter is of a whole network; those of a network that an open incident touches: what a host that is
isolated goes on sending is denied.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

from controller.assurance.baseline import Baselines
from controller.assurance.seen import Seen
from controller.model.finding import Cause, Finding, Reason

TRIES_MIN = 20
"""Denied packets of an interval below which nothing is said."""
FOUND = 5.0


@dataclass(frozen=True, slots=True)
class Probing:
    baselines: Baselines = field(default_factory=Baselines)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Probing, tuple[Finding, ...]]":
        denied: Counter[str] = Counter()
        reasons: dict[str, Counter[str]] = {}
        nodes: dict[str, set[str]] = {}
        owners: dict[str, set[str]] = {}
        for each in seen.denied:
            entity = f"sources/{each.source}" if each.source else each.owner
            denied[entity] += max(0, each.packets)
            reasons.setdefault(entity, Counter())[each.reason] += max(0, each.packets)
            nodes.setdefault(entity, set()).add(each.node)
            owners.setdefault(entity, set()).add(each.owner)
        learnt: dict[str, float] = {}
        findings: list[Finding] = []
        for entity, packets in denied.items():
            if not frozen.isdisjoint((entity, *owners[entity])):
                continue
            baseline = self.baselines.of(entity)
            deviation = baseline.deviation(math.log1p(packets))
            usual = 0.0 if baseline.is_cold else math.expm1(baseline.centre)
            if packets < TRIES_MIN or (not baseline.is_cold and deviation < FOUND):
                learnt[entity] = math.log1p(packets)
                continue
            reason = reasons[entity].most_common(1)[0][0]
            name = entity.partition("/")[2]
            findings.append(
                Finding(
                    at_s=now_s,
                    cause=Cause.POLICY_PROBING,
                    entity=entity,
                    detectors=("probing",),
                    p=max(1e-12, math.exp(-max(0.0, deviation))),
                    reasons=(Reason(feature="denied_packets", observed=packets, usual=round(usual, 1)),),
                    windows=((now_s - 1.0, now_s),),
                    owners=tuple(sorted(owners[entity])),
                    source=name if entity.startswith("sources/") else "",
                    node=next(iter(nodes[entity])) if len(nodes[entity]) == 1 else "",
                    text=f"{name} tries what no intent permits: {packets} packets denied ({reason}), "
                    f"usually {usual:,.0f}",
                    cold=not self.baselines.knows(entity),
                )
            )
        return replace(self, baselines=self.baselines.learnt(learnt)), tuple(findings)

    def forget(self, owner: str) -> "Probing":
        return replace(self, baselines=self.baselines.without(owner))
