"""What no rule names: a source whose flows are unlike those that were seen before (`assurance/learned.py`).

A sample of what passes is kept, and a model is learnt of it, again and again. A record is odd where the model says that
one in a hundred looks so; a source is unusual where far more of its records within WINDOW_S are odd than chance has it.

Sees: scans, floods, leaks and other things in which single records differ from what is usual, as a second signal beside
the rules. Misses: what looks like what is usual, record by record; whatever was there while the sample was taken.

Nothing is learnt of sources that are alarmed or frozen, at most a tenth of the sample is of one source, and a second
adds ADDED_MAX records at most, so that nobody has much taken for usual quickly. Where much of everybody's traffic is
odd the model has aged (`baseline_stale`): that is no attack, it says nothing more, and is learnt anew.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from controller.assurance import learned
from controller.assurance.grouping import numbered
from controller.assurance.learned import Model
from controller.assurance.seen import Seen
from controller.assurance.windows import address_text, among, frozen_addresses
from controller.model.finding import Cause, Finding, Reason
from controller.model.flow_columns import FlowColumns, concatenated

ODD = 0.01
WINDOW_S = 10.0
FOUND = 1e-6
"""How often chance may have it, where ALIKE times as many records of one source are odd as of all: they are alike."""
ALIKE = 5
ODD_MIN = 3
ADDED_MAX = 64
SAMPLE_MAX = 4096
SHARE_MAX = 0.1
FIRST_ROWS, FIRST_S = 1000, 120.0
"""Before that nothing is said."""
AGAIN_S = 900.0
"""Between one model and the next at most: the first ones are made of little, and are followed when twice as long was
seen."""
JUDGED_S = 30.0
"""What is newer is not learnt of where there is a model: it may be the beginning of what that one is about to find."""
CHANGED_S = 600.0
"""So long after an owner has changed nothing is said of its traffic."""
STALE_S, STALE_PART, STALE_ROWS, STALE_SOURCES = 300.0, 0.1, 500, 3
SOURCES_MAX = 4096
ROWS_MAX = 20_000
"""Of an interval that are looked at."""


@dataclass(frozen=True, slots=True)
class Learned:
    sample: tuple[FlowColumns, ...] = ()
    rows: int = 0
    begun_s: float = 0.0
    learnt_s: float = 0.0
    model: Model | None = None
    odd: Mapping[bytes, tuple[tuple[float, int, int], ...]] = field(default_factory=dict)
    """By source, of each interval of WINDOW_S: its time, records, odd ones."""
    all: tuple[tuple[float, int, int, int], ...] = ()
    """The same of all together, of STALE_S, and of how many sources odd ones were."""
    changed_s: Mapping[str, float] = field(default_factory=dict)
    """By owner."""

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Learned, tuple[Finding, ...]]":
        before = replace(self, begun_s=self.begun_s or now_s)
        flows = seen.flows
        if not len(flows):
            return before, ()
        # A record outlasts connections that use the same ports again: its age says nothing of this interval.
        flows = replace(flows, duration_s=np.minimum(flows.duration_s, flows.interval_s))
        if len(flows) > ROWS_MAX:  # by chance, so that nobody can choose not to be among them
            chance = np.random.default_rng(int(now_s * 1000) & 0xFFFFFFFF)
            flows = flows.take(np.sort(chance.choice(len(flows), size=ROWS_MAX, replace=False)))
        first, source = numbered(flows.source_address)
        names = [address_text(flows.source_address[row]) for row in first.tolist()]
        # What is done about a host shows in the records of those who speak to it, and is not their doing.
        is_answerable = ~among(flows.destination_address, frozen_addresses(frozen))
        findings: tuple[Finding, ...] = ()
        alarmed: set[int] = set()
        after = before
        if before.model is not None:
            after, findings, alarmed = before._judged(before.model, flows, first, source, names, is_answerable, now_s)
        left_out = alarmed | {number for number, name in enumerate(names) if f"sources/{name}" in frozen}
        owners = [number for number, owner in enumerate(flows.owners) if owner in frozen]
        usual = ~np.isin(source, [*left_out]) & ~np.isin(flows.owner, owners) & is_answerable
        return after._learning(flows, source, np.flatnonzero(usual), now_s), findings

    def forget(self, owner: str) -> "Learned":
        """What was kept of its traffic is not usual any more; the model is learnt anew, if anything of it was kept."""
        sample = [
            part.take(part.owner != (part.owners.index(owner) if owner in part.owners else -2)) for part in self.sample
        ]
        if sum(map(len, sample)) == self.rows:
            return self
        now_s = max([self.learnt_s, self.begun_s, *(float(part.time_s[-1]) for part in self.sample if len(part))])
        return replace(
            self,
            sample=tuple(part for part in sample if len(part)),
            rows=sum(map(len, sample)),
            changed_s={**dict([*self.changed_s.items()][-SOURCES_MAX:]), owner: now_s},
            learnt_s=0.0,
        )

    def _judged(
        self,
        model: Model,
        flows: FlowColumns,
        first: "np.typing.NDArray[np.int64]",
        source: "np.typing.NDArray[np.int64]",
        names: list[str],
        is_answerable: "np.typing.NDArray[np.bool_]",
        now_s: float,
    ) -> "tuple[Learned, tuple[Finding, ...], set[int]]":
        p = model.calibration.p(learned.single_scores(model, flows))
        young = [
            number for number, owner in enumerate(flows.owners) if now_s - self.changed_s.get(owner, -1e9) < CHANGED_S
        ]
        is_judged = ~np.isin(flows.owner, young) & is_answerable
        is_odd = (p <= ODD) & is_judged
        records = np.bincount(source, is_judged, minlength=len(names)).astype(int).tolist()
        odd_ones = np.bincount(source, is_odd, minlength=len(names)).astype(int).tolist()
        odd = {
            key: recent
            for key, times in self.odd.items()
            if (recent := tuple(each for each in times if now_s - each[0] < WINDOW_S))
        }
        total = (now_s, sum(records), sum(odd_ones), sum(count > 0 for count in odd_ones))
        everything = (*(each for each in self.all if now_s - each[0] < STALE_S), total)
        findings, alarmed = [], set[int]()
        for number, name in enumerate(names):
            key = flows.source_address[int(first[number])].tobytes()
            if key not in odd and len(odd) >= SOURCES_MAX:
                continue
            odd[key] = (*odd.get(key, ()), (now_s, records[number], odd_ones[number]))
            seen, strange = sum(each[1] for each in odd[key]), sum(each[2] for each in odd[key])
            chance = _tail(seen, strange)
            if odd_ones[number] and strange >= ODD_MIN and chance < FOUND:
                alarmed.add(number)
                rows = np.flatnonzero((source == number) & is_odd)
                findings.append(_finding(model, flows, rows, name, (seen, strange), chance, now_s))
        after = replace(self, odd=odd, all=everything)
        judged, strange = sum(each[1] for each in everything), sum(each[2] for each in everything)
        many = sorted(each[3] for each in everything)[len(everything) // 2]
        if judged >= STALE_ROWS and strange > STALE_PART * judged and many >= STALE_SOURCES:
            stale = _stale(strange, judged, now_s)
            return replace(after, model=None, odd={}, all=(), learnt_s=0.0), (stale,), set()
        return after, tuple(findings), alarmed

    def _learning(
        self,
        flows: FlowColumns,
        source: "np.typing.NDArray[np.int64]",
        usual: "np.typing.NDArray[np.int64]",
        now_s: float,
    ) -> "Learned":
        chance = np.random.default_rng(int(now_s * 1000) & 0xFFFFFFFF)
        added = np.sort(chance.choice(usual, size=min(len(usual), ADDED_MAX), replace=False)) if len(usual) else usual
        taken: Counter[int] = Counter()
        kept = []
        for row in added.tolist():
            taken[int(source[row])] += 1
            if taken[int(source[row])] <= max(1, int(SHARE_MAX * ADDED_MAX)):
                kept.append(row)
        sample = deque(self.sample)
        if kept:
            sample.append(flows.take(np.array(kept)))
        rows = self.rows + len(kept)
        while rows > SAMPLE_MAX:
            rows -= len(sample.popleft())
        return replace(self, sample=tuple(sample), rows=rows)

    def due(self, now_s: float) -> FlowColumns | None:
        """What a model is to be made of now. It takes seconds: whoever calls goes on watching meanwhile."""
        is_enough = self.rows >= FIRST_ROWS and now_s - self.begun_s >= FIRST_S
        lasts_s = min(AGAIN_S, self.learnt_s - self.begun_s)
        if not is_enough or (self.model is not None and now_s - self.learnt_s < lasts_s):
            return None
        newest_s = now_s if self.model is None else now_s - JUDGED_S
        return concatenated([part for part in self.sample if part.time_s[-1] <= newest_s])  # owners are not looked at

    def learnt(self, model: Model, now_s: float) -> "Learned":
        """With the model of what was due at `now_s`."""
        return replace(self, model=model, learnt_s=now_s, all=(), odd={})


def _tail(seen: int, strange: int) -> float:
    """At least how many of `seen` are odd by chance (Chernoff's bound)."""
    part, expected = strange / max(1, seen), ALIKE * ODD
    if part <= expected:
        return 1.0
    rest = (1 - part) * math.log((1 - part) / (1 - expected)) if part < 1 else 0.0
    return math.exp(-seen * (part * math.log(part / expected) + rest))


def _finding(
    model: Model,
    flows: FlowColumns,
    rows: "np.typing.NDArray[np.int64]",
    name: str,
    counts: tuple[int, int],
    chance: float,
    now_s: float,
) -> Finding:
    seen, strange = counts
    (why,) = learned.reasons(model, flows, rows[:1])
    owners = {flows.owners[owner] for owner in set(flows.owner[rows].tolist()) if owner >= 0}
    destinations = {address_text(row) for row in flows.destination_address[rows]}
    return Finding(
        at_s=now_s,
        cause=Cause.UNUSUAL,
        entity=f"sources/{name}",
        detectors=("learned",),
        p=max(1e-12, min(1.0, chance)),
        reasons=(
            Reason(feature="odd_records", observed=strange, usual=round(seen * ODD, 2)),
            Reason(feature="records", observed=seen, usual=seen),
        ),
        windows=((now_s - WINDOW_S, now_s),),
        owners=tuple(sorted(owners)),
        source=name,
        destination=next(iter(destinations)) if len(destinations) == 1 else "",
        text=f"{strange} of {seen} flow records of {name} are unlike what is usual: {why}",
    )


def _stale(strange: int, judged: int, now_s: float) -> Finding:
    return Finding(
        at_s=now_s,
        cause=Cause.BASELINE_STALE,
        entity="models/flows",
        detectors=("learned",),
        p=1.0,
        reasons=(Reason(feature="odd_records", observed=strange, usual=round(judged * ODD, 1)),),
        windows=((now_s - STALE_S, now_s),),
        text=f"{strange} of {judged} flow records of everybody are unlike what is usual: what was learnt has aged, and "
        "is learnt anew",
    )
