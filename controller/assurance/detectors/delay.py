"""Delay and loss of paths, from their probes: CUSUM on the logarithm of the delay, and on what is lost.

Sees: a delay that moves by more than a fifth within about three samples, loss of some percent within some seconds to
minutes, a path that is gone within three samples. Misses: what both directions of the measurement hide, changes below a
fifth of the delay or below twice its jitter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from controller.assurance.baseline import Baseline
from controller.assurance.seen import PathSample, Seen
from controller.model.finding import Cause, Finding, Reason

ALLOWED, FOUND, STEP_MAX = 1.5, 8.0, 4.0
LOST_USUALLY, LOST_BADLY = 0.002, 0.05
"""Of probes; the test is which of the two it is."""
LOSS_FOUND = math.log(1e4)
PATHS_MAX = 10_000
SPREAD_MIN = 0.05
"""Of the logarithm of a delay: a twentieth more or less is nothing unusual."""

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


@dataclass(frozen=True, slots=True)
class Delay:
    paths: Mapping[str, Path] = field(default_factory=dict)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Delay, tuple[Finding, ...]]":
        if not seen.paths:
            return self, ()
        paths = dict(self.paths)
        findings: dict[str, Finding] = {}
        for sample in sorted(seen.paths, key=lambda each: each.at_s):
            entity = f"paths/{sample.path}"
            before = paths.get(sample.path, Path())
            if sample.at_s <= before.at_s or (sample.path not in paths and len(paths) >= PATHS_MAX):
                continue  # a clock that went back, or a sample that came twice
            is_frozen = entity in frozen or bool(frozen.intersection(sample.owners))
            after, finding = _sampled(before, sample, is_frozen)
            paths[sample.path] = after
            if finding is not None:
                findings[entity] = finding
        return replace(self, paths=paths), tuple(findings.values())

    def forget(self, owner: str) -> "Delay":
        """Paths are measured, whoever uses them."""
        return self


def _sampled(before: Path, sample: PathSample, is_frozen: bool) -> tuple[Path, Finding | None]:
    delay_ms = sample.delay_ms
    lost = delay_ms is None or not math.isfinite(delay_ms) or delay_ms <= 0
    loss = min(max(0.0, before.loss + (_LOST if lost else _CAME)), 2 * LOSS_FOUND)
    counted = (before.lost + lost, before.samples + 1) if loss > 0 else (0, 0)
    after = replace(before, loss=loss, lost=counted[0], samples=counted[1], at_s=sample.at_s)
    if loss > 0 and before.loss == 0:
        after = replace(after, begun_s=sample.at_s)
    if lost or delay_ms is None:
        return after, _loss(after, sample) if loss >= LOSS_FOUND else None
    value = math.log(delay_ms)
    if before.baseline.is_cold:
        return replace(after, baseline=before.baseline.learnt(value)), None
    z = min(max(before.baseline.deviation(value), -STEP_MAX), STEP_MAX)
    up, down = max(0.0, before.up + z - ALLOWED), max(0.0, before.down - z - ALLOWED)
    after = replace(after, up=min(up, 2 * FOUND), down=min(down, 2 * FOUND))
    if max(up, down) >= FOUND:
        return after, _shift(after, sample, delay_ms)
    if not is_frozen and max(up, down) == 0:
        after = replace(after, baseline=before.baseline.learnt(value))
    return after, None


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
        entity=f"paths/{sample.path}",
        detectors=("delay",),
        p=max(1e-12, min(1.0, p)),
        reasons=(reason,),
        windows=((min(begun_s, sample.at_s), sample.at_s),),
        owners=sample.owners,
        text=text,
    )
