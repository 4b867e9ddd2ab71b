"""Delay and loss of paths, from their probes: CUSUM on the logarithm of the delay, and on what is lost.

A link's own probes are few, those of the paths over it many: where a path has changed, that of its links is named whose
own probes say most of the same (BLAMED). A path is only told of where no link of it is found for PLACED_S: one trouble
is one incident, and what is about a link can be mended.

Sees: a delay that moves by more than a fifth within two to four samples, loss of some percent within some seconds to
minutes, a path that is gone within three probes. Misses: what both directions of the measurement hide, changes below a
fifth of the delay, below three milliseconds, or below twice its jitter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from controller.assurance.baseline import Baseline
from controller.assurance.seen import PathSample, Seen
from controller.model.finding import Cause, Finding, Reason

ALLOWED, FOUND, STEP_MAX = 1.5, 8.0, 4.0
MEDIAN, MEDIAN_STEP_MAX = 4, FOUND + ALLOWED
"""A median of so many probes is worth as much as is needed: an incident takes a second one, of the next two seconds or
of the link's other end."""
PLACED_S = 8.0
PROBES_MAX = 10_000
"""Of a sample: what is more counts as so many."""
BLAMED = 0.25
"""Of the evidence that an alarm takes, where a path over the link has enough."""
MOVED_MIN_MS = 3.0
"""By less nobody's delay has shifted: a busy machine does as much."""
LOST_USUALLY, LOST_BADLY = 0.002, 0.05
"""Of probes; the test is which of the two it is."""
LOSS_FOUND = math.log(1e4)
PATHS_MAX = 10_000
SPREAD_MIN = 0.15
"""Of the logarithm of a delay: a seventh more or less is nothing unusual."""

_LOST = math.log(LOST_BADLY / LOST_USUALLY)
_CAME = math.log((1 - LOST_BADLY) / (1 - LOST_USUALLY))


@dataclass(frozen=True, slots=True)
class Path:
    baseline: Baseline = field(default_factory=lambda: Baseline(spread=0.1, spread_min=SPREAD_MIN))
    up: float = 0.0
    down: float = 0.0
    loss: float = 0.0
    lost: int = 0
    samples: int = 0
    """Since the loss test was last at 0."""
    at_s: float = 0.0
    begun_s: float = 0.0
    unplaced_s: float = 0.0
    """Since when it is worse and nothing says which link it is."""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Delay:
    paths: Mapping[str, Path] = field(default_factory=dict)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Delay, tuple[Finding, ...]]":
        if not seen.paths:
            return self, ()
        paths = dict(self.paths)
        found: list[tuple[PathSample, Finding]] = []
        for sample in sorted(seen.paths, key=lambda each: each.at_s):
            before = paths.get(sample.path, Path())
            if sample.at_s <= before.at_s:
                continue  # a clock that went back, or a sample that came twice
            if sample.path not in paths and len(paths) >= PATHS_MAX:
                del paths[min(paths, key=lambda name: paths[name].at_s)]
            is_frozen = _entity(sample) in frozen or bool(frozen.intersection(sample.owners))
            after, finding = _sampled(before, sample, is_frozen)
            paths[sample.path] = replace(after, link=sample.link)
            if finding is not None:
                found.append((sample, finding))
        findings: dict[str, Finding] = {}
        for sample, finding in found:
            blamed = _blamed(paths, sample, finding.cause, frozen) if sample.links else ""
            if sample.links and not blamed:
                since_s = paths[sample.path].unplaced_s or sample.at_s
                paths[sample.path] = replace(paths[sample.path], unplaced_s=since_s)
                if sample.at_s - since_s < PLACED_S:
                    continue
            if blamed:
                text = f"link {blamed}: {finding.text}"
                finding = msgspec.structs.replace(finding, entity=f"links/{blamed}", text=text)
            same = findings.get(finding.entity)
            if same is None or sample.link or finding.p < same.p:
                findings[finding.entity] = finding
        return replace(self, paths=paths), tuple(findings.values())

    def forget(self, owner: str) -> "Delay":
        """Paths are measured, whoever uses them."""
        return self


def _sampled(before: Path, sample: PathSample, is_frozen: bool) -> tuple[Path, Finding | None]:
    delay_ms = sample.delay_ms
    if delay_ms is not None and (not math.isfinite(delay_ms) or delay_ms <= 0):
        delay_ms = None
    sent = min(max(1, sample.sent), PROBES_MAX)
    lost = min(max(0, sample.lost), sent) if sample.lost is not None else sent * (delay_ms is None)
    loss = min(max(0.0, before.loss + lost * _LOST + (sent - lost) * _CAME), 2 * LOSS_FOUND)
    counted = (before.lost + lost, before.samples + sent) if loss > 0 else (0, 0)
    after = replace(before, loss=loss, lost=counted[0], samples=counted[1], at_s=sample.at_s)
    if loss > 0 and before.loss == 0:
        after = replace(after, begun_s=sample.at_s)
    if max(before.loss, before.up, before.down) == 0:
        after = replace(after, unplaced_s=0.0)
    if lost and loss >= LOSS_FOUND:
        return after, _loss(after, sample)
    if delay_ms is None:
        return after, None
    value = math.log(delay_ms)
    if before.baseline.is_cold:
        return replace(after, baseline=before.baseline.learnt(value)), None
    most = MEDIAN_STEP_MAX if sent >= MEDIAN else STEP_MAX
    z = min(max(before.baseline.deviation(value), -most), most)
    if abs(delay_ms - math.exp(before.baseline.centre)) < MOVED_MIN_MS:
        z = min(max(z, -ALLOWED), ALLOWED)
    up, down = max(0.0, before.up + z - ALLOWED), max(0.0, before.down - z - ALLOWED)
    after = replace(after, up=min(up, 2 * FOUND), down=min(down, 2 * FOUND))
    if max(up, down) >= FOUND:
        # What is carried on outlasts the trouble: a sample that is as usual says nothing of it.
        is_other = abs(z) > ALLOWED and (z > 0) == (up >= down)
        return after, _shift(after, sample, delay_ms) if is_other else None
    if not is_frozen and max(up, down) == 0:
        after = replace(after, baseline=before.baseline.learnt(value))
    return after, None


def _entity(sample: PathSample) -> str:
    if sample.link:
        return f"links/{sample.link}"
    nodes = sample.path.split(" > ")  # both ends measure it, there and back
    return f"paths/{' > '.join(min(nodes, nodes[::-1]))}"


def _blamed(paths: Mapping[str, Path], sample: PathSample, cause: Cause, frozen: frozenset[str]) -> str:
    """Which of the links of a path it is; empty: nothing says so. One that an incident is about already is."""
    for link in sample.links:
        if f"links/{link}" in frozen or len(sample.links) == 1:
            return link
    evidence = {
        path.link: path.loss / LOSS_FOUND if cause is Cause.LOSS else max(path.up, path.down) / FOUND
        for path in sorted(paths.values(), key=lambda each: (each.loss, each.up + each.down))
        if path.link in sample.links
    }
    worst = max(evidence, key=lambda link: (evidence[link], link), default="")
    return worst if evidence.get(worst, 0.0) >= BLAMED else ""


def _shift(path: Path, sample: PathSample, delay_ms: float) -> Finding:
    usual = math.exp(path.baseline.centre)
    reason = Reason(feature="delay_ms", observed=round(delay_ms, 3), usual=round(usual, 3))
    text = f"the delay of {sample.path} is {delay_ms:.3g} ms, usually {usual:.3g} ms"
    return _finding(sample, Cause.DELAY_SHIFT, math.exp(-max(path.up, path.down)), reason, text, sample.at_s - 3)


def _loss(path: Path, sample: PathSample) -> Finding:
    percent = 100 * path.lost / max(1, path.samples)
    reason = Reason(feature="loss_percent", observed=round(percent, 2), usual=100 * LOST_USUALLY)
    text = f"{sample.path} has lost {path.lost} of {path.samples} probes"
    return _finding(sample, Cause.LOSS, math.exp(-path.loss), reason, text, path.begun_s)


def _finding(sample: PathSample, cause: Cause, p: float, reason: Reason, text: str, begun_s: float) -> Finding:
    return Finding(
        at_s=sample.at_s,
        cause=cause,
        entity=_entity(sample),
        detectors=("delay",),
        p=max(1e-12, min(1.0, p)),
        reasons=(reason,),
        windows=((min(begun_s, sample.at_s), sample.at_s),),
        owners=sample.owners,
        text=text,
    )
