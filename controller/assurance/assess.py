"""Assess: what is seen of an interval -> findings. Pure: what detectors remember goes in and comes out."""

from dataclasses import dataclass, replace

import msgspec

from controller.assurance.detectors import Detector
from controller.assurance.detectors.beaconing import Beaconing
from controller.assurance.detectors.delay import Delay
from controller.assurance.detectors.exfiltration import Exfiltration
from controller.assurance.detectors.learned import Learned
from controller.assurance.detectors.probing import Probing
from controller.assurance.detectors.scan import Scan
from controller.assurance.detectors.volume import Volume
from controller.assurance.learned import Model
from controller.assurance.seen import Seen
from controller.model.finding import Finding
from controller.model.flow_columns import FlowColumns

FINDINGS_MAX = 256
"""Of one interval; the weightiest are kept, so that a storm of alarms is bounded here already."""


@dataclass(frozen=True, slots=True)
class Assurance:
    """All detectors and what they remember."""

    detectors: tuple[Detector, ...] = (
        Scan(),
        Volume(),
        Exfiltration(),
        Beaconing(),
        Probing(),
        Delay(),
        Learned(),
    )
    at_s: float = 0.0


def assess(
    before: Assurance, seen: Seen, now_s: float, frozen: frozenset[str] = frozenset()
) -> tuple[Assurance, tuple[Finding, ...]]:
    """Once an interval. `frozen`: entities and owners of open incidents; nothing is learnt of them meanwhile.
    A clock that went back stands until it is where it was."""
    now_s = max(now_s, before.at_s)
    watched = [detector.watch(seen, now_s, frozen) for detector in before.detectors]
    findings = sorted((finding for _, found in watched for finding in found), key=lambda each: (each.p, each.entity))
    return Assurance(tuple(detector for detector, _ in watched), now_s), tuple(map(_plain, findings[:FINDINGS_MAX]))


def due(assurance: Assurance, now_s: float) -> FlowColumns | None:
    """What a model is to be learnt of (`learned.trained`) and then given to `learnt`; None: nothing."""
    samples = [each.due(now_s) for each in assurance.detectors if isinstance(each, Learned)]
    return samples[0] if samples else None


def learnt(assurance: Assurance, model: Model, now_s: float) -> Assurance:
    return replace(
        assurance,
        detectors=tuple(
            each.learnt(model, now_s) if isinstance(each, Learned) else each for each in assurance.detectors
        ),
    )


def _plain(finding: Finding) -> Finding:
    """With Python's own numbers: numpy's are equal to them, and nobody can store or send them. Raises ValidationError
    for one that is none."""
    return msgspec.convert(msgspec.to_builtins(finding, enc_hook=lambda number: number.item()), Finding)


def forget(assurance: Assurance, owner: str) -> Assurance:
    """An intent has changed: what was usual of it is not any more."""
    return replace(assurance, detectors=tuple(detector.forget(owner) for detector in assurance.detectors))
